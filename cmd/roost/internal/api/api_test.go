package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/cmd/roost/internal/api/apitest"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

func okHandler(job *record.Job, n api.NodeView) (apitest.Run, bool) {
	if n.ID == "de-1" {
		return apitest.Run{Outcome: protocol.OutcomeFailed, Duration: 20 * time.Millisecond, Error: "status 500"}, true
	}
	return apitest.Run{Outcome: protocol.OutcomeOK, Duration: 12500 * time.Microsecond, Output: map[string]any{"status": 200}}, true
}

func TestSubmitAndLook(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(okHandler, nodes()...))
	res, b := h.do("POST", "/v1/jobs", `{"id":"j/1","kind":"http","target":{"select":{"country":"AU","count":3}},"args":{"url":"http://x.test","n":9007199254740993},"tenant":"ops","timeout_ms":5000,"attempts":1,"priority":9}`)
	require.Equal(t, http.StatusAccepted, res.StatusCode, "%s", b)
	require.JSONEq(t, `{"id":"j/1","key":"j/1"}`, string(b))
	require.Equal(t, "/v1/jobs/j%2F1", res.Header.Get("Location"))

	v := get[api.JobView](h, res.Header.Get("Location"))
	require.Equal(t, api.StateDone, v.State)
	require.Equal(t, map[string]int{"ok": 2, "unmatched": 1}, v.Outcomes)
	require.Len(t, v.Results, 3)
	require.Equal(t, "au-1", v.Results[0].Node)
	require.InDelta(t, 12.5, v.Results[0].DurationMs, 0)
	require.JSONEq(t, `{"status":200}`, string(v.Results[0].Output))
	require.Equal(t, "no connected node fits country=AU", v.Results[2].Error)
}

func TestSubmitMakesAnIDAndKeysByNode(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(nil, nodes()...))
	res, b := h.do("POST", "/v1/jobs", `{"kind":"http","target":{"node":"au-1"}}`)
	require.Equal(t, http.StatusAccepted, res.StatusCode)
	var a api.Accepted
	require.NoError(t, json.Unmarshal(b, &a))
	_, err := ulid.ParseStrict(a.ID)
	require.NoError(t, err)
	require.Equal(t, "au-1", a.Key)
	require.Equal(t, api.StateRunning, get[api.JobView](h, "/v1/jobs/"+a.ID).State)
}

const target = `"target":{"node":"au-1"}`

var badJobs = []struct {
	name, body string
	status     int
	location   string
}{
	{"no kind", `{` + target + `}`, 422, "body"},
	{"empty kind", `{"kind":"",` + target + `}`, 422, "body.kind"},
	{"unknown field", `{"kind":"http",` + target + `,"prio":1}`, 422, "body.prio"},
	{"other case", `{"Kind":"http",` + target + `}`, 422, "body.Kind"},
	{"unknown selector field", `{"kind":"http","target":{"select":{"contry":"AU"}}}`, 422, "body.target.select.contry"},
	{"no target", `{"kind":"http","target":{}}`, 422, "body.target"},
	{"two targets", `{"kind":"http","target":{"node":"a","nodes":["b"]}}`, 422, "body.target"},
	{"node twice", `{"kind":"http","target":{"nodes":["b","b"]}}`, 422, "body.target.nodes"},
	{"space in id", `{"id":"a b","kind":"http",` + target + `}`, 422, "body.id"},
	{"count 0", `{"kind":"http","target":{"select":{"count":0}}}`, 422, "body.target.select.count"},
	{"attempts 0", `{"kind":"http","attempts":0,` + target + `}`, 422, "body.attempts"},
	{"attempts 101", `{"kind":"http","attempts":101,` + target + `}`, 422, "body.attempts"},
	{"timeout text", `{"kind":"http","timeout_ms":"5s",` + target + `}`, 422, "body.timeout_ms"},
	{"timeout huge", `{"kind":"http","timeout_ms":1e30,` + target + `}`, 422, "body.timeout_ms"},
	{"timeout fraction", `{"kind":"http","timeout_ms":1.5,` + target + `}`, 422, "body.timeout_ms"},
	{"backoff below 0", `{"kind":"http","backoff_ms":-1,` + target + `}`, 422, "body.backoff_ms"},
	{"backoff 5 min 1 ms", `{"kind":"http","backoff_ms":300001,` + target + `}`, 422, "body.backoff_ms"},
	{"deadline 0", `{"kind":"http","deadline_ms":0,` + target + `}`, 422, "body.deadline_ms"},
	{"cancel", `{"id":"x","cancel":true}`, 422, "body.cancel"},
	{"priority 10", `{"kind":"http","priority":10,` + target + `}`, 422, "body.priority"},
	{"not JSON", `{"kind":`, 400, "body"},
	{"two values", `{"kind":"http",` + target + `} {}`, 400, "body"},
}

func TestSubmitRefuses(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(nil, nodes()...))
	for _, c := range badJobs {
		t.Run(c.name, func(t *testing.T) {
			res, b := h.do("POST", "/v1/jobs", c.body)
			require.Equal(t, c.status, res.StatusCode, "%s", b)
			p := problemOf(t, res, b)
			require.NotEmpty(t, p.Errors)
			locations := make([]string, 0, len(p.Errors))
			for _, e := range p.Errors {
				locations = append(locations, e.Location)
				require.NotEmpty(t, e.Message)
			}
			require.Contains(t, locations, c.location)
		})
	}
	require.Empty(t, get[api.JobList](h, "/v1/jobs").Jobs)
}

func TestSubmitRefusesBodies(t *testing.T) {
	h := start(t, api.Config{MaxBodyBytes: 4096}, apitest.New(nil, nodes()...))
	t.Run("empty", func(t *testing.T) {
		res, b := h.do("POST", "/v1/jobs", "")
		require.Equal(t, 400, res.StatusCode)
		require.Contains(t, problemOf(t, res, b).Detail, "body")
	})
	t.Run("too large", func(t *testing.T) {
		res, b := h.do("POST", "/v1/jobs", `{"kind":"http",`+target+`,"args":"`+strings.Repeat("x", 5000)+`"}`)
		require.Equal(t, 413, res.StatusCode)
		require.Contains(t, problemOf(t, res, b).Detail, "4096")
	})
	t.Run("large and broken is not sent back", func(t *testing.T) {
		res, b := h.do("POST", "/v1/jobs", `{"kind":"`+strings.Repeat("x", 3000))
		require.Equal(t, 400, res.StatusCode)
		require.Less(t, len(b), 1000)
	})
	t.Run("content type", func(t *testing.T) {
		res, b := h.do("POST", "/v1/jobs", `{"kind":"http",`+target+`}`, "Content-Type", "text/plain")
		require.Equal(t, 415, res.StatusCode)
		problemOf(t, res, b)
	})
	require.Empty(t, get[api.JobList](h, "/v1/jobs").Jobs, "nothing refused was submitted")
}

func TestArgsTooLargeAsMsgpack(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(nil, nodes()...))
	res, b := h.do("POST", "/v1/jobs", `{"kind":"http","target":{"node":"au-1"},"args":[`+strings.Repeat("1.5,", 60_000)+`1]}`)
	// The document cannot say this: the limit counts another encoding.
	require.Equal(t, http.StatusUnprocessableEntity, res.StatusCode, "%s", b)
	p := problemOf(t, res, b)
	require.Equal(t, "body.args", p.Errors[0].Location)
}

func TestSlowBodyTimesOut(t *testing.T) {
	h := start(t, api.Config{ReadTimeout: 100 * time.Millisecond}, apitest.New(nil, nodes()...))
	for path, operation := range map[string]string{"/v1/jobs": "/v1/jobs", "/v1/jobs/x/cancel": "/v1/jobs/{id}/cancel",
		"/v1/members/x/drain": "/v1/members/{name}/drain", "/v1/rebalance": "/v1/rebalance"} {
		r, w := io.Pipe()
		t.Cleanup(func() { _ = w.Close() })
		req, err := http.NewRequest("POST", h.base+path, io.NopCloser(r))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		// Not through the checked client, which reads bodies first.
		go func() { _, _ = w.Write([]byte(`{"kind":`)) }()
		next := h.client.Transport.(*checked).next
		res, err := (&http.Client{Transport: next}).Do(req)
		require.NoError(t, err)
		b, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusRequestTimeout, res.StatusCode, "%s", b)
		problemOf(t, res, b)
		require.NotNil(t, h.doc.Paths.Value(operation).Post.Responses.Status(http.StatusRequestTimeout))
		seen.Store("POST "+operation+" 408", true)
	}
}

func TestListJobs(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(okHandler, nodes()...))
	require.Empty(t, get[api.JobList](h, "/v1/jobs").Jobs)
	for i, body := range []string{
		`{"id":"a","kind":"http","target":{"node":"au-1"},"tenant":"x"}`,
		`{"id":"b","kind":"http","target":{"node":"absent"},"tenant":"x"}`,
		`{"id":"c","kind":"http","target":{"nodes":["au-1","de-1"]}}`,
	} {
		res, b := h.do("POST", "/v1/jobs", body)
		require.Equal(t, 202, res.StatusCode, "%d %s", i, b)
	}
	for query, want := range map[string]string{
		"": "c b a", "?limit=2": "c b", "?state=done": "c a", "?state=waiting": "b", "?tenant=x": "b a",
		"?node=au-1": "c a", "?tenant=x&state=done": "a", "?state=running": "",
	} {
		list := get[api.JobList](h, "/v1/jobs"+query).Jobs
		ids := make([]string, 0, len(list))
		for _, j := range list {
			ids = append(ids, j.ID)
			require.Empty(t, j.Results)
		}
		require.Equal(t, want, strings.Join(ids, " "), query)
	}
	for query, location := range map[string]string{
		"?state=gone": "query.state", "?limit=0": "query.limit", "?limit=1001": "query.limit", "?limit=x": "query.limit", "?stat=done": "query.stat",
	} {
		res, b := h.do("GET", "/v1/jobs"+query, "")
		require.Equal(t, 422, res.StatusCode)
		require.Equal(t, location, problemOf(t, res, b).Errors[0].Location)
	}
}

func TestNodes(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(nil, nodes()...))
	for query, want := range map[string]string{
		"": "au-1 au-2 de-1 rack/4", "?country=AU": "au-1 au-2", "?asn=4200000000": "au-2", "?city=Berlin": "de-1", "?tag=home": "au-1 de-1",
		"?kind=dns": "au-1 au-2", "?platform=linux/amd64": "au-2 de-1", "?prefix=au-": "au-1 au-2", "?country=FR": "", "?country=AU&tag=home": "au-1",
	} {
		page := get[api.NodePage](h, "/v1/nodes"+query)
		require.Equal(t, want, strings.Join(ids(page.Nodes), " "), query)
		require.Equal(t, len(page.Nodes), page.Total)
		require.Empty(t, page.Next)
	}
	var all []string
	cursor, pages := "", 0
	for {
		page := get[api.NodePage](h, "/v1/nodes?limit=3&cursor="+cursor)
		require.Equal(t, 4, page.Total)
		all = append(all, ids(page.Nodes)...)
		pages++
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	require.Equal(t, 2, pages)
	require.Equal(t, []string{"au-1", "au-2", "de-1", "rack/4"}, all)

	require.Equal(t, "Sydney", get[api.NodeView](h, "/v1/nodes/au-1").City)
	require.Equal(t, "rack/4", get[api.NodeView](h, "/v1/nodes/rack%2F4").ID)
	res, b := h.do("GET", "/v1/nodes/none", "")
	require.Equal(t, 404, res.StatusCode)
	require.Equal(t, "node none: not found", problemOf(t, res, b).Detail)
	res, b = h.do("GET", "/v1/nodes?cursor=bogus", "")
	require.Equal(t, 400, res.StatusCode)
	require.Contains(t, problemOf(t, res, b).Detail, "bogus")
	res, _ = h.do("GET", "/v1/nodes?contry=AU", "")
	require.Equal(t, 422, res.StatusCode, "a filter that is spelt wrong must not list everything")
}

func ids(nodes []api.NodeView) []string {
	out := make([]string, 0, len(nodes))
	for _, n := range nodes {
		out = append(out, n.ID)
	}
	return out
}

func TestStatusHealthMetrics(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(nil, nodes()...))
	v := get[api.StatusView](h, "/v1/status")
	require.Equal(t, "abc", v.Kafka.ClusterID)
	require.Equal(t, 4, v.Nodes)
	require.NotNil(t, v.Members[0].Partitions)
	require.Equal(t, "alive", get[api.Health](h, "/healthz").Status)
	require.Equal(t, "ready", get[api.Health](h, "/readyz").Status)

	h.backend.SetNotReady(errors.Join(errors.New("kafka: unreachable"), errors.New("shards: loading 3 of 8")))
	res, b := h.do("GET", "/readyz", "")
	require.Equal(t, 503, res.StatusCode)
	require.NotEmpty(t, res.Header.Get("Retry-After"))
	p := problemOf(t, res, b)
	require.Len(t, p.Errors, 2)
	require.Equal(t, "kafka: unreachable", p.Errors[0].Message)
	require.Equal(t, "alive", get[api.Health](h, "/healthz").Status, "alive, although not ready")

	h.do("POST", "/v1/jobs", `{"kind":"http","target":{"node":"au-1"}}`)
	res, b = h.do("GET", "/metrics?any=parameter", "")
	require.Equal(t, 200, res.StatusCode)
	require.Contains(t, string(b), "roost_api_jobs_total 1")
}

// endpoints are requests that the backend has a part in.
var endpoints = [][2]string{
	{"POST", "/v1/jobs"}, {"GET", "/v1/jobs"}, {"GET", "/v1/jobs/x"}, {"GET", "/v1/jobs/x/events"},
	{"POST", "/v1/jobs/x/cancel"}, {"GET", "/v1/watermarks"}, {"GET", "/v1/nodes"}, {"GET", "/v1/nodes/x"}, {"GET", "/v1/status"},
	{"GET", "/v1/members"}, {"POST", "/v1/members/x/drain"}, {"DELETE", "/v1/members/x/drain"}, {"POST", "/v1/rebalance"},
	{"GET", "/v1/tree"}, {"GET", "/v1/trace?node=x"},
}

const anyJob = `{"kind":"http","target":{"node":"au-1"}}`

func bodyFor(endpoint [2]string) string {
	switch endpoint {
	case [2]string{"POST", "/v1/jobs"}:
		return anyJob
	case [2]string{"POST", "/v1/jobs/x/cancel"}:
		return `{"reason":"why"}`
	case [2]string{"POST", "/v1/members/x/drain"}, [2]string{"POST", "/v1/rebalance"}:
		return `{"rate_per_s":9}`
	}
	return ""
}

func TestBackendErrors(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(nil, nodes()...))
	for _, c := range []struct {
		err    error
		status int
		after  string
	}{
		{fmt.Errorf("kafka: %w", api.ErrUnavailable), 503, "2"},
		{&api.Unavailable{Reason: "kafka: queue full", RetryAfter: 2500 * time.Millisecond}, 503, "3"},
		{errors.New("broken"), 500, ""},
		{fmt.Errorf("no such thing: %w", api.ErrNotFound), 404, ""},
	} {
		h.backend.SetDown(c.err)
		for _, e := range endpoints {
			if op := h.operation(e[0], e[1]); op.Responses.Status(c.status) == nil {
				require.Equal(t, 404, c.status, "every endpoint documents %d", c.status)
				continue
			}
			res, b := h.do(e[0], e[1], bodyFor(e))
			require.Equal(t, c.status, res.StatusCode, "%s %s: %s", e[0], e[1], b)
			require.Contains(t, problemOf(t, res, b).Detail, c.err.Error())
			require.Equal(t, c.after, res.Header.Get("Retry-After"))
		}
	}
}

func TestIDsTooLong(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(nil, nodes()...))
	long := strings.Repeat("x", 129)
	for _, path := range []string{"/v1/jobs/" + long, "/v1/jobs/" + long + "/events", "/v1/nodes/" + long} {
		res, b := h.do("GET", path, "")
		require.Equal(t, 422, res.StatusCode)
		require.Equal(t, "path.id", problemOf(t, res, b).Errors[0].Location)
	}
}

// panicky is a backend with a defect.
type panicky struct{ *apitest.Backend }

func (panicky) Ready(context.Context) error { panic("a defect") }
func (panicky) Metrics() http.Handler       { panic("a defect") }

func TestPanicsStayWithTheirRequest(t *testing.T) {
	core, logs := observer.New(zap.ErrorLevel)
	h := startWith(t, api.Config{}, panicky{apitest.New(nil, nodes()...)}, zap.New(core))
	for i, path := range []string{"/readyz", "/metrics"} {
		res, b := h.do("GET", path, "")
		require.Equal(t, 500, res.StatusCode)
		require.NotContains(t, problemOf(t, res, b).Detail, "defect")
		require.Len(t, logs.FilterField(zap.Any("panic", "a defect")).All(), i+1)
	}
	res, _ := h.do("GET", "/healthz", "")
	require.Equal(t, 200, res.StatusCode)
}

func TestRefusesOtherHosts(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(nil, nodes()...))
	for _, e := range append(slices.Clone(endpoints), [2]string{"GET", "/metrics"}) {
		res, b := h.do(e[0], e[1], bodyFor(e), "Host", "evil.test:7480")
		require.Equal(t, http.StatusMisdirectedRequest, res.StatusCode, "%s %s", e[0], e[1])
		require.Contains(t, problemOf(t, res, b).Detail, "evil.test")
	}
	res, _ := h.do("GET", "/v1/status", "", "Host", "localhost:1")
	require.Equal(t, 200, res.StatusCode)
	res, _ = h.do("GET", "/healthz", "", "Host", "probe.test")
	require.Equal(t, 200, res.StatusCode)
}

func TestRefusesOtherOrigins(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(nil, nodes()...))
	res, b := h.do("POST", "/v1/jobs", anyJob, "Sec-Fetch-Site", "cross-site")
	require.Equal(t, http.StatusForbidden, res.StatusCode)
	problemOf(t, res, b)
	res, _ = h.do("POST", "/v1/jobs", anyJob, "Origin", "http://evil.test")
	require.Equal(t, http.StatusForbidden, res.StatusCode)
	for _, e := range [][2]string{{"POST", "/v1/jobs/x/cancel"}, {"POST", "/v1/members/test/drain"}, {"DELETE", "/v1/members/test/drain"}, {"POST", "/v1/rebalance"}} {
		res, _ = h.do(e[0], e[1], "", "Sec-Fetch-Site", "cross-site")
		require.Equal(t, http.StatusForbidden, res.StatusCode)
	}
	require.Equal(t, api.MemberServing, get[api.MemberList](h, "/v1/members").Members[0].State)
	require.Empty(t, get[api.JobList](h, "/v1/jobs").Jobs)
}

func TestToken(t *testing.T) {
	h := start(t, api.Config{Token: "s3cret"}, apitest.New(nil, nodes()...))
	for _, e := range append(slices.Clone(endpoints), [2]string{"GET", "/metrics"}, [2]string{"GET", "/openapi.json"}, [2]string{"GET", "/docs"}) {
		for _, authorization := range []string{"", "Bearer", "Bearer wrong", "Bearer s3cret2", "Basic s3cret", "s3cret"} {
			res, b := h.do(e[0], e[1], bodyFor(e), "Authorization", authorization)
			require.Equal(t, http.StatusUnauthorized, res.StatusCode, "%s %s %q", e[0], e[1], authorization)
			require.Contains(t, res.Header.Get("WWW-Authenticate"), "Bearer")
			problemOf(t, res, b)
		}
	}
	res, _ := h.do("GET", "/v1/nodes", "", "Authorization", "bearer s3cret")
	require.Equal(t, 200, res.StatusCode)
	for _, path := range []string{"/healthz", "/readyz"} {
		res, _ := h.do("GET", path, "")
		require.Equal(t, 200, res.StatusCode)
	}
}

func TestUnknownPathsAndMethods(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(nil, nodes()...))
	for path, status := range map[string]int{"/": 404, "/v1": 404, "/v2/jobs": 404, "/v1/jobs/a/b": 404} {
		res, b := h.do("GET", path, "")
		require.Equal(t, status, res.StatusCode, path)
		require.Contains(t, problemOf(t, res, b).Detail, "/docs")
	}
	res, b := h.do("DELETE", "/v1/jobs/a", "")
	require.Equal(t, 405, res.StatusCode)
	require.Equal(t, "GET, HEAD", res.Header.Get("Allow"))
	problemOf(t, res, b)
}

func TestConfigRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  api.Config
		want string
	}{
		"any address":   {api.Config{Listen: ":7480"}, "api.token"},
		"wildcard":      {api.Config{Listen: "0.0.0.0:7480"}, "api.allow_open"},
		"name":          {api.Config{Listen: "example.test:7480"}, "api.listen"},
		"no port":       {api.Config{Listen: "127.0.0.1"}, "api.listen"},
		"odd port":      {api.Config{Listen: "127.0.0.1:99999"}, "api.listen"},
		"space":         {api.Config{Token: "a b"}, "api.token"},
		"negative time": {api.Config{WriteTimeout: -1}, "api.write_timeout"},
	} {
		_, err := api.New(c.cfg, apitest.New(nil), nil)
		require.ErrorContains(t, err, c.want, name)
	}
	for _, cfg := range []api.Config{
		{Listen: "[::1]:0"}, {Listen: "localhost:0"}, {Listen: "127.9.9.9:0"},
		{Listen: ":0", Token: "x"}, {Listen: ":0", AllowOpen: true}, {},
	} {
		_, err := api.New(cfg, apitest.New(nil), nil)
		require.NoError(t, err)
	}
}

func TestOpenServerAnswersToEveryHost(t *testing.T) {
	h := start(t, api.Config{AllowOpen: true}, apitest.New(nil, nodes()...))
	res, _ := h.do("GET", "/v1/nodes", "", "Host", "roost.test")
	require.Equal(t, 200, res.StatusCode)
}

func TestStartFailsWhenTheAddressIsTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	s, err := api.New(api.Config{Listen: l.Addr().String()}, apitest.New(nil), nil)
	require.NoError(t, err)
	require.Nil(t, s.Addr())
	require.ErrorContains(t, s.Start(t.Context()), "api.listen")
	require.NoError(t, s.Close(t.Context()))
	require.ErrorContains(t, s.Start(t.Context()), "closed")
}
