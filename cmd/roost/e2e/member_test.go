//go:build linux

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// brokerProcess is the embedded broker.
type brokerProcess struct {
	*process
	addr string
}

func startBroker(t testing.TB, data, listen string) *brokerProcess {
	t.Helper()
	p := start(t, "broker", "broker", "--listen", listen, "--data", data)
	return &brokerProcess{p, p.find(`embedded broker at (\S+)`)[0]}
}

func (b *brokerProcess) broker() broker { return broker{"embedded", b.addr} }

// cluster is what the members of one test share.
type cluster struct {
	t      testing.TB
	broker broker
	prefix string // of topics
	group  string
}

func newCluster(t testing.TB, b broker) *cluster {
	return &cluster{t: t, broker: b, prefix: unique("e2e") + ".", group: unique("group")}
}

func (c *cluster) topic(name string) string { return c.prefix + name }

// args are those of a member; flags given later win.
func (c *cluster) args(more ...string) []string {
	args := []string{"serve", "--kafka", c.broker.addr, "--topic-prefix", c.prefix, "--group", c.group,
		"--nodes-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0", "--partitions", "4"}
	if c.broker.embedded() {
		args = append(args, "--unsafe-embedded-broker")
	}
	return append(args, more...)
}

// member is a running "roost serve" or "roost dev".
type member struct {
	*process
	nodes string // HOST:PORT
	api   string // URL
}

// serve starts a member and waits until it serves.
func (c *cluster) serve(more ...string) *member {
	c.t.Helper()
	return serving(start(c.t, "serve", c.args(more...)...))
}

func serving(p *process) *member {
	p.t.Helper()
	at := p.find(`serves: nodes (\S+), API (\S+), Kafka`)
	m := &member{p, at[0], at[1]}
	p.t.Cleanup(m.explain) // before the process is ended
	return m
}

// explain logs what the member knows when the test has failed.
func (m *member) explain() {
	if !m.t.Failed() || !m.running() {
		return
	}
	for _, path := range []string{"/v1/status", "/v1/jobs?state=waiting&limit=3", "/v1/jobs?state=running&limit=3", "/metrics"} {
		resp, err := web.Get(m.api + path)
		if err != nil {
			m.t.Logf("GET %s: %v", path, err)
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		for line := range strings.Lines(string(body)) {
			if path != "/metrics" || strings.HasPrefix(line, "roost_") {
				m.t.Logf("%s: %s", path, strings.TrimSpace(line))
			}
		}
	}
}

var web = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// get asks the API and decodes the answer into v, unless it is nil.
func (m *member) get(path string, v any) (status int) {
	m.t.Helper()
	status, body := m.getText(path)
	if v != nil && status == http.StatusOK {
		require.NoError(m.t, json.Unmarshal(body, v), "GET %s: %s", path, body)
	}
	return status
}

func (m *member) getText(path string) (status int, body []byte) {
	m.t.Helper()
	resp, err := web.Get(m.api + path)
	require.NoError(m.t, err)
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	require.NoError(m.t, err)
	return resp.StatusCode, body
}

// submit sends a job to the API and returns the status of the answer.
func (m *member) submit(job map[string]any) (status int, header http.Header) {
	m.t.Helper()
	status, header, body := m.request(http.MethodPost, "/v1/jobs", job)
	if status >= http.StatusInternalServerError {
		m.t.Logf("POST /v1/jobs: %d %s", status, body)
	}
	return status, header
}

// request asks the API, with a body as JSON unless it is nil.
func (m *member) request(method, path string, body any) (status int, header http.Header, answer []byte) {
	m.t.Helper()
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		require.NoError(m.t, err)
		in = bytes.NewReader(b)
	}
	req, err := http.NewRequest(method, m.api+path, in)
	require.NoError(m.t, err)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := web.Do(req)
	require.NoError(m.t, err)
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	require.NoError(m.t, err)
	return resp.StatusCode, resp.Header, answer
}

func decode(t testing.TB, body []byte, v any) {
	t.Helper()
	require.NoError(t, json.Unmarshal(body, v), "%s", body)
}

// jobView is a job as the API shows it.
type jobView struct {
	ID          string         `json:"id"`
	State       string         `json:"state"`
	Outcomes    map[string]int `json:"outcomes"`
	Duplicate   bool           `json:"duplicate"`
	Partition   int32          `json:"partition"`
	Offset      int64          `json:"offset"`
	Assignments []struct {
		Index   int    `json:"index"`
		Node    string `json:"node"`
		State   string `json:"state"`
		Attempt int    `json:"attempt"`
		Outcome string `json:"outcome"`
	} `json:"assignments"`
}

// awaitState waits until a job is in a state.
func (m *member) awaitState(id, state string) (v jobView) {
	m.t.Helper()
	eventually(m.t, patience, func() string { return fmt.Sprintf("job %s is not %s: %+v", id, state, v) }, func() bool {
		v = jobView{}
		return m.get("/v1/jobs/"+id, &v) == http.StatusOK && v.State == state
	})
	return v
}

// metric returns the sum of a metric's series whose labels contain all of those given,
// such as `reason="bye"`.
func (m *member) metric(name string, labels ...string) float64 {
	m.t.Helper()
	sum := 0.0
	for _, v := range m.scrape(name, labels) {
		sum += v
	}
	return sum
}

// series returns how many series a metric has.
func (m *member) series(name string) int { m.t.Helper(); return len(m.scrape(name, nil)) }

func (m *member) scrape(name string, labels []string) (values []float64) {
	m.t.Helper()
	status, body := m.getText("/metrics")
	require.Equal(m.t, http.StatusOK, status)
lines:
	for line := range strings.Lines(string(body)) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), name)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		at := strings.LastIndexByte(rest, ' ')
		for _, l := range labels {
			if !strings.Contains(rest[:at], l) {
				continue lines
			}
		}
		v, err := strconv.ParseFloat(rest[at+1:], 64)
		require.NoError(m.t, err, line)
		values = append(values, v)
	}
	return values
}

// awaitMetric waits until the metric is at least so much.
func (m *member) awaitMetric(least float64, name string, labels ...string) {
	m.t.Helper()
	got := 0.0
	eventually(m.t, patience, func() string { return fmt.Sprintf("%s%v is %v, not %v", name, labels, got, least) }, func() bool {
		got = m.metric(name, labels...)
		return got >= least
	})
}

// awaitNodes waits until so many nodes are connected.
func (m *member) awaitNodes(n int) { m.t.Helper(); m.awaitMetric(float64(n), "roost_sessions") }

// awaitReady waits until the member has its partitions and Kafka.
func (m *member) awaitReady() {
	m.t.Helper()
	eventually(m.t, patience, text("the member does not get ready"), func() bool { return m.get("/readyz", nil) == http.StatusOK })
}
