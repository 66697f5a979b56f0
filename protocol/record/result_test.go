package record

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"
	"pgregory.net/rapid"

	"github.com/roost-server/roost/protocol"
)

func sampleResult() Result {
	return Result{Job: "j1", Node: "syd-01", Index: 2, Outcome: protocol.OutcomeOK, Attempt: 1, Kind: "ping", Tenant: "t", DurationUs: 12345,
		Output: []byte{0x81, 0xa3, 'r', 't', 't', 0xcb, 0x40, 0x29, 0, 0, 0, 0, 0, 0}, JobMs: 1790000000000, TimeMs: 1790000000500,
		Member: "roost-1", Partition: 3, Offset: 1 << 40}
}

func TestResultJSON(t *testing.T) {
	r := sampleResult()
	var rw ResultWriter
	b, err := rw.Append(nil, JSON, &r)
	require.NoError(t, err)
	require.Equal(t, `{"job":"j1","node":"syd-01","index":2,"outcome":"ok","attempt":1,"kind":"ping","tenant":"t","duration_ms":12.345,`+
		`"output":{"rtt":12.5},"job_ms":1790000000000,"time_ms":1790000000500,"member":"roost-1","partition":3,"offset":1099511627776}`, string(b))
	direct, err := json.Marshal(&r)
	require.NoError(t, err)
	require.Equal(t, b, direct)
	b, err = rw.Append(nil, JSON, &Result{Job: "j", Outcome: protocol.OutcomeUnmatched, Error: "no node fits <any>"})
	require.NoError(t, err)
	require.Equal(t, `{"job":"j","node":"","index":0,"outcome":"unmatched","attempt":0,"kind":"","duration_ms":0.0,"error":"no node fits <any>",`+
		`"job_ms":0,"time_ms":0,"member":"","partition":0,"offset":0}`, string(b))
}

func TestResultMsgpackIsReadByTheLibrary(t *testing.T) {
	r := sampleResult()
	var rw ResultWriter
	b, err := rw.Append([]byte("before"), Msgpack, &r)
	require.NoError(t, err)
	var v map[string]any
	require.NoError(t, msgpack.Unmarshal(b[6:], &v))
	require.Equal(t, map[string]any{"job": "j1", "node": "syd-01", "index": int8(2), "outcome": "ok", "attempt": int8(1), "kind": "ping", "tenant": "t",
		"duration_ms": 12.345, "output": map[string]any{"rtt": 12.5}, "job_ms": uint64(1790000000000), "time_ms": uint64(1790000000500),
		"member": "roost-1", "partition": int8(3), "offset": uint64(1 << 40)}, v)
}

func TestResultRoundTrip(t *testing.T) {
	var rw ResultWriter // reused, as the committer does
	rapid.Check(t, func(t *rapid.T) {
		txt := func() string { return rapid.String().Draw(t, "text") }
		r := Result{Job: txt(), Node: txt(), Index: rapid.Uint32().Draw(t, "index"), Outcome: rapid.SampledFrom(protocol.Outcomes()).Draw(t, "outcome"),
			Attempt: rapid.Uint32Range(0, protocol.MaxAttempts).Draw(t, "attempt"), Kind: txt(), Tenant: txt(),
			DurationUs: rapid.Uint64Range(0, 1<<50).Draw(t, "duration"), Error: txt(), JobMs: rapid.Int64().Draw(t, "job_ms"),
			TimeMs: rapid.Int64().Draw(t, "time_ms"), Member: txt(), Partition: rapid.Int32().Draw(t, "partition"), Offset: rapid.Int64().Draw(t, "offset")}
		if rapid.Bool().Draw(t, "output") {
			js, err := json.Marshal(genJSON(2).Draw(t, "output"))
			if err != nil {
				t.Fatal(err)
			}
			if r.Output, err = FromJSON(js); err != nil {
				t.Fatal(err)
			}
		}
		for _, enc := range []Encoding{Msgpack, JSON} {
			b, err := rw.Append([]byte("before"), enc, &r)
			if err != nil {
				t.Fatal(err)
			}
			for _, contentType := range []string{"", enc.ContentType()} {
				back, err := ParseResult(contentType, b[6:])
				if err != nil {
					t.Fatal(err)
				}
				require.Equal(t, r, back)
			}
		}
	})
}

// Whatever a node says can be recorded, in a record that Kafka takes and that strict
// readers can read.
func TestResultOfHostileNode(t *testing.T) {
	control := append([]byte{0xdb, 0, 6, 0xff, 0xf0}, bytes.Repeat([]byte{1}, 0x6fff0)...) // six times as long in JSON
	outputs := map[string][]byte{
		"text that explodes in JSON": control,
		"large binary":               append([]byte{0xc6, 0, 6, 0xff, 0xf0}, make([]byte, 0x6fff0)...),
		"a map as a key":             {0x81, 0x80, 1},
		"an array as a key":          {0x81, 0x91, 0xa1, 'x', 1},
		"keys twice":                 {0x82, 0xa1, 'a', 1, 0xa1, 'a', 2},
		"as deep as allowed":         append(bytes.Repeat([]byte{0x91}, protocol.MaxPayloadDepth), 0xc0),
		"extensions":                 append([]byte{0xdc, 0xff, 0xff}, bytes.Repeat([]byte{0xd4, 0x80, 0}, 0xffff)...),
	}
	for name, output := range outputs {
		require.NoError(t, protocol.CheckPayload(output), name)
		r := sampleResult()
		r.Output, r.Error = output, strings.Repeat("\x01", protocol.MaxErrorBytes-1)+"\xff"
		var rw ResultWriter
		for _, enc := range []Encoding{JSON, Msgpack} {
			b, err := rw.Append(nil, enc, &r)
			require.NoError(t, err, name)
			require.Less(t, len(b), 1_000_000, "%s: %v", name, enc)
			back, err := ParseResult("", b)
			require.NoError(t, err, name)
			require.Equal(t, strings.Repeat("\x01", protocol.MaxErrorBytes-1)+"\uFFFD", back.Error)
			switch {
			case enc == Msgpack || strings.Contains(name, "key") && !strings.Contains(name, "twice") || strings.Contains(name, "explodes"):
				require.Equal(t, output, back.Output, name)
			default:
				require.NotEmpty(t, back.Output)
			}
			if enc == JSON {
				require.True(t, json.Valid(b))
				require.Equal(t, strings.Contains(string(b), `"output_msgpack":"`), !strings.Contains(string(b), `"output":`), name)
			}
		}
	}
}

func TestResultWithBrokenOutput(t *testing.T) {
	var rw ResultWriter
	for _, output := range [][]byte{{0xc1}, {1, 1}, {0x91}} {
		r := sampleResult()
		r.Output = output
		out, err := rw.Append([]byte("before"), JSON, &r)
		require.ErrorContains(t, err, "output")
		require.Equal(t, "before", string(out))
	}
}

func TestParseResultRefuses(t *testing.T) {
	for js, why := range map[string]string{
		`{`: "unexpected end", ` []`: "a map is expected", ``: "unexpected end", `{"outcome":"fine"}`: `outcome: "fine" is none of [ok failed refused`,
		`{"outcome":7}`: "outcome: a string", `{"job":7}`: "job: a string", `{"duration_ms":"1"}`: "duration_ms: a number",
		`{"duration_ms":-1}`: "a length of time", `{"duration_ms":1e30}`: "a length of time", `{"attempt":-1}`: "attempt: -1",
		`{"partition":4294967296}`: "partition", `{"offset":1.5}`: "an integer", `{"output_msgpack":"!"}`: "output_msgpack: illegal base64",
		`{"output_msgpack":"wQ=="}`: "output_msgpack: ", `{"output_msgpack":1}`: "output_msgpack: a string", `{"job":"a"} {}`: "after top-level",
		`{"outcome":"` + strings.Repeat("x", 5000) + `"}`: `"... is none`,
	} {
		_, err := ParseResult(ContentJSON, []byte(js))
		require.ErrorContains(t, err, why, "%.60s", js)
	}
	_, err := ParseResult("", []byte{0x81, 0xa6, 'o', 'f', 'f', 's', 'e', 't', 0xcf, 0xff, 0, 0, 0, 0, 0, 0, 0})
	require.ErrorContains(t, err, "out of range")
	r, err := ParseResult(ContentJSON, []byte(`{"later":{"a":[1]},"duration_ms":3,"outcome":"lost"}`))
	require.NoError(t, err)
	require.Equal(t, Result{Outcome: protocol.OutcomeLost, DurationUs: 3000}, r)
	for f, want := range map[float64]uint64{1.001: 1001, 0.0004: 0, 0.0006: 1, math.Pow(2, 64) / 1000: math.MaxUint64} {
		b, err := msgpack.Marshal(map[string]any{"duration_ms": f})
		require.NoError(t, err)
		r, err := ParseResult("", b)
		require.NoError(t, err)
		require.Equal(t, want, r.DurationUs)
	}
}
