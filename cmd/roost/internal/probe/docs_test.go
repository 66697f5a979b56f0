package probe

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/roost-server/roost/protocol/record"
)

// documented are the kinds of docs/KINDS.md, with what their tables have to be about.
var documented = []struct {
	kind   string
	args   func() interface{ Validate() error }
	output any
}{
	{"http", func() interface{ Validate() error } { return &HTTPArgs{} }, HTTPOutput{}},
	{"tcp", func() interface{ Validate() error } { return &TCPArgs{} }, TCPOutput{}},
	{"udp", func() interface{ Validate() error } { return &UDPArgs{} }, UDPOutput{}},
	{"dns", func() interface{ Validate() error } { return &DNSArgs{} }, DNSOutput{}},
	{"ping", func() interface{ Validate() error } { return &PingArgs{} }, PingOutput{}},
	{"traceroute", func() interface{ Validate() error } { return &TracerouteArgs{} }, TracerouteOutput{}},
}

func readText(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

// docSection is what stands in the document under the heading "## name".
func docSection(t *testing.T, name string) string {
	t.Helper()
	_, rest, ok := strings.Cut(readText(t, "../../../../docs/KINDS.md"), "\n## "+name+"\n")
	require.True(t, ok, "no section %s", name)
	section, _, _ := strings.Cut(rest, "\n## ")
	return section
}

// docTable returns the rows of the one table of a section whose first heading is given, by their
// first cell without its quotes. All rows have to have as many cells as the heading.
func docTable(t *testing.T, section, heading string) (names []string, rows map[string][]string) {
	t.Helper()
	parts := strings.Split("\n"+section, "\n| "+heading+" |")
	require.Len(t, parts, 2, "tables of %s", heading)
	table, _, _ := strings.Cut("| "+heading+" |"+parts[1], "\n\n")
	lines := strings.Split(strings.TrimSpace(table), "\n")
	cells := func(line string) []string {
		list := strings.Split(strings.TrimSuffix(strings.TrimPrefix(line, "|"), "|"), "|")
		for i := range list {
			list[i] = strings.TrimSpace(list[i])
		}
		return list
	}
	width := len(cells(lines[0]))
	rows = map[string][]string{}
	for _, line := range lines[2:] {
		row := cells(line)
		require.Len(t, row, width, line)
		name := strings.Trim(row[0], "`")
		require.Equal(t, "`"+name+"`", row[0], "names are quoted")
		names = append(names, name)
		rows[name] = row
	}
	return names, rows
}

// docBlocks returns the fenced blocks of a section with this info string.
func docBlocks(section, info string) []string {
	var out []string
	for _, m := range regexp.MustCompile("(?s)```"+info+"\n(.*?)```").FindAllStringSubmatch(section, -1) {
		out = append(out, m[1])
	}
	return out
}

// docField is a field of an arguments or output struct.
type docField struct {
	name string // as in the document: a.b below a map, a[].b below an array of maps
	typ  string // as in the document
}

// docFields lists the fields of a struct and of those in it, as they are on the wire.
func docFields(t *testing.T, typ reflect.Type, prefix string) []docField {
	t.Helper()
	var out []docField
	for f := range typ.Fields() {
		require.Equal(t, f.Tag.Get("json"), f.Tag.Get("msgpack"), "%s.%s: jobs and results are both JSON and msgpack", typ, f.Name)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		require.True(t, f.IsExported() && name != "" && name != "-", "%s.%s has no name on the wire", typ, f.Name)
		name = prefix + name
		ft := f.Type
		if ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		out = append(out, docField{name, docType(t, ft)})
		switch {
		case ft.Kind() == reflect.Struct:
			out = append(out, docFields(t, ft, name+".")...)
		case ft.Kind() == reflect.Slice && ft.Elem().Kind() == reflect.Struct && ft != reflect.TypeFor[StatusSet]():
			out = append(out, docFields(t, ft.Elem(), name+"[].")...)
		}
	}
	require.NotEmpty(t, out, typ)
	return out
}

func docType(t *testing.T, typ reflect.Type) string {
	t.Helper()
	if typ == reflect.TypeFor[StatusSet]() {
		return "integer, string or array of these"
	}
	switch typ.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	case reflect.Int, reflect.Int64, reflect.Uint32:
		return "integer"
	case reflect.Float64:
		return "float"
	case reflect.Interface:
		return "anything"
	case reflect.Struct:
		return "map"
	case reflect.Map:
		return "map of " + docType(t, typ.Elem()) + "s"
	case reflect.Slice:
		return "array of " + docType(t, typ.Elem()) + "s"
	}
	require.Failf(t, "type without a name in the document", "%s", typ)
	return ""
}

// TestDocsKinds holds the list of kinds here, which the other tests go by, against the package.
func TestDocsKinds(t *testing.T) {
	kinds, missing := Kinds(Options{})
	var have, listed []string
	for _, k := range kinds {
		have = append(have, k.Name())
	}
	for name := range missing {
		have = append(have, name)
	}
	for _, d := range documented {
		listed = append(listed, d.kind)
	}
	require.ElementsMatch(t, have, listed)
	var sections []string
	for _, m := range regexp.MustCompile(`(?m)^## (.*)$`).FindAllStringSubmatch(readText(t, "../../../../docs/KINDS.md"), -1) {
		sections = append(sections, m[1])
	}
	require.Equal(t, append([]string{"For all kinds"}, listed...), sections)
}

func TestDocsFields(t *testing.T) {
	for _, d := range documented {
		section := docSection(t, d.kind)
		for heading, typ := range map[string]reflect.Type{"argument": reflect.TypeOf(d.args()).Elem(), "output": reflect.TypeOf(d.output)} {
			names, rows := docTable(t, section, heading)
			var want []string
			for _, f := range docFields(t, typ, "") {
				want = append(want, f.name)
				if row := rows[f.name]; row != nil {
					require.Equal(t, f.typ, row[1], "type of %s %s of %s", heading, f.name, d.kind)
				}
			}
			require.ElementsMatch(t, want, names, "%ss of %s: left are the fields of %s, right the rows of the table", heading, d.kind, typ)
		}
		outcomes, _ := docTable(t, section, "outcome")
		require.Equal(t, []string{"ok", "failed", "refused", "timeout"}, outcomes, d.kind)
	}
}

// TestDocsUnits holds the unit of a time against its name.
func TestDocsUnits(t *testing.T) {
	for _, d := range documented {
		_, rows := docTable(t, docSection(t, d.kind), "output")
		for name, row := range rows {
			require.Equal(t, strings.HasSuffix(name, "_ms"), row[2] == "ms", "%s %s: %q", d.kind, name, row[2])
			require.Equal(t, strings.HasSuffix(name, "_seconds"), row[2] == "s", "%s %s: %q", d.kind, name, row[2])
		}
	}
}

// documentedLimits are the values that have to be in a row: "kind.argument" or "kind>output".
func documentedLimits() map[string][]any {
	ping, trace := (&PingArgs{}).withDefaults(), (&TracerouteArgs{}).withDefaults()
	return map[string][]any{
		"http.url": {MaxURLBytes}, "http.headers": {MaxHeaders, MaxHeaderBytes}, "http.body": {MaxRequestBodyBytes},
		"http.status": {MaxStatuses, defaultStatus}, "http.body_contains": {MaxExpectBytes}, "http.body_regex": {MaxExpectBytes},
		"http.json_path": {MaxJSONPathBytes, MaxJSONDepth, MaxJSONNodes}, "http.json_equals": {MaxJSONDepth},
		"http.follow_redirects": {MaxRedirects}, "http.body_excerpt_bytes": {MaxBodyExcerptBytes},
		"http.max_latency_ms": {MaxTimeoutMs}, "http.timeout_ms": {MaxTimeoutMs},
		"http>bytes": {DefaultMaxBodyBytes}, "http>certificate.dns_names": {MaxCertificateNames},
		"tcp.send": {MaxTCPSendBytes}, "tcp.send_hex": {MaxTCPSendBytes}, "tcp.expect": {MaxExpectBytes, MaxTCPReadBytes},
		"tcp.max_latency_ms": {MaxTimeoutMs}, "tcp.timeout_ms": {MaxTimeoutMs}, "tcp>received_excerpt": {MaxReceivedExcerptBytes},
		"udp.send": {MaxUDPSendBytes}, "udp.send_hex": {MaxUDPSendBytes}, "udp.expect": {MaxExpectBytes, MaxUDPReplies},
		"udp.max_latency_ms": {MaxTimeoutMs}, "udp.timeout_ms": {DefaultUDPTimeoutMs, MaxTimeoutMs},
		"udp>received_excerpt": {MaxReceivedExcerptBytes},
		"dns.expect":           {MaxDNSExpect, MaxExpectBytes}, "dns.max_latency_ms": {MaxTimeoutMs},
		"dns.timeout_ms": {DefaultDNSTimeoutMs, MaxTimeoutMs}, "dns>answers": {MaxDNSAnswers, MaxDNSAnswerBytes},
		"dns>answers[].value": {MaxDNSValueBytes},
		"ping.count":          {ping.Count, MaxPingCount}, "ping.interval_ms": {ping.IntervalMs, MinPingIntervalMs, MaxPingIntervalMs},
		"ping.size": {ping.Size, MinPingSize, MaxPingSize}, "ping.timeout_ms": {ping.TimeoutMs, MaxReplyWaitMs},
		"ping.max_latency_ms": {MaxTimeoutMs}, "traceroute.method": {trace.Method}, "traceroute.port": {trace.Port},
		"traceroute.max_hops": {trace.MaxHops, MaxHops}, "traceroute.probes": {trace.Probes, MaxProbesPerHop},
		"traceroute.timeout_ms": {trace.TimeoutMs, MaxReplyWaitMs},
	}
}

// TestDocsLimits looks for the values of constants in the rows that they belong to, and holds the
// defaults of arguments against what the kinds take.
func TestDocsLimits(t *testing.T) {
	used := 0
	for _, d := range documented {
		_, args := docTable(t, docSection(t, d.kind), "argument")
		_, outputs := docTable(t, docSection(t, d.kind), "output")
		for key, values := range documentedLimits() {
			name, isArg := strings.CutPrefix(key, d.kind+".")
			row := args[name]
			if !isArg {
				if name, isArg = strings.CutPrefix(key, d.kind+">"); !isArg {
					continue // of another kind
				}
				row = outputs[name]
			}
			used++
			words := strings.FieldsFunc(strings.Join(row, " "), func(r rune) bool { return strings.ContainsRune(" ,;`", r) })
			for _, v := range values {
				require.Contains(t, words, fmt.Sprint(v), "%s: %v", key, row)
			}
		}
	}
	require.Len(t, documentedLimits(), used, "a key is of no kind")
	for kind, lists := range map[string]map[string][]string{
		"http": {"method": httpMethods}, "dns": {"type": DNSTypes, "transport": {"udp", "tcp"}}, "traceroute": {"method": {"udp", "icmp"}},
	} {
		_, args := docTable(t, docSection(t, kind), "argument")
		for name, list := range lists {
			require.Equal(t, "`"+strings.Join(list, "`, `")+"`", args[name][3], "%s.%s", kind, name)
		}
	}
	common := docSection(t, "For all kinds")
	for _, text := range []string{
		fmt.Sprintf("up to %d bytes", MaxHostBytes), fmt.Sprintf("up to %d addresses", MaxDialAddrs), fmt.Sprintf("%d ms after", attemptDelay.Milliseconds()),
		fmt.Sprintf("up to %d bytes |", MaxReasonBytes), fmt.Sprintf("below %d KiB", MaxOutputBytes>>10),
	} {
		require.Contains(t, common, text)
	}
	require.Contains(t, docSection(t, "http"), strconv.Itoa(MaxResponseHeaderBytes))
	require.Contains(t, docSection(t, "dns"), fmt.Sprintf("up to %d servers", MaxDNSServers))
}

// TestDocsGuard wants every range that is refused in the document, and no other.
func TestDocsGuard(t *testing.T) {
	_, table, ok := strings.Cut(docSection(t, "For all kinds"), "| range | what it is |\n")
	require.True(t, ok)
	table, _, _ = strings.Cut(table, "\n\n")
	var have, want []string
	for _, m := range regexp.MustCompile("`([0-9a-f:.]+/[0-9]+)`").FindAllStringSubmatch(table, -1) {
		have = append(have, m[1])
	}
	for _, b := range slices.Concat(blocks4, blocks6) {
		want = append(want, b.prefix.String())
	}
	for _, e := range embed6 {
		want = append(want, e.prefix.String())
	}
	require.ElementsMatch(t, append(want, global6.String()), have)
}

func TestDocsJobs(t *testing.T) {
	for _, d := range documented {
		section := docSection(t, d.kind)
		jobs := docBlocks(section, "json job")
		require.NotEmpty(t, jobs, d.kind)
		require.Equal(t, len(jobs)+len(docBlocks(section, "sh")), strings.Count(section, "```")/2, "%s has a block that is not tested", d.kind)
		for _, js := range jobs {
			job, err := record.ParseJob(record.ContentJSON, []byte(js))
			require.NoError(t, err, js)
			require.Equal(t, d.kind, job.Kind, js)
			a := d.args()
			dec := msgpack.NewDecoder(bytes.NewReader(job.Args))
			dec.DisallowUnknownFields(true)
			require.NoError(t, dec.Decode(a), js)
			require.NoError(t, a.Validate(), js)
			// The command line binds JSON.
			var raw struct {
				Args json.RawMessage `json:"args"`
			}
			require.NoError(t, json.Unmarshal([]byte(js), &raw))
			fromJSON := json.NewDecoder(bytes.NewReader(raw.Args))
			fromJSON.DisallowUnknownFields()
			b := d.args()
			require.NoError(t, fromJSON.Decode(b), js)
			require.Equal(t, a, b, js)
		}
	}
}

// TestDocsNull holds that null is the same as leaving an argument out, as the document says.
func TestDocsNull(t *testing.T) {
	for _, d := range documented {
		names, rows := docTable(t, docSection(t, d.kind), "argument")
		all := map[string]any{}
		for _, name := range names {
			all[name] = nil
		}
		bind := func() error {
			js, err := json.Marshal(all)
			require.NoError(t, err)
			packed, err := record.FromJSON(js)
			require.NoError(t, err)
			a := d.args()
			require.NoError(t, binder(t, msgpack.RawMessage(packed))(a), d.kind)
			require.NoError(t, json.Unmarshal(js, d.args()), d.kind)
			return a.Validate()
		}
		require.Equal(t, "required", rows[names[0]][2], d.kind)
		require.Error(t, bind(), "%s of %s is required", names[0], d.kind)
		all[names[0]] = map[string]any{"url": "http://example.com", "address": "example.com:1"}[names[0]]
		if all[names[0]] == nil {
			all[names[0]] = "example.com"
		}
		require.NoError(t, bind(), d.kind)
	}
}

// boundFlag is where the command line adds a flag: name and, if it has one, the one-letter form.
var boundFlag = regexp.MustCompile(`\.\w+Var(?:\(&[\w.]+, "([a-z-]+)"|P\(&[\w.]+, "([a-z-]+)", "(\w)")`)

// flagsIn are the flags that a piece of source adds, as they are typed.
func flagsIn(source string) []string {
	var out []string
	for _, m := range boundFlag.FindAllStringSubmatch(source, -1) {
		out = append(out, "--"+m[1]+m[2])
		if m[3] != "" {
			out = append(out, "-"+m[3])
		}
	}
	return out
}

// goFunc is the source of one function, which begins with head.
func goFunc(t *testing.T, source, head string) string {
	t.Helper()
	_, body, ok := strings.Cut(source, "\nfunc "+head)
	require.True(t, ok, head)
	body, _, _ = strings.Cut(body, "\n}\n")
	return body
}

// TestDocsFlags compares with the source of the command line, which imports this package and so
// cannot be imported here.
func TestDocsFlags(t *testing.T) {
	kinds, run := readText(t, "../cli/kinds.go"), readText(t, "../cli/run.go")
	ofRun := flagsIn(goFunc(t, run, "(o *runOptions) bind("))
	require.Contains(t, ofRun, "--timeout")
	ofMost := flagsIn(goFunc(t, kinds, "(c *common) bind("))
	require.ElementsMatch(t, []string{"--max-latency", "--ip"}, ofMost)
	quoted := regexp.MustCompile("`(-[^`]+)`")
	for _, d := range documented {
		section := docSection(t, d.kind)
		source := goFunc(t, kinds, d.kind+"Command(")
		flags := append(flagsIn(source), ofMost...)
		if strings.Contains(source, `c.bind(cmd, "")`) { // without a latency to limit
			flags = slices.DeleteFunc(flags, func(f string) bool { return f == "--max-latency" })
		}
		var inTable []string
		names, rows := docTable(t, section, "argument")
		for _, name := range names {
			for _, m := range quoted.FindAllStringSubmatch(rows[name][4], -1) {
				inTable = append(inTable, m[1])
			}
		}
		require.ElementsMatch(t, flags, inTable, "%s: left are the flags of the command, right those of the table", d.kind)
		examples := 0
		for _, block := range docBlocks(section, "sh") {
			for line := range strings.Lines(block) {
				checkExample(t, strings.TrimSpace(line), d.kind, slices.Concat(flags, ofRun))
				examples++
			}
		}
		require.Positive(t, examples, d.kind)
	}
}

// checkExample wants a line as "roost run KIND TARGET" with known flags.
func checkExample(t *testing.T, line, kind string, known []string) {
	t.Helper()
	// What stands in single quotes is one word, and no flag.
	words := strings.Fields(regexp.MustCompile(`'[^']*'`).ReplaceAllString(line, "x"))
	require.NotContains(t, strings.Join(words, " "), "'", "open quote: %s", line)
	require.Greater(t, len(words), 3, line)
	require.Equal(t, []string{"roost", "run", kind}, words[:3], line)
	require.False(t, strings.HasPrefix(words[3], "-"), "the target comes first: %s", line)
	for _, w := range words[4:] {
		if strings.HasPrefix(w, "-") {
			name, _, _ := strings.Cut(w, "=")
			require.Contains(t, known, name, line)
		}
	}
}
