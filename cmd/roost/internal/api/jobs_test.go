package api_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/cmd/roost/internal/api/apitest"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// submit submits a job that is accepted.
func (h *harness) submit(body string) {
	h.t.Helper()
	res, b := h.do("POST", "/v1/jobs", body)
	require.Equal(h.t, http.StatusAccepted, res.StatusCode, "%s", b)
}

func TestSubmitTwice(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(okHandler, nodes()...))
	h.submit(`{"id":"a1","kind":"http","target":{"nodes":["au-1","absent"]},"tenant":"x"}`)
	res, b := h.do("POST", "/v1/jobs", `{"id":"a1","kind":"dns","target":{"node":"de-1"}}`)
	require.Equal(t, http.StatusOK, res.StatusCode, "%s", b)
	require.Equal(t, "/v1/jobs/a1", res.Header.Get("Location"))
	var known api.Known
	require.NoError(t, json.Unmarshal(b, &known))
	require.True(t, known.Duplicate)
	require.Equal(t, "http", known.Kind, "the first one")
	require.Equal(t, map[string]int{"ok": 1}, known.Outcomes)
	require.Equal(t, 2, known.Targets)
	require.Len(t, get[api.JobList](h, "/v1/jobs").Jobs, 1)

	h.backend.Forget("a1")
	res, b = h.do("POST", "/v1/jobs", `{"id":"a1","kind":"dns","target":{"node":"de-1"}}`)
	require.Equal(t, http.StatusOK, res.StatusCode, "%s", b)
	require.Contains(t, string(b), `"duplicate":true`)
	require.Contains(t, string(b), `"state":"done"`)
	require.Contains(t, string(b), `"outcomes":{}`)
}

func TestSubmitTakesAllKnobs(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(nil, nodes()...))
	h.submit(`{"id":"a","kind":"http","target":{"node":"au-1"},"timeout_ms":5,"deadline_ms":1790000000000,"not_before_ms":1780000000000,"attempts":7,"backoff_ms":0,"priority":9,"tenant":"t"}`)
	v := get[api.JobView](h, "/v1/jobs/a")
	require.EqualValues(t, 1790000000000, v.DeadlineMs)
	require.EqualValues(t, 1780000000000, v.NotBeforeMs)
	require.EqualValues(t, 7, v.AttemptsMax)
	require.EqualValues(t, 9, v.Priority)
	require.Equal(t, "t", v.Tenant)

	for body, want := range map[string]time.Duration{``: record.DefaultBackoff, `,"backoff_ms":0`: record.NoBackoff, `,"backoff_ms":250`: 250 * time.Millisecond, `,"backoff_ms":300000`: record.MaxBackoff} {
		var r api.JobRequest
		require.NoError(t, json.Unmarshal([]byte(`{"id":"a","kind":"http","target":{"node":"au-1"}`+body+`}`), &r))
		j, err := r.Record()
		require.NoError(t, err)
		require.Equal(t, want, j.Backoff, body)
	}
	for _, ms := range []int64{-1, 300_001} {
		_, err := (&api.JobRequest{ID: "a", Kind: "http", Target: api.TargetRequest{Node: "au-1"}, BackoffMs: &ms}).Record()
		require.ErrorContains(t, err, fmt.Sprintf("backoff_ms: %d; allowed are 0 to 300000", ms))
	}
	h.submit(`{"id":"b","kind":"http","target":{"node":"au-1"},"ttl_ms":60000}`)
	v = get[api.JobView](h, "/v1/jobs/b")
	require.Equal(t, v.SubmittedMs+60000, v.DeadlineMs)
}

func TestJobShowsAssignments(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(func(_ *record.Job, n api.NodeView) (apitest.Run, bool) {
		return apitest.Run{Outcome: protocol.OutcomeOK}, n.ID == "au-1"
	}, nodes()...))
	h.submit(`{"id":"a","kind":"http","target":{"nodes":["au-1","absent","de-1"]}}`)
	require.Equal(t, []api.AssignmentView{
		{Index: 0, Node: "au-1", State: "done", Attempt: 1, Outcome: "ok"},
		{Index: 1, Node: "absent", State: "waiting"},
		{Index: 2, Node: "de-1", State: "running", Attempt: 1},
	}, get[api.JobView](h, "/v1/jobs/a").Assignments)
	require.Empty(t, get[api.JobList](h, "/v1/jobs").Jobs[0].Assignments, "not in lists")

	ids := make([]string, api.MaxAssignments+1)
	for i := range ids {
		ids[i] = fmt.Sprintf(`"n%d"`, i)
	}
	h.submit(`{"id":"many","kind":"http","target":{"nodes":[` + strings.Join(ids[:api.MaxAssignments], ",") + `]}}`)
	v := get[api.JobView](h, "/v1/jobs/many")
	require.Len(t, v.Assignments, api.MaxAssignments)
	require.False(t, v.Truncated)
	h.submit(`{"id":"more","kind":"http","target":{"nodes":[` + strings.Join(ids, ",") + `]}}`)
	v = get[api.JobView](h, "/v1/jobs/more")
	require.Len(t, v.Assignments, api.MaxAssignments)
	require.True(t, v.Truncated)
	require.Equal(t, api.MaxAssignments+1, v.Targets)
}

func TestCancel(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(nil, nodes()...))
	h.submit(`{"id":"a/1","kind":"http","target":{"nodes":["au-1","de-1"]}}`)
	require.NoError(t, h.backend.Record("a/1", "de-1", apitest.Run{Outcome: protocol.OutcomeOK}))
	res, b := h.do("POST", "/v1/jobs/a%2F1/cancel", `{"reason":"no longer needed"}`)
	require.Equal(t, http.StatusAccepted, res.StatusCode, "%s", b)
	var v api.JobView
	require.NoError(t, json.Unmarshal(b, &v))
	require.Equal(t, "a/1", v.ID)
	v = get[api.JobView](h, "/v1/jobs/a%2F1")
	require.Equal(t, api.StateDone, v.State)
	require.Equal(t, map[string]int{"ok": 1, "cancelled": 1}, v.Outcomes)
	require.Equal(t, "no longer needed", v.Results[1].Error)

	for _, forgotten := range []bool{false, true} {
		if forgotten {
			h.backend.Forget("a/1")
		}
		res, b = h.do("POST", "/v1/jobs/a%2F1/cancel", "")
		require.Equal(t, http.StatusConflict, res.StatusCode, "%s", b)
		p := problemOf(t, res, b)
		require.Contains(t, p.Detail, `job a/1: "a/1" has ended already`)
		require.Equal(t, api.ProblemEnded, p.Type)
	}
	res, b = h.do("POST", "/v1/jobs/none/cancel", "{}")
	require.Equal(t, http.StatusNotFound, res.StatusCode)
	require.Equal(t, "job none: not found", problemOf(t, res, b).Detail)

	h.submit(`{"id":"b","kind":"http","target":{"node":"au-1"}}`)
	res, b = h.do("POST", "/v1/jobs/b/cancel", "")
	require.Equal(t, http.StatusAccepted, res.StatusCode, "a reason is not needed: %s", b)
	require.Empty(t, get[api.JobView](h, "/v1/jobs/b").Results[0].Error)
}

func TestCancelRefuses(t *testing.T) {
	h := start(t, api.Config{MaxBodyBytes: 4096}, apitest.New(nil, nodes()...))
	h.submit(`{"id":"a","kind":"http","target":{"node":"au-1"}}`)
	for _, c := range []struct {
		body     string
		status   int
		location string
	}{
		{`{"reason":`, 400, "body"},
		{`{"why":"x"}`, 422, "body.why"},
		{`{"reason":7}`, 422, "body.reason"},
		{`{"reason":"` + strings.Repeat("x", 257) + `"}`, 422, "body.reason"},
		{`{"reason":"` + strings.Repeat("é", 200) + `"}`, 422, "body.reason"},
	} {
		res, b := h.do("POST", "/v1/jobs/a/cancel", c.body)
		require.Equal(t, c.status, res.StatusCode, "%s: %s", c.body, b)
		require.Equal(t, c.location, problemOf(t, res, b).Errors[0].Location, c.body)
	}
	res, b := h.do("POST", "/v1/jobs/a/cancel", `{"reason":"`+strings.Repeat("x", 5000)+`"}`)
	require.Equal(t, 413, res.StatusCode)
	problemOf(t, res, b)
	res, b = h.do("POST", "/v1/jobs/a/cancel", `{}`, "Content-Type", "text/plain")
	require.Equal(t, 415, res.StatusCode)
	problemOf(t, res, b)
	require.Equal(t, api.StateRunning, get[api.JobView](h, "/v1/jobs/a").State, "nothing refused had an effect")
	res, _ = h.do("GET", "/v1/jobs/a/cancel", "")
	require.Equal(t, 405, res.StatusCode)
	require.Equal(t, "POST", res.Header.Get("Allow"))
}

// While shards are rebuilt, what is not known is never "not found".
func TestRebuilding(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(nil, nodes()...))
	h.submit(`{"id":"known","kind":"http","target":{"node":"au-1"}}`)
	h.backend.SetRebuilding(api.RebuildingView{Partition: 3, Restored: 1200}, api.RebuildingView{Partition: 7})
	for _, e := range [][2]string{{"GET", "/v1/jobs/x"}, {"POST", "/v1/jobs/x/cancel"}, {"GET", "/v1/nodes/x"}} {
		res, b := h.do(e[0], e[1], "")
		require.Equal(t, http.StatusServiceUnavailable, res.StatusCode, "%s", b)
		require.Equal(t, "1", res.Header.Get("Retry-After"))
		p := problemOf(t, res, b)
		require.Equal(t, api.ProblemRebuilding, p.Type)
		require.Contains(t, p.Detail, "x: not known yet: 2 partitions are being rebuilt, 1200 jobs so far")
		require.Equal(t, []api.RebuildingView{{Partition: 3, Restored: 1200}, {Partition: 7}}, p.Rebuilding)
		require.Empty(t, p.Errors)
	}
	require.Equal(t, "known", get[api.JobView](h, "/v1/jobs/known").ID)
	list := get[api.JobList](h, "/v1/jobs")
	require.Len(t, list.Jobs, 1)
	require.Equal(t, []int32{3, 7}, list.Rebuilding)
	require.Equal(t, []int32{3, 7}, get[api.NodePage](h, "/v1/nodes").Rebuilding)
	marks := get[api.WatermarkList](h, "/v1/watermarks").Watermarks
	require.Len(t, marks, 3)
	require.True(t, marks[1].Rebuilding)
	status := get[api.StatusView](h, "/v1/status")
	require.True(t, status.Shards[1].Rebuilding)
	require.Equal(t, 1200, status.Shards[1].Restored)

	h.backend.SetRebuilding()
	res, _ := h.do("GET", "/v1/jobs/x", "")
	require.Equal(t, http.StatusNotFound, res.StatusCode)
	_, b := h.do("GET", "/v1/jobs", "")
	require.NotContains(t, string(b), "rebuilding")
}

func TestRebuildingTellsOne(t *testing.T) {
	err := &api.Rebuilding{Shards: []api.RebuildingView{{Partition: 4, Restored: 5}}}
	require.EqualError(t, err, "not known yet: partition 4 is being rebuilt, 5 jobs so far")
	require.ErrorIs(t, err, api.ErrUnavailable)
}

// A job whose details are gone is not one that never was.
func TestEnded(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(okHandler, nodes()...))
	h.submit(`{"id":"a","kind":"http","target":{"node":"au-1"}}`)
	h.backend.Forget("a")
	for _, path := range []string{"/v1/jobs/a", "/v1/jobs/a/events"} {
		res, b := h.do("GET", path, "")
		require.Equal(t, http.StatusGone, res.StatusCode, path)
		p := problemOf(t, res, b)
		require.Equal(t, api.ProblemEnded, p.Type)
		require.Contains(t, p.Detail, `job a: "a" has ended already; its outcomes are in the topic roost.results`)
	}
}

func TestWatermarks(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(nil))
	_, b := h.do("GET", "/v1/watermarks", "")
	require.JSONEq(t, `{"watermarks":[{"partition":5,"offset":40,"job_ms":1700000000000,"pending":1,"committed":41,"rebuilding":false,"member":"test"}]}`, string(b))
	v := get[api.StatusView](h, "/v1/status")
	require.EqualValues(t, 40, v.Shards[0].Watermark)
	require.Equal(t, 2, v.Shards[0].Uncommitted)
	require.Equal(t, api.TransactionsView{Committed: 12, Aborted: 1}, v.Kafka.Transactions)
}

// The types of problem that are documented are those that clients get.
func TestProblemsOfStreamsAreWhole(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(nil))
	h.backend.SetDown(&api.Rebuilding{Shards: []api.RebuildingView{{Partition: 1}}, RetryAfter: 3 * time.Second})
	res, err := h.client.Get(h.base + "/v1/jobs/x/events")
	require.NoError(t, err)
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, "3", res.Header.Get("Retry-After"))
	p := problemOf(t, res, b)
	require.Equal(t, api.ProblemRebuilding, p.Type)
	require.Len(t, p.Rebuilding, 1)
	require.Contains(t, h.doc.Components.Schemas["Problem"].Value.Properties["rebuilding"].Value.Description, api.ProblemRebuilding)
}
