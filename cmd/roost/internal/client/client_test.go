package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/cmd/roost/internal/api/apitest"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve answers every request with f.
func serve(t *testing.T, f http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	c, err := New(s.URL+"/", "tok")
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// member serves the real API over a small backend.
func member(t *testing.T, b *apitest.Backend) *Client {
	t.Helper()
	s, err := api.New(api.Config{Listen: "127.0.0.1:0"}, b, nil)
	require.NoError(t, err)
	require.NoError(t, s.Start(t.Context()))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, s.Close(ctx))
	})
	c, err := New("http://"+s.Addr().String(), "")
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func TestNewRefusesAddresses(t *testing.T) {
	for _, base := range []string{"", "127.0.0.1:7480", "localhost", "ftp://x", "http://", "http://[::1"} {
		_, err := New(base, "")
		require.ErrorContains(t, err, "is not a URL", base)
	}
}

func TestAllOfTheAPI(t *testing.T) {
	b := apitest.New(func(*record.Job, api.NodeView) (apitest.Run, bool) {
		return apitest.Run{Outcome: protocol.OutcomeOK, Output: 1}, true
	}, api.NodeView{ID: "a/b c", Country: "AU", ASN: 7, City: "Alice Springs", Platform: "linux/arm64", Tags: []string{"t"}, Kinds: []string{"k"}}, api.NodeView{ID: "other"})
	c, ctx := member(t, b), t.Context()
	a, err := c.Submit(ctx, &api.JobRequest{ID: "j?/#1", Kind: "k", Target: api.TargetRequest{Node: "other"}, Tenant: "x"})
	require.NoError(t, err)
	require.Equal(t, api.Accepted{ID: "j?/#1", Key: "other"}, a)
	j, err := c.Job(ctx, "j?/#1")
	require.NoError(t, err)
	require.Equal(t, "1", string(j.Results[0].Output))
	list, err := c.Jobs(ctx, api.JobFilter{State: api.StateDone, Tenant: "x", Node: "other", Limit: 5})
	require.NoError(t, err)
	require.Len(t, list.Jobs, 1)
	marks, err := c.Watermarks(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 40, marks.Watermarks[0].Offset)
	page, err := c.Nodes(ctx, api.NodeFilter{Country: "AU", ASN: 7, City: "Alice Springs", Platform: "linux/arm64", Tag: "t", Kind: "k", Prefix: "a/", Limit: 5})
	require.NoError(t, err)
	require.Equal(t, 1, page.Total)
	n, err := c.Node(ctx, "a/b c")
	require.NoError(t, err)
	require.Equal(t, "Alice Springs", n.City)
	v, err := c.Status(ctx)
	require.NoError(t, err)
	require.Equal(t, 2, v.Nodes)

	s, err := c.Follow(ctx, "j?/#1")
	require.NoError(t, err)
	defer s.Close()
	var types []api.EventType
	for {
		ev, err := s.Next()
		require.NoError(t, err)
		types = append(types, ev.Type)
		if ev.Type == api.EventDone {
			require.Equal(t, map[string]int{"ok": 1}, ev.Job.Outcomes)
			break
		}
	}
	require.Equal(t, []api.EventType{api.EventState, api.EventResult, api.EventDone}, types)

	_, err = c.Node(ctx, "none")
	require.True(t, IsNotFound(err))
	_, err = c.Submit(ctx, &api.JobRequest{Kind: "k"})
	require.EqualError(t, err, "validation failed: target: 0 of node, nodes and select are given; exactly one has to be")
	b.SetDown(&api.Unavailable{Reason: "busy", RetryAfter: 5 * time.Second})
	_, err = c.Status(ctx)
	var p *Problem
	require.ErrorAs(t, err, &p)
	require.Equal(t, 503, p.Status)
	require.Equal(t, 5*time.Second, p.RetryAfter)
	_, err = c.Follow(ctx, "x")
	require.ErrorAs(t, err, &p)
	require.Equal(t, 503, p.Status)
}

func TestSubmitTwiceAndCancel(t *testing.T) {
	b := apitest.New(nil, api.NodeView{ID: "n"})
	c, ctx := member(t, b), t.Context()
	job := &api.JobRequest{ID: "j/1", Kind: "k", Target: api.TargetRequest{Node: "n"}}
	_, err := c.Submit(ctx, job)
	require.NoError(t, err)
	job.Kind = "other"
	a, err := c.Submit(ctx, job)
	var dup *api.Duplicate
	require.ErrorAs(t, err, &dup)
	require.Equal(t, "k", dup.Job.Kind)
	require.Equal(t, api.StateRunning, dup.Job.State)
	require.Zero(t, a)

	v, err := c.Cancel(ctx, "j/1", "why not")
	require.NoError(t, err)
	require.Equal(t, "j/1", v.ID)
	v, err = c.Job(ctx, "j/1")
	require.NoError(t, err)
	require.Equal(t, "why not", v.Results[0].Error)
	require.Equal(t, []api.AssignmentView{{Node: "n", State: api.StateDone, Attempt: 1, Outcome: "cancelled"}}, v.Assignments)
	_, err = c.Cancel(ctx, "j/1", "")
	require.True(t, IsEnded(err))
	b.Forget("j/1")
	_, err = c.Job(ctx, "j/1")
	require.True(t, IsEnded(err))
	_, err = c.Follow(ctx, "j/1")
	require.True(t, IsEnded(err))
	_, err = c.Cancel(ctx, "none", "")
	require.True(t, IsNotFound(err))
	require.False(t, IsEnded(err))

	b.SetRebuilding(api.RebuildingView{Partition: 3, Restored: 5})
	_, err = c.Job(ctx, "none")
	p, ok := IsRebuilding(err)
	require.True(t, ok)
	require.False(t, IsNotFound(err))
	require.Equal(t, []api.RebuildingView{{Partition: 3, Restored: 5}}, p.Rebuilding)
	require.Equal(t, time.Second, p.RetryAfter)
	list, err := c.Jobs(ctx, api.JobFilter{})
	require.NoError(t, err)
	require.Equal(t, []int32{3}, list.Rebuilding)
	b.SetDown(&api.Unavailable{Reason: "busy"})
	_, err = c.Job(ctx, "none")
	_, ok = IsRebuilding(err)
	require.False(t, ok)
}

func TestAnswersThatAreNotTheAPIs(t *testing.T) {
	for name, test := range map[string]struct {
		f    http.HandlerFunc
		want string
	}{
		"page":     {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }, "not what was expected"},
		"error":    {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "oops", 502) }, "HTTP status 502 Bad Gateway"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "http://evil.test/", 302) }, "HTTP status 302 Found"},
		"bad error": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(500)
			fmt.Fprint(w, "{")
		}, "HTTP status 500"},
		"cut": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "{")
		}, "broke off"},
	} {
		c := serve(t, test.f)
		_, err := c.Status(t.Context())
		require.ErrorContains(t, err, test.want, name)
	}
}

func TestTokenIsSent(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer tok" || r.URL.Path != "/v1/status" {
			w.WriteHeader(401)
			return
		}
		fmt.Fprint(w, `{}`)
	})
	_, err := c.Status(t.Context())
	require.NoError(t, err)
}

func TestUnreachable(t *testing.T) {
	s := httptest.NewServer(nil)
	c, err := New(s.URL, "")
	require.NoError(t, err)
	s.Close()
	_, err = c.Status(t.Context())
	var u *Unreachable
	require.ErrorAs(t, err, &u)
	require.Contains(t, err.Error(), s.URL)
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("stop")
	cancel(reason)
	_, err = c.Status(ctx)
	require.ErrorIs(t, err, reason, "not taken for the API's fault")
}

func TestStreams(t *testing.T) {
	stream := func(body string) *Stream {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, body)
		})
		s, err := c.Follow(t.Context(), "x")
		require.NoError(t, err)
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	s := stream(": hello\n\nevent: news\ndata: {}\n\nid: 2\nevent:result\ndata:{\"node\":\"n\"}\n\n: x\n\n")
	ev, err := s.Next()
	require.NoError(t, err, "comments and unknown events are skipped")
	require.Equal(t, "n", ev.Result.Node)
	_, err = s.Next()
	var end *StreamError
	require.ErrorAs(t, err, &end)
	require.Empty(t, end.Reason)

	_, err = stream("event: error\ndata: {\"reason\":\"slow\",\"detail\":\"too slow\"}\n\n").Next()
	require.ErrorAs(t, err, &end)
	require.Equal(t, "slow", end.Reason)
	require.ErrorContains(t, err, "too slow")

	_, err = stream("event: result\ndata: {\n\n").Next()
	require.ErrorContains(t, err, "event result")
	_, err = stream("event: result\ndata: {\"node\":\"half").Next()
	require.ErrorAs(t, err, &end, "a part of an event is none")
	_, err = stream("data: " + strings.Repeat("x", maxLineBytes+1)).Next()
	require.ErrorAs(t, err, &end, "memory is bounded")
}

func TestStreamEndsWithItsContext(t *testing.T) {
	c := member(t, apitest.New(nil))
	ctx, cancel := context.WithCancel(t.Context())
	s, err := c.Follow(ctx, "x")
	require.NoError(t, err)
	cancel()
	_, err = s.Next()
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, s.Close())
}
