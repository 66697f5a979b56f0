package roost

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/protocol"
)

func fixed(v float64) func() float64 { return func() float64 { return v } }

// Every reason, and numbers of the future in each range, against a client on a
// fake clock: half of the possible wait passes, or Run returns.
func TestPolicyOfEveryReason(t *testing.T) {
	reasons := []protocol.Reason{1999, 2999, 3999, 0, 999, 4000, 65535}
	for r := range protocol.Reasons() {
		reasons = append(reasons, r)
	}
	for _, reason := range reasons {
		for _, welcome := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v welcome=%v", reason, welcome), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { closeWith(t, reason, welcome) })
			})
		}
	}
}

func closeWith(t *testing.T, reason protocol.Reason, welcome bool) {
	d := newPipes(t)
	n := startNode(t, Config{Servers: []string{"a:1"}, Dial: d.dial}, func(c *Client) { c.rand = fixed(0.5) })
	p := d.accept()
	if welcome {
		p.open()
	} else {
		expect[*protocol.Hello](p)
	}
	p.send(&protocol.Close{Reason: reason, Message: "because"})
	start := time.Now()
	e := awaitEvent[Disconnected](n)
	require.Equal(t, reason, e.Reason)
	require.Equal(t, "because", e.Message)
	require.NoError(t, e.Err)
	switch reason.Policy() {
	case protocol.ReconnectNow:
		require.Equal(t, quickTime/2, e.RetryIn)
	case protocol.ReconnectBackoff:
		require.Equal(t, retryBase/2, e.RetryIn)
	case protocol.ReconnectNever:
		require.Negative(t, e.RetryIn)
		var ce *CloseError
		require.ErrorAs(t, n.wait(), &ce)
		require.Equal(t, CloseError{Reason: reason, Message: "because", Addr: "a:1"}, *ce)
		require.ErrorContains(t, ce, "because")
		return
	}
	d.session()
	require.Equal(t, e.RetryIn, time.Since(start))
}

func TestRetry(t *testing.T) {
	closed := func(r protocol.Reason, after uint32) *sessionEnd {
		return &sessionEnd{closed: &protocol.Close{Reason: r, RetryAfterMs: after}}
	}
	wait := func(r *retry, e *sessionEnd) time.Duration {
		t.Helper()
		d, stop := r.after(e)
		require.False(t, stop)
		return d
	}
	lost := &sessionEnd{err: errTest}
	const almost = 1 - 1e-9

	r := retry{rand: fixed(almost)}
	for _, want := range []time.Duration{500, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000} {
		require.InDelta(t, want*time.Millisecond, wait(&r, lost), float64(time.Millisecond))
	}
	r.failures = 1 << 40
	require.InDelta(t, time.Minute, wait(&r, lost), float64(time.Millisecond))
	require.InDelta(t, 500*time.Millisecond, wait(&r, &sessionEnd{err: errTest, lasted: stableAfter}), float64(time.Millisecond), "stable")
	require.InDelta(t, time.Second, wait(&r, &sessionEnd{err: errTest, lasted: stableAfter - 1}), float64(time.Millisecond), "not stable")

	r = retry{rand: fixed(0)}
	require.Zero(t, wait(&r, lost), "full jitter")
	require.Equal(t, 7*time.Second, wait(&r, closed(protocol.ReasonOverloaded, 7000)), "never before retry_after")
	require.Equal(t, 7*time.Second, wait(&r, closed(protocol.ReasonShutdown, 7000)))
	r = retry{rand: fixed(0.5)}
	require.Equal(t, 7250*time.Millisecond, wait(&r, closed(protocol.ReasonOverloaded, 7000)), "plus jitter")

	r = retry{rand: fixed(almost)}
	for range quickReturns {
		require.InDelta(t, time.Second, wait(&r, closed(protocol.ReasonInternal, 0)), float64(time.Millisecond))
	}
	r.failures = 3
	require.InDelta(t, 4*time.Second, wait(&r, closed(protocol.ReasonInternal, 0)), float64(time.Millisecond), "a member that keeps closing")

	r = retry{rand: fixed(0.5)}
	left := &sessionEnd{left: true, goaway: &protocol.GoAway{Reason: protocol.ReasonReplaced}}
	require.Zero(t, wait(&r, left), "the jitter is over")
	require.Equal(t, 500*time.Millisecond, wait(&r, left), "but not in a circle")
}

func TestRotation(t *testing.T) {
	r := rotation{servers: []string{"a:1", "b:1"}, next: 1}
	require.Equal(t, "b:1", r.pick())
	r.advise([]string{"x:1", "nonsense", ":9", "y:1"})
	for _, want := range []string{"x:1", "y:1", "a:1", "b:1", "a:1"} {
		require.Equal(t, want, r.pick())
	}
}

// TestNodesOfOneServerSpread has nodes lose a server: about as many go to each other one.
func TestNodesOfOneServerSpread(t *testing.T) {
	rnd, to := rand.New(rand.NewPCG(1, 2)), map[string]int{}
	for range 3000 {
		r := rotation{servers: shuffled([]string{"a:1", "b:1", "c:1", "d:1"}, rnd.Float64)}
		for r.pick() != "a:1" {
		}
		to[r.pick()]++
	}
	require.Len(t, to, 3)
	for addr, n := range to {
		require.InDelta(t, 1000, n, 150, addr)
	}
}

func TestServersAreTriedInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newPipes(t)
		d.setFail(errTest)
		n := startNode(t, Config{Servers: []string{"a:1", "b:1", "c:1"}, Dial: d.dial}, func(c *Client) { c.rand = fixed(0.4) })
		for range 4 {
			require.ErrorIs(t, awaitEvent[Disconnected](n).Err, errTest)
		}
		d.setFail(nil)
		d.session()
		require.Equal(t, []string{"c:1", "a:1", "b:1", "c:1", "a:1"}, d.dialled(), "in an order of its own, again and again")
	})
}

func TestGoAwayKeepsJobsRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, h := newPipes(t), newCounted()
		n := startNode(t, Config{Servers: []string{"a:1"}, Dial: d.dial}, func(c *Client) {
			c.rand = fixed(0.5)
			c.Handle("k", h.handle)
			c.Handle("echo", echo)
		})
		p, _ := d.session()
		p.job("long", 1, "k", nil)
		<-h.started
		start := time.Now()
		p.send(&protocol.GoAway{Reason: protocol.ReasonDrain, JitterMs: 8000, Addresses: []string{"b:1", "c:1"}, Message: "upgrade"})
		g := awaitEvent[GoingAway](n)
		require.Equal(t, 4*time.Second, g.LeaveIn)
		p.send(&protocol.GoAway{Reason: protocol.ReasonDrain}) // again: nothing changes
		p.job("meanwhile", 1, "echo", 1)
		p.result("meanwhile", 1, protocol.OutcomeOK)
		require.Equal(t, protocol.ReasonBye, expect[*protocol.Close](p).Reason)
		require.Equal(t, 4*time.Second, time.Since(start))
		e := awaitEvent[Disconnected](n)
		require.Equal(t, protocol.ReasonDrain, e.Reason)
		require.Equal(t, "upgrade", e.Message)
		require.Zero(t, e.RetryIn)

		p, hello := d.session()
		require.Equal(t, []string{"a:1", "b:1"}, d.dialled())
		require.Equal(t, []protocol.Ref{{JobID: "long", Shard: 3, Attempt: 1}}, hello.Running)
		require.Equal(t, []protocol.Ref{{JobID: "meanwhile", Shard: 3, Attempt: 1}}, hello.Held)
		p.result("meanwhile", 1, protocol.OutcomeOK)
		h.let <- OK(nil)
		p.result("long", 1, protocol.OutcomeOK)
		require.EqualValues(t, 1, h.runs.Load())

		p.send(&protocol.Close{Reason: protocol.ReasonShutdown})
		p, hello = d.session()
		require.Equal(t, "c:1", d.dialled()[2], "the advice lasts until it is used up")
		require.Empty(t, hello.Running)
		require.Len(t, hello.Held, 2)
		p.result("meanwhile", 1, protocol.OutcomeOK)
		p.result("long", 1, protocol.OutcomeOK)
	})
}

func TestGoAwayThenCloseInOneWrite(t *testing.T) {
	m, other := newMember(t), newMember(t)
	n := startNode(t, Config{Servers: []string{m.addr()}}, nil)
	p, _ := m.session()
	p.send(
		&protocol.GoAway{Reason: protocol.ReasonShutdown, JitterMs: 1 << 31, Addresses: []string{other.addr()}},
		&protocol.Close{Reason: protocol.ReasonShutdown, Message: "now"},
	)
	require.Equal(t, "now", awaitEvent[Disconnected](n).Message)
	other.session()
}

func TestResultsAreSentUntilAcknowledged(t *testing.T) {
	m, h := newMember(t), newCounted()
	n := startNode(t, Config{Servers: []string{m.addr()}}, func(c *Client) { c.Handle("k", h.handle) })
	p, _ := m.session()
	for _, id := range []string{"a", "b", "c"} {
		h.let <- OK(id)
		p.job(id, 1, "k", nil)
		p.result(id, 1, protocol.OutcomeOK)
	}
	p.ack("b", 1)
	awaitEvent[ResultAcked](n)
	for range 2 {
		p.send(&protocol.Close{Reason: protocol.ReasonInternal})
		p.gone()
		var hello *protocol.Hello
		p, hello = m.session()
		require.Equal(t, []protocol.Ref{{JobID: "a", Shard: 3, Attempt: 1}, {JobID: "c", Shard: 3, Attempt: 1}}, hello.Held)
		p.result("a", 1, protocol.OutcomeOK)
		p.result("c", 1, protocol.OutcomeOK)
	}
	p.send(&protocol.ResultAck{Acks: []protocol.Ack{{JobID: []byte("a"), Attempt: 1}, {JobID: []byte("c"), Attempt: 1}, {JobID: []byte("x"), Attempt: 9}}})
	require.Eventually(t, func() bool { return n.Stats().Held == 0 }, patience, time.Millisecond)
	require.EqualValues(t, 3, h.runs.Load())
}

// A result that comes while there is no connection; more of them than HELLO names.
func TestResultsOfATimeWithoutConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, h := newPipes(t), newCounted()
		const jobs = 3 * protocol.MaxResume
		h.let, h.started = make(chan Result, jobs), make(chan uint32, jobs)
		n := startNode(t, Config{Servers: []string{"a:1"}, Dial: d.dial, Concurrency: jobs}, func(c *Client) { c.Handle("k", h.handle) })
		p, _ := d.session()
		for i := range jobs {
			p.job(fmt.Sprint("j", i), 1, "k", nil)
		}
		for range jobs {
			<-h.started
		}
		d.setFail(errTest)
		p.conn.Close()
		awaitEvent[Disconnected](n)
		for range jobs / 2 {
			h.let <- OK(make([]byte, 4<<10))
		}
		synctest.Wait()
		require.Equal(t, jobs/2, n.Stats().Held)
		d.setFail(nil)
		p, hello := d.session()
		require.Len(t, hello.Running, protocol.MaxResume)
		require.Len(t, hello.Held, protocol.MaxResume)
		seen := map[string]bool{}
		for range jobs / 2 { // results first
			seen[string(expect[*protocol.Result](p).JobID)] = true
		}
		for range jobs/2 - protocol.MaxResume { // then the running ones that HELLO did not name
			seen[string(expect[*protocol.Accepted](p).JobID)] = true
		}
		for _, ref := range hello.Running {
			seen[ref.JobID] = true
		}
		require.Len(t, seen, jobs)
		for range jobs / 2 {
			h.let <- OK(nil)
		}
		for range jobs / 2 {
			expect[*protocol.Result](p)
		}
	})
}

func TestDrainWaitsForJobsAndAcknowledgements(t *testing.T) {
	m, h := newMember(t), newCounted()
	n := startNode(t, Config{Servers: []string{m.addr()}, Concurrency: 1, DrainTimeout: time.Minute}, func(c *Client) { c.Handle("k", h.handle) })
	p, _ := m.session()
	p.job("a", 1, "k", nil)
	<-h.started
	p.job("b", 1, "k", nil)
	require.Eventually(t, func() bool { return n.Stats().Queued == 1 }, patience, time.Millisecond)
	n.stop()
	require.Zero(t, expect[*protocol.Credit](p).Credit)
	p.job("new", 1, "k", nil) // left to others
	p.send(&protocol.Ping{Nonce: 1})
	expect[*protocol.Pong](p)
	h.let <- OK(nil)
	p.result("a", 1, protocol.OutcomeOK)
	h.let <- OK(nil)
	p.result("b", 1, protocol.OutcomeOK)
	p.ack("a", 1)
	p.ack("b", 1)
	require.Equal(t, protocol.ReasonBye, expect[*protocol.Close](p).Reason)
	require.Nil(t, p.next())
	p.conn.Close()
	require.NoError(t, n.wait())
	require.EqualValues(t, 2, h.runs.Load())
}

func TestDrainTimeoutEndsHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, s := newPipes(t), newStubborn()
		box := NewMemoryOutbox(0, 0)
		n := startNode(t, Config{Servers: []string{"a:1"}, Dial: d.dial, Concurrency: 2, DrainTimeout: 5 * time.Second, Outbox: box}, func(c *Client) {
			c.Handle("stuck", s.handle)
			c.Handle("wait", untilDone)
			c.Handle("save", func(ctx context.Context, _ Job) (Result, error) {
				<-ctx.Done()
				return OK("what there is"), nil
			})
		})
		p, _ := d.session()
		p.job("a", 1, "wait", nil)
		p.job("b", 1, "save", nil)
		synctest.Wait()
		p.job("c", 1, "stuck", nil) // queued
		synctest.Wait()
		n.stop()
		start := time.Now()
		expect[*protocol.Credit](p)
		p.result("b", 1, protocol.OutcomeOK)
		require.Equal(t, 5*time.Second, time.Since(start))
		expect[*protocol.Close](p)
		require.NoError(t, n.wait(), "handlers that obey their context: the rest is delivered again")
		all, err := box.All()
		require.NoError(t, err)
		require.Len(t, all, 1)
	})
}

func TestDrainTellsOfHandlersThatIgnoreTheirContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, s := newPipes(t), newStubborn()
		n := startNode(t, Config{Servers: []string{"a:1"}, Dial: d.dial, DrainTimeout: 5 * time.Second}, func(c *Client) { c.Handle("stuck", s.handle) })
		p, _ := d.session()
		p.job("a", 1, "stuck", nil)
		synctest.Wait()
		n.stop()
		start := time.Now()
		require.ErrorIs(t, n.wait(), ErrHandlersRunning)
		require.Equal(t, 6*time.Second, time.Since(start))
		require.ErrorIs(t, <-s.ended, ErrShutdown)
		close(s.let)
	})
}

func TestNeverStillLetsRunningJobsEnd(t *testing.T) {
	m, h := newMember(t), newCounted()
	box := NewMemoryOutbox(0, 0)
	n := startNode(t, Config{Servers: []string{m.addr()}, DrainTimeout: time.Minute, Outbox: box}, func(c *Client) { c.Handle("k", h.handle) })
	p, _ := m.session()
	p.job("a", 1, "k", nil)
	<-h.started
	p.send(&protocol.Close{Reason: protocol.ReasonReplaced})
	awaitEvent[Disconnected](n)
	h.let <- OK(nil)
	var ce *CloseError
	require.ErrorAs(t, n.wait(), &ce)
	all, err := box.All()
	require.NoError(t, err)
	require.Len(t, all, 1)
}
