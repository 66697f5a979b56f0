package member

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/roost-server/roost/cluster/rpc"
	"github.com/roost-server/roost/cmd/roost/internal/api"
)

// The questions that members ask each other. Bodies are JSON: the views of package api, in which a
// member of another version skips what it does not know.
const (
	methodKnown      = "api.known"      // idQuestion: known
	methodJobs       = "api.jobs"       // api.JobFilter: api.JobList
	methodNodes      = "api.nodes"      // api.NodeFilter: api.NodePage
	methodWatermarks = "api.watermarks" // none: []api.WatermarkView
	methodStatus     = "api.status"     // none: api.StatusView
	methodTree       = "api.tree"       // none: api.TreeView
	methodMember     = "api.member"     // none: api.MemberView, of the member asked
	methodDrain      = "api.drain"      // api.DrainRequest: api.MemberView
	methodUndrain    = "api.undrain"    // none: api.MemberView
	methodShed       = "api.shed"       // shedRequest: none
	methodFollow     = "api.follow"     // idQuestion: a stream of api.Event
	methodTrace      = "api.trace"      // api.TraceFilter: a stream of api.TraceEvent
)

type none struct{}

type idQuestion struct {
	ID string `json:"id"`
}

// shedRequest tells a member to send some of its nodes away.
type shedRequest struct {
	Nodes    int      `json:"nodes"`
	RatePerS int      `json:"rate_per_s,omitempty"` // 0: the member's default
	To       []string `json:"to,omitempty"`         // HOST:PORT
}

// registrar is where questions of other members come in: package rpc.
type registrar interface {
	Handle(method string, fn func(ctx context.Context, body []byte) ([]byte, error))
	HandleStream(method string, fn func(ctx context.Context, body []byte, emit func([]byte) error) error)
}

// serveFanout answers the questions of other members.
func serveFanout(r registrar, l local) {
	handle(r, methodKnown, func(ctx context.Context, q idQuestion) (known, error) {
		k, err := l.Known(ctx, q.ID)
		return k.fit(), err
	})
	handle(r, methodJobs, l.Jobs)
	handle(r, methodNodes, l.Nodes)
	handle(r, methodWatermarks, func(ctx context.Context, _ none) ([]api.WatermarkView, error) { return l.Watermarks(ctx) })
	handle(r, methodStatus, func(ctx context.Context, _ none) (api.StatusView, error) { return l.Status(ctx) })
	handle(r, methodTree, func(ctx context.Context, _ none) (api.TreeView, error) { return l.Tree(ctx) })
	handle(r, methodMember, func(ctx context.Context, _ none) (api.MemberView, error) { return self(ctx, l) })
	handle(r, methodDrain, l.Drain)
	handle(r, methodUndrain, func(ctx context.Context, _ none) (api.MemberView, error) { return l.Undrain(ctx) })
	handle(r, methodShed, func(ctx context.Context, q shedRequest) (none, error) { return none{}, l.Shed(ctx, q) })
	handleStream(r, methodFollow, func(ctx context.Context, q idQuestion) (<-chan api.Event, error) { return l.Follow(ctx, q.ID) })
	handleStream(r, methodTrace, l.Trace)
}

// self is the member as it sees itself.
func self(ctx context.Context, l local) (api.MemberView, error) {
	members, err := l.Members(ctx)
	switch {
	case err != nil:
		return api.MemberView{}, err
	case len(members) == 0:
		return api.MemberView{}, errors.New("the member does not know itself")
	}
	return members[0], nil
}

func handle[Q, A any](r registrar, method string, f func(context.Context, Q) (A, error)) {
	r.Handle(method, func(ctx context.Context, body []byte) ([]byte, error) {
		var q Q
		if err := json.Unmarshal(body, &q); err != nil {
			return nil, &rpc.RemoteError{Code: codeInvalid, Text: err.Error()}
		}
		a, err := f(ctx, q)
		if err != nil {
			return nil, toRemote(err)
		}
		return json.Marshal(a)
	})
}

// An event that is longer than an item of a stream may be is told in several; the first byte of each
// says whether another follows.
const (
	itemLast = 0
	itemMore = 1
	// itemBytes is what of an event goes into an item.
	itemBytes = rpc.ChunkBytes - 1
	// maxEventBytes caps an event from another member.
	maxEventBytes = rpc.MaxBytes
)

func handleStream[Q, E any](r registrar, method string, f func(context.Context, Q) (<-chan E, error)) {
	r.HandleStream(method, func(ctx context.Context, body []byte, emit func([]byte) error) error {
		var q Q
		if err := json.Unmarshal(body, &q); err != nil {
			return &rpc.RemoteError{Code: codeInvalid, Text: err.Error()}
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		events, err := f(ctx, q)
		if err != nil {
			return toRemote(err)
		}
		for ev := range events {
			if err := emitEvent(&ev, emit); err != nil {
				cancel()
				for range events { // until it has noticed
				}
				return err
			}
		}
		return ctx.Err()
	})
}

func emitEvent(ev any, emit func([]byte) error) error {
	b, err := json.Marshal(ev)
	if err != nil {
		return fmt.Errorf("event: %w", err)
	}
	item := make([]byte, 0, min(len(b), itemBytes)+1)
	for len(b) > itemBytes {
		if err := emit(append(append(item[:0], itemMore), b[:itemBytes]...)); err != nil {
			return err
		}
		b = b[itemBytes:]
	}
	return emit(append(append(item[:0], itemLast), b...))
}

// eventReader puts events together from the items of a stream.
type eventReader struct{ part []byte }

// read returns an event's JSON when item completes it.
func (r *eventReader) read(item []byte) (event []byte, err error) {
	if len(item) == 0 || len(r.part)+len(item) > maxEventBytes {
		return nil, fmt.Errorf("an item of %d bytes after %d of the same event: 1 to %d in all are expected", len(item), len(r.part), maxEventBytes)
	}
	if item[0] == itemMore {
		r.part = append(r.part, item[1:]...)
		return nil, nil
	}
	if r.part == nil {
		return item[1:], nil
	}
	event, r.part = append(r.part, item[1:]...), nil
	return event, nil
}

// The codes of errors that are of the API's classes.
const (
	codeNotFound    = "not-found"
	codeInvalid     = "invalid"
	codeEnded       = "ended"
	codeUnavailable = "unavailable"
)

func toRemote(err error) error {
	code := rpc.CodeFailed
	switch {
	case errors.Is(err, api.ErrNotFound):
		code = codeNotFound
	case errors.Is(err, api.ErrInvalid):
		code = codeInvalid
	case errors.Is(err, api.ErrEnded):
		code = codeEnded
	case errors.Is(err, api.ErrUnavailable):
		code = codeUnavailable
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		code = rpc.CodeTimeout
	}
	return &rpc.RemoteError{Code: code, Text: err.Error()}
}

// classified is an error of another member that says it in its own words.
type classified struct{ text, class error }

func (c *classified) Error() string   { return c.text.Error() }
func (c *classified) Unwrap() []error { return []error{c.text, c.class} }

// fromRemote gives an error of another member the API's class again.
func fromRemote(err error) error {
	var r *rpc.RemoteError
	if !errors.As(err, &r) {
		return err
	}
	class := map[string]error{codeNotFound: api.ErrNotFound, codeInvalid: api.ErrInvalid, codeEnded: api.ErrEnded,
		codeUnavailable: api.ErrUnavailable}[r.Code]
	if class == nil {
		return err
	}
	return &classified{text: errors.New(r.Text), class: class}
}

// fit leaves results out until what is known of a job fits into one answer.
func (k known) fit() known {
	const most = rpc.MaxBytes * 3 / 4 // results may grow a little as JSON
	if k.Job == nil {
		return k
	}
	bytes := 0
	for i := range k.Job.Results {
		r := &k.Job.Results[i]
		bytes += 256 + 2*len(r.Job) + 2*len(r.Node) + 2*len(r.Error) + len(r.Output)
		if bytes > most {
			v := *k.Job
			v.Results, v.Truncated = v.Results[:i], true
			k.Job = &v
			break
		}
	}
	return k
}
