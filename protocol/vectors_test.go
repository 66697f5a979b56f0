package protocol

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write testdata/*.json and the session in SPEC.md")

// vector is an entry of testdata/vectors.json; see testdata/README.md.
type vector struct {
	Name      string         `json:"name"`
	Message   string         `json:"message"`
	Type      Type           `json:"type"`
	Canonical bool           `json:"canonical"`
	Frame     string         `json:"frame"`
	Fields    map[string]any `json:"fields"`
}

// invalid is an entry of testdata/invalid.json.
type invalid struct {
	Name   string `json:"name"`
	Limit  int    `json:"max_body_bytes"`
	Frame  string `json:"frame"`
	Reason Reason `json:"reason"`
	Word   string `json:"reason_name"`
}

const maxExactInt = 1<<53 - 1 // larger integers lose digits in many JSON readers

// fieldsOf shows a message or structure as JSON, by the names in SPEC.md.
func fieldsOf(t testing.TB, name string, v reflect.Value) map[string]any {
	specs := specFields(t, name)
	require.Equal(t, v.NumField(), len(specs), name)
	out := map[string]any{}
	for i, f := range specs {
		v := v.Field(i)
		switch f.typ {
		case "uint":
			if v.Uint() > maxExactInt {
				out[f.name] = strconv.FormatUint(v.Uint(), 10)
			} else {
				out[f.name] = v.Uint()
			}
		case "str":
			if v.Kind() == reflect.Slice {
				out[f.name] = string(v.Bytes())
			} else {
				out[f.name] = v.String()
			}
		case "bin", "value":
			out[f.name] = hex.EncodeToString(v.Bytes())
			if f.typ == "value" && v.Len() == 0 {
				out[f.name] = "c0"
			}
		case "attributes":
			out[f.name] = fieldsOf(t, f.typ, v)
		case "[str]":
			list := []any{}
			for j := range v.Len() {
				list = append(list, v.Index(j).String())
			}
			out[f.name] = list
		case "[ref]", "[ack]":
			list := []any{}
			for j := range v.Len() {
				list = append(list, fieldsOf(t, strings.Trim(f.typ, "[]"), v.Index(j)))
			}
			out[f.name] = list
		default:
			t.Fatalf("%s: type %q", f.name, f.typ)
		}
	}
	return out
}

// minimalMessage has what is required and nothing else.
func minimalMessages() map[Type]Message {
	id := []byte("j")
	return map[Type]Message{
		TypeHello: &Hello{Version: 1, NodeID: "n", Credit: 1}, TypeChallenge: &Challenge{Method: "m"},
		TypeProof: &Proof{Method: "m", Proof: []byte{0}}, TypeWelcome: &Welcome{Version: 1, Incarnation: 1, HeartbeatMs: 30000},
		TypeJob: &Job{JobID: id, Attempt: 1, Kind: []byte("k"), TimeoutMs: 1}, TypeAccepted: &Accepted{JobID: id, Attempt: 1},
		TypeProgress: &Progress{JobID: id, Attempt: 1}, TypeResult: &Result{JobID: id, Attempt: 1}, TypeResultAck: &ResultAck{},
		TypeCancel: &Cancel{JobID: id, Attempt: 1}, TypeCredit: &Credit{}, TypeAttributes: &AttributesUpdate{},
		TypePing: &Ping{}, TypePong: &Pong{}, TypeGoAway: &GoAway{Reason: ReasonShutdown}, TypeClose: &Close{Reason: ReasonBye},
	}
}

// limitMessages have every field at its limit, but payloads and long lists, which
// would make the file large.
func limitMessages() map[Type]Message {
	id, most := []byte(text(MaxJobIDBytes)), []byte{0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	deep := nested(MaxPayloadDepth)
	hello := largestHello()
	hello.Credential, hello.Running, hello.Held = []byte(text(300)), hello.Running[:1], hello.Held[:2]
	return map[Type]Message{
		TypeHello: hello, TypeChallenge: &Challenge{Method: text(MaxTextBytes), Nonce: []byte(text(MaxNonceBytes))},
		TypeProof:    &Proof{Method: text(MaxTextBytes), Proof: []byte(text(300))},
		TypeWelcome:  &Welcome{MaxVersion, 1<<64 - 1, text(MaxTextBytes), 1<<32 - 1, 1<<32 - 1, 1<<24 - 1, 1<<64 - 1},
		TypeJob:      &Job{id, 1<<32 - 1, MaxAttempts, []byte(text(MaxKindBytes)), MaxTimeoutMs, MaxPriority, deep},
		TypeAccepted: &Accepted{id, 1<<32 - 1, MaxAttempts}, TypeProgress: &Progress{id, 1<<32 - 1, MaxAttempts, most},
		TypeResult:    &Result{id, 1<<32 - 1, MaxAttempts, maxNodeOutcome, 1<<64 - 1, []byte(text(300)), most},
		TypeResultAck: &ResultAck{[]Ack{{id, MaxAttempts}, {id, 0}}}, TypeCancel: &Cancel{id, MaxAttempts, text(MaxTextBytes)},
		TypeCredit: &Credit{MaxCredit}, TypeAttributes: &AttributesUpdate{largestAttributes()},
		TypePing: &Ping{1<<64 - 1}, TypePong: &Pong{1 << 53},
		TypeGoAway: &GoAway{65535, 1<<32 - 1, []string{text(MaxAddressBytes)}, text(MaxTextBytes)},
		TypeClose:  &Close{65535, text(MaxTextBytes), 1<<32 - 1, []string{text(MaxAddressBytes)}},
	}
}

func makeVectors(t testing.TB) []vector {
	var out []vector
	add := func(name string, m Message, frame []byte, canonical bool) {
		into := newMessage(m.Type())
		require.NoError(t, NewDecoder().Decode(frame[HeaderBytes:], into), name)
		out = append(out, vector{Name: m.Type().String() + "/" + name, Message: m.Type().String(), Type: m.Type(), Canonical: canonical,
			Frame: hex.EncodeToString(frame), Fields: fieldsOf(t, m.Type().String(), reflect.ValueOf(into).Elem())})
	}
	for _, typ := range allTypes() {
		typical := sampleMessages()[typ]
		add("minimal", minimalMessages()[typ], frameOf(t, minimalMessages()[typ]), true)
		add("typical", typical, frameOf(t, typical), true)
		add("limits", limitMessages()[typ], frameOf(t, limitMessages()[typ]), true)
		fields := elements(t, frameOf(t, typical)[HeaderBytes:])
		add("trailing unknown fields", typical, rawFrame(typ, join(append(fields[:len(fields):len(fields)],
			[]byte{0x81, 0xa3, 'n', 'e', 'w', 0x92, 0xff, 0xc0}, []byte{0xd4, 7, 1}))), false)
		specs := specFields(t, typ.String())
		for n := range specs { // the fewest fields that are allowed
			if !requiredFrom(specs, n) {
				add("optional fields missing", typical, rawFrame(typ, join(fields[:n])), false)
				break
			}
		}
		add("long forms", typical, rawFrame(typ, longForms(fields)), false)
	}
	return out
}

// elements splits a body into the encoded elements of its array.
func elements(t testing.TB, body []byte) [][]byte {
	n, rest := int(body[0]&0x0f), body[1:] // ours are fixarrays
	var out [][]byte
	for range n {
		end, err := Scan(rest)
		require.NoError(t, err)
		out, rest = append(out, rest[:end]), rest[end:]
	}
	require.Empty(t, rest)
	return out
}

func join(fields [][]byte) []byte {
	return append([]byte{0x90 | byte(len(fields))}, bytes.Join(fields, nil)...)
}

// longForms writes the body's array, and short text and numbers in it, with the
// widest headers.
func longForms(fields [][]byte) []byte {
	out := []byte{0xdd, 0, 0, 0, byte(len(fields))}
	for _, f := range fields {
		switch c := f[0]; {
		case c <= 0x7f:
			out = append(out, 0xcf, 0, 0, 0, 0, 0, 0, 0, c)
		case c&0xe0 == 0xa0:
			out = append(append(out, 0xdb, 0, 0, 0, c&0x1f), f[1:]...)
		case c == 0xc4:
			out = append(append(out, 0xc6, 0, 0, 0), f[1:]...)
		default:
			out = append(out, f...)
		}
	}
	return out
}

func rawFrame(t Type, body []byte) []byte {
	return append([]byte{byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body)), byte(t)}, body...)
}

func makeInvalid(t testing.TB) []invalid {
	var out []invalid
	add := func(name string, limit int, frame []byte, r Reason) {
		out = append(out, invalid{name, limit, hex.EncodeToString(frame), r, r.String()})
	}
	body := func(name string, typ Type, b ...byte) { add(name, MaxBodyBytes, rawFrame(typ, b), ReasonMalformed) }
	fields := func(name string, typ Type, v ...any) { body(name, typ, pack(t, v)...) }
	add("header: body over the limit before WELCOME", MaxHelloBodyBytes, []byte{0x00, 0xc0, 0x01, 0x01}, ReasonFrameTooLarge)
	add("header: body over the limit", MaxBodyBytes, []byte{0x08, 0x00, 0x01, 0x13}, ReasonFrameTooLarge)
	add("header: the largest length", MaxBodyBytes, []byte{0xff, 0xff, 0xff, 0x7f}, ReasonFrameTooLarge)
	body("body: empty", TypePing)
	body("body: not an array", TypePing, 0x81, 0x01, 0x01)
	body("body: two values", TypePing, 0x91, 1, 0x91, 1)
	body("body: ends early", TypePing, 0x92, 1)
	body("body: the unused code", TypePing, 0x91, 0xc1)
	body("body: bin32 of 2 GB", TypePing, 0x91, 0xc6, 0x7f, 0xff, 0xff, 0xff)
	body("body: array32 of 4 G", TypePing, 0xdd, 0xff, 0xff, 0xff, 0xff, 1)
	body("body: map32 of 4 G in an unknown field", TypePing, 0x92, 1, 0xdf, 0xff, 0xff, 0xff, 0xff, 1, 1)
	body("body: nested too deep", TypePing, append([]byte{0x92, 1}, nested(MaxDepth)...)...)
	body("body: a thousand nested arrays", TypePing, bytes.Repeat([]byte{0x91}, 1000)...)
	body("uint: negative", TypePing, 0x91, 0xff)
	body("uint: a signed form of a positive number", TypePing, 0x91, 0xd0, 1)
	body("uint: a float", TypePing, 0x91, 0xca, 0x3f, 0x80, 0, 0)
	body("uint: nil", TypePing, 0x91, 0xc0)
	body("uint: text", TypePing, 0x91, 0xa1, '1')
	fields("uint: over its limit", TypeCredit, MaxCredit+1)
	fields("required: no fields", TypeHello)
	fields("required: node_id missing", TypeHello, 1)
	fields("required: node_id empty", TypeHello, 1, "")
	fields("required: timeout_ms missing", TypeJob, "j", 0, 1, "k")
	fields("id: with a space", TypeHello, 1, "a b")
	fields("id: with a control character", TypeHello, 1, "a\nb")
	fields("id: not UTF-8", TypeHello, 1, "a\xff")
	fields("id: with a formatting character", TypeHello, 1, "a\u202eb")
	fields("text: over its limit", TypeHello, 1, text(MaxNodeIDBytes+1))
	fields("text: nil", TypeHello, 1, "n", nil)
	fields("text: a number", TypeHello, 1, "n", "", 1, 7)
	fields("array: too many elements", TypeAttributes, []any{"", "", 0, "", make([]string, MaxTags+1)})
	fields("array: an element over its limit", TypeAttributes, []any{"", "", 0, "", []any{text(MaxTagBytes + 1)}})
	fields("array: nil", TypeResultAck, nil)
	fields("ref: attempt missing", TypeHello, 1, "n", "", 1, "", []any{}, []any{[]any{"j", 1}})
	fields("ref: not an array", TypeHello, 1, "n", "", 1, "", []any{}, []any{1})
	fields("ack: too many", TypeResultAck, repeat(MaxAcks+1, []any{"j", 1}))
	fields("outcome: not a node's to say", TypeResult, "j", 0, 1, 5)
	return out
}

func TestVectors(t *testing.T) {
	vectors := makeVectors(t)
	checkFile(t, "vectors.json", vectors)
	var back []vector
	readJSON(t, "vectors.json", &back)
	require.Len(t, back, len(vectors))
	for i, v := range back {
		frame, err := hex.DecodeString(v.Frame)
		require.NoError(t, err)
		typ, body, size, err := NextFrame(frame, MaxBodyBytes)
		require.NoError(t, err)
		require.Equal(t, len(frame), size)
		require.Equal(t, v.Type, typ)
		m := newMessage(typ)
		require.NoError(t, NewDecoder().Decode(body, m), v.Name)
		require.Equal(t, v.Canonical, bytes.Equal(frame, frameOf(t, m)), "%s: canonical", v.Name)
		require.Equal(t, v.Message, vectors[i].Message)
	}
}

func TestInvalidVectors(t *testing.T) {
	checkFile(t, "invalid.json", makeInvalid(t))
	var back []invalid
	readJSON(t, "invalid.json", &back)
	for _, v := range back {
		frame, err := hex.DecodeString(v.Frame)
		require.NoError(t, err)
		typ, body, size, err := NextFrame(frame, v.Limit)
		if err == nil {
			require.Equal(t, len(frame), size, v.Name)
			err = NewDecoder().Decode(body, newMessage(typ))
		}
		require.Error(t, err, v.Name)
		require.Equal(t, v.Reason, ReasonOf(err), v.Name)
	}
}

// checkFile compares a file of testdata with what the code makes of it, or writes it.
func checkFile(t testing.TB, name string, v any) {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	require.NoError(t, e.Encode(v))
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(path, b.Bytes(), 0o644))
	}
	have, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(have, b.Bytes()), "%s is not what the code makes; run: go test ./protocol -update", path)
}

func readJSON(t testing.TB, name string, v any) {
	b, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, v))
}
