package roost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/roost-server/roost/protocol"
)

// Handler runs jobs of one kind. It is called on a goroutine of its own, at most
// [Config].Concurrency at once over all kinds.
//
// ctx ends with the attempt's timeout, on CANCEL, and when the client has waited
// [Config].DrainTimeout in its shutdown; context.Cause tells which ([ErrTimeout],
// [ErrCancelled], [ErrShutdown]). On the first two the result (timeout, cancelled)
// is sent at once and what the handler returns is dropped; its slot stays occupied
// until it returns.
//
// A nil error reports the Result. An error makes the outcome failed, with its text;
// a [*RefusedError] anywhere in its chain makes it refused. A panic makes it failed.
type Handler func(ctx context.Context, job Job) (Result, error)

// Result is what a handler reports; the zero value is ok without output.
type Result struct {
	// Outcome is OutcomeOK, OutcomeFailed, OutcomeRefused, OutcomeTimeout or
	// OutcomeCancelled.
	Outcome protocol.Outcome

	// Output is encoded with msgpack (struct tags `msgpack:"..."`), to at most
	// protocol.MaxPayloadBytes. A msgpack.RawMessage is sent as it is.
	Output any

	// Error says why the outcome is not ok, clipped to protocol.MaxErrorBytes.
	Error string
}

// OK is the result of a job that ran and whose check holds. output may be nil.
func OK(output any) Result { return Result{Output: output} }

// Fail is the result of a job that ran and whose check does not hold. output may
// be nil.
func Fail(reason string, output any) Result {
	return Result{Outcome: protocol.OutcomeFailed, Error: reason, Output: output}
}

// Job is one attempt of a job, for a [Handler].
type Job struct {
	ID       string
	Kind     string
	Attempt  uint32        // 1 is the first
	Priority uint8         // 0 to protocol.MaxPriority, higher first
	Timeout  time.Duration // of the attempt, from its arrival; 0: none

	args []byte
	task *task
}

// Args returns the arguments as one encoded msgpack value. The slice is the job's;
// do not change it.
func (j Job) Args() []byte { return j.args }

// Bind decodes the arguments into v, a pointer. A field that v does not have is an
// error, so that a misspelt argument is not ignored. No arguments leave v as it is.
// Handlers usually pass the error on, or wrap it in [Refused].
func (j Job) Bind(v any) error {
	if len(j.args) == 0 || len(j.args) == 1 && j.args[0] == 0xc0 {
		return nil
	}
	d := msgpack.NewDecoder(bytes.NewReader(j.args))
	d.DisallowUnknownFields(true)
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("arguments of %s job: %w", j.Kind, err)
	}
	return nil
}

// Progress sends v, encoded as a Result's Output is, to whoever follows the job. It
// is kept nowhere. More than one report a second is a waste. It waits while the connection's buffer is full, as long as ctx
// allows, and returns [ErrNotConnected] or [ErrJobEnded] when there is nobody to
// tell; handlers may ignore both.
func (j Job) Progress(ctx context.Context, v any) error {
	data, err := encodeValue(v)
	if err != nil {
		return fmt.Errorf("roost: progress of job %s: %w", j.ID, err)
	}
	return j.task.client.progress(ctx, j.task, data)
}

// encodeValue encodes v as one msgpack value that every member takes.
func encodeValue(v any) ([]byte, error) {
	if v == nil {
		return nil, nil
	}
	buf := bytes.NewBuffer(make([]byte, 0, 128))
	e := msgpack.GetEncoder()
	defer msgpack.PutEncoder(e)
	e.Reset(buf)
	e.UseCompactInts(true)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("cannot be encoded as msgpack: %w", err)
	}
	err := protocol.CheckPayload(buf.Bytes())
	var pe *protocol.Error
	if errors.As(err, &pe) {
		return nil, fmt.Errorf("cannot be sent: %s", pe.Message)
	}
	return buf.Bytes(), err
}

// clipText makes s valid UTF-8 of at most n bytes.
func clipText(s string, n int) string {
	if len(s) > n {
		s = s[:n]
		for k := 1; k <= utf8.UTFMax && k <= n; k++ { // do not cut a rune
			if utf8.RuneStart(s[n-k]) {
				if !utf8.FullRuneInString(s[n-k:]) {
					s = s[:n-k]
				}
				break
			}
		}
	}
	return strings.ToValidUTF8(s, "?") // never longer
}
