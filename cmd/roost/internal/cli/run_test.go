package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/cmd/roost/internal/api/apitest"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

func TestRunShowsOutcomes(t *testing.T) {
	m := startMember(t, runNode, testNodes()...)
	r := m.run("run", "http", "https://example.com", "--count", "4")
	require.Equal(t, 1, r.code)
	require.Empty(t, r.message, "the rows have said it")
	require.Empty(t, r.err)
	golden(t, "run-mixed", r.out)
}

func TestRunAllOK(t *testing.T) {
	m := startMember(t, runNode, testNodes()...)
	r := m.run("run", "http", "https://example.com", "--country", "AU", "--count", "2")
	require.Zero(t, r.code, r.message)
	require.Contains(t, r.out, "2 outcomes: 2 ok\n")
	require.Contains(t, r.out, "duration: min 4.32 ms, median 4.32 ms, p99 98.8 ms\n")
}

func TestRunJSON(t *testing.T) {
	m := startMember(t, runNode, testNodes()...)
	r := m.run("run", "http", "https://example.com", "--count", "4", "--json")
	require.Equal(t, 1, r.code)
	require.Empty(t, r.err)
	dec := json.NewDecoder(strings.NewReader(r.out))
	var got []map[string]any
	for {
		var line map[string]any
		err := dec.Decode(&line)
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		keys := make([]string, 0, len(line))
		for k := range line {
			keys = append(keys, k)
		}
		require.ElementsMatch(t, []string{"job", "node", "index", "outcome", "attempt", "duration_ms", "output", "error"}, keys)
		got = append(got, line)
	}
	require.Len(t, got, 4)
	require.Equal(t, 4, strings.Count(r.out, "\n"), "one object a line")
	require.Equal(t, m.submitted().ID, got[0]["job"])
	require.Equal(t, "berlin-1", got[0]["node"])
	require.Equal(t, "failed", got[0]["outcome"])
	require.Nil(t, got[0]["output"])
	require.InDelta(t, 1234.0, got[0]["duration_ms"], 0)
	require.InDelta(t, 200.0, got[1]["output"].(map[string]any)["status"], 0)
	require.Empty(t, got[1]["error"])
	require.Equal(t, "unmatched", got[3]["outcome"])
}

// jobsBackend keeps what is submitted.
type jobsBackend struct {
	*apitest.Backend
	last *record.Job
}

func (b *jobsBackend) Submit(ctx context.Context, j *record.Job) error {
	b.last = j
	return b.Backend.Submit(ctx, j)
}

func TestRunMakesTheJob(t *testing.T) {
	b := &jobsBackend{Backend: apitest.New(runNode, testNodes()...)}
	m := startServer(t, api.Config{}, b.Backend, b)
	for _, c := range []struct{ line, kind, args string }{
		{"http https://example.com", "http", `{"url":"https://example.com"}`},
		{"http http://x.test -X post -H A:1 -H Host:y.test --body b --expect-body ok --expect-regex o. --json-path $.a --json-equals {\"b\":[1]} --max-latency 500ms --follow-redirects --insecure --ip 6 --excerpt 100", "http",
			`{"url":"http://x.test","method":"POST","headers":{"A":"1","Host":"y.test"},"body":"b","body_contains":"ok","body_regex":"o.","json_path":"$.a","json_equals":{"b":[1]},"max_latency_ms":500,"follow_redirects":true,"insecure_skip_verify":true,"ip_version":6,"body_excerpt_bytes":100}`},
		{`http --args {"url":"http://x.test","max_latency_ms":100,"method":"HEAD"} --max-latency 1s`, "http", `{"url":"http://x.test","max_latency_ms":1000,"method":"HEAD"}`},
		{"tcp x.test:443 --send-hex 00ff --expect SSH --max-latency 1s", "tcp", `{"address":"x.test:443","send_hex":"00ff","expect":"SSH","max_latency_ms":1000}`},
		{"udp [2001:db8::1]:53 --send hi --expect-reply", "udp", `{"address":"[2001:db8::1]:53","send":"hi","expect_reply":true}`},
		{"dns x.test --type mx --server 9.9.9.9 --transport tcp --expect a --expect b --rcode noerror", "dns", `{"name":"x.test","type":"MX","server":"9.9.9.9","transport":"tcp","expect":["a","b"],"rcode":"NOERROR"}`},
		{"ping x.test --packets 10 --interval 200ms --size 100 --max-loss 0.5 --ip 4", "ping", `{"host":"x.test","count":10,"interval_ms":200,"size":100,"max_loss":0.5,"ip_version":4}`},
		{"traceroute x.test --method icmp --max-hops 5 --probes 1", "traceroute", `{"host":"x.test","method":"icmp","max_hops":5,"probes":1}`},
		{`com.example.own --args {"n":12345678901234567}`, "com.example.own", `{"n":12345678901234567}`},
		{`com.example.bare`, "com.example.bare", ``},
	} {
		r := m.run(append([]string{"run"}, strings.Fields(c.line)...)...)
		require.NotEqual(t, 2, r.code, "%s: %s", c.line, r.message)
		require.Equal(t, c.kind, b.last.Kind)
		if c.args == "" {
			require.Empty(t, b.last.Args)
			continue
		}
		got, err := record.ToJSON(b.last.Args)
		require.NoError(t, err)
		require.JSONEq(t, c.args, string(got), c.line)
	}

	r := m.run("run", "http", "http://x.test", "--expect-status", "200,204", "--expect-status", "300-302")
	require.NotEqual(t, 2, r.code, r.message)
	got, err := record.ToJSON(b.last.Args)
	require.NoError(t, err)
	for _, want := range []string{"200", "204", "300-302"} {
		require.Contains(t, string(got), want)
	}
}

func TestRunTargetsAndKnobs(t *testing.T) {
	b := &jobsBackend{Backend: apitest.New(nil, testNodes()...)}
	m := startServer(t, api.Config{}, b.Backend, b)
	m.g.slack = time.Millisecond
	for line, want := range map[string]record.Target{
		"":                                {Select: &record.Selector{Count: 1}},
		"--node sydney-1":                 {Node: "sydney-1"},
		"--node sydney-1 --count 1":       {Node: "sydney-1"},
		"--node sydney-1 --node berlin-1": {Nodes: []string{"sydney-1", "berlin-1"}},
		"--count 3":                       {Select: &record.Selector{Count: 3}},
		"--country AU --city Perth --asn 4200000000 --tag a --tag b --platform linux/arm64": {Select: &record.Selector{
			Country: "AU", City: "Perth", ASN: 4_200_000_000, Tags: []string{"a", "b"}, Platform: "linux/arm64", Count: 1,
		}},
	} {
		m.run(append([]string{"run", "tcp", "x.test:1", "--timeout", "1ms", "--deadline", "1ms"}, strings.Fields(line)...)...)
		require.Equal(t, want, b.last.Target, line)
	}
	m.run("run", "tcp", "x.test:1", "--timeout", "2ms", "--deadline", "3ms", "--attempts", "4", "--backoff", "5ms", "--priority", "5", "--tenant", "ops", "--id", "mine")
	require.Equal(t, "mine", b.last.ID)
	require.Equal(t, 2*time.Millisecond, b.last.Timeout)
	require.Equal(t, 3*time.Millisecond, b.last.TTL)
	require.EqualValues(t, 4, b.last.Attempts)
	require.Equal(t, 5*time.Millisecond, b.last.Backoff)
	require.EqualValues(t, 5, b.last.Priority)
	require.Equal(t, "ops", b.last.Tenant)
	require.Zero(t, b.last.NotBeforeMs)
	m.run("run", "--timeout", "1ms", "--ttl", "4ms", "--backoff", "0", "tcp", "x.test:1")
	require.EqualValues(t, 1, b.last.Attempts, "a person who runs a job wants to know of a failure")
	require.Equal(t, 4*time.Millisecond, b.last.TTL)
	require.Equal(t, record.NoBackoff, b.last.Backoff)

	before := time.Now()
	m.run("run", "tcp", "x.test:1", "--timeout", "1ms", "--ttl", "5ms", "--not-before", "20ms")
	require.Equal(t, 25*time.Millisecond, b.last.TTL, "counted from not-before")
	require.WithinRange(t, time.UnixMilli(b.last.NotBeforeMs), before.Add(19*time.Millisecond), time.Now().Add(20*time.Millisecond))
	m.run("run", "tcp", "x.test:1", "--timeout", "1ms", "--not-before", "2001-01-01T00:00:00Z", "--deadline", "2001-01-01T00:00:01Z")
	require.EqualValues(t, 978307201000, b.last.DeadlineMs, "a time in the past is the member's to judge")
	require.EqualValues(t, 978307200000, b.last.NotBeforeMs)
}

func TestRunWaitsForAllAttempts(t *testing.T) {
	now := time.Now()
	o := &runOptions{timeout: 10 * time.Second, ttl: time.Minute, attempts: 4, backoff: time.Second}
	require.Equal(t, time.Minute+4*10*time.Second+7*time.Second, o.overall(now))
	o.before = moment{text: "x", at: now.Add(time.Hour)}
	require.Equal(t, 61*time.Minute+47*time.Second, o.overall(now))
	o.deadline = moment{text: "x", at: now.Add(-time.Hour)}
	require.Equal(t, 47*time.Second, o.overall(now))
}

// The same id is run once, and shown as often as somebody asks.
func TestRunTwice(t *testing.T) {
	m := startMember(t, runNode, testNodes()...)
	r := m.run("run", "http", "http://x.test", "--id", "nightly", "--country", "AU", "--count", "2")
	require.Zero(t, r.code, r.message)
	r = m.run("run", "http", "http://x.test", "--id", "nightly", "--count", "7")
	require.Zero(t, r.code, r.message)
	require.Contains(t, r.err, "job nightly was submitted before, 0s ago, and is not run again")
	require.Contains(t, r.out, "job nightly: http on 2 nodes\n")
	require.Contains(t, r.out, "2 outcomes: 2 ok\n")
	m.submitted()
	r = m.run("run", "http", "http://x.test", "--id", "nightly", "--json")
	require.Equal(t, 2, strings.Count(r.out, "\n"))
	m.backend.Forget("nightly")
	r = m.run("run", "http", "http://x.test", "--id", "nightly")
	require.Equal(t, 2, r.code)
	require.Contains(t, r.message, `job nightly: "nightly" has ended already; its outcomes are in the topic roost.results`)
}

func TestRunRefusesMistakes(t *testing.T) {
	m := startMember(t, runNode, testNodes()...)
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "which kind of job?"},
		{[]string{"own", "argument"}, `"own" gets its arguments with --args`},
		{[]string{"own", "--args", "{"}, "--args: is not JSON"},
		{[]string{"http"}, "URL is missing"},
		{[]string{"http", "http://a", "http://b"}, "2 arguments are given"},
		{[]string{"http", "example.com"}, "url: scheme"},
		{[]string{"http", "http://x.test", "--nope"}, "unknown flag: --nope"},
		{[]string{"http", "http://x.test", "--timeout", "ten"}, "invalid argument"},
		{[]string{"http", "http://x.test", "--timeout", "0"}, "--timeout: 0s"},
		{[]string{"http", "http://x.test", "--timeout", "48h"}, "timeout_ms: 172800000"},
		{[]string{"http", "http://x.test", "--deadline", "-1s"}, "-1s; at least 1ms is expected"},
		{[]string{"http", "http://x.test", "--deadline", "soon"}, "2026-12-24T18:30:00Z"},
		{[]string{"http", "http://x.test", "--ttl", "0"}, "--ttl: 0s"},
		{[]string{"http", "http://x.test", "--ttl", "10000h"}, "ttl_ms"},
		{[]string{"http", "http://x.test", "--not-before", "25:00"}, "--not-before"},
		{[]string{"http", "http://x.test", "--backoff", "-1s"}, "--backoff: -1s"},
		{[]string{"http", "http://x.test", "--backoff", "1us"}, "--backoff: 1µs"},
		{[]string{"http", "http://x.test", "--backoff", "6m"}, "backoff_ms: 360000; allowed are 0 to 300000"},
		{[]string{"http", "http://x.test", "--id", "a b"}, "id: "},
		{[]string{"http", "http://x.test", "--count", "0"}, "--count: 0"},
		{[]string{"http", "http://x.test", "--count", "10001"}, "target.select.count: 10001"},
		{[]string{"http", "http://x.test", "--attempts", "0"}, "--attempts: 0"},
		{[]string{"http", "http://x.test", "--priority", "10"}, "priority: 10"},
		{[]string{"http", "http://x.test", "--node", "a b"}, "target.node"},
		{[]string{"http", "http://x.test", "--node", "a", "--node", "a"}, "is there twice"},
		{[]string{"http", "http://x.test", "--node", "a", "--country", "AU"}, "Use one or the other"},
		{[]string{"http", "http://x.test", "--max-latency", "1us"}, "--max-latency: 1µs"},
		{[]string{"http", "http://x.test", "--header", "nothing"}, "--header"},
		{[]string{"http", "http://x.test", "--expect-status", "ok"}, "--expect-status"},
		{[]string{"http", "http://x.test", "--json-path", "$.a", "--json-equals", "up"}, "stands in quotes"},
		{[]string{"http", "http://x.test", "--args", `{"colour":1}`}, `unknown field "colour"`},
		{[]string{"http", "http://x.test", "--args", `{} {}`}, "something follows"},
		{[]string{"tcp", "x.test"}, "address:"},
		{[]string{"dns", "x.test", "--type", "BOGUS"}, "type"},
		{[]string{"http", "http://x.test", "--api", "localhost:7480"}, "--api"},
	} {
		r := m.run(append([]string{"run"}, c.args...)...)
		require.Equal(t, 2, r.code, "%v: %s", c.args, r.message)
		require.Contains(t, r.message, c.want, "%v", c.args)
		require.Empty(t, r.out)
	}
	list, err := m.backend.Jobs(t.Context(), api.JobFilter{Limit: 1})
	require.NoError(t, err)
	require.Empty(t, list.Jobs)
}

func TestRunWithoutAMember(t *testing.T) {
	m := startMember(t, runNode)
	require.NoError(t, m.server.Close(t.Context()))
	for _, args := range [][]string{{"run", "tcp", "x.test:1"}, {"nodes"}, {"nodes", "x"}, {"jobs"}, {"jobs", "x"}, {"jobs", "x", "--follow"}, {"jobs", "cancel", "x"}, {"status"}, {"watermarks"}} {
		r := m.run(args...)
		require.Equal(t, 2, r.code)
		require.Contains(t, r.message, m.g.API+" cannot be reached")
		require.Contains(t, r.message, `"roost dev"`)
		require.Empty(t, r.out)
	}
}

func TestRunWithToken(t *testing.T) {
	m := startServer(t, api.Config{Token: "s3cret"}, apitest.New(runNode, testNodes()...), nil)
	r := m.run("run", "tcp", "x.test:1")
	require.Equal(t, 2, r.code)
	require.Contains(t, r.message, "Set ROOST_API_TOKEN")
	m.g.Token = "other"
	require.Contains(t, m.run("status").message, "is not the member's api.token")
	m.g.Token = "s3cret"
	require.Zero(t, m.run("run", "tcp", "x.test:1", "--country", "AU").code)
}

// noSubmit can do everything but submit.
type noSubmit struct {
	*apitest.Backend
	err error
}

func (b noSubmit) Submit(context.Context, *record.Job) error { return b.err }

func TestRunRejected(t *testing.T) {
	backend := apitest.New(runNode, testNodes()...)
	m := startServer(t, api.Config{}, backend, noSubmit{backend, &api.Unavailable{Reason: "kafka: no answer", RetryAfter: 7 * time.Second}})
	r := m.run("run", "tcp", "x.test:1")
	require.Equal(t, 2, r.code)
	require.Contains(t, r.message, "kafka: no answer")
	require.Contains(t, r.message, "may have been accepted; see: roost jobs ")
	require.Regexp(t, "with --id [0-9A-Z]{26} does not run it twice", r.message)
	require.Contains(t, r.message, "Try again in 7s")

	m = startServer(t, api.Config{}, backend, noSubmit{backend, fmt.Errorf("%w: tenant is over its limit", api.ErrInvalid)})
	r = m.run("run", "tcp", "x.test:1")
	require.Equal(t, 2, r.code)
	require.Contains(t, r.message, "tenant is over its limit")
	require.NotContains(t, r.message, "may have been accepted")
}

func TestRunInterrupted(t *testing.T) {
	m := startMember(t, nil, testNodes()...)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := m.start(ctx, "run", "tcp", "x.test:1", "--node", "sydney-1")
	id := m.waitForJob()
	require.Eventually(t, func() bool { return strings.Contains(m.out.String(), id) }, 10*time.Second, time.Millisecond)
	cancel()
	r := <-done
	require.Equal(t, 130, r.code)
	require.Contains(t, r.message, "the job goes on")
	require.Contains(t, r.message, "roost jobs "+id)
	require.Contains(t, r.message, "roost jobs cancel "+id)
	v, err := m.backend.Job(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, api.StateRunning, v.State)
}

func TestRunOverdue(t *testing.T) {
	m := startMember(t, func(j *record.Job, n api.NodeView) (apitest.Run, bool) {
		run, _ := runNode(j, n)
		return run, n.ID == "sydney-1"
	}, testNodes()...)
	m.g.slack = time.Second
	r := m.run("run", "tcp", "x.test:1", "--node", "sydney-1", "--node", "perth-1", "--node", "absent", "--deadline", "1ms", "--timeout", "1ms")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.message, "2 of 3 outcomes missing (perth-1, absent)")
	require.Contains(t, r.message, "roost jobs "+m.submitted().ID)
	require.Contains(t, r.out, "1 outcome: 1 ok\n")
}

// A stream that breaks is opened again, and nothing is shown twice.
func TestRunFollowsAgain(t *testing.T) {
	m := startMember(t, nil, testNodes()...)
	done := m.start(t.Context(), "run", "tcp", "x.test:1", "--count", "5")
	id := m.waitForJob()
	require.NoError(t, m.backend.Record(id, "sydney-1", apitest.Run{Outcome: protocol.OutcomeOK}))
	require.Eventually(t, func() bool {
		return strings.Contains(m.out.String(), "sydney-1") && strings.Count(m.out.String(), "unmatched") == 2
	}, 10*time.Second, time.Millisecond)
	m.backend.Interrupt(id)
	require.Eventually(t, func() bool { return m.backend.Following(id) == 1 }, 10*time.Second, time.Millisecond)
	require.NoError(t, m.backend.Record(id, "perth-1", apitest.Run{Outcome: protocol.OutcomeLost}))
	require.NoError(t, m.backend.Record(id, "berlin-1", apitest.Run{Outcome: protocol.OutcomeOK}))
	r := <-done
	require.Equal(t, 1, r.code)
	require.Contains(t, r.err, "following again")
	require.Equal(t, 1, strings.Count(r.out, "sydney-1"))
	require.Contains(t, r.out, "5 outcomes: 2 ok, 1 lost, 2 unmatched\n")
}

func TestRunShowsProgressOnATerminal(t *testing.T) {
	m := startMember(t, nil, testNodes()...)
	m.g.terminal = func(io.Writer) bool { return true }
	done := m.start(t.Context(), "run", "tcp", "x.test:1", "--node", "sydney-1", "--node", "perth-1")
	id := m.waitForJob()
	require.Eventually(t, func() bool { return strings.Contains(m.err.String(), "waiting: 0 of 2 outcomes") }, 10*time.Second, time.Millisecond)
	m.backend.Progress(id, "sydney-1", json.RawMessage(`{"hop":3}`))
	require.Eventually(t, func() bool { return strings.Contains(m.err.String(), `sydney-1: {"hop":3}`) }, 10*time.Second, time.Millisecond)
	require.NoError(t, m.backend.Record(id, "sydney-1", apitest.Run{}))
	require.Eventually(t, func() bool { return strings.Contains(m.err.String(), "waiting: 1 of 2 outcomes") }, 10*time.Second, time.Millisecond)
	require.NoError(t, m.backend.Record(id, "perth-1", apitest.Run{}))
	r := <-done
	require.Zero(t, r.code)
	require.True(t, strings.HasSuffix(r.err, clearLine), "nothing is left on the line")
	require.NotContains(t, r.out, "\x1b")
}

// What nodes send must not command the terminal.
func TestRunPrintsHostileTextSafely(t *testing.T) {
	evil := "bad \x1b]0;title\x07\x1b[2J\r\n\u202egnp.exe \u009b31m"
	m := startMember(t, func(*record.Job, api.NodeView) (apitest.Run, bool) {
		return apitest.Run{Outcome: protocol.OutcomeFailed, Error: evil, Output: evil}, true
	}, api.NodeView{ID: "n\u200b1", City: "\x1b[31mred"})
	for _, args := range [][]string{{"run", "own"}, {"nodes"}, {"nodes", "n\u200b1"}, {"jobs"}} {
		r := m.run(args...)
		for _, c := range []string{"\x1b", "\x07", "\r", "\u202e", "\u009b", "\u200b"} {
			require.NotContains(t, r.out, c, "%v", args)
		}
	}
	require.NotContains(t, m.run("jobs", m.submitted().ID).out, "\x1b")
}

func TestRunHelpNamesEveryKind(t *testing.T) {
	m := startMember(t, nil)
	help := m.run("run", "--help").out
	for _, kind := range kinds {
		require.Contains(t, help, "  "+kind+" ")
		sub := m.run("run", kind, "--help").out
		require.Contains(t, sub, "roost run "+kind)
		require.Contains(t, sub, "Examples:")
	}
}

func TestSummaries(t *testing.T) {
	for _, c := range []struct{ kind, output, want string }{
		{"http", `{"status":301,"bytes":0,"location":"https://x.test/","first_byte_ms":12.345,"certificate":{"days_left":30.4}}`, "301, 0 B, to https://x.test/, first byte 12.3 ms, certificate 30 days"},
		{"tcp", `{"remote_addr":"192.0.2.1:443","connect_ms":1.5,"received_bytes":2048}`, "192.0.2.1:443, connected in 1.50 ms, received 2.0 kB"},
		{"udp", `{"remote_addr":"192.0.2.1:53","replied":true,"rtt_ms":250,"received_bytes":60}`, "192.0.2.1:53, reply of 60 B in 250 ms"},
		{"udp", `{"remote_addr":"192.0.2.1:53","replied":false}`, "192.0.2.1:53, no reply"},
		{"dns", `{"type":"A","rcode":"NOERROR","answers":[{"type":"CNAME","value":"y."},{"type":"A","value":"192.0.2.1"},{"type":"A","value":"192.0.2.2"}]}`, "192.0.2.1 192.0.2.2"},
		{"dns", `{"type":"A","rcode":"NXDOMAIN","answers":[]}`, "NXDOMAIN"},
		{"ping", `{"addr":"192.0.2.1","sent":3,"received":2,"avg_ms":20}`, "192.0.2.1, 2/3 replies, avg 20.0 ms"},
		{"traceroute", `{"addr":"192.0.2.1","reached":true,"hops":[{},{}]}`, "192.0.2.1 reached in 2 hops"},
		{"traceroute", `{"addr":"192.0.2.1","hops":[{}]}`, "192.0.2.1 not reached in 1 hop"},
		{"http", `["not","ours"]`, `["not","ours"]`},
		{"http", `{"own":1}`, `{"own":1}`},
		{"own", `{"a":1}`, `{"a":1}`},
		{"own", `null`, ""},
	} {
		require.Equal(t, c.want, summarize(c.kind, json.RawMessage(c.output)))
	}
}

func TestPercentile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(i + 1)
	}
	require.InDelta(t, 50, percentile(hundred, 50), 0)
	require.InDelta(t, 99, percentile(hundred, 99), 0)
	require.InDelta(t, 7, percentile([]float64{7}, 99), 0)
	require.InDelta(t, 2, percentile([]float64{1, 2, 3}, 50), 0)
}
