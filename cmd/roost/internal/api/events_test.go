package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/cmd/roost/internal/api/apitest"
	"github.com/roost-server/roost/protocol"
)

// reader reads one stream of events.
type reader struct {
	t        *testing.T
	body     io.ReadCloser
	lines    *bufio.Reader
	comments int
}

type event struct {
	id, name, data string
}

func (h *harness) follow(path string) *reader {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), http.MethodGet, h.base+path, nil)
	require.NoError(h.t, err)
	req.Header.Set("Accept", "text/event-stream")
	res, err := h.client.Do(req)
	require.NoError(h.t, err)
	require.Equal(h.t, http.StatusOK, res.StatusCode)
	require.Equal(h.t, "text/event-stream", res.Header.Get("Content-Type"))
	return &reader{t: h.t, body: res.Body, lines: bufio.NewReader(res.Body)}
}

// next returns the next event, or false at the end of the stream, which it then checks as a whole.
func (r *reader) next() (ev event, ok bool) {
	r.t.Helper()
	for {
		line, err := r.lines.ReadString('\n')
		if err != nil {
			require.ErrorIs(r.t, err, io.EOF)
			require.NoError(r.t, r.body.Close())
			return ev, false
		}
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "":
			if ev.name != "" {
				return ev, true
			}
		case line[0] == ':':
			r.comments++
		default:
			name, value, _ := strings.Cut(line, ": ")
			switch name {
			case "id":
				ev.id = value
			case "event":
				ev.name = value
			case "data":
				ev.data = value
			}
		}
	}
}

func (r *reader) rest() []event {
	r.t.Helper()
	var all []event
	for {
		ev, ok := r.next()
		if !ok {
			return all
		}
		all = append(all, ev)
	}
}

func names(events []event) string {
	out := make([]string, 0, len(events))
	for _, ev := range events {
		out = append(out, ev.name)
	}
	return strings.Join(out, " ")
}

func TestFollowBeforeSubmit(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(nil, nodes()...))
	r := h.follow("/v1/jobs/a%2Fb/events")
	require.Eventually(t, func() bool { return h.backend.Following("a/b") == 1 }, 5*time.Second, time.Millisecond)
	res, b := h.do("POST", "/v1/jobs", `{"id":"a/b","kind":"http","target":{"nodes":["au-1","de-1"]}}`)
	require.Equal(t, 202, res.StatusCode, "%s", b)
	for i, want := range []string{"waiting", "running"} {
		ev, ok := r.next()
		require.True(t, ok)
		require.Equal(t, fmt.Sprint(i+1), ev.id)
		require.Equal(t, "state", ev.name)
		require.Contains(t, ev.data, `"state":"`+want+`"`)
	}
	h.backend.Progress("a/b", "de-1", json.RawMessage(`{"hop":3}`))
	ev, _ := r.next()
	require.Equal(t, "progress", ev.name)
	require.Contains(t, ev.data, `"data":{"hop":3}`)
	require.NoError(t, h.backend.Record("a/b", "de-1", apitest.Run{Outcome: protocol.OutcomeFailed, Error: "line one\nline two"}))
	ev, _ = r.next()
	require.Equal(t, "result", ev.name)
	require.Contains(t, ev.data, `"error":"line one\nline two"`)
	require.NoError(t, h.backend.Record("a/b", "au-1", apitest.Run{Outcome: protocol.OutcomeOK}))
	rest := r.rest()
	require.Equal(t, "result state done", names(rest))
	var done api.JobView
	require.NoError(t, json.Unmarshal([]byte(rest[2].data), &done))
	require.Equal(t, map[string]int{"ok": 1, "failed": 1}, done.Outcomes)
	require.Empty(t, done.Results)
}

func TestFollowADoneJobReplays(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(okHandler, nodes()...))
	h.do("POST", "/v1/jobs", `{"id":"d","kind":"http","target":{"nodes":["au-1","de-1"]}}`)
	for range 2 {
		require.Equal(t, "state result result done", names(h.follow("/v1/jobs/d/events").rest()))
	}
}

func TestFollowInterrupted(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(nil, nodes()...))
	h.do("POST", "/v1/jobs", `{"id":"i","kind":"http","target":{"node":"au-1"}}`)
	r := h.follow("/v1/jobs/i/events")
	require.Eventually(t, func() bool { return h.backend.Following("i") == 1 }, 5*time.Second, time.Millisecond)
	h.backend.Interrupt("i")
	rest := r.rest()
	require.Equal(t, "state error", names(rest))
	require.Contains(t, rest[1].data, `"reason":"interrupted"`)

	r = h.follow("/v1/jobs/never/events")
	require.Eventually(t, func() bool { return h.backend.Following("never") == 1 }, 5*time.Second, time.Millisecond)
	h.backend.Interrupt("never")
	require.Equal(t, "error", names(r.rest()))
}

func TestFollowEndsWithTheServer(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(nil, nodes()...))
	r := h.follow("/v1/jobs/x/events")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	closed := make(chan error, 1)
	go func() { closed <- h.server.Close(ctx) }()
	rest := r.rest()
	require.Equal(t, "error", names(rest))
	require.Contains(t, rest[0].data, `"reason":"shutdown"`)
	require.NoError(t, <-closed)
	require.Eventually(t, func() bool { return h.backend.Following("x") == 0 }, 5*time.Second, time.Millisecond)
}

func TestFollowEndsWithTheClient(t *testing.T) {
	h := start(t, api.Config{MaxStreams: 1, ReadTimeout: 50 * time.Millisecond}, apitest.New(nil, nodes()...))
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.base+"/v1/jobs/x/events", nil)
	require.NoError(t, err)
	next := h.client.Transport.(*checked).next
	res, err := (&http.Client{Transport: next}).Do(req)
	require.NoError(t, err)
	defer res.Body.Close()

	refused, b := h.do("GET", "/v1/jobs/y/events", "")
	require.Equal(t, 503, refused.StatusCode)
	require.Contains(t, problemOf(t, refused, b).Detail, "limit")
	require.NotEmpty(t, refused.Header.Get("Retry-After"))

	cancel()
	require.Eventually(t, func() bool { return h.backend.Following("x") == 0 }, 5*time.Second, time.Millisecond)
	require.Eventually(t, func() bool {
		res, _ := h.do("GET", "/v1/nodes", "")
		return res.StatusCode == 200 && canFollow(h)
	}, 5*time.Second, 10*time.Millisecond, "the place is free again")
}

func canFollow(h *harness) bool {
	ctx, cancel := context.WithCancel(h.t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.base+"/v1/jobs/z/events", nil)
	require.NoError(h.t, err)
	res, err := (&http.Client{Transport: h.client.Transport.(*checked).next}).Do(req)
	require.NoError(h.t, err)
	_ = res.Body.Close()
	return res.StatusCode == 200
}

// A stream outlives the server's timeouts for requests, and says that it is alive.
func TestFollowOutlivesTimeouts(t *testing.T) {
	cfg := api.Config{ReadTimeout: 30 * time.Millisecond, WriteTimeout: 30 * time.Millisecond, KeepAlive: 20 * time.Millisecond}
	h := start(t, cfg, apitest.New(nil, nodes()...))
	r := h.follow("/v1/jobs/k/events")
	for range 10 { // the greeting, and nine intervals
		line, err := r.lines.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, byte(':'), line[0])
		_, err = r.lines.ReadString('\n')
		require.NoError(t, err)
	}
	h.do("POST", "/v1/jobs", `{"id":"k","kind":"http","target":{"node":"au-1"}}`)
	require.NoError(t, h.backend.Record("k", "au-1", apitest.Run{}))
	require.Equal(t, "state state result state done", names(r.rest()))
}

// A client that does not read holds up nobody, costs bounded memory, and is told that it missed some.
func TestSlowClientIsCut(t *testing.T) {
	h := start(t, api.Config{StreamEvents: 64, StreamBytes: 1 << 20}, apitest.New(nil, nodes()...))
	c, err := net.Dial("tcp", h.server.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	_, err = fmt.Fprintf(c, "GET /v1/jobs/s/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return h.backend.Following("s") == 1 }, 5*time.Second, time.Millisecond)

	fast := h.follow("/v1/jobs/s/events")
	h.do("POST", "/v1/jobs", `{"id":"s","kind":"http","target":{"node":"au-1"}}`)
	require.Eventually(t, func() bool { return h.backend.Following("s") == 2 }, 5*time.Second, time.Millisecond)
	for range 2 {
		ev, ok := fast.next()
		require.True(t, ok)
		require.Equal(t, "state", ev.name)
	}
	big := json.RawMessage(`"` + strings.Repeat("x", 100_000) + `"`)
	for i := 0; h.backend.Following("s") == 2; i++ {
		require.Less(t, i, 2000, "the slow client is never cut")
		h.backend.Progress("s", "au-1", big)
		ev, ok := fast.next() // the fast one goes on
		require.True(t, ok)
		require.Equal(t, "progress", ev.name)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err)
	slow := &reader{t: t, body: res.Body, lines: bufio.NewReader(res.Body)}
	rest := slow.rest()
	require.Equal(t, "error", rest[len(rest)-1].name)
	require.Contains(t, rest[len(rest)-1].data, `"reason":"slow"`)
	require.NoError(t, h.backend.Record("s", "au-1", apitest.Run{}))
	require.Equal(t, "result state done", names(fast.rest()))
}

// What is known of a job with the most targets fits the default buffer, even at once.
func TestReplayOfTheLargestJob(t *testing.T) {
	h := start(t, api.Config{}, apitest.New(nil))
	targets := make([]string, 10_000)
	for i := range targets {
		targets[i] = fmt.Sprintf(`"n%d"`, i)
	}
	res, b := h.do("POST", "/v1/jobs", `{"id":"l","kind":"http","target":{"nodes":[`+strings.Join(targets, ",")+`]}}`)
	require.Equal(t, 202, res.StatusCode, "%s", b)
	for i := range targets {
		require.NoError(t, h.backend.Record("l", fmt.Sprintf("n%d", i), apitest.Run{Error: strings.Repeat("e", 100)}))
	}
	rest := h.follow("/v1/jobs/l/events").rest()
	require.Len(t, rest, 10_002)
	require.Equal(t, "done", rest[10_001].name)
}
