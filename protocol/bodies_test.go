package protocol

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"
)

// decodeFields decodes a body (or attributes, ref, ack inside the message that has
// them) made of fields.
func decodeFields(t testing.TB, name string, fields []any) error {
	t.Helper()
	typ := Type(0)
	switch name {
	case "attributes":
		typ, fields = TypeAttributes, []any{fields}
	case "ref":
		typ, fields = TypeHello, []any{1, "n", "", 1, "", []any{}, []any{fields}}
	case "ack":
		typ, fields = TypeResultAck, []any{[]any{fields}}
	default:
		for n, s := range typeNames {
			if s == name {
				typ = n
			}
		}
	}
	return NewDecoder().Decode(pack(t, fields), newMessage(typ))
}

func structures() []string {
	out := []string{"attributes", "ref", "ack"}
	for _, t := range allTypes() {
		out = append(out, t.String())
	}
	return out
}

// least returns a field's smallest good value.
func least(f specField) any {
	switch f.typ {
	case "uint":
		return uint64(1)
	case "str":
		return "x"
	case "bin":
		return []byte("x")
	case "value":
		return nil
	}
	return []any{}
}

// full returns a value at the field's limit plus over.
func full(f specField, over int) any {
	n := int(f.limit) + over
	switch f.typ {
	case "uint":
		return f.limit + uint64(over)
	case "str":
		return text(n)
	case "bin":
		return []byte(text(n))
	case "value":
		return msgpack.RawMessage(payloadOf(n))
	case "[str]":
		return make([]string, n)
	case "[ref]":
		return repeat(n, []any{"j", 1, 1})
	case "[ack]":
		return repeat(n, []any{"j", 1})
	}
	return []any{}
}

func repeat(n int, v any) []any {
	out := make([]any, n)
	for i := range out {
		out[i] = v
	}
	return out
}

// The tables of SPEC.md, held against the decoder: limits, types, required and
// missing fields, and trailing ones.
func TestBodiesFollowSpec(t *testing.T) {
	for _, name := range structures() {
		fields := specFields(t, name)
		base := func() []any {
			var out []any
			for _, f := range fields {
				out = append(out, least(f))
			}
			return out
		}
		good := func(what string, v []any) { require.NoError(t, decodeFields(t, name, v), "%s: %s", name, what) }
		bad := func(what string, v []any) {
			t.Helper()
			err := decodeFields(t, name, v)
			require.Error(t, err, "%s: %s", name, what)
			require.Equal(t, ReasonMalformed, ReasonOf(err), "%s: %s", name, what)
		}
		good("all fields", base())
		good("unknown fields at the end", append(base(), 1, "x", []any{[]any{1}, map[string]any{"a": 1}}, -1.5))
		for i, f := range fields {
			with := func(v any) []any {
				b := base()
				b[i] = v
				return b
			}
			what := f.name
			if requiredFrom(fields, i) {
				bad(what+" missing", base()[:i])
			} else {
				good(what+" missing", base()[:i])
			}
			if f.limit > 0 {
				good(what+" at its limit", with(full(f, 0)))
				if f.limit < math.MaxUint64 {
					bad(what+" over its limit", with(full(f, 1)))
				}
			}
			if f.elem > 0 {
				good(what+" with an element at its limit", with([]any{text(int(f.elem))}))
				bad(what+" with an element over its limit", with([]any{text(int(f.elem) + 1)}))
				bad(what+" with a number", with([]any{1}))
				good(what+" with bin", with([]any{[]byte("x")}))
			}
			for _, v := range wrongValues(f) {
				bad(fmt.Sprintf("%s %#v", what, v), with(v))
			}
			for _, v := range rightValues(f) {
				good(fmt.Sprintf("%s %#v", what, v), with(v))
			}
			if (f.typ == "str" || f.typ == "bin") && f.required {
				bad(what+" empty", with(""))
			}
			if f.typ == "value" {
				good(what+" as deep as allowed", with(msgpack.RawMessage(nested(MaxPayloadDepth))))
				bad(what+" too deep", with(msgpack.RawMessage(nested(MaxPayloadDepth+1))))
			}
		}
	}
}

// requiredFrom reports whether a body that ends before field i lacks something.
func requiredFrom(fields []specField, i int) bool {
	for _, f := range fields[i:] {
		if f.required {
			return true
		}
	}
	return false
}

func wrongValues(f specField) []any {
	switch f.typ {
	case "uint":
		return []any{-1, int64(math.MinInt64), 1.0, float32(1), "1", []byte{1}, nil, true, []any{}, map[string]any{},
			msgpack.RawMessage{0xd0, 1}, msgpack.RawMessage{0xd3, 0, 0, 0, 0, 0, 0, 0, 1}, msgpack.RawMessage{0xd4, 1, 1}}
	case "str", "bin":
		return []any{1, nil, false, 1.5, []any{}, map[string]any{}, msgpack.RawMessage{0xd4, 1, 1}}
	case "value":
		return nil
	}
	return []any{1, nil, "x", []byte("x"), map[string]any{}, 1.5, msgpack.RawMessage{0xd4, 1, 1}}
}

func rightValues(f specField) []any {
	raw := func(b ...byte) any { return msgpack.RawMessage(b) }
	switch f.typ {
	case "uint":
		return []any{raw(0xcc, 1), raw(0xcd, 0, 1), raw(0xce, 0, 0, 0, 1), raw(0xcf, 0, 0, 0, 0, 0, 0, 0, 1), 0}
	case "str", "bin":
		return []any{"x", []byte("x"), raw(0xd9, 1, 'x'), raw(0xda, 0, 1, 'x'), raw(0xdb, 0, 0, 0, 1, 'x'),
			raw(0xc5, 0, 1, 'x'), raw(0xc6, 0, 0, 0, 1, 'x')}
	case "value":
		return []any{nil, 1, -1, 1.5, "x", []byte("x"), []any{1}, map[string]any{"a": 1}, raw(0xd4, 1, 1), raw(0x81, 0x91, 1, 2)}
	}
	return []any{raw(0xdc, 0, 0), raw(0xdd, 0, 0, 0, 0)}
}

func TestDecodeRefusesWhatIsNoBody(t *testing.T) {
	for name, body := range map[string][]byte{
		"empty": {}, "nil": {0xc0}, "map": {0x80}, "number": {1}, "text": {0xa1, 'x'}, "two values": {0x91, 1, 0x91, 1},
		"cut": {0x91}, "unused code": {0x91, 0xc1}, "ext": {0xd4, 1, 1},
	} {
		for _, typ := range allTypes() {
			err := NewDecoder().Decode(body, newMessage(typ))
			require.Error(t, err, "%s as %v", name, typ)
			require.Equal(t, ReasonMalformed, ReasonOf(err))
		}
	}
}

func TestDecodeNodeID(t *testing.T) {
	for id, want := range map[string]bool{
		"syd-01": true, "d3b0:7f/á本😀$": true, "a b": false, "a\tb": false, "a\x00": false, "\xff": false, "a\u200bb": false,
		"a\u00a0b": false, "a\u202eb": false, "\u2028": false, "\x7f": false,
	} {
		err := NewDecoder().Decode(pack(t, []any{1, id}), &Hello{})
		require.Equal(t, want, err == nil, "%q: %v", id, err)
		require.Equal(t, want, ValidID(id))
	}
	require.False(t, ValidID(""))
}

func TestDecodeSetsEveryField(t *testing.T) {
	d := NewDecoder()
	for _, typ := range allTypes() {
		m, zero := newMessage(typ), newMessage(typ)
		require.NoError(t, d.Decode(frameOf(t, sampleMessages()[typ])[HeaderBytes:], m))
		shortest := []any{}
		fields := specFields(t, typ.String())
		for i, f := range fields {
			if !requiredFrom(fields, i) {
				break
			}
			shortest = append(shortest, least(f))
		}
		body := pack(t, shortest)
		require.NoError(t, d.Decode(body, m))
		require.NoError(t, d.Decode(body, zero))
		if a, ok := m.(*ResultAck); ok {
			require.Empty(t, a.Acks)
			continue
		}
		require.Equal(t, zero, m)
	}
	var h Hello
	require.NoError(t, d.Decode(pack(t, []any{1, "n", "", 0}), &h))
	require.Equal(t, uint32(1), h.Credit, "credit 0 is read as 1")
}

func TestDecoderIsUsableAfterAnError(t *testing.T) {
	d := NewDecoder()
	for range 3 {
		require.Error(t, d.Decode([]byte{0x91, 0xff}, &Ping{}))
		require.Error(t, d.Decode([]byte{0x92, 1}, &Ping{}))
		var p Ping
		require.NoError(t, d.Decode([]byte{0x91, 7}, &p))
		require.Equal(t, uint64(7), p.Nonce)
	}
}

func TestDecodeCutAtEveryByte(t *testing.T) {
	d := NewDecoder()
	for typ, m := range sampleMessages() {
		body := frameOf(t, m)[HeaderBytes:]
		for n := range body {
			require.Error(t, d.Decode(body[:n], newMessage(typ)), "%v cut at %d", typ, n)
		}
	}
}

// sampleMessages has one message of each type with every field set.
func sampleMessages() map[Type]Message {
	id, args := []byte("job-1"), []byte{0x81, 0xa1, 'h', 0xa1, 'x'}
	out := map[Type]Message{}
	for _, m := range []Message{
		&Hello{Version: 1, NodeID: "syd-01", Credential: []byte("token"), Credit: 8, Agent: "a/1", Attributes: Attributes{
			Country: "AU", City: "Sydney", ASN: 1221, Platform: "linux/arm64", Tags: []string{"home"}, Kinds: []string{"ping"}},
			Running: []Ref{{"job-0", 3, 1}}, Held: []Ref{{"job-9", 4, 2}}, LastIncarnation: 41},
		&Challenge{Method: "hmac-sha256", Nonce: []byte("0123456789abcdef")},
		&Proof{Method: "hmac-sha256", Proof: []byte("proof")},
		&Welcome{Version: 1, Incarnation: 7, Member: "a", HeartbeatMs: 30000, AcceptAfterMs: 500, MaxBodyBytes: MaxBodyBytes, ServerTimeMs: 1700000000000},
		&Job{JobID: id, Shard: 3, Attempt: 1, Kind: []byte("ping"), TimeoutMs: 30000, Priority: 4, Args: args},
		&Accepted{JobID: id, Shard: 3, Attempt: 1},
		&Progress{JobID: id, Shard: 3, Attempt: 1, Data: args},
		&Result{JobID: id, Shard: 3, Attempt: 1, Outcome: OutcomeFailed, DurationUs: 12500, Error: []byte("no answer"), Output: args},
		&ResultAck{Acks: []Ack{{id, 1}, {[]byte("job-2"), 3}}},
		&Cancel{JobID: id, Attempt: 1, Reason: "by the operator"},
		&Credit{Credit: 16},
		&AttributesUpdate{Attributes: Attributes{Country: "DE", City: "Köln", ASN: 3320, Platform: "linux/amd64", Tags: []string{"dc", "v6"}, Kinds: []string{"ping", "http"}}},
		&Ping{Nonce: 0x0102030405060708}, &Pong{Nonce: 255},
		&GoAway{Reason: ReasonDrain, JitterMs: 30000, Addresses: []string{"b.example.net:7700"}, Message: "upgrade"},
		&Close{Reason: ReasonOverloaded, Message: "too many connections", RetryAfterMs: 5000, Addresses: []string{"b.example.net:7400"}},
	} {
		out[m.Type()] = m
	}
	return out
}

func TestEncodeLimits(t *testing.T) {
	id, long := []byte("j"), func(n int) []byte { return []byte(text(n)) }
	refs := make([]Ref, MaxResume+1)
	tests := []struct {
		field  string
		m      Message
		reason Reason
	}{
		{"version", &Hello{NodeID: "n", Version: MaxVersion + 1}, ReasonMalformed},
		{"node_id", &Hello{NodeID: text(MaxNodeIDBytes + 1)}, ReasonMalformed},
		{"credential", &Hello{NodeID: "n", Credential: long(MaxCredentialBytes + 1)}, ReasonMalformed},
		{"credit", &Hello{NodeID: "n", Credit: MaxCredit + 1}, ReasonMalformed},
		{"agent", &Hello{NodeID: "n", Agent: text(MaxTextBytes + 1)}, ReasonMalformed},
		{"running", &Hello{NodeID: "n", Running: refs}, ReasonMalformed},
		{"held", &Hello{NodeID: "n", Held: refs}, ReasonMalformed},
		{"job_id", &Hello{NodeID: "n", Held: []Ref{{JobID: text(MaxJobIDBytes + 1)}}}, ReasonMalformed},
		{"attempt", &Hello{NodeID: "n", Held: []Ref{{JobID: "j", Attempt: MaxAttempts + 1}}}, ReasonMalformed},
		{"country", &AttributesUpdate{Attributes{Country: "AUST"}}, ReasonMalformed},
		{"city", &AttributesUpdate{Attributes{City: text(MaxTextBytes + 1)}}, ReasonMalformed},
		{"platform", &AttributesUpdate{Attributes{Platform: text(MaxTextBytes + 1)}}, ReasonMalformed},
		{"tags", &AttributesUpdate{Attributes{Tags: make([]string, MaxTags+1)}}, ReasonMalformed},
		{"tags", &AttributesUpdate{Attributes{Tags: []string{text(MaxTagBytes + 1)}}}, ReasonMalformed},
		{"kinds", &AttributesUpdate{Attributes{Kinds: make([]string, MaxKinds+1)}}, ReasonMalformed},
		{"kinds", &AttributesUpdate{Attributes{Kinds: []string{text(MaxKindBytes + 1)}}}, ReasonMalformed},
		{"method", &Challenge{Method: text(MaxTextBytes + 1)}, ReasonMalformed},
		{"nonce", &Challenge{Method: "m", Nonce: long(MaxNonceBytes + 1)}, ReasonMalformed},
		{"proof", &Proof{Method: "m", Proof: long(MaxProofBytes + 1)}, ReasonMalformed},
		{"member", &Welcome{Member: text(MaxTextBytes + 1)}, ReasonMalformed},
		{"max_body_bytes", &Welcome{MaxBodyBytes: 1 << 24}, ReasonMalformed},
		{"job_id", &Job{JobID: long(MaxJobIDBytes + 1), Kind: id}, ReasonMalformed},
		{"kind", &Job{JobID: id, Kind: long(MaxKindBytes + 1)}, ReasonMalformed},
		{"attempt", &Job{JobID: id, Kind: id, Attempt: MaxAttempts + 1}, ReasonMalformed},
		{"timeout_ms", &Job{JobID: id, Kind: id, TimeoutMs: MaxTimeoutMs + 1}, ReasonMalformed},
		{"priority", &Job{JobID: id, Kind: id, Priority: MaxPriority + 1}, ReasonMalformed},
		{"args", &Job{JobID: id, Kind: id, Args: payloadOf(MaxPayloadBytes + 1)}, ReasonMalformed},
		{"args", &Job{JobID: id, Kind: id, Args: nested(MaxPayloadDepth + 1)}, ReasonMalformed},
		{"args", &Job{JobID: id, Kind: id, Args: []byte{0x92, 1}}, ReasonMalformed},
		{"args", &Job{JobID: id, Kind: id, Args: []byte{1, 1}}, ReasonMalformed},
		{"data", &Progress{JobID: id, Data: []byte{0xc1}}, ReasonMalformed},
		{"outcome", &Result{JobID: id, Outcome: OutcomeLost}, ReasonMalformed},
		{"output", &Result{JobID: id, Output: []byte{0x81, 1}}, ReasonMalformed},
		{"acks", &ResultAck{Acks: make([]Ack, MaxAcks+1)}, ReasonMalformed},
		{"credit", &Credit{Credit: MaxCredit + 1}, ReasonMalformed},
		{"addresses", &GoAway{Addresses: make([]string, MaxAddresses+1)}, ReasonMalformed},
		{"addresses", &GoAway{Addresses: []string{text(MaxAddressBytes + 1)}}, ReasonMalformed},
		{"addresses", &Close{Addresses: make([]string, MaxAddresses+1)}, ReasonMalformed},
	}
	e := NewEncoder()
	for _, test := range tests {
		dst := []byte("before")
		out, err := e.Append(dst, test.m)
		require.Error(t, err, "%v %s", test.m.Type(), test.field)
		require.Contains(t, err.Error(), test.field)
		require.Equal(t, test.reason, ReasonOf(err))
		require.Equal(t, "before", string(out))
		out, err = e.Append(dst, &Ping{Nonce: 1}) // and is usable afterwards
		require.NoError(t, err)
		require.Equal(t, "before\x00\x00\x02\x30\x91\x01", string(out))
	}
}

func TestEncodeShortensTextForPeople(t *testing.T) {
	long := strings.Repeat("é", MaxErrorBytes) // two bytes each
	d := NewDecoder()
	check := func(m, back Message, got func() string, limit int) {
		t.Helper()
		require.NoError(t, d.Decode(frameOf(t, m)[HeaderBytes:], back))
		require.Equal(t, long[:limit], got())
	}
	var r Result
	check(&Result{JobID: []byte("j"), Error: []byte(long)}, &r, func() string { return string(r.Error) }, MaxErrorBytes)
	var c Close
	check(&Close{Message: "x" + long}, &c, func() string { return c.Message[1:] }, MaxTextBytes-2)
	var g GoAway
	check(&GoAway{Message: long}, &g, func() string { return g.Message }, MaxTextBytes)
	var k Cancel
	check(&Cancel{JobID: []byte("j"), Reason: long}, &k, func() string { return k.Reason }, MaxTextBytes)
	require.Empty(t, clip(strings.Repeat("\x80", 300), 256), "nothing but continuation bytes")
}

func TestEncodeEmptyPayloadIsNil(t *testing.T) {
	var j Job
	frame := frameOf(t, &Job{JobID: []byte("j"), Kind: []byte("k"), TimeoutMs: 1})
	require.NoError(t, NewDecoder().Decode(frame[HeaderBytes:], &j))
	require.Equal(t, []byte{0xc0}, j.Args)
	require.NoError(t, CheckPayload([]byte{0xc0}))
	require.Error(t, CheckPayload(nil))
}

func TestDecodedBytesAliasTheBody(t *testing.T) {
	frame := frameOf(t, sampleMessages()[TypeJob])
	var j Job
	require.NoError(t, NewDecoder().Decode(frame[HeaderBytes:], &j))
	at := bytes.Index(frame, []byte("job-1"))
	frame[at] = 'J'
	require.Equal(t, "Job-1", string(j.JobID))
	grown := append(j.JobID, 'x') // must not write over what follows in the body
	require.Equal(t, "Job-1x", string(grown))
	require.NoError(t, NewDecoder().Decode(frame[HeaderBytes:], &j))
}

func TestErrors(t *testing.T) {
	err := Errorf(ReasonMalformed, "x %d", 1)
	require.Equal(t, "malformed (3002): x 1", err.Error())
	require.Equal(t, ReasonMalformed, ReasonOf(fmt.Errorf("y: %w", err)))
	require.Equal(t, ReasonInternal, ReasonOf(fmt.Errorf("y")))
	require.Equal(t, OutcomeInvalid, Outcomes()[len(Outcomes())-1])
}
