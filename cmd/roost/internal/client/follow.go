package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/roost-server/roost/cmd/roost/internal/api"
)

// maxLineBytes caps a line of a stream: the largest output as JSON, several times over.
const maxLineBytes = 4 << 20

// Event is one event of a stream; the field that Type tells is set. The last event of a job that ended
// has Type [api.EventDone] and Job.
type Event struct {
	Type     api.EventType
	Result   *api.ResultView
	Progress *api.ProgressView
	Job      *api.JobView
	Trace    *api.TraceEvent
}

// StreamError says why a stream ended before its job. The job goes on.
type StreamError struct {
	Reason string // slow, shutdown or interrupted, or empty when the connection broke
	Detail string
}

// Error implements error.
func (e *StreamError) Error() string { return "the stream of events ended: " + e.Detail }

// Stream is a stream of events, of one job or of a trace. It belongs to one goroutine; the context of
// Follow or Trace ends it.
type Stream struct {
	body  io.ReadCloser
	lines *bufio.Scanner
}

// Follow opens a stream of a job's events; when it returns, the member watches for the job, also if it
// has not been submitted yet. The caller closes the stream.
func (c *Client) Follow(ctx context.Context, id string) (*Stream, error) {
	return c.stream(ctx, "/v1/jobs/"+url.PathEscape(id)+"/events")
}

// Trace opens a stream of the steps of a job, or of the jobs of a node, from now on. The caller closes
// the stream.
func (c *Client) Trace(ctx context.Context, f api.TraceFilter) (*Stream, error) {
	q := url.Values{}
	set(q, "node", f.Node)
	set(q, "job", f.Job)
	return c.stream(ctx, "/v1/trace?"+q.Encode())
}

func (c *Client) stream(ctx context.Context, path string) (*Stream, error) {
	res, err := c.send(ctx, http.MethodGet, path, nil, "text/event-stream")
	if err != nil {
		return nil, err
	}
	s := &Stream{body: res.Body, lines: bufio.NewScanner(res.Body)}
	s.lines.Buffer(make([]byte, 0, 16<<10), maxLineBytes)
	return s, nil
}

// Close closes the stream.
func (s *Stream) Close() error { return s.body.Close() }

// Next returns the next event; nothing follows [api.EventDone]. A stream that ends
// before that is a *[StreamError]. Events of types that this version does not know are skipped.
func (s *Stream) Next() (Event, error) {
	var name, data []byte
	for s.lines.Scan() {
		line := s.lines.Bytes()
		if len(line) > 0 {
			field, value, _ := bytes.Cut(line, []byte(":"))
			value = bytes.TrimPrefix(value, []byte(" "))
			switch string(field) { // a comment's is empty
			case "event":
				name = bytes.Clone(value)
			case "data":
				data = bytes.Clone(value)
			}
			continue
		}
		if name == nil {
			continue
		}
		ev, ok, err := decode(api.EventType(name), data)
		if err != nil || ok {
			return ev, err
		}
		name, data = nil, nil
	}
	err := s.lines.Err()
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return Event{}, err
	case err != nil:
		return Event{}, &StreamError{Detail: err.Error()}
	}
	return Event{}, &StreamError{Detail: "the connection closed"}
}

func decode(name api.EventType, data []byte) (ev Event, ok bool, err error) {
	ev.Type = name
	var v any
	switch name {
	case api.EventResult:
		ev.Result = &api.ResultView{}
		v = ev.Result
	case api.EventProgress:
		ev.Progress = &api.ProgressView{}
		v = ev.Progress
	case api.EventTrace:
		ev.Trace = &api.TraceEvent{}
		v = ev.Trace
	case api.EventState, api.EventDone:
		ev.Job = &api.JobView{}
		v = ev.Job
	case api.EventError:
		var end api.StreamEnd
		if err := json.Unmarshal(data, &end); err != nil {
			return ev, false, fmt.Errorf("event %s: %w", name, err)
		}
		return ev, false, &StreamError{Reason: end.Reason, Detail: end.Detail}
	default:
		return ev, false, nil
	}
	if err := json.Unmarshal(data, v); err != nil {
		return ev, false, fmt.Errorf("event %s: %w", name, err)
	}
	return ev, true, nil
}
