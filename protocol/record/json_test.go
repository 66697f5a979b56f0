package record

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"
	"pgregory.net/rapid"

	"github.com/roost-server/roost/protocol"
)

func TestTranscode(t *testing.T) {
	long := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat("1,", n), ",") + "]" }
	object := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"k%05d":%d`, i, i)
		}
		return "{" + b.String()[1:] + "}"
	}
	for _, js := range []string{
		`null`, `true`, `false`, `0`, `1`, `-1`, `127`, `128`, `-33`, `65536`, `-9223372036854775808`, `9223372036854775807`,
		`18446744073709551615`, `1.0`, `0.5`, `-2.25`, `1e+21`, `1e-07`, `0.1`, `123456.789`, `""`, `"x"`, `"é本😀"`, `"a\"b\\c\u0001\u000a"`,
		`"<a&b>"`, `[]`, `{}`, `[1,1.0,"1",null]`, `{"b":1,"a":{"c":[]}}`, `{"":0}`, `{"a":1,"a":2}`,
		long(15), long(16), long(70000), object(15), object(16), object(66000), strings.Repeat("[", 15) + "[1]" + strings.Repeat("]", 15),
	} {
		mp, err := FromJSON([]byte(js))
		require.NoError(t, err, js[:min(len(js), 50)])
		end, err := protocol.Scan(mp)
		require.NoError(t, err)
		require.Equal(t, len(mp), end)
		back, err := ToJSON(mp)
		require.NoError(t, err)
		require.True(t, js == string(back), "%.80s\n%.80s", js, back)
	}
	for js, want := range map[string]string{
		" \t\r\n{ \"a\" : [ 1 , 2 ] , \"b\" : { } } ": `{"a":[1,2],"b":{}}`,
		`"\u00e9\ud83d\ude00\/"`:                      `"é😀/"`,
		`"\ud800"`:                                    "\"\uFFFD\"",
		`-0`:                                          `0`,
		`-0.0`:                                        `-0.0`,
		`1E2`:                                         `100.0`,
		`18446744073709551616`:                        `1.8446744073709552e+19`,
		`{"\u0061":1}`:                                `{"a":1}`,
	} {
		mp, err := FromJSON([]byte(js))
		require.NoError(t, err, js)
		back, err := ToJSON(mp)
		require.NoError(t, err, js)
		require.Equal(t, want, string(back))
	}
}

func TestFromJSONKinds(t *testing.T) {
	for js, want := range map[string]any{
		`1.0`: float64(1), `1`: int8(1), `1e3`: float64(1000), `300`: uint16(300), `-300`: int16(-300),
		`18446744073709551615`: uint64(math.MaxUint64), `"1"`: "1", `true`: true, `null`: nil,
	} {
		mp, err := FromJSON([]byte(js))
		require.NoError(t, err)
		var v any
		require.NoError(t, msgpack.Unmarshal(mp, &v))
		require.Equal(t, want, v, js)
	}
}

func TestFromJSONRefuses(t *testing.T) {
	for js, why := range map[string]string{
		``: "unexpected end", ` `: "unexpected end", `{"a":1`: "unexpected end", `{"a":1} x`: "after top-level", `{} {}`: "after top-level",
		`[1,]`: "invalid character", `{a:1}`: "invalid character", `01`: "after top-level", `nul`: "invalid character", "\"\xff\"": "UTF-8",
		`1e400`: "no 64-bit form", strings.Repeat("[", 17) + "1" + strings.Repeat("]", 17): "deeper than 16",
		strings.Repeat("[", 200_000): "exceeded max depth", "\"a\nb\"": "invalid character", "\xef\xbb\xbf{}": "invalid character",
	} {
		out, err := FromJSON([]byte(js))
		require.Error(t, err, "%.40s", js)
		require.ErrorContains(t, err, why, "%.40s", js)
		require.Nil(t, out)
	}
}

func TestToJSONOfWhatJSONLacks(t *testing.T) {
	for want, mp := range map[string][]byte{
		`"AQI="`: {0xc4, 2, 1, 2}, `{"ext":-1,"data":"BQ=="}`: {0xd4, 0xff, 5}, `{"ext":7,"data":""}`: {0xc7, 0, 7},
		`[null,null]`: {0x92, 0xca, 0x7f, 0xc0, 0, 0, 0xcb, 0x7f, 0xf0, 0, 0, 0, 0, 0, 0}, `{"1":2}`: {0x81, 1, 2},
		`{"null":true}`: {0x81, 0xc0, 0xc3}, `{"-1.5":0}`: {0x81, 0xca, 0xbf, 0xc0, 0, 0, 0}, `{"AQ==":0}`: {0x81, 0xc4, 1, 1, 0},
		`{"{\"ext\":1,\"data\":\"AA==\"}":0}`: {0x81, 0xd4, 1, 0, 0}, "\"a\uFFFDb\"": {0xa3, 'a', 0xff, 'b'},
		`0.1`: {0xca, 0x3d, 0xcc, 0xcc, 0xcd}, `[1,"1"]`: {0x92, 1, 0xa1, '1'}, `{"1":1,"1":2}`: {0x82, 1, 1, 0xa1, '1', 2},
		`{"a":1}`: {0xdf, 0, 0, 0, 1, 0xdb, 0, 0, 0, 1, 'a', 0xd3, 0, 0, 0, 0, 0, 0, 0, 1},
	} {
		out, err := ToJSON(mp)
		require.NoError(t, err, want)
		require.Equal(t, want, string(out))
		require.True(t, json.Valid(out))
	}
	for why, mp := range map[string][]byte{
		"a map as a map's key": {0x81, 0x80, 1}, "an array as a map's key": {0x81, 0x91, 1, 1}, "2 bytes follow": {1, 1, 1},
		"ends early": {0x92, 0x91, 1}, "bad msgpack code": {0xc1}, "no value": {}, "deeper": append(bytes.Repeat([]byte{0x91}, 17), 1),
	} {
		out, err := ToJSON(mp)
		require.ErrorContains(t, err, why)
		require.Empty(t, out)
	}
}

func genJSON(depth int) *rapid.Generator[any] {
	scalars := []*rapid.Generator[any]{rapid.Just[any](nil), rapid.Bool().AsAny(), rapid.Int64().AsAny(), rapid.Float64().AsAny(), rapid.String().AsAny()}
	if depth == 0 {
		return rapid.OneOf(scalars...)
	}
	return rapid.OneOf(append(scalars, rapid.SliceOfN(genJSON(depth-1), 0, 20).AsAny(),
		rapid.MapOfN(rapid.String(), genJSON(depth-1), 0, 20).AsAny())...)
}

// Against encoding/json and the msgpack library: the same value comes out.
func TestTranscodeAgreesWithLibraries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		js, err := json.MarshalIndent(genJSON(2).Draw(t, "value"), "", " ")
		if err != nil {
			t.Fatal(err)
		}
		mp, err := FromJSON(js)
		if err != nil {
			t.Fatal(err)
		}
		var a, b any
		if err := json.Unmarshal(js, &a); err != nil {
			t.Fatal(err)
		}
		back, err := ToJSON(mp)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(back, &b); err != nil {
			t.Fatal(err)
		}
		require.Equal(t, a, b)
		again, err := FromJSON(back)
		if err != nil || !bytes.Equal(mp, again) {
			t.Fatalf("% x\n% x: %v", mp, again, err)
		}
		var v any
		if err := msgpack.Unmarshal(mp, &v); err != nil {
			t.Fatal(err)
		}
	})
}
