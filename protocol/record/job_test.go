package record

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"
	"pgregory.net/rapid"

	"github.com/roost-server/roost/protocol"
)

// both parses a job record as JSON and, with the library's transcoding, as msgpack,
// and wants the same from both.
func both(t *testing.T, js string) (Job, error) {
	t.Helper()
	j, errJ := ParseJob("", []byte(js))
	var v any
	d := json.NewDecoder(strings.NewReader(js))
	d.UseNumber()
	require.NoError(t, d.Decode(&v), js)
	var b bytes.Buffer
	e := msgpack.NewEncoder(&b)
	e.UseCompactInts(true)
	require.NoError(t, e.Encode(plain(v)))
	m, errM := ParseJob("", b.Bytes())
	require.Equal(t, errJ == nil, errM == nil, "%s\nJSON: %v\nmsgpack: %v", js, errJ, errM)
	require.Equal(t, Msgpack, m.Encoding)
	if strings.HasPrefix(strings.TrimSpace(js), "{") {
		require.Equal(t, JSON, j.Encoding)
	}
	m.Encoding = j.Encoding
	if errJ != nil {
		require.Equal(t, m.ID, j.ID)
		return j, errJ
	}
	require.NotNil(t, m.Target)
	m.Args, j.Args = sortedArgs(t, m.Args), sortedArgs(t, j.Args)
	require.Equal(t, m, j)
	return j, errJ
}

func sortedArgs(t *testing.T, b []byte) []byte {
	if b == nil {
		return nil
	}
	out, err := ToJSON(b)
	require.NoError(t, err)
	var v any
	require.NoError(t, json.Unmarshal(out, &v))
	out, err = json.Marshal(v)
	require.NoError(t, err)
	return out
}

// plain turns json.Number into the number it is.
func plain(v any) any {
	switch v := v.(type) {
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return i
		}
		f, _ := v.Float64()
		return f
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = plain(v[k])
		}
	}
	return v
}

func TestParseJob(t *testing.T) {
	j, err := both(t, `{"id":"j1","kind":"http","target":{"node":"n1"},"args":{"url":"https://x/?a=1&b=2","n":1,"f":1.5},
		"timeout_ms":5000,"deadline_ms":1790000000000,"ttl_ms":60000,"not_before_ms":1780000000000,"attempts":5,"backoff_ms":250,"priority":9,"tenant":"t 1"}`)
	require.NoError(t, err)
	require.JSONEq(t, `{"url":"https://x/?a=1&b=2","n":1,"f":1.5}`, string(j.Args))
	j.Args = nil
	require.Equal(t, Job{ID: "j1", Kind: "http", Target: Target{Node: "n1"}, Timeout: 5 * time.Second, DeadlineMs: 1790000000000,
		TTL: time.Minute, NotBeforeMs: 1780000000000, Attempts: 5, Backoff: 250 * time.Millisecond, Priority: 9, Tenant: "t 1", Encoding: JSON}, j)
	require.Equal(t, "n1", j.Key())
	require.Equal(t, 1, j.Target.Size())
}

func TestParseJobDefaults(t *testing.T) {
	want := Job{ID: "j", Kind: "k", Target: Target{Select: &Selector{Count: 1}}, Timeout: DefaultTimeout, TTL: DefaultTTL, Attempts: DefaultAttempts, Backoff: DefaultBackoff, Encoding: JSON}
	for _, js := range []string{
		`{"id":"j","kind":"k","target":{"select":{}}}`,
		` { "kind":"k", "target":{"select":{"count":null,"tags":null},"node":null,"nodes":null}, "id":"j", "timeout_ms":null, "ttl_ms":null,
			"attempts":null,"priority":null,"tenant":null,"args":null,"deadline_ms":null,"not_before_ms":null,"backoff_ms":null,"cancel":null,"reason":null}`,
		`{"id":"j","kind":"k","target":{"select":{}},"cancel":false,"reason":""}`,
	} {
		j, err := both(t, js)
		require.NoError(t, err)
		require.Equal(t, want, j)
		require.Equal(t, "j", j.Key())
	}
}

// None is not the same as nothing said, in both encodings and there and back.
func TestBackoff(t *testing.T) {
	const head = `{"id":"j","kind":"k","target":{"node":"n"}`
	for js, want := range map[string]time.Duration{
		head + `}`: DefaultBackoff, head + `,"backoff_ms":null}`: DefaultBackoff, head + `,"backoff_ms":0}`: NoBackoff,
		head + `,"backoff_ms":1}`: time.Millisecond, head + `,"backoff_ms":300000}`: MaxBackoff,
	} {
		j, err := both(t, js)
		require.NoError(t, err, js)
		require.Equal(t, want, j.Backoff, js)
		for _, j.Encoding = range []Encoding{JSON, Msgpack} {
			b, err := AppendJob(nil, &j)
			require.NoError(t, err)
			back, err := ParseJob("", b)
			require.NoError(t, err)
			require.Equal(t, j, back)
		}
	}
	require.Zero(t, NoBackoff.Milliseconds())
	made := Job{ID: "j", Kind: "k", Target: Target{Node: "n"}}
	b, err := AppendJob(nil, &made)
	require.NoError(t, err)
	back, err := ParseJob("", b)
	require.NoError(t, err)
	require.Equal(t, DefaultBackoff, back.Backoff, "what a program does not set is the default")
	for given, why := range map[time.Duration]string{MaxBackoff + 1: "backoff_ms: 300000", time.Microsecond: "backoff_ms: 0.001"} {
		made.Backoff = given
		require.ErrorContains(t, made.Validate(), why)
	}
	made.Backoff = -time.Hour
	require.NoError(t, made.Validate())
	require.Equal(t, NoBackoff, made.Backoff)
}

func TestPause(t *testing.T) {
	for _, test := range []struct {
		backoff time.Duration
		n       uint32
		want    time.Duration
	}{
		{time.Second, 0, 0}, {time.Second, 1, 0}, {time.Second, 2, time.Second}, {time.Second, 3, 2 * time.Second}, {time.Second, 10, 256 * time.Second},
		{time.Second, 11, MaxBackoff}, {time.Second, 100, MaxBackoff}, {time.Millisecond, 1<<32 - 1, MaxBackoff}, {MaxBackoff, 2, MaxBackoff}, {MaxBackoff, 3, MaxBackoff},
		{NoBackoff, 2, 0}, {NoBackoff, 50, 0},
	} {
		require.Equal(t, test.want, Pause(test.backoff, test.n), test)
	}
}

func TestParseJobTargets(t *testing.T) {
	target := func(s string) (Target, error) {
		j, err := both(t, `{"id":"j","kind":"k","target":`+s+`}`)
		return j.Target, err
	}
	list := func(n int) string {
		out := make([]string, n)
		for i := range out {
			out[i] = fmt.Sprintf(`"n%d"`, i)
		}
		return "[" + strings.Join(out, ",") + "]"
	}
	tg, err := target(`{"nodes":["a","b"]}`)
	require.NoError(t, err)
	require.Equal(t, Target{Nodes: []string{"a", "b"}}, tg)
	require.Equal(t, 2, tg.Size())
	tg, err = target(`{"select":{"country":"AU","city":"Perth","asn":4294967295,"platform":"linux/arm64","tags":["a","b"],"count":10000}}`)
	require.NoError(t, err)
	require.Equal(t, Target{Select: &Selector{"AU", "Perth", 4294967295, "linux/arm64", []string{"a", "b"}, MaxTargets}}, tg)
	require.Equal(t, MaxTargets, tg.Size())
	tg, err = target(`{"nodes":` + list(MaxTargets) + `}`)
	require.NoError(t, err)
	require.Equal(t, MaxTargets, tg.Size())

	for s, why := range map[string]string{
		`{}`: "0 of node, nodes and select", `{"node":""}`: "0 of node", `{"nodes":[]}`: "0 of node",
		`{"node":"a","nodes":["b"]}`: "2 of node", `{"node":"a","nodes":["b"],"select":{}}`: "3 of node",
		`{"node":"a","select":{}}`: "2 of node", `{"node":"a b"}`: "target.node: \"a b\"", `{"node":7}`: "target.node: a string",
		`{"node":"` + strings.Repeat("x", 129) + `"}`: "target.node: 129 bytes", `{"nodes":["a","a"]}`: `"a" is there twice`,
		`{"nodes":["a",""]}`: "target.nodes: missing", `{"nodes":["a",1]}`: "target.nodes: a string", `{"nodes":"a"}`: "an array",
		`{"nodes":` + list(MaxTargets+1) + `}`: "target.nodes: 10001 entries", `{"nod":"a"}`: `target: unknown field "nod"; allowed are node, nodes, select`,
		`"a"`: "target: a map", `[]`: "target: a map", `{"select":{"count":0}}`: "target.select.count: 0; allowed are 1 to 10000",
		`{"select":{"count":10001}}`: "target.select.count: 10001", `{"select":{"count":-1}}`: "target.select.count: -1",
		`{"select":{"country":"au"}}`: "in capitals", `{"select":{"country":"AUST"}}`: "ISO 3166-1", `{"select":{"country":"A"}}`: "ISO 3166-1",
		`{"select":{"asn":4294967296}}`: "target.select.asn", `{"select":{"asn":1.5}}`: "an integer",
		`{"select":{"city":"` + strings.Repeat("x", 257) + `"}}`: "target.select.city: 257", `{"select":{"platform":"` + strings.Repeat("x", 257) + `"}}`: "platform: 257",
		`{"select":{"tags":[` + strings.Repeat(`"t",`, 32) + `"t"]}}`: "tags: 33 entries", `{"select":{"tags":[""]}}`: "tags: 0 bytes",
		`{"select":{"tags":["` + strings.Repeat("x", 65) + `"]}}`: "tags: 65 bytes", `{"select":{"region":"x"}}`: `target.select: unknown field "region"`,
		`{"select":[]}`: "target.select: a map",
	} {
		_, err := target(s)
		require.ErrorContains(t, err, why, "%.100s", s)
	}
}

func TestParseJobRefuses(t *testing.T) {
	x := func(n int) string { return strings.Repeat("x", n) }
	with := func(s string) string { return `{"id":"j","kind":"k","target":{"node":"n"},` + s + `}` }
	for js, why := range map[string]string{
		`{}`: "id: missing", `{"kind":"k","target":{"node":"n"}}`: "id: missing", `{"id":"j","target":{"node":"n"}}`: "kind: missing",
		`{"id":"j","kind":"k"}`: "target: 0 of", `{"id":"","kind":"k"}`: "id: missing", `{"id":null}`: "id: missing", `{"id":7}`: "id: a string",
		`{"id":"a b","kind":"k"}`: "id: \"a b\"", `{"id":"` + x(129) + `"}`: "id: 129 bytes; at most 128", `{"id":"j","kind":"` + x(65) + `"}`: "kind: 65 bytes",
		with(`"timeout_ms":0`): "timeout_ms: 0; allowed are 1 to 86400000", with(`"timeout_ms":86400001`): "timeout_ms", with(`"timeout_ms":-1`): "timeout_ms: -1",
		with(`"timeout_ms":9223372036854775807`): "timeout_ms: 9223372036854775807", with(`"timeout_ms":1.0`): "timeout_ms: an integer",
		with(`"timeout_ms":"5"`): "timeout_ms: an integer", with(`"ttl_ms":0`): "ttl_ms: 0", with(`"ttl_ms":2592000001`): "ttl_ms",
		with(`"backoff_ms":-1`): "backoff_ms: -1; allowed are 0 to 300000", with(`"backoff_ms":300001`): "backoff_ms: 300001", with(`"backoff_ms":"1s"`): "backoff_ms: an integer",
		with(`"deadline_ms":0`): "deadline_ms: 0; it is a Unix time", with(`"deadline_ms":-5`): "deadline_ms: -5; it is a Unix time", with(`"not_before_ms":-5`): "not_before_ms: -5",
		with(`"attempts":0`): "attempts: 0; allowed are 1 to 100", with(`"attempts":101`): "attempts: 101", with(`"priority":10`): "priority: 10; allowed are 0 to 9",
		with(`"priority":-1`): "priority: -1", with(`"tenant":"` + x(65) + `"`): "tenant: 65", with(`"tenant":5`): "tenant: a string",
		with(`"retries":3`): `unknown field "retries"; allowed are id, kind, target, args, timeout_ms`, with(`"Timeout_ms":3`): "unknown field",
		with(`"` + x(5000) + `":3`): "unknown field \"" + x(64) + `"...;`, `7`: "a map is expected",
	} {
		_, err := both(t, js)
		require.ErrorContains(t, err, why, "%.100s", js)
		require.Less(t, len(err.Error()), 500)
	}
	for js, why := range map[string]string{
		`{"id":"j"`: "unexpected end", `{"id":"j"} {}`: "after top-level", with(`"id":"j2"`): "id is there twice", with(`"i\u0064":"j2"`): "id is there twice",
		`{"id":"j","kind":"k","target":{"node":"a","node":"b"}}`:                  "target: node is there twice",
		`{"id":"j","kind":"k","target":{"select":{"count":1,"count":null}}}`:      "target.select: count is there twice",
		with(`"args":` + strings.Repeat("[", 16) + "1" + strings.Repeat("]", 16)): "deeper than 16", "": "no value",
		" [1]": "a map is expected", " 7": "a map is expected", `"x"`: "bytes follow", "[1]": "bytes follow",
		with(`"args":"` + x(protocol.MaxPayloadBytes) + `"`): "args: 458757 bytes as msgpack",
	} {
		_, err := ParseJob("", []byte(js))
		require.ErrorContains(t, err, why, "%.100s", js)
	}
}

func TestParseJobMsgpackRefuses(t *testing.T) {
	field := func(key string, v ...byte) []byte {
		b := append([]byte{0x84, 0xa2, 'i', 'd', 0xa1, 'j', 0xa4, 'k', 'i', 'n', 'd', 0xa1, 'k', 0xa6, 't', 'a', 'r', 'g', 'e', 't', 0x81, 0xa4, 'n', 'o', 'd', 'e', 0xa1, 'n',
			0xa0 | byte(len(key))}, key...)
		return append(b, v...)
	}
	_, err := ParseJob("", field("priority", 3))
	require.NoError(t, err)
	for why, b := range map[string][]byte{
		"id is there twice":    field("id", 0xa1, 'x'),
		"tenant: not valid":    field("tenant", 0xa1, 0xff),
		"deadline_ms: 1844674": field("deadline_ms", 0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		"a field's name":       {0x81, 1, 1},
		"exceeds the":          {0x84, 0xa2, 'i', 'd'},
		"bytes follow":         append(field("priority", 3), 0xc0),
		"a map is expected":    {0xc0},
		"unknown field":        field("\xff", 1),
		"exceeds":              {0xdf, 0xff, 0xff, 0xff, 0xff},
		"deeper than 16":       field("args", append(bytes.Repeat([]byte{0x91}, 16), 1)...),
		"at byte":              field("args", 0xc1),
	} {
		_, err := ParseJob("", b)
		require.ErrorContains(t, err, why)
	}
	j, err := ParseJob("", field("args", append(bytes.Repeat([]byte{0x91}, 15), 1)...))
	require.NoError(t, err)
	require.NoError(t, j.Validate(), "what a record may hold fits a frame")
	for _, id := range []string{"a\xffb", "a\x00b"} {
		_, err := ParseJob(ContentMsgpack, append(append([]byte{0x81, 0xa2, 'i', 'd', 0xa3}, id...), 0x80)[:8])
		require.ErrorContains(t, err, "id: ")
	}
}

// What identifies a job is there with the error, wherever the mistake is.
func TestParseJobSalvages(t *testing.T) {
	for js, want := range map[string]Job{
		`{"bad":1,"target":7,"id":"j","kind":"k","tenant":"t"}`:  {ID: "j", Kind: "k", Tenant: "t"},
		`{"attempts":0,"id":"j"}`:                                {ID: "j"},
		`{"kind":"k","cancel":true,"id":"j"}`:                    {ID: "j", Kind: "k"},
		`{"id":"j","kind":"k","target":{"node":"n"},"tenant":1}`: {ID: "j", Kind: "k"},
		`{"id":"j j","kind":"k k","bad":1}`:                      {},
		`{"id":"` + strings.Repeat("x", 129) + `"}`:              {},
		`{"id":7}`:              {},
		`{"id":"a","id":"b"}`:   {ID: "b"},
		`{"id":"j"`:             {},
		`{"target":{"id":"x"}}`: {},
	} {
		j, err := ParseJob("application/json; charset=utf-8", []byte(js))
		require.Error(t, err)
		want.Encoding = JSON
		require.Equal(t, want, j, js)
	}
}

func TestDetect(t *testing.T) {
	for _, test := range []struct {
		header, value string
		want          Encoding
	}{
		{"", "{", JSON}, {"", " {", JSON}, {"", "\n", JSON}, {"", "\x81", Msgpack}, {"", "", Msgpack}, {"", "[", Msgpack},
		{"application/json", "\x81", JSON}, {"Application/JSON; charset=utf-8", "", JSON}, {"application/msgpack", "{", Msgpack},
		{"application/x-msgpack", "", Msgpack}, {"application/vnd.msgpack", "", Msgpack},
	} {
		enc, err := Detect(test.header, []byte(test.value))
		require.NoError(t, err)
		require.Equal(t, test.want, enc, test)
	}
	_, err := Detect("text/plain"+strings.Repeat("x", 1000), nil)
	require.ErrorContains(t, err, "allowed are application/msgpack and application/json")
	require.Less(t, len(err.Error()), 300)
	require.Equal(t, ContentJSON, JSON.ContentType())
	require.Equal(t, ContentMsgpack, Msgpack.ContentType())
	_, err = ParseJob("text/plain", []byte("{}"))
	require.Error(t, err)
	_, err = ParseResult("text/plain", []byte("{}"))
	require.Error(t, err)
}

func genJob(t *rapid.T) Job {
	id := func(n int) string { return rapid.StringMatching(`[a-z0-9é😀._:/-]{1,20}`).Draw(t, "id") }
	txt := func(n int) string { return rapid.StringN(0, n/4, n).Draw(t, "text") }
	j := Job{ID: id(128), Kind: id(64), Timeout: time.Duration(rapid.Int64Range(1, protocol.MaxTimeoutMs).Draw(t, "timeout")) * time.Millisecond,
		TTL:        time.Duration(rapid.Int64Range(1, MaxTTL.Milliseconds()).Draw(t, "ttl")) * time.Millisecond,
		DeadlineMs: rapid.Int64Min(0).Draw(t, "deadline"), NotBeforeMs: rapid.Int64Min(0).Draw(t, "not before"),
		Attempts: rapid.Uint32Range(1, protocol.MaxAttempts).Draw(t, "attempts"), Priority: rapid.Uint8Range(0, protocol.MaxPriority).Draw(t, "priority"),
		Backoff: NoBackoff,
		Tenant:  txt(MaxTenantBytes), Encoding: rapid.SampledFrom([]Encoding{JSON, Msgpack}).Draw(t, "encoding")}
	if ms := rapid.Int64Range(0, MaxBackoff.Milliseconds()).Draw(t, "backoff"); ms > 0 {
		j.Backoff = time.Duration(ms) * time.Millisecond
	}
	switch rapid.IntRange(0, 3).Draw(t, "target") {
	case 3:
		return Job{ID: j.ID, Cancel: true, CancelReason: txt(MaxReasonBytes), Tenant: j.Tenant, Encoding: j.Encoding}
	case 0:
		j.Target.Node = id(128)
	case 1:
		j.Target.Nodes = rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]{1,6}`), 1, 40, rapid.ID).Draw(t, "nodes")
	default:
		s := &Selector{Country: rapid.SampledFrom([]string{"", "AU", "DEU"}).Draw(t, "country"), City: txt(256), ASN: rapid.Uint32().Draw(t, "asn"),
			Platform: txt(256), Count: rapid.Uint32Range(1, MaxTargets).Draw(t, "count")}
		for range rapid.IntRange(0, 4).Draw(t, "tags") {
			s.Tags = append(s.Tags, "t"+txt(60))
		}
		j.Target.Select = s
	}
	if rapid.Bool().Draw(t, "with args") {
		js, err := json.Marshal(genJSON(2).Draw(t, "args"))
		if err != nil {
			t.Fatal(err)
		}
		if j.Args, err = FromJSON(js); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(j.Args, []byte{0xc0}) {
			j.Args = nil // nil is as good as none
		}
	}
	return j
}

func TestJobRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		j := genJob(t)
		b, err := AppendJob([]byte("before"), &j)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(b, []byte("before")) {
			t.Fatal("what was there is gone")
		}
		for _, contentType := range []string{"", j.Encoding.ContentType()} {
			back, err := ParseJob(contentType, b[6:])
			if err != nil {
				t.Fatal(err)
			}
			require.Equal(t, j, back)
		}
	})
}

func TestAppendJobRefusesBadArgs(t *testing.T) {
	for _, args := range [][]byte{{0xc1}, {1, 1}, {0x91}, append(bytes.Repeat([]byte{0x91}, 16), 1)} {
		for _, enc := range []Encoding{JSON, Msgpack} {
			j := Job{ID: "j", Kind: "k", Target: Target{Node: "n"}, Args: args, Encoding: enc}
			out, err := AppendJob([]byte("before"), &j)
			require.ErrorContains(t, err, "args")
			require.Equal(t, "before", string(out))
			require.ErrorContains(t, j.Validate(), "args")
		}
	}
	j := Job{ID: "j", Kind: "k", Target: Target{Node: "n"}, Args: []byte{0x81, 0x90, 1}, Encoding: JSON}
	require.NoError(t, j.Validate())
	_, err := AppendJob(nil, &j)
	require.ErrorContains(t, err, "no JSON form")
	j.Encoding = Msgpack
	b, err := AppendJob(nil, &j)
	require.NoError(t, err)
	back, err := ParseJob("", b)
	require.NoError(t, err)
	require.Equal(t, j, back)
}

func TestSelector(t *testing.T) {
	a := &protocol.Attributes{Country: "AU", City: "Perth", ASN: 1221, Platform: "linux/arm64", Tags: []string{"home", "v6"}}
	for _, test := range []struct {
		s    Selector
		want bool
		text string
	}{
		{Selector{}, true, "any node"},
		{Selector{Country: "AU"}, true, "country=AU"}, {Selector{Country: "NZ"}, false, "country=NZ"},
		{Selector{City: "Perth"}, true, `city="Perth"`}, {Selector{City: "perth"}, false, `city="perth"`},
		{Selector{ASN: 1221}, true, "asn=1221"}, {Selector{ASN: 1}, false, "asn=1"},
		{Selector{Platform: "linux/arm64"}, true, "platform=linux/arm64"}, {Selector{Platform: "x"}, false, "platform=x"},
		{Selector{Tags: []string{"v6"}}, true, "tag=v6"}, {Selector{Tags: []string{"v6", "home"}}, true, "tag=v6 tag=home"},
		{Selector{Tags: []string{"v6", "dc"}}, false, "tag=v6 tag=dc"},
		{Selector{Country: "AU", ASN: 1}, false, "country=AU asn=1"},
	} {
		require.Equal(t, test.want, test.s.Matches(a), test.text)
		require.Equal(t, test.text, test.s.String())
	}
}

func TestParsedJobAliasesTheValue(t *testing.T) {
	j := Job{ID: "j1", Kind: "k", Target: Target{Node: "n"}, Args: []byte{0x91, 1}}
	b, err := AppendJob(nil, &j)
	require.NoError(t, err)
	back, err := ParseJob("", b)
	require.NoError(t, err)
	at := bytes.Index(b, []byte{0x91, 1})
	b[at+1] = 2
	require.Equal(t, []byte{0x91, 2}, back.Args)
	require.Equal(t, 2, cap(back.Args), "appending must not reach what follows")
}
