package record

import (
	"encoding/hex"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/roost-server/roost/protocol"
)

func recordsDoc(t *testing.T) string {
	b, err := os.ReadFile("../../docs/RECORDS.md")
	require.NoError(t, err)
	return string(b)
}

func blocks(t *testing.T, info string) []string {
	var out []string
	for _, m := range regexp.MustCompile("(?s)```"+info+"\n(.*?)```").FindAllStringSubmatch(recordsDoc(t), -1) {
		out = append(out, m[1])
	}
	require.NotEmpty(t, out, info)
	return out
}

// rows returns the cells of the first table under a heading.
func rows(t *testing.T, heading string) [][]string {
	_, rest, ok := strings.Cut(recordsDoc(t), "\n"+heading+"\n")
	require.True(t, ok, heading)
	_, rest, _ = strings.Cut(rest, "\n|")
	table, _, _ := strings.Cut("|"+rest, "\n\n")
	var out [][]string
	for _, line := range strings.Split(table, "\n")[2:] {
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.Trim(strings.TrimSpace(cells[i]), "`")
		}
		out = append(out, cells)
	}
	require.NotEmpty(t, out, heading)
	return out
}

func TestDocJobs(t *testing.T) {
	docs := blocks(t, "json job")
	require.Len(t, docs, 5)
	for _, js := range docs {
		_, err := both(t, js)
		require.NoError(t, err, js)
	}
	require.Len(t, regexp.MustCompile("(?m)^```\\w").FindAllString(recordsDoc(t), -1), 9, "every block is of a kind that is tested")
	small, err := ParseJob("", []byte(docs[0]))
	require.NoError(t, err)
	var b []byte
	for line := range strings.Lines(blocks(t, "hex job")[0]) {
		digits := regexp.MustCompile(`^([0-9a-f]{2}\s+)+`).FindString(line)
		part, err := hex.DecodeString(strings.Join(strings.Fields(digits), ""))
		require.NoError(t, err)
		b = append(b, part...)
	}
	packed, err := ParseJob("", b)
	require.NoError(t, err)
	packed.Encoding = JSON
	require.Equal(t, small, packed)
}

func TestDocResults(t *testing.T) {
	for _, js := range blocks(t, "json result") {
		r, err := ParseResult(ContentJSON, []byte(js))
		require.NoError(t, err, js)
		back, err := r.MarshalJSON()
		require.NoError(t, err)
		require.JSONEq(t, js, string(back), "the example has every field that is written, and no other")
	}
	var names []string
	for _, row := range rows(t, "## The result record") {
		names = append(names, row[0])
	}
	var written []string
	r := sampleResult()
	r.Error = "x"
	for _, output := range [][]byte{{0x80}, {0x81, 0x80, 1}} {
		r.Output = output
		b, err := r.MarshalJSON()
		require.NoError(t, err)
		written = append(written, keysOf(t, b)...)
	}
	require.ElementsMatch(t, names, unique(written))
	require.Equal(t, reflect.TypeFor[Result]().NumField(), len(names)-1, "output has two names")
}

func TestDocProgress(t *testing.T) {
	docs := blocks(t, "json progress")
	require.Len(t, docs, 1)
	p, err := ParseProgress([]byte(docs[0]))
	require.NoError(t, err)
	require.JSONEq(t, docs[0], string(AppendProgress(nil, &p)), "the example has every field that is written, and no other")
	var have []string
	for _, row := range rows(t, "## The progress record") {
		have = append(have, row[0])
	}
	require.ElementsMatch(t, keysOf(t, AppendProgress(nil, &p)), have)
	require.Equal(t, reflect.TypeFor[Progress]().NumField(), len(have))
}

func TestDocCancel(t *testing.T) {
	var have []string
	for _, row := range rows(t, "## The cancel record") {
		have = append(have, row[0])
	}
	require.Equal(t, cancelNames, have)
	for _, start := range []string{ReasonDuplicate, ReasonCancel} {
		require.Contains(t, recordsDoc(t), "`"+start+"` ")
	}
}

// The pauses that the text tells are those that the code makes.
func TestDocBackoff(t *testing.T) {
	require.Contains(t, recordsDoc(t), "With `backoff_ms` 1000 the second attempt follows 1 s after the end of the first, the third 2 s after the end of the second, then\n4 s, and so on up to 300 s.")
	for n, want := range map[uint32]time.Duration{2: time.Second, 3: 2 * time.Second, 4: 4 * time.Second, 100: 300 * time.Second} {
		require.Equal(t, want, Pause(DefaultBackoff, n))
	}
}

func keysOf(t *testing.T, js []byte) []string {
	b, err := FromJSON(js)
	require.NoError(t, err)
	var v map[string]any
	require.NoError(t, msgpack.Unmarshal(b, &v))
	var out []string
	for k := range v {
		out = append(out, k)
	}
	return out
}

func unique(list []string) []string {
	seen := map[string]bool{}
	var out []string
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

func TestDocJobFields(t *testing.T) {
	defaults := map[string]string{"timeout_ms": fmt.Sprint(DefaultTimeout.Milliseconds()), "ttl_ms": fmt.Sprint(DefaultTTL.Milliseconds()),
		"attempts": fmt.Sprint(DefaultAttempts), "priority": "0", "cancel": "false",
		"backoff_ms": fmt.Sprint(DefaultBackoff.Milliseconds()), "target.select.count": "1", "id": "required", "kind": "required", "target": "required"}
	allowed := map[string]string{
		"id": fmt.Sprintf("1 to %d bytes", protocol.MaxJobIDBytes), "kind": fmt.Sprintf("1 to %d bytes", protocol.MaxKindBytes),
		"target.node": fmt.Sprintf("1 to %d bytes", protocol.MaxNodeIDBytes), "target.nodes": fmt.Sprintf("1 to %d,", MaxTargets),
		"target.select.city": fmt.Sprintf("up to %d bytes", protocol.MaxTextBytes), "target.select.platform": fmt.Sprintf("up to %d bytes", protocol.MaxTextBytes),
		"target.select.tags":  fmt.Sprintf("up to %d, of 1 to %d bytes", protocol.MaxTags, protocol.MaxTagBytes),
		"target.select.count": fmt.Sprintf("1 to %d", MaxTargets), "target.select.asn": "0 to 4294967295",
		"args":       fmt.Sprintf("up to %d bytes as msgpack, nested up to %d deep", protocol.MaxPayloadBytes, protocol.MaxPayloadDepth),
		"timeout_ms": fmt.Sprintf("1 to %d", protocol.MaxTimeoutMs), "ttl_ms": fmt.Sprintf("1 to %d", MaxTTL.Milliseconds()),
		"attempts": fmt.Sprintf("1 to %d", protocol.MaxAttempts), "priority": fmt.Sprintf("0 to %d", protocol.MaxPriority),
		"tenant": fmt.Sprintf("up to %d bytes", MaxTenantBytes), "reason": fmt.Sprintf("up to %d bytes", MaxReasonBytes),
		"backoff_ms": fmt.Sprintf("0 to %d; 0: none", MaxBackoff.Milliseconds()),
	}
	var want, have []string
	want = append(want, jobNames...)
	for _, n := range targetNames {
		want = append(want, "target."+n)
	}
	for _, n := range selectorNames {
		want = append(want, "target.select."+n)
	}
	for _, row := range rows(t, "## The job record") {
		have = append(have, row[0])
		if d, ok := defaults[row[0]]; ok {
			require.Equal(t, d, row[2], row[0])
		}
		require.Contains(t, row[3], allowed[row[0]], row[0])
	}
	require.ElementsMatch(t, want, have)
	require.Contains(t, recordsDoc(t), fmt.Sprintf("longer than %d KiB", maxJSONBytes>>10))
}

func TestDocOutcomes(t *testing.T) {
	var have []string
	for _, row := range rows(t, "### Outcomes") {
		require.Len(t, row, 3)
		have = append(have, row[0])
	}
	var want []string
	for _, o := range protocol.Outcomes() {
		want = append(want, o.String())
	}
	require.Equal(t, want, have)
}

func TestDocHeaders(t *testing.T) {
	var have []string
	for _, row := range rows(t, "### Headers") {
		have = append(have, row[1])
	}
	require.Equal(t, []string{HeaderContentType, HeaderReason, HeaderTopic, HeaderPartition, HeaderOffset}, have)
}
