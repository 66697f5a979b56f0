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

// problem turns an error of the backend into an answer. what names the thing asked for.
func problem(what string, err error) error {
	text := what + ": " + err.Error()
	switch {
	case errors.Is(err, ErrNotFound):
		return huma.Error404NotFound(text)
	case errors.Is(err, ErrInvalid):
		return huma.Error400BadRequest(text)
	case errors.Is(err, ErrUnavailable):
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
	m, ok := v.(*huma.ErrorModel)
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
