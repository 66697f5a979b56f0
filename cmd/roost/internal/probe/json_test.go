package probe

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"
)

func TestStatusSetForms(t *testing.T) {
	want := StatusSet{{200, 299}, {404, 404}}
	for _, in := range []any{404, []any{"200-299", 404}, []any{"200 - 299", "404"}, []int{404}, "404", uint16(404)} {
		b, err := msgpack.Marshal(in)
		require.NoError(t, err)
		var s StatusSet
		require.NoError(t, msgpack.Unmarshal(b, &s), in)
		require.True(t, s.Has(404))
		require.False(t, s.Has(405))
		b, err = json.Marshal(in)
		require.NoError(t, err)
		var j StatusSet
		require.NoError(t, json.Unmarshal(b, &j), in)
		require.Equal(t, s, j)
	}
	b, err := msgpack.Marshal(want)
	require.NoError(t, err)
	var s StatusSet
	require.NoError(t, msgpack.Unmarshal(b, &s))
	require.Equal(t, want, s)
	b, err = json.Marshal(HTTPArgs{URL: "http://a", Status: want})
	require.NoError(t, err)
	require.JSONEq(t, `{"url":"http://a","status":["200-299",404]}`, string(b))
	var a HTTPArgs
	require.NoError(t, json.Unmarshal(b, &a))
	require.Equal(t, want, a.Status)
	for _, bad := range []string{`"x"`, `["200-"]`, `[true]`, `{}`, `1.5`} {
		require.Error(t, json.Unmarshal([]byte(bad), &s), bad)
	}
	for _, bad := range []any{"x", true, 1.5, map[string]int{}, make([]int, 33), []any{[]any{1}}} {
		b, err := msgpack.Marshal(bad)
		require.NoError(t, err)
		require.Error(t, msgpack.Unmarshal(b, &s), bad)
	}
	// A length that the bytes do not hold.
	require.Error(t, msgpack.Unmarshal([]byte{0xdd, 0xff, 0xff, 0xff, 0xff}, &s))
}

func TestJSONBodyLimits(t *testing.T) {
	deep := strings.Repeat("[", 65) + strings.Repeat("]", 65)
	require.Equal(t, "json_path: the body is deeper than 64 levels", checkJSONBody([]byte(deep), "$..a", nil))
	wide := "[" + strings.Repeat("0,", MaxJSONNodes) + "0]"
	require.Equal(t, "json_path: the body has more than 200000 nodes", checkJSONBody([]byte(wide), "$..a", nil))
	require.Empty(t, checkJSONBody([]byte(`["[[[[", "\"[[[[,,,,"]`), "$[1]", nil))
	require.Equal(t, "json_path: the body has something after its JSON value", checkJSONBody([]byte(`{"a":1} x`), "$.a", nil))
	require.Contains(t, checkJSONBody([]byte(`{"a":`), "$.a", nil), "not JSON")
	require.Contains(t, checkJSONBody(nil, "$.a", nil), "not JSON")
	// Comparisons with what is missing, in every order, come to an end.
	for _, path := range []string{"$[?1 <= @.x]", "$[?@.x <= 1]", "$[?@.x <= @.y]", "$[?@.a <= @.x]", "$[?@.x < @.a]", "$[?1 >= @.x]"} {
		require.NotPanics(t, func() { checkJSONBody([]byte(`[{"a":1},2,"s",null]`), path, nil) }, path)
	}
}

func TestSameJSON(t *testing.T) {
	parse := func(s string) any {
		d := json.NewDecoder(strings.NewReader(s))
		d.UseNumber()
		var v any
		require.NoError(t, d.Decode(&v))
		return v
	}
	for _, tc := range []struct {
		doc  string
		arg  any
		same bool
	}{
		{`1`, 1, true}, {`1`, int8(1), true}, {`1.0`, uint64(1), true}, {`1e2`, 100, true}, {`1`, 1.5, false},
		{`18446744073709551615`, uint64(18446744073709551615), true},
		{`1e999999999`, 1, false}, {`0.1`, 0.1, true}, {`0.5`, float32(0.5), true},
		{`"1"`, 1, false}, {`1`, "1", false}, {`true`, true, true}, {`true`, "true", false}, {`null`, nil, true}, {`null`, 0, false},
		{`[1,[2]]`, []any{1, []any{2}}, true}, {`[1]`, []any{1, 2}, false}, {`[1]`, map[string]any{}, false},
		{`{"a":1}`, map[string]any{"a": 1.0}, true}, {`{"a":1}`, map[string]any{"b": 1}, false}, {`{"a":1}`, map[string]any{"a": 2}, false},
		{`{"a":null}`, map[string]any{"b": nil}, false}, {`{}`, []any{}, false},
	} {
		require.Equal(t, tc.same, sameJSON(parse(tc.doc), tc.arg), "%s %v", tc.doc, tc.arg)
	}
}

func TestCut(t *testing.T) {
	require.Equal(t, "abc", cut("abc", 3))
	require.Equal(t, "ab", cut("abc", 2))
	for n := range 12 {
		got := cut("é\xffü\xff\xffx€", n)
		require.LessOrEqual(t, len(got), n)
		require.Equal(t, strings.ToValidUTF8(got, "?"), got)
	}
}
