package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"go.uber.org/zap"
)

// Names of server-sent events besides the types of [Event].
const (
	// EventDone is the last event of a stream whose job is done; its data is a [JobView].
	EventDone EventType = "done"
	// EventError is the last event of a stream that ends before the job; its data is a [StreamEnd].
	EventError EventType = "error"
)

type followInput struct {
	ID string `path:"id" minLength:"1" maxLength:"128" doc:"The job's id"`
}

const followDescription = `Server-sent events (WHATWG HTML, section 9.2): what is known of the job, then what
happens, until its last outcome. A job that has not been seen yet is waited for, so that a client can
follow first and submit then, and miss nothing.

The stream ends after the event "done", or after "error" when it ends before the job does. The ids
number the events of this stream; a new stream begins with all that is known. Comments keep a silent
stream alive.`

func (s *Server) registerEvents() {
	huma.Register(s.huma, huma.Operation{
		OperationID: "follow-job", Method: http.MethodGet, Path: "/v1/jobs/{id}/events", Tags: []string{"jobs"},
		Summary: "Follow a job", Description: followDescription,
		Responses: map[string]*huma.Response{"200": {
			Description: "The events",
			Content: map[string]*huma.MediaType{"text/event-stream": {Schema: s.eventSchema(streamed{EventResult, ResultView{}}, streamed{EventProgress, ProgressView{}},
				streamed{EventState, JobView{}}, streamed{EventDone, JobView{}}, streamed{EventError, StreamEnd{}})}},
		}},
		Errors: s.errors(http.StatusNotFound, http.StatusGone, http.StatusServiceUnavailable),
	}, func(_ context.Context, in *followInput) (*huma.StreamResponse, error) {
		return &huma.StreamResponse{Body: func(hc huma.Context) { s.follow(hc, in.ID) }}, nil
	})
}

// streamed is one type of event of a stream, with a value of its data's type.
type streamed struct {
	name EventType
	data any
}

// eventSchema describes the stream as a list of events, each an object of its fields.
func (s *Server) eventSchema(events ...streamed) *huma.Schema {
	minimum := 1.0
	out := &huma.Schema{
		Type:        huma.TypeArray,
		Description: "The events of the stream; data is one line of JSON",
		Items:       &huma.Schema{},
	}
	for _, e := range events {
		out.Items.OneOf = append(out.Items.OneOf, &huma.Schema{
			Title: "Event " + string(e.name), Type: huma.TypeObject,
			Properties: map[string]*huma.Schema{
				"id":    {Type: huma.TypeInteger, Minimum: &minimum, Description: "Numbers the events of this stream"},
				"event": {Type: huma.TypeString, Enum: []any{string(e.name)}},
				"data":  s.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeOf(e.data), true, ""),
			},
			Required: []string{"id", "event", "data"}, AdditionalProperties: false,
		})
	}
	return out
}

// admitStream takes one of the places for streams, or says why there is none.
func (s *Server) admitStream() (release func(), err error) {
	if s.closing.Err() != nil {
		return nil, unavailable("the member stops", defaultRetryAfter)
	}
	select {
	case s.streams <- struct{}{}:
		return func() { <-s.streams }, nil
	default:
		return nil, unavailable(fmt.Sprintf("%d streams of events are open already, which is the limit", s.cfg.MaxStreams), defaultRetryAfter)
	}
}

// follow serves one stream of a job's events.
func (s *Server) follow(hc huma.Context, id string) {
	release, err := s.admitStream()
	if err != nil {
		s.refuseStream(hc, err)
		return
	}
	defer release()
	ctx, cancel := context.WithCancel(hc.Context())
	defer cancel()
	events, err := s.backend.Follow(ctx, id)
	if err != nil {
		s.refuseStream(hc, problem("job "+id, err))
		return
	}
	err = serveStream(s, hc, cancel, events, func(ev Event) Event { return ev },
		func(ctx context.Context) (EventType, any) { return s.endOf(ctx, id) })
	if err != nil {
		s.log.Debug("a stream of events broke", zap.String("job", id), zap.Error(err))
	}
}

// serveStream writes what the backend sends to the client, by way of a queue. cancel ends the backend's
// work; end makes the last event when the backend has closed the channel.
func serveStream[T any](s *Server, hc huma.Context, cancel context.CancelFunc, events <-chan T,
	event func(T) Event, end func(context.Context) (EventType, any),
) error {
	q := newQueue(s.cfg.StreamEvents, s.cfg.StreamBytes)
	var pump sync.WaitGroup
	pump.Go(func() {
		defer q.close()
		for ev := range events {
			if !q.put(event(ev)) {
				cancel()
				for range events { // until the backend has noticed
				}
			}
		}
	})
	defer pump.Wait()
	defer cancel()
	_, w := humago.Unwrap(hc)
	st := &stream{server: s, end: end, w: w, rc: http.NewResponseController(w), q: q}
	return st.serve(hc.Context())
}

func (s *Server) refuseStream(hc huma.Context, err error) {
	p, ok := asStatus(err)
	if !ok {
		p = newProblem(http.StatusInternalServerError, err.Error())
	}
	if p.GetStatus() == http.StatusServiceUnavailable {
		hc.SetHeader("Retry-After", retryAfter(err))
	}
	_, w := humago.Unwrap(hc)
	writeProblemOf(w, p)
}

// stream writes the events of one queue to one client. It belongs to the request's goroutine.
type stream struct {
	server *Server
	end    func(context.Context) (EventType, any) // the last event, when nothing follows
	w      http.ResponseWriter
	rc     *http.ResponseController
	q      *queue
	seq    uint64
	buf    []byte
}

// serve writes until the job is done or the stream cannot go on. The error is one of the connection.
func (st *stream) serve(ctx context.Context) error {
	// The server's deadlines are for requests that end by themselves.
	if err := st.rc.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	h := st.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // or proxies hold events back
	st.w.WriteHeader(http.StatusOK)
	st.buf = append(st.buf, ": events\n\n"...)
	if err := st.flush(); err != nil {
		return err
	}
	alive := time.NewTicker(st.server.cfg.KeepAlive)
	defer alive.Stop()
	for {
		end, err := st.drain()
		if err != nil {
			return err
		}
		if end != queueOpen {
			return st.finish(ctx, end)
		}
		select {
		case <-st.q.ready:
		case <-alive.C:
			st.buf = append(st.buf, ": alive\n\n"...)
			if err := st.flush(); err != nil {
				return err
			}
		case <-st.server.closing.Done():
			return st.last(EventError, StreamEnd{Reason: "shutdown", Detail: "the member stops; ask again"})
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// drain writes what is queued.
func (st *stream) drain() (queueEnd, error) {
	const writeBytes = 64 << 10 // at least, when there is that much
	for {
		ev, ok, end := st.q.take()
		if !ok {
			return end, st.flush()
		}
		if err := st.event(&ev); err != nil {
			return queueOpen, err
		}
		if len(st.buf) >= writeBytes {
			if err := st.flush(); err != nil {
				return queueOpen, err
			}
			if st.server.closing.Err() != nil {
				return queueOpen, nil
			}
		}
	}
}

func (st *stream) event(ev *Event) error {
	switch {
	case ev.Result != nil:
		return st.append(EventResult, ev.Result)
	case ev.Progress != nil:
		return st.append(EventProgress, ev.Progress)
	case ev.Job != nil:
		return st.append(EventState, ev.Job.summary())
	case ev.Trace != nil:
		return st.append(EventTrace, ev.Trace)
	}
	return nil
}

// finish writes the last event.
func (st *stream) finish(ctx context.Context, end queueEnd) error {
	if end == queueOverflowed {
		return st.last(EventError, StreamEnd{
			Reason: "slow", Detail: "events arrive faster than this client reads them; look at the job for its outcomes",
		})
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := st.server.deadline(ctx)
	defer cancel()
	return st.last(st.end(ctx))
}

// endOf tells how a job stands that the backend has no more events of.
func (s *Server) endOf(ctx context.Context, id string) (EventType, any) {
	job, err := s.backend.Job(ctx, id)
	switch {
	case err != nil:
		return EventError, StreamEnd{Reason: "interrupted", Detail: "the member lost sight of the job: " + err.Error()}
	case job.State != StateDone:
		return EventError, StreamEnd{Reason: "interrupted", Detail: "the member lost sight of the job; follow it again"}
	}
	return EventDone, job.summary()
}

func (st *stream) last(name EventType, data any) error {
	if err := st.append(name, data); err != nil {
		return err
	}
	return st.flush()
}

func (st *stream) append(name EventType, data any) error {
	b, err := json.Marshal(data) // without line breaks, which would end the data
	if err != nil {
		return fmt.Errorf("event %s: %w", name, err)
	}
	st.seq++
	st.buf = append(st.buf, "id: "...)
	st.buf = strconv.AppendUint(st.buf, st.seq, 10)
	st.buf = append(st.buf, "\nevent: "...)
	st.buf = append(st.buf, name...)
	st.buf = append(st.buf, "\ndata: "...)
	st.buf = append(st.buf, b...)
	st.buf = append(st.buf, "\n\n"...)
	return nil
}

// flush writes what is buffered. A client that does not read for WriteTimeout is cut.
func (st *stream) flush() error {
	if len(st.buf) == 0 {
		return nil
	}
	if err := st.rc.SetWriteDeadline(time.Now().Add(st.server.cfg.WriteTimeout)); err != nil {
		return err
	}
	_, err := st.w.Write(st.buf)
	if cap(st.buf) > 256<<10 {
		st.buf = nil
	} else {
		st.buf = st.buf[:0]
	}
	if err != nil {
		return err
	}
	return st.rc.Flush()
}
