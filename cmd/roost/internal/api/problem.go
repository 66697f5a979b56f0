package api

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// defaultRetryAfter is what clients are told when the backend does not know better.
const defaultRetryAfter = 2 * time.Second

// rebuildingRetryAfter is the least of clients that wait for a shard: it reads from Kafka what it needs
// in seconds, as a rule.
const rebuildingRetryAfter = time.Second

// The types of problem that a client may want to tell from others.
const (
	// ProblemRebuilding is a 503: what was asked for may be in partitions that are being rebuilt.
	ProblemRebuilding = "urn:roost:problem:rebuilding"
	// ProblemMissingMembers is a 503: what was asked for may be known to members that did not answer.
	ProblemMissingMembers = "urn:roost:problem:missing-members"
	// ProblemEnded is a 410 or 409: the job has ended.
	ProblemEnded = "urn:roost:problem:ended"
)

// Problem is the body of every answer that is an error.
type Problem struct {
	huma.ErrorModel
	Rebuilding     []RebuildingView `json:"rebuilding,omitempty" nullable:"false" doc:"With the type urn:roost:problem:rebuilding: how far the partitions are"`
	MissingMembers []string         `json:"missing_members,omitempty" nullable:"false" doc:"With the type urn:roost:problem:missing-members: who did not answer"`
}

// newProblem makes an answer; what the errors say in addition stands in its fields.
func newProblem(status int, text string, errs ...error) huma.StatusError {
	p := &Problem{ErrorModel: huma.ErrorModel{Status: status, Title: http.StatusText(status), Detail: text}}
	for _, err := range errs {
		if r := (*Rebuilding)(nil); errors.As(err, &r) {
			p.Type, p.Rebuilding = ProblemRebuilding, r.Shards
		} else if m := (*MissingMembers)(nil); errors.As(err, &m) {
			p.Type, p.MissingMembers = ProblemMissingMembers, m.Members
		} else if err != nil {
			p.Add(err)
		}
	}
	if status == http.StatusGone || status == http.StatusConflict {
		p.Type = ProblemEnded
	}
	return p
}

// problem turns an error of the backend into an answer. what names the thing asked for.
func problem(what string, err error) error {
	text := what + ": " + err.Error()
	switch {
	case errors.Is(err, ErrNotFound):
		return huma.Error404NotFound(text)
	case errors.Is(err, ErrInvalid):
		return huma.Error400BadRequest(text)
	case errors.Is(err, ErrEnded):
		return huma.Error410Gone(text)
	case errors.Is(err, ErrUnavailable):
		if r := (*Rebuilding)(nil); errors.As(err, &r) {
			return unavailable(text, max(r.RetryAfter, rebuildingRetryAfter), r)
		}
		if m := (*MissingMembers)(nil); errors.As(err, &m) {
			return unavailable(text, max(m.RetryAfter, rebuildingRetryAfter), m)
		}
		after := defaultRetryAfter
		if u := (*Unavailable)(nil); errors.As(err, &u) && u.RetryAfter > 0 {
			after = u.RetryAfter
		}
		return unavailable(text, after)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return unavailable(what+": no answer in time", defaultRetryAfter)
	}
	return huma.Error500InternalServerError(text)
}

func unavailable(text string, after time.Duration, errs ...error) error {
	seconds := strconv.Itoa(int(math.Ceil(after.Seconds())))
	return huma.ErrorWithHeaders(huma.Error503ServiceUnavailable(text, errs...), http.Header{"Retry-After": {seconds}})
}

// invalid answers that a field of the body is wrong; the error begins with the field's name.
func invalid(err error) error {
	field, message, ok := strings.Cut(err.Error(), ": ")
	if !ok || strings.ContainsRune(field, ' ') {
		return huma.Error422UnprocessableEntity("validation failed", err)
	}
	return huma.Error422UnprocessableEntity("validation failed", &huma.ErrorDetail{Location: "body." + field, Message: message})
}

// trimProblem is a transformer: it keeps problems from sending large bodies back.
func trimProblem(_ huma.Context, _ string, v any) (any, error) {
	const most = 200
	m, ok := v.(*Problem)
	if !ok {
		return v, nil
	}
	for _, d := range m.Errors {
		if d == nil {
			continue
		}
		switch value := d.Value.(type) {
		case nil, bool, float64, int, int64:
		case string:
			if len(value) > most {
				d.Value = fmt.Sprintf("%s... (%d bytes)", strings.ToValidUTF8(value[:most], ""), len(value))
			}
		default:
			d.Value = nil // an object or a list; the location names it
		}
	}
	return v, nil
}

// deadline bounds the backend's work on one request.
func (s *Server) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.cfg.RequestTimeout)
}

// asStatus finds the answer in an error made by [problem] or [unavailable].
func asStatus(err error) (huma.StatusError, bool) {
	var se huma.StatusError
	ok := errors.As(err, &se)
	return se, ok
}

func retryAfter(err error) string {
	var he huma.HeadersError
	if errors.As(err, &he) {
		return he.GetHeaders().Get("Retry-After")
	}
	return strconv.Itoa(int(defaultRetryAfter.Seconds()))
}
