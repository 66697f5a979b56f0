package api_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/cmd/roost/internal/api/apitest"
)

func others() []api.MemberView {
	return []api.MemberView{
		{Name: "m 2/b", State: api.MemberServing, Nodes: 7, Version: "1.2.3", Address: "10.0.0.2:7946", NodesAddress: "10.0.0.2:7400",
			Partitions: []int32{1, 2}, ClockOffsetMs: -3, CertificateEnd: 1_800_000_000_000, Link: &api.LinkView{QueuedBytes: 5}},
		{Name: "m3", State: api.MemberDown, Reason: "silent for 3s", SinceMs: 1_700_000_000_000},
	}
}

func TestMembersAndDrain(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(nil, nodes()...))
	h.backend.SetMembers(others()...)
	h.backend.SetMissing("m4")
	list := get[api.MemberList](h, "/v1/members")
	require.Equal(t, []string{"m4"}, list.MissingMembers)
	require.Len(t, list.Members, 3)
	require.Equal(t, "test", list.Members[0].Name)
	require.Equal(t, others()[0], list.Members[1])
	require.NotNil(t, list.Members[2].Partitions)

	res, b := h.do("POST", "/v1/members/m%202%2Fb/drain", `{"rate_per_s":9,"to":["test","10.1.1.1:7400"]}`)
	require.Equal(t, http.StatusAccepted, res.StatusCode, "%s", b)
	var m api.MemberView
	require.NoError(t, json.Unmarshal(b, &m))
	require.Equal(t, api.MemberDraining, m.State)
	require.Equal(t, &api.DrainView{RatePerS: 9, To: []string{"test", "10.1.1.1:7400"}, BeganMs: 1_700_000_000_000, Began: 7}, m.Drain)
	res, _ = h.do("DELETE", "/v1/members/m%202%2Fb/drain", "")
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, others()[0], get[api.MemberList](h, "/v1/members").Members[1])

	res, b = h.do("POST", "/v1/members/test/drain", "")
	require.Equal(t, http.StatusAccepted, res.StatusCode, "%s", b)
	h.backend.Leave(100)
	require.NotZero(t, get[api.MemberList](h, "/v1/members").Members[0].Drain.EndedMs)
}

func TestDrainRefuses(t *testing.T) {
	h := start(t, api.Config{MaxBodyBytes: 4096}, apitest.New(nil))
	h.backend.SetMembers(others()...)
	h.backend.SetMissing("m3")
	long := `{"to":["` + strings.Repeat("x", 5000) + `"]}`
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "/v1/members/none/drain", "", 404, "member none: "},
		{"DELETE", "/v1/members/none/drain", "", 404, "member none: "},
		{"POST", "/v1/members/test/drain", `{"to":["mm"]}`, 400, `"mm"`},
		{"POST", "/v1/members/m3/drain", "", 503, "m3"},
		{"POST", "/v1/members/test/drain", `{"rate_per_s":0}`, 422, "validation"},
		{"POST", "/v1/members/test/drain", long, 413, "4096"},
		{"POST", "/v1/rebalance", `{"rate_per_s":100001}`, 422, "validation"},
		{"POST", "/v1/rebalance", long, 413, "4096"},
	} {
		res, b := h.do(c.method, c.path, c.body)
		require.Equal(t, c.status, res.StatusCode, "%s %s %s: %s", c.method, c.path, c.body, b)
		p := problemOf(t, res, b)
		require.Contains(t, p.Detail, c.want)
		if c.status == 503 {
			require.Equal(t, api.ProblemMissingMembers, p.Type)
			require.Equal(t, []string{"m3"}, p.MissingMembers)
			require.Equal(t, "1", res.Header.Get("Retry-After"))
		}
	}
	tooLong := strings.Repeat("x", 257)
	for method, path := range map[string]string{"DELETE": "/v1/members/" + tooLong + "/drain", "GET": "/v1/tree?member=" + tooLong} {
		res, b := h.do(method, path, "")
		require.Equal(t, 422, res.StatusCode, "%s", b)
	}
	for _, path := range []string{"/v1/members/test/drain", "/v1/rebalance"} {
		res, b := h.do("POST", path, "{}", "Content-Type", "text/plain")
		require.Equal(t, 415, res.StatusCode, "%s", b)
	}
	h.backend.SetDown(fmt.Errorf("%w: nowhere to go", api.ErrInvalid))
	for _, e := range [][2]string{{"DELETE", "/v1/members/test/drain"}, {"POST", "/v1/rebalance"}} {
		res, b := h.do(e[0], e[1], "")
		require.Equal(t, 400, res.StatusCode, "%s", b)
		require.Contains(t, problemOf(t, res, b).Detail, "nowhere to go")
	}
	h.backend.SetDown(nil)
	require.Equal(t, api.MemberServing, get[api.MemberList](h, "/v1/members").Members[0].State, "nothing refused was begun")
}

func TestRebalance(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(nil))
	res, b := h.do("POST", "/v1/rebalance", "")
	require.Equal(t, http.StatusAccepted, res.StatusCode)
	require.JSONEq(t, `{"moves":[]}`, string(b))
	h.backend.SetMembers(others()...)
	_, b = h.do("POST", "/v1/rebalance", `{"rate_per_s":9}`)
	require.JSONEq(t, `{"moves":[{"member":"test","nodes":2,"to":["m 2/b","m3"]}]}`, string(b))
}

func TestTree(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(nil, nodes()...))
	h.backend.SetMissing("m2")
	list := get[api.TreeList](h, "/v1/tree")
	require.Equal(t, []string{"m2"}, list.MissingMembers)
	require.Equal(t, "test", list.Trees[0].Member)
	last := list.Trees[0].Actors[len(list.Trees[0].Actors)-1]
	require.Equal(t, api.ActorView{Path: "member/gates/gate-0/session", Count: 4}, last)
	require.Len(t, get[api.TreeList](h, "/v1/tree?member=test").Trees, 1)
	for query, status := range map[string]int{"none": 404, "m2": 503} {
		res, b := h.do("GET", "/v1/tree?member="+query, "")
		require.Equal(t, status, res.StatusCode, "%s", b)
	}
}

// A partial answer says so.
func TestMissingMembers(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(nil, nodes()...))
	h.backend.SetMissing("m2", "m3")
	for _, path := range []string{"/v1/status", "/v1/watermarks", "/v1/nodes", "/v1/jobs"} {
		v := get[api.Missing](h, path)
		require.Equal(t, []string{"m2", "m3"}, v.MissingMembers, path)
	}
	h.backend.SetDown(&api.MissingMembers{Members: []string{"m2"}, RetryAfter: 3 * time.Second})
	for _, path := range []string{"/v1/jobs/x", "/v1/nodes/x"} {
		res, b := h.do("GET", path, "")
		require.Equal(t, 503, res.StatusCode)
		require.Equal(t, "3", res.Header.Get("Retry-After"))
		p := problemOf(t, res, b)
		require.Equal(t, api.ProblemMissingMembers, p.Type)
		require.Equal(t, []string{"m2"}, p.MissingMembers)
		require.Contains(t, p.Detail, "no answer came in time from m2")
	}
}

func TestTrace(t *testing.T) {
	h := start(t, api.Config{KeepAlive: 5 * time.Millisecond}, apitest.New(nil))
	r := h.follow("/v1/trace?job=a")
	require.Eventually(t, func() bool { return h.backend.Tracing() == 1 }, 5*time.Second, time.Millisecond)
	want := api.TraceEvent{TimeUs: 5, Member: "m2", Step: api.StepSent, Node: "n", Job: "a", Attempt: 2, Text: "x"}
	h.backend.Step(api.TraceEvent{Member: "m2", Step: api.StepSent, Job: "b"})
	h.backend.Step(want)
	ev, ok := r.next()
	require.True(t, ok)
	require.Equal(t, "trace", ev.name)
	var got api.TraceEvent
	require.NoError(t, json.Unmarshal([]byte(ev.data), &got))
	require.Equal(t, want, got)
	h.backend.StopTracing()
	require.Equal(t, "error", names(r.rest()))

	res, b := h.do("GET", "/v1/trace", "")
	require.Equal(t, 422, res.StatusCode)
	require.Contains(t, problemOf(t, res, b).Errors[0].Message, "what is to be traced")
	h.backend.SetDown(errors.New("broken"))
	res, b = h.do("GET", "/v1/trace?node=x", "")
	require.Equal(t, 500, res.StatusCode)
	problemOf(t, res, b)
	require.Zero(t, h.backend.Tracing())
}

// A trace that its client leaves is left by the backend, too.
func TestTraceEndsWithItsClient(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(nil))
	res, err := (&http.Client{Transport: h.client.Transport.(*checked).next}).Get(h.base + "/v1/trace?node=n&job=a")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return h.backend.Tracing() == 1 }, 5*time.Second, time.Millisecond)
	require.NoError(t, res.Body.Close())
	require.Eventually(t, func() bool { return h.backend.Tracing() == 0 }, 5*time.Second, time.Millisecond)
}
