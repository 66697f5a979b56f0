package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"go.uber.org/zap"
)

// TraceFilter chooses what is traced; at least one field is set, and all that are have to fit.
type TraceFilter struct {
	Node string
	Job  string
}

// The steps of a job on its way, and what else a trace tells.
const (
	StepRead         = "read"         // the shard has read the job's record
	StepDelivered    = "delivered"    // the shard has handed it to a gate
	StepSent         = "sent"         // the session has sent it to the node
	StepAccepted     = "accepted"     // the node says that it runs
	StepResult       = "result"       // the node's result has reached the shard
	StepCommitted    = "committed"    // the outcome is in a committed transaction
	StepAcknowledged = "acknowledged" // the node was told so
	StepNotice       = "notice"       // something else, which Text tells, such as a session's end
	StepMissing      = "missing"      // a member's steps are not told, or not any more
)

// TraceEvent is one step.
type TraceEvent struct {
	TimeUs  int64  `json:"time_us" doc:"Unix time in microseconds, by the clock of the member"`
	Member  string `json:"member" doc:"Where it happened"`
	Step    string `json:"step" enum:"read,delivered,sent,accepted,result,committed,acknowledged,notice,missing" doc:"read: the job's record, by its shard; delivered: to a gate; sent: to the node; accepted: the node says that it runs; result: it reached the shard; committed: the outcome, to Kafka; acknowledged: to the node; notice: what the text tells; missing: the member's steps are not told, or not any more"`
	Node    string `json:"node,omitempty" doc:"The node's id"`
	Job     string `json:"job,omitempty" doc:"The job's id"`
	Attempt uint32 `json:"attempt,omitempty" format:"int64"`
	Text    string `json:"text,omitempty" doc:"More about it, such as the member and gate that it went to, or the outcome"`
}

type traceInput struct {
	Node string `query:"node" maxLength:"128" doc:"Steps of this node's jobs, and of its sessions"`
	Job  string `query:"job" maxLength:"128" doc:"Steps of this job"`
}

const traceDescription = `Server-sent events (WHATWG HTML, section 9.2): the steps of a job, or of all jobs of a node, at
every member, as they happen; with both, of that job on that node. Nothing is kept, so that nothing is told of what happened before. Members' clocks
differ a little, and events of different members may arrive in another order than they happened.

The stream goes on until the client ends it; before that it ends only with "error".`

func (s *Server) registerTrace() {
	huma.Register(s.huma, huma.Operation{
		OperationID: "trace", Method: http.MethodGet, Path: "/v1/trace", Tags: []string{"cluster"},
		Summary: "Trace a job or a node", Description: traceDescription,
		Responses: map[string]*huma.Response{"200": {
			Description: "The events",
			Content:     map[string]*huma.MediaType{"text/event-stream": {Schema: s.eventSchema(streamed{EventTrace, TraceEvent{}}, streamed{EventError, StreamEnd{}})}},
		}},
		Errors: s.errors(http.StatusUnprocessableEntity, http.StatusServiceUnavailable),
	}, func(_ context.Context, in *traceInput) (*huma.StreamResponse, error) {
		if in.Node == "" && in.Job == "" {
			return nil, huma.Error422UnprocessableEntity("validation failed",
				&huma.ErrorDetail{Location: "query", Message: "what is to be traced? Give a node, a job, or both"})
		}
		return &huma.StreamResponse{Body: func(hc huma.Context) { s.trace(hc, TraceFilter(*in)) }}, nil
	})
}

// trace serves one stream of steps.
func (s *Server) trace(hc huma.Context, f TraceFilter) {
	release, err := s.admitStream()
	if err != nil {
		s.refuseStream(hc, err)
		return
	}
	defer release()
	ctx, cancel := context.WithCancel(hc.Context())
	defer cancel()
	steps, err := s.backend.Trace(ctx, f)
	if err != nil {
		s.refuseStream(hc, problem("trace", err))
		return
	}
	err = serveStream(s, hc, cancel, steps, func(e TraceEvent) Event { return Event{Type: EventTrace, Trace: &e} },
		func(context.Context) (EventType, any) {
			return EventError, StreamEnd{Reason: "interrupted", Detail: "the member does not trace any more; trace again"}
		})
	if err != nil && !errors.Is(err, context.Canceled) {
		s.log.Debug("a stream of a trace broke", zap.String("node", f.Node), zap.String("job", f.Job), zap.Error(err))
	}
}
