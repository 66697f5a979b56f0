package protocol

import (
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	sessionBegin = "<!-- session:begin -->\n"
	sessionEnd   = "<!-- session:end -->"
)

type sent struct {
	fromNode bool
	m        Message
}

// session is the example of SPEC.md.
func session() []sent {
	id := []byte("01J9ZK3W8Q")
	return []sent{
		{true, &Hello{Version: 1, NodeID: "syd-01", Credential: []byte("s3cret"), Credit: 8, Agent: "roost-go/1.0.0",
			Attributes: Attributes{Country: "AU", City: "Sydney", ASN: 1221, Platform: "linux/arm64", Tags: []string{"home"}, Kinds: []string{"echo"}}}},
		{false, &Welcome{Version: 1, Incarnation: 42, Member: "roost-1", HeartbeatMs: 30000, AcceptAfterMs: 500,
			MaxBodyBytes: MaxBodyBytes, ServerTimeMs: 1790000000000}},
		{false, &Job{JobID: id, Shard: 11, Attempt: 1, Kind: []byte("echo"), TimeoutMs: 30000, Args: []byte{0x81, 0xa3, 's', 'a', 'y', 0xa2, 'h', 'i'}}},
		{true, &Accepted{JobID: id, Shard: 11, Attempt: 1}},
		{true, &Result{JobID: id, Shard: 11, Attempt: 1, DurationUs: 612345, Output: []byte{0x81, 0xa3, 's', 'a', 'y', 0xa2, 'h', 'i'}}},
		{false, &ResultAck{Acks: []Ack{{JobID: id, Attempt: 1}}}},
		{true, &Ping{Nonce: 1}},
		{false, &Pong{Nonce: 1}},
		{false, &GoAway{Reason: ReasonDrain, JitterMs: 10000, Addresses: []string{"b.example.net:7700"}, Message: "upgrade"}},
		{true, &Close{Reason: ReasonBye}},
	}
}

// dump writes bytes with what they are.
type dump struct {
	strings.Builder
	t testing.TB
}

func (d *dump) line(indent int, what string, b []byte) {
	const width = 12
	for first := true; first || len(b) > 0; first = false {
		n := min(width, len(b))
		note := ""
		if first {
			note = strings.Repeat("  ", indent) + what
		}
		fmt.Fprintln(d, strings.TrimRight(fmt.Sprintf("    %-*s  %s", 3*width-1, spaced(b[:n]), note), " "))
		b = b[n:]
	}
}

func spaced(b []byte) string {
	out := make([]string, len(b))
	for i := range b {
		out[i] = hex.EncodeToString(b[i : i+1])
	}
	return strings.Join(out, " ")
}

// array writes the array at the start of b, whose fields have a table in SPEC.md,
// and returns what follows it.
func (d *dump) array(indent int, label, name string, b []byte) []byte {
	require.Equal(d.t, byte(0x90), b[0]&0xf0)
	d.line(indent, fmt.Sprintf("%sarray of %d", label, b[0]&0x0f), b[:1])
	n := int(b[0] & 0x0f)
	b = b[1:]
	for _, f := range specFields(d.t, name)[:n] {
		b = d.field(indent+1, f, b)
	}
	return b
}

func (d *dump) field(indent int, f specField, b []byte) []byte {
	end, err := Scan(b)
	require.NoError(d.t, err)
	switch f.typ {
	case "attributes":
		return d.array(indent, f.name+": ", f.typ, b)
	case "[str]", "[ref]", "[ack]":
		n := int(b[0] & 0x0f)
		d.line(indent, fmt.Sprintf("%s: array of %d", f.name, n), b[:1])
		b = b[1:]
		for range n {
			if f.typ == "[str]" {
				b = d.field(indent+1, specField{name: "", typ: "str"}, b)
			} else {
				b = d.array(indent+1, "", strings.Trim(f.typ, "[]"), b)
			}
		}
		return b
	}
	dec := NewDecoder()
	dec.b, dec.left = b[:end], 1
	var what string
	switch f.typ {
	case "uint":
		what = strconv.FormatUint(dec.uint("", true, 1<<64-1), 10)
	case "value":
		what = "one msgpack value"
		if b[0] == 0xc0 {
			what = "nil"
		}
	default:
		what = strconv.Quote(string(dec.text("", false, end)))
	}
	require.NoError(d.t, dec.err)
	d.line(indent, strings.TrimPrefix(f.name+": "+what, ": "), b[:end])
	return b[end:]
}

func dumpSession(t testing.TB) string {
	d := &dump{t: t}
	d.WriteString("```text\nnode → member, the preface\n")
	d.line(0, strconv.Quote(Preface), []byte(Preface))
	for _, s := range session() {
		way := "member → node"
		if s.fromNode {
			way = "node → member"
		}
		frame := frameOf(t, s.m)
		fmt.Fprintf(d, "\n%s, %v\n", way, s.m.Type())
		d.line(0, fmt.Sprintf("a body of %d bytes, type 0x%02x", len(frame)-HeaderBytes, frame[3]), frame[:HeaderBytes])
		require.Empty(t, d.array(0, "", s.m.Type().String(), frame[HeaderBytes:]))
	}
	d.WriteString("```\n")
	return d.String()
}

func TestSpecSession(t *testing.T) {
	spec := specText(t)
	before, rest, ok := strings.Cut(spec, sessionBegin)
	require.True(t, ok)
	have, after, ok := strings.Cut(rest, sessionEnd)
	require.True(t, ok)
	want := dumpSession(t)
	if *update && have != want {
		require.NoError(t, os.WriteFile("SPEC.md", []byte(before+sessionBegin+want+sessionEnd+after), 0o644))
		have = want
	}
	require.Equal(t, want, have, "run: go test ./protocol -update")

	// The bytes in the document, read as a reader would, are the session.
	var stream []byte
	for line := range strings.Lines(have) {
		if hexed, ok := strings.CutPrefix(line, "    "); ok {
			hexed, _, _ = strings.Cut(hexed, "  ")
			b, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(hexed), " ", ""))
			require.NoError(t, err, line)
			stream = append(stream, b...)
		}
	}
	rest, ok = strings.CutPrefix(string(stream), Preface)
	require.True(t, ok)
	stream = []byte(rest)
	for _, s := range session() {
		typ, body, size, err := NextFrame(stream, MaxBodyBytes)
		require.NoError(t, err)
		require.Equal(t, s.m.Type(), typ)
		m := newMessage(typ)
		require.NoError(t, NewDecoder().Decode(body, m))
		require.Equal(t, frameOf(t, s.m), frameOf(t, m))
		stream = stream[size:]
	}
	require.Empty(t, stream)
}
