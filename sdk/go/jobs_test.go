package roost

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/roost-server/roost/protocol"
)

// badOutput panics when it is encoded.
type badOutput struct{}

func (badOutput) EncodeMsgpack(*msgpack.Encoder) error { panic("cannot") }

func deep(levels int) any {
	var v any = 1
	for range levels {
		v = []any{v}
	}
	return v
}

// outcomeHandlers are named for what they do.
func outcomeHandlers() map[string]Handler {
	type args struct {
		Host string `msgpack:"host"`
	}
	return map[string]Handler{
		"ok":    func(context.Context, Job) (Result, error) { return OK(map[string]int{"ms": 12}), nil },
		"zero":  func(context.Context, Job) (Result, error) { return Result{}, nil },
		"fail":  func(context.Context, Job) (Result, error) { return Fail("port closed", 7), nil },
		"error": func(context.Context, Job) (Result, error) { return Result{}, errTest },
		"refused": func(context.Context, Job) (Result, error) {
			return Result{}, fmt.Errorf("here: %w", Refused("not %s", "allowed"))
		},
		"panic":   func(context.Context, Job) (Result, error) { var m map[string]int; m["x"] = 1; return OK(nil), nil },
		"goexit":  func(context.Context, Job) (Result, error) { runtime.Goexit(); return OK(nil), nil },
		"large":   func(context.Context, Job) (Result, error) { return OK(make([]byte, protocol.MaxPayloadBytes)), nil },
		"chan":    func(context.Context, Job) (Result, error) { return OK(make(chan int)), nil },
		"deep":    func(context.Context, Job) (Result, error) { return OK(deep(protocol.MaxDepth)), nil },
		"deepest": func(context.Context, Job) (Result, error) { return OK(deep(protocol.MaxDepth - 1)), nil },
		"two":     func(context.Context, Job) (Result, error) { return OK(msgpack.RawMessage{1, 2}), nil },
		"encode":  func(context.Context, Job) (Result, error) { return OK(badOutput{}), nil },
		"lost":    func(context.Context, Job) (Result, error) { return Result{Outcome: protocol.OutcomeLost}, nil },
		"verbose": func(context.Context, Job) (Result, error) {
			return Fail("é\xff"+strings.Repeat("é", protocol.MaxErrorBytes), nil), nil
		},
		"bind": func(_ context.Context, j Job) (Result, error) {
			var a args
			err := j.Bind(&a)
			return OK(a.Host), err
		},
	}
}

func TestOutcomes(t *testing.T) {
	m := newMember(t)
	n := startNode(t, Config{Servers: []string{m.addr()}}, func(c *Client) {
		for k, h := range outcomeHandlers() {
			c.Handle(k, h)
		}
	})
	p, _ := m.session()
	for i, tc := range []struct {
		kind    string
		args    any
		outcome protocol.Outcome
		text    string // part of the error
		output  any
	}{
		{"ok", nil, protocol.OutcomeOK, "", map[string]any{"ms": int8(12)}},
		{"zero", nil, protocol.OutcomeOK, "", nil},
		{"fail", nil, protocol.OutcomeFailed, "port closed", int8(7)},
		{"error", nil, protocol.OutcomeFailed, "no luck", nil},
		{"refused", nil, protocol.OutcomeRefused, "here: not allowed", nil},
		{"panic", nil, protocol.OutcomeFailed, "assignment to entry in nil map", nil},
		{"goexit", nil, protocol.OutcomeFailed, "Goexit", nil},
		{"large", nil, protocol.OutcomeFailed, "at most 458752", nil},
		{"chan", nil, protocol.OutcomeFailed, "cannot be encoded", nil},
		{"deep", nil, protocol.OutcomeFailed, "nested deeper", nil},
		{"deepest", nil, protocol.OutcomeOK, "", nil},
		{"two", nil, protocol.OutcomeFailed, "follow the msgpack value", nil},
		{"encode", nil, protocol.OutcomeFailed, "panic: cannot", nil},
		{"lost", nil, protocol.OutcomeFailed, `"lost"`, nil},
		{"verbose", nil, protocol.OutcomeFailed, "é?éé", nil},
		{"bind", map[string]string{"host": "a.example"}, protocol.OutcomeOK, "", "a.example"},
		{"bind", map[string]string{"hots": "a.example"}, protocol.OutcomeFailed, "hots", nil},
		{"bind", map[string]int{"host": 1}, protocol.OutcomeFailed, "arguments of bind job", nil},
		{"bind", nil, protocol.OutcomeOK, "", ""},
		{"nope", nil, protocol.OutcomeRefused, `unknown kind "nope"; this node offers: bind, chan,`, nil},
	} {
		id := fmt.Sprintf("job-%d-%s", i, tc.kind)
		p.job(id, 1, tc.kind, tc.args)
		r := p.result(id, 1, tc.outcome)
		require.Contains(t, string(r.Error), tc.text, tc.kind)
		if tc.outcome == protocol.OutcomeOK {
			require.Empty(t, r.Error, tc.kind)
		}
		if tc.output != nil {
			var got any
			require.NoError(t, msgpack.Unmarshal(r.Output, &got))
			require.Equal(t, tc.output, got, tc.kind)
		}
		p.ack(id, 1)
	}
	panicked := awaitEvent[HandlerPanicked](n)
	require.Equal(t, "panic", panicked.Kind)
	require.Contains(t, string(panicked.Stack), "jobs_test.go")
	require.Eventually(t, func() bool { return n.Stats().Held == 0 && n.Stats().Running == 0 }, patience, time.Millisecond)
	st := n.Stats()
	require.EqualValues(t, 20, st.Jobs)
	require.EqualValues(t, 1, st.Refused)
	require.EqualValues(t, 1, st.Finished[protocol.OutcomeRefused])
	require.EqualValues(t, 19, st.Acked)
}

func TestJobFields(t *testing.T) {
	m := newMember(t)
	jobs := make(chan Job, 1)
	n := startNode(t, Config{Servers: []string{m.addr()}}, func(c *Client) {
		c.Handle("k", func(_ context.Context, j Job) (Result, error) { jobs <- j; return OK(nil), nil })
	})
	p, _ := m.session()
	p.job("j", 2, "k", 5)
	p.result("j", 2, protocol.OutcomeOK)
	j := <-jobs
	require.Equal(t, "j", j.ID)
	require.Equal(t, "k", j.Kind)
	require.EqualValues(t, 2, j.Attempt)
	require.EqualValues(t, 4, j.Priority)
	require.Equal(t, time.Minute, j.Timeout)
	require.Equal(t, []byte{5}, j.Args())

	require.Equal(t, "j", awaitEvent[JobStarted](n).JobID)
	require.Equal(t, protocol.OutcomeOK, awaitEvent[JobFinished](n).Outcome)
	p.ack("j", 2)
	require.Equal(t, ResultAcked{JobID: "j", Attempt: 2}, awaitEvent[ResultAcked](n))
}

// stubborn waits for ctx's end, tells, and returns only when let.
type stubborn struct {
	ended chan error // causes
	let   chan struct{}
}

func newStubborn() *stubborn {
	return &stubborn{make(chan error, 16), make(chan struct{})}
}

func (s *stubborn) handle(ctx context.Context, _ Job) (Result, error) {
	<-ctx.Done()
	s.ended <- context.Cause(ctx)
	<-s.let
	return OK("too late"), nil
}

func untilDone(ctx context.Context, _ Job) (Result, error) {
	<-ctx.Done()
	return Result{}, ctx.Err()
}

func TestTimeoutIsSaidAtOnceAndTheSlotStaysTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, s := newPipes(t), newStubborn()
		n := startNode(t, Config{Servers: []string{"a:1"}, Dial: d.dial, Concurrency: 1}, func(c *Client) {
			c.Handle("stuck", s.handle)
			c.Handle("echo", echo)
		})
		p, _ := d.session()
		start := time.Now()
		j := newJob(t, "slow", 1, "stuck", nil)
		j.TimeoutMs = 1500
		p.send(j)
		r := p.result("slow", 1, protocol.OutcomeTimeout)
		require.Equal(t, 1500*time.Millisecond, time.Since(start))
		require.EqualValues(t, 1_500_000, r.DurationUs)
		require.ErrorIs(t, <-s.ended, ErrTimeout)

		p.job("waits", 1, "echo", 1)
		synctest.Wait()
		require.Equal(t, 1, n.Stats().Running)
		require.Equal(t, 1, n.Stats().Queued)
		close(s.let)
		p.result("waits", 1, protocol.OutcomeOK) // and nothing more for "slow"
		synctest.Wait()
		require.Zero(t, n.Stats().Running)
	})
}

func TestTimeoutOfAQueuedJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newPipes(t)
		n := startNode(t, Config{Servers: []string{"a:1"}, Dial: d.dial, Concurrency: 1}, func(c *Client) {
			c.Handle("wait", untilDone)
		})
		p, _ := d.session()
		p.job("first", 1, "wait", nil)
		j := newJob(t, "second", 1, "wait", nil)
		j.TimeoutMs = 500
		p.send(j)
		r := p.result("second", 1, protocol.OutcomeTimeout)
		require.Zero(t, r.DurationUs)
		require.Zero(t, n.Stats().Queued)
		p.result("first", 1, protocol.OutcomeTimeout)
	})
}

func TestCancel(t *testing.T) {
	m, s := newMember(t), newStubborn()
	n := startNode(t, Config{Servers: []string{m.addr()}, Concurrency: 1}, func(c *Client) {
		c.Handle("wait", untilDone)
		c.Handle("stuck", s.handle)
	})
	p, _ := m.session()
	p.job("a", 2, "wait", nil)
	awaitEvent[JobStarted](n)
	p.send(
		&protocol.Cancel{JobID: []byte("a"), Attempt: 1, Reason: "an attempt of the past"},
		&protocol.Cancel{JobID: []byte("a"), Attempt: 3, Reason: "one of the future"},
		&protocol.Cancel{JobID: []byte("unknown"), Attempt: 1},
		&protocol.Cancel{JobID: []byte("a"), Attempt: 2, Reason: "no longer wanted"},
	)
	require.Equal(t, "cancelled: no longer wanted", string(p.result("a", 2, protocol.OutcomeCancelled).Error))

	p.job("b", 1, "stuck", nil)
	p.job("c", 1, "wait", nil) // queued
	p.send(&protocol.Cancel{JobID: []byte("c"), Attempt: 1})
	p.result("c", 1, protocol.OutcomeCancelled)
	p.send(&protocol.Cancel{JobID: []byte("b"), Attempt: 1})
	p.result("b", 1, protocol.OutcomeCancelled)
	require.ErrorIs(t, <-s.ended, ErrCancelled)
	close(s.let)
}

func TestProgress(t *testing.T) {
	m := newMember(t)
	late := make(chan error, 1)
	var keep Job
	startNode(t, Config{Servers: []string{m.addr()}}, func(c *Client) {
		c.Handle("k", func(ctx context.Context, j Job) (Result, error) {
			keep = j
			if err := j.Progress(ctx, make(chan int)); err == nil {
				return Fail("a channel was encoded", nil), nil
			}
			return OK(nil), j.Progress(ctx, map[string]int{"pct": 50})
		})
		c.Handle("late", func(ctx context.Context, _ Job) (Result, error) {
			late <- keep.Progress(ctx, 1)
			return OK(nil), nil
		})
	})
	p, _ := m.session()
	p.job("j", 1, "k", nil)
	pr := expect[*protocol.Progress](p)
	require.Equal(t, "j", string(pr.JobID))
	require.EqualValues(t, 3, pr.Shard)
	var v map[string]int
	require.NoError(t, msgpack.Unmarshal(pr.Data, &v))
	require.Equal(t, 50, v["pct"])
	p.result("j", 1, protocol.OutcomeOK)
	p.job("l", 1, "late", nil)
	p.result("l", 1, protocol.OutcomeOK)
	require.ErrorIs(t, <-late, ErrJobEnded)
}

func TestQueueByPriorityAndItsBound(t *testing.T) {
	m := newMember(t)
	started, let := make(chan string, 16), make(chan struct{})
	n := startNode(t, Config{Servers: []string{m.addr()}, Concurrency: 1, Queue: 4}, func(c *Client) {
		c.Handle("k", func(_ context.Context, j Job) (Result, error) {
			started <- j.ID
			<-let
			return OK(nil), nil
		})
	})
	p, _ := m.session()
	send := func(id string, prio uint8) {
		j := newJob(t, id, 1, "k", nil)
		j.Priority = prio
		p.send(j)
	}
	send("first", 0)
	require.Equal(t, "first", <-started)
	send("low", 1)
	send("high", 9)
	send("mid-1", 5)
	send("mid-2", 5)
	send("over", 9)
	r := p.result("over", 1, protocol.OutcomeRefused)
	require.Equal(t, "node is full: 1 jobs run and 4 wait", string(r.Error))
	require.Equal(t, "over", awaitEvent[JobRefused](n).JobID)
	require.Zero(t, n.Stats().Held, "refusals without running are not kept")
	close(let)
	for _, id := range []string{"first", "high", "mid-1", "mid-2", "low"} {
		p.result(id, 1, protocol.OutcomeOK)
	}
	for _, id := range []string{"high", "mid-1", "mid-2", "low"} {
		require.Equal(t, id, <-started)
	}
}

func TestConcurrencyAndAttributesChange(t *testing.T) {
	m := newMember(t)
	started, let := make(chan string, 16), make(chan struct{})
	n := startNode(t, Config{Servers: []string{m.addr()}, Concurrency: 2}, func(c *Client) {
		c.Handle("k", func(_ context.Context, j Job) (Result, error) {
			started <- j.ID
			<-let
			return OK(nil), nil
		})
	})
	p, _ := m.session()
	awaitEvent[Connected](n)
	require.NoError(t, n.SetConcurrency(0))
	require.Zero(t, expect[*protocol.Credit](p).Credit)
	p.job("a", 1, "k", nil)
	p.job("b", 1, "k", nil)
	require.Eventually(t, func() bool { return n.Stats().Queued == 2 }, patience, time.Millisecond)
	require.NoError(t, n.SetConcurrency(1))
	require.EqualValues(t, 1, expect[*protocol.Credit](p).Credit)
	require.Equal(t, "a", <-started)
	require.Equal(t, 1, n.Stats().Queued)
	close(let)
	p.result("a", 1, protocol.OutcomeOK)
	p.result("b", 1, protocol.OutcomeOK)

	n.Handle("later", echo)
	require.Equal(t, []string{"k", "later"}, expect[*protocol.AttributesUpdate](p).Attributes.Kinds)
	require.NoError(t, n.SetAttributes(protocol.Attributes{Country: "NZ"}))
	a := expect[*protocol.AttributesUpdate](p).Attributes
	require.Equal(t, "NZ", a.Country)
	require.Equal(t, []string{"k", "later"}, a.Kinds)
}

func TestFullOutboxRefusesJobsAndDropsNoResult(t *testing.T) {
	m := newMember(t)
	box := NewMemoryOutbox(2, 0)
	startNode(t, Config{Servers: []string{m.addr()}, Outbox: box}, func(c *Client) { c.Handle("k", echo) })
	p, _ := m.session()
	for _, id := range []string{"a", "b"} {
		p.job(id, 1, "k", 1)
		p.result(id, 1, protocol.OutcomeOK)
	}
	p.job("c", 1, "k", 1)
	require.Contains(t, string(p.result("c", 1, protocol.OutcomeRefused).Error), "outbox holds 2 results")
	p.job("a", 1, "k", 1) // still answered
	p.result("a", 1, protocol.OutcomeOK)
	p.ack("a", 1)
	p.job("c", 1, "k", 1)
	p.result("c", 1, protocol.OutcomeOK)
	all, err := box.All()
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, "b", all[0].JobID)
}
