package page

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"

	"github.com/roost-server/roost/loadtest/internal/report"
	"github.com/roost-server/roost/loadtest/internal/report/reporttest"
	"github.com/roost-server/roost/loadtest/internal/timeline"
)

func summary(t *testing.T, tl *timeline.Timeline) *report.Summary {
	t.Helper()
	s, err := report.Summarize(tl)
	require.NoError(t, err)
	return s
}

// made are the runs by seed: making one takes a while.
var made = map[uint64]*report.Summary{}

// storm returns a run that may be changed, but for what its slices hold.
func storm(t *testing.T, scenario string, number uint64) *report.Summary {
	seed := number % 3
	if made[seed] == nil {
		made[seed] = summary(t, reporttest.Storm(scenario, 70, seed))
	}
	s := *made[seed]
	s.Meta.Scenario, s.Meta.Seed = scenario, number
	s.Meta.Command = []string{"loadtest", "run", scenario, "--set", "description=a b"}
	return &s
}

// render returns the page; go test -artifacts keeps it, to be looked at.
func render(t *testing.T, name string, runs ...*report.Summary) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, Render(&b, runs))
	require.NoError(t, os.WriteFile(filepath.Join(t.ArtifactDir(), name+".html"), b.Bytes(), 0o644))
	wellFormed(t, b.String())
	return b.String()
}

// has and hasNot look for text, and do not print all of the page when they fail.
func has(t *testing.T, page, text string) {
	t.Helper()
	require.True(t, strings.Contains(page, text), "the page lacks %q", text)
}

func hasNot(t *testing.T, page, text string) {
	t.Helper()
	require.False(t, strings.Contains(page, text), "the page has %q", text)
}

// void are the elements of HTML without an end tag.
var void = map[string]bool{"meta": true, "br": true, "link": true, "img": true, "input": true, "hr": true}

// wellFormed wants every element closed in its order: a browser would mend it silently.
func wellFormed(t *testing.T, page string) {
	t.Helper()
	var open []string
	z := html.NewTokenizer(strings.NewReader(page))
	for {
		switch z.Next() {
		case html.ErrorToken:
			require.Empty(t, open)
			return
		case html.StartTagToken:
			if name, _ := z.TagName(); !void[string(name)] {
				open = append(open, string(name))
			}
		case html.EndTagToken:
			name, _ := z.TagName()
			require.NotEmpty(t, open)
			require.Equal(t, open[len(open)-1], string(name))
			open = open[:len(open)-1]
		}
	}
}

// nodes returns all elements of a page.
func nodes(t *testing.T, page string) (all []*html.Node) {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(page))
	require.NoError(t, err)
	for n := range doc.Descendants() {
		if n.Type == html.ElementNode {
			all = append(all, n)
		}
	}
	return all
}

// find returns the elements with a name.
func find(all []*html.Node, name string) (found []*html.Node) {
	for _, n := range all {
		if n.Data == name {
			found = append(found, n)
		}
	}
	return found
}

func attr(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

func TestPage(t *testing.T) {
	one := render(t, "one", storm(t, "storm", 1))
	require.Less(t, len(one), 100_000)
	for _, want := range []string{
		"Roost load test: storm", "✓ passed", "15,000", "Example Processor 9000", "seed 1", "950", "1,180,000 ok",
		"<td>36.0 s</td><td>15,000</td><td>2.90 s</td><td>never</td><td>66.0 ms</td><td>142 ms</td>", "loadtest run storm --set &#39;description=a b&#39;", "ramp: {to: all}", "2026-03-04 05:06 UTC", "Kafka v4.0",
	} {
		has(t, one, want)
	}
	var titles []string
	for _, s := range find(nodes(t, one), "svg") {
		if l := attr(s, "aria-label"); l != "" {
			titles = append(titles, l)
		}
	}
	require.Equal(t, []string{
		"Connected nodes", "Connect rate", "Jobs a second", "Jobs under way", "Latency of the whole way", "Latency by percentile",
		"Latency of the parts, p99", "Processor time", "Server CPU a job", "Memory", "Server memory a node",
	}, titles)
	for _, unit := range []string{"time since the start, s", ">jobs/s<", ">MiB<", ">µs a job<", ">cores<", ">bytes a node<", ">ms, logarithmic<"} {
		has(t, one, unit)
	}

	failed := storm(t, "storm", 2)
	failed.Problems, failed.Account.Lost, failed.Account.Duplicates = []string{"3 jobs have no outcome"}, 3, 1
	text := render(t, "failed", failed)
	has(t, text, "✗ failed")
	hasNot(t, text, "✓ passed")
	has(t, text, "3 jobs have no outcome")
	failed.Meta.Machine.Guest, failed.Interrupted = true, true
	has(t, render(t, "interrupted", failed), "was interrupted")
	has(t, render(t, "guest", failed), "emulated machine")
}

func TestSeveralRuns(t *testing.T) {
	var runs []*report.Summary
	for i, name := range []string{"hold", "ramp", "jobs", "half", "storm", "churn", "slow", "fanout", "soak"} {
		runs = append(runs, storm(t, name, uint64(i)))
	}
	page := render(t, "several", runs...)
	require.Less(t, len(page), 400_000)
	all := nodes(t, page)
	require.Len(t, find(all, "section"), 2+len(runs))
	for _, a := range find(all, "a") {
		has(t, page, `id="`+strings.TrimPrefix(attr(a, "href"), "#")+`"`)
	}
	hasNot(t, page, "Jobs a second: recorded") // scenarios differ: their times do not compare

	same := render(t, "same", storm(t, "storm", 1), storm(t, "storm", 2), storm(t, "storm", 3))
	has(t, same, "Jobs a second: recorded")
	has(t, same, "Latency of the whole way: p99")
	for _, name := range []string{">storm 1<", ">storm 2<", ">storm 3<"} {
		has(t, same, name)
	}
	require.Error(t, Render(&bytes.Buffer{}, nil))
}

// TestEmptyRuns draws what a run has that ended before anything happened.
func TestEmptyRuns(t *testing.T) {
	nothing := summary(t, &timeline.Timeline{})
	page := render(t, "nothing", nothing, nothing)
	require.Empty(t, find(nodes(t, page), "figure"))
	once := summary(t, &timeline.Timeline{Meta: timeline.Meta{Scenario: "x"}, Samples: []timeline.Sample{{Connected: 3}}})
	require.Len(t, find(nodes(t, render(t, "once", once)), "figure"), 1)
	for _, bad := range []string{"NaN", "Inf"} {
		hasNot(t, page, bad)
	}
}

// TestNothingIsFetched looks for whatever makes a browser ask another place.
func TestNothingIsFetched(t *testing.T) {
	page := render(t, "page", storm(t, "a", 1), storm(t, "b", 1))
	for _, n := range nodes(t, page) {
		require.NotContains(t, []string{"link", "img", "iframe", "object", "embed", "base", "image", "use"}, n.Data)
		for _, a := range n.Attr {
			switch a.Key {
			case "href":
				require.True(t, strings.HasPrefix(a.Val, "#"), a.Val)
			case "src", "srcset", "data", "action", "poster", "xlink:href":
				t.Errorf("<%s %s=%q>", n.Data, a.Key, a.Val)
			}
		}
	}
	require.Empty(t, regexp.MustCompile(`(?i)https?:|url\(|@import|//[a-z]+\.`).FindString(page))
}

func TestTextIsEscaped(t *testing.T) {
	const evil = `</title></svg></pre></script><script>alert(1)</script><img src=x onerror="alert(2)">'"&`
	tl := reporttest.Storm(evil, 70, 1)
	tl.Meta.YAML, tl.Meta.Command = evil, []string{"loadtest", evil}
	tl.Meta.Machine.CPU, tl.Meta.Machine.Kernel = evil, evil
	tl.Meta.Versions = map[string]string{evil: evil}
	tl.Meta.Workers = []string{evil}
	tl.Problems = []string{evil}
	tl.Account.Outcomes = map[string]int64{evil: 1}
	for i := range tl.Phases {
		tl.Phases[i].Name = evil
	}
	for i := range tl.Samples {
		tl.Samples[i].Servers[0].Name = evil
	}
	page := render(t, "evil", summary(t, tl), storm(t, "storm", 1))
	all := nodes(t, page)
	require.Len(t, find(all, "script"), 1)
	require.Empty(t, find(all, "img"))
	for _, n := range all {
		for _, a := range n.Attr {
			require.False(t, strings.HasPrefix(a.Key, "on"), a.Key)
		}
	}
	has(t, page, "&lt;script&gt;alert(1)")
}

// points reads a drawn line back: x and y of each point, in the chart's own units.
func points(t *testing.T, svg *html.Node, name string) (x, y []float64) {
	t.Helper()
	for n := range svg.Descendants() {
		if n.Data == "path" && attr(n, "data-name") == name {
			return decode(t, svg, attr(n, "d"))
		}
	}
	t.Fatalf("no line %q", name)
	return nil, nil
}

func TestLinesShowTheValues(t *testing.T) {
	all := nodes(t, render(t, "one", storm(t, "storm", 1)))
	charts := map[string]*html.Node{}
	for _, s := range find(all, "svg") {
		charts[attr(s, "aria-label")] = s
	}
	x, y := points(t, charts["Connected nodes"], "connected")
	require.InDelta(t, 0, y[0], 1)
	require.InDelta(t, 1, x[1], 0.1)
	require.InDelta(t, 5_000, y[1], 80)
	_, y = points(t, charts["Jobs a second"], "recorded")
	require.InDelta(t, 20_000, y[0], 200)
	_, y = points(t, charts["Server CPU a job"], "CPU a job")
	require.InDelta(t, 17, y[0], 0.5)
	_, y = points(t, charts["Server memory a node"], "bytes a node")
	require.InDelta(t, 950, y[0], 5)
	_, y = points(t, charts["Processor time"], "m1")
	require.InDelta(t, 0.405, y[0], 0.01)
	x, y = points(t, charts["Latency by percentile"], "node to outcome")
	for i := range x {
		if x[i] > 0.98 && x[i] < 1.02 { // 90 %: of a log-normal distribution median * exp(1.2816 sigma)
			require.InEpsilon(t, 28*1.378, y[i], 0.04)
			return
		}
	}
	t.Error("the curve has no point at 90 %")
}

func TestQuote(t *testing.T) {
	r := runView{Summary: &report.Summary{Timeline: timeline.Timeline{Meta: timeline.Meta{Command: []string{"a", "", "b c", "it's", "$x", "k=v,1"}}}}}
	require.Equal(t, `a '' 'b c' 'it'\''s' '$x' k=v,1`, r.Command())
	require.Equal(t, "", r.Started())
	r.Meta.StartedAt = time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("x", 3600))
	require.Equal(t, "2026-01-02 02:04 UTC", r.Started())
}
