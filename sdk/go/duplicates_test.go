package roost

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/protocol"
)

// counted counts runs and returns when let (nil: at once).
type counted struct {
	runs    atomic.Int32
	started chan uint32 // attempts
	let     chan Result
}

func newCounted() *counted {
	return &counted{started: make(chan uint32, 16), let: make(chan Result, 16)}
}

func (c *counted) handle(_ context.Context, j Job) (Result, error) {
	c.runs.Add(1)
	c.started <- j.Attempt
	return <-c.let, nil
}

func TestDuplicateOfARunningJob(t *testing.T) {
	m, h := newMember(t), newCounted()
	n := startNode(t, Config{Servers: []string{m.addr()}}, func(c *Client) { c.Handle("k", h.handle) })
	p, _ := m.session()
	p.job("j", 1, "k", nil)
	<-h.started
	p.job("j", 1, "k", nil)
	require.EqualValues(t, 1, expect[*protocol.Accepted](p).Attempt)
	p.job("j", 4, "k", nil)
	require.EqualValues(t, 4, expect[*protocol.Accepted](p).Attempt)
	p.job("j", 2, "k", nil)
	require.EqualValues(t, 4, expect[*protocol.Accepted](p).Attempt)
	h.let <- OK("once")
	p.result("j", 4, protocol.OutcomeOK)
	require.EqualValues(t, 1, h.runs.Load())
	require.EqualValues(t, 3, n.Stats().Duplicates)
	require.False(t, awaitEvent[JobDuplicate](n).Answered)
}

func TestDuplicateOfAHeldResult(t *testing.T) {
	m, h := newMember(t), newCounted()
	n := startNode(t, Config{Servers: []string{m.addr()}}, func(c *Client) { c.Handle("k", h.handle) })
	p, _ := m.session()
	h.let <- Fail("bad", 1)
	p.job("j", 2, "k", nil)
	p.result("j", 2, protocol.OutcomeFailed)
	p.job("j", 2, "k", nil)
	p.result("j", 2, protocol.OutcomeFailed)
	p.job("j", 1, "k", nil)
	p.result("j", 2, protocol.OutcomeFailed)
	p.job("j", 3, "k", nil)
	p.result("j", 3, protocol.OutcomeFailed)
	require.EqualValues(t, 1, h.runs.Load())
	require.True(t, awaitEvent[JobDuplicate](n).Answered)

	p.ack("j", 2) // of the past: attempt 3 is not recorded
	p.job("j", 3, "k", nil)
	p.result("j", 3, protocol.OutcomeFailed)
	require.Equal(t, 1, n.Stats().Held)
	p.ack("j", 3)
	require.Eventually(t, func() bool { return n.Stats().Held == 0 }, patience, time.Millisecond)
}

func TestDuplicateOfAnAcknowledgedResult(t *testing.T) {
	m, h := newMember(t), newCounted()
	n := startNode(t, Config{Servers: []string{m.addr()}, Recent: 2}, func(c *Client) { c.Handle("k", h.handle) })
	p, _ := m.session()
	run := func(id string, out any) {
		h.let <- OK(out)
		p.job(id, 1, "k", nil)
		p.result(id, 1, protocol.OutcomeOK)
		p.ack(id, 1)
	}
	run("small", "answer")
	p.job("small", 2, "k", nil)
	require.Equal(t, "\xa6answer", string(p.result("small", 2, protocol.OutcomeOK).Output))
	require.EqualValues(t, 1, h.runs.Load())
	require.Zero(t, n.Stats().Held, "an answer from the cache is not held again")

	run("large", strings.Repeat("x", RecentBytes+1))
	run("large", "again: it was not remembered")
	require.EqualValues(t, 3, h.runs.Load())
	run("third", 1)
	run("small", "again: it was forgotten for the third")
	require.EqualValues(t, 5, h.runs.Load())
}

// Only a result of a job that ran to its end answers a later attempt.
func TestLaterAttemptRunsAgainAfterARefusal(t *testing.T) {
	m, h := newMember(t), newCounted()
	startNode(t, Config{Servers: []string{m.addr()}}, func(c *Client) { c.Handle("k", h.handle) })
	p, _ := m.session()
	h.let <- Result{Outcome: protocol.OutcomeRefused, Error: "busy"}
	p.job("j", 1, "k", nil)
	p.result("j", 1, protocol.OutcomeRefused)
	p.job("j", 1, "k", nil)
	p.result("j", 1, protocol.OutcomeRefused)
	require.EqualValues(t, 1, h.runs.Load())
	h.let <- OK(nil)
	p.job("j", 2, "k", nil)
	p.result("j", 2, protocol.OutcomeOK)
	require.EqualValues(t, 2, h.runs.Load())
	h.let <- OK(nil)
	p.ack("j", 2)
	p.job("j", 3, "k", nil)
	p.result("j", 3, protocol.OutcomeOK)
	require.EqualValues(t, 2, h.runs.Load())
}

func TestNewerAttemptOfAQueuedJobReplacesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, h := newPipes(t), newCounted()
		n := startNode(t, Config{Servers: []string{"a:1"}, Dial: d.dial, Concurrency: 1}, func(c *Client) { c.Handle("k", h.handle) })
		p, _ := d.session()
		p.job("first", 1, "k", nil)
		<-h.started
		j := newJob(t, "j", 1, "k", nil)
		j.TimeoutMs = 1000
		p.send(j)
		j.Attempt, j.TimeoutMs = 2, 5000
		p.send(j)
		require.EqualValues(t, 2, expect[*protocol.Accepted](p).Attempt)
		time.Sleep(2 * time.Second) // past the first attempt's timeout
		require.Equal(t, 1, n.Stats().Queued)
		h.let <- OK(1)
		p.result("first", 1, protocol.OutcomeOK)
		h.let <- OK(2)
		p.result("j", 2, protocol.OutcomeOK)
	})
}

// The newer attempt came while the older ran; the older times out: the newer runs,
// as soon as the older's handler has returned, within its own timeout.
func TestNewerAttemptRunsAfterTheOlderTimedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, h := newPipes(t), newCounted()
		startNode(t, Config{Servers: []string{"a:1"}, Dial: d.dial}, func(c *Client) { c.Handle("k", h.handle) })
		p, _ := d.session()
		j := newJob(t, "j", 1, "k", nil)
		j.TimeoutMs = 1000
		p.send(j)
		<-h.started
		j.Attempt, j.TimeoutMs = 2, 5000
		p.send(j)
		require.EqualValues(t, 2, expect[*protocol.Accepted](p).Attempt)
		time.Sleep(2 * time.Second)
		h.let <- OK("of the first, too late")
		require.EqualValues(t, 2, <-h.started)
		h.let <- OK("of the second")
		require.Contains(t, string(p.result("j", 2, protocol.OutcomeOK).Output), "of the second")
		require.EqualValues(t, 2, h.runs.Load())
	})
}

// The handler of the older attempt never returns: the newer says timeout by itself,
// and is never run beside it.
func TestNewerAttemptTimesOutBehindAStuckHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, h := newPipes(t), newCounted()
		n := startNode(t, Config{Servers: []string{"a:1"}, Dial: d.dial}, func(c *Client) { c.Handle("k", h.handle) })
		p, _ := d.session()
		j := newJob(t, "j", 1, "k", nil)
		j.TimeoutMs = 1000
		p.send(j)
		p.result("j", 1, protocol.OutcomeTimeout)
		p.send(j)
		p.result("j", 1, protocol.OutcomeTimeout)
		j.Attempt = 2
		p.send(j)
		require.EqualValues(t, 2, expect[*protocol.Accepted](p).Attempt)
		p.result("j", 2, protocol.OutcomeTimeout)
		p.send(j)
		p.result("j", 2, protocol.OutcomeTimeout)
		p.ack("j", 2)
		h.let <- OK(nil)
		synctest.Wait()
		require.EqualValues(t, 1, h.runs.Load())
		require.Zero(t, n.Stats().Held)
		require.Zero(t, len(n.tasks))
	})
}

// The older attempt ends as refused: that does not answer the newer, which runs next.
func TestNewerAttemptRunsAfterTheOlderRefused(t *testing.T) {
	m, h := newMember(t), newCounted()
	startNode(t, Config{Servers: []string{m.addr()}}, func(c *Client) { c.Handle("k", h.handle) })
	p, _ := m.session()
	p.job("j", 1, "k", nil)
	<-h.started
	p.job("j", 2, "k", nil)
	expect[*protocol.Accepted](p)
	h.let <- Result{Outcome: protocol.OutcomeRefused}
	require.EqualValues(t, 2, <-h.started)
	h.let <- OK(nil)
	p.result("j", 2, protocol.OutcomeOK)
}

func TestCancelCoversTheNewerAttempt(t *testing.T) {
	m := newMember(t)
	n := startNode(t, Config{Servers: []string{m.addr()}}, func(c *Client) { c.Handle("k", untilDone) })
	p, _ := m.session()
	p.job("j", 1, "k", nil)
	awaitEvent[JobStarted](n)
	p.job("j", 2, "k", nil)
	expect[*protocol.Accepted](p)
	p.send(&protocol.Cancel{JobID: []byte("j"), Attempt: 2})
	p.result("j", 2, protocol.OutcomeCancelled)
	require.Eventually(t, func() bool { return n.Stats().Running == 0 && n.Stats().Queued == 0 }, patience, time.Millisecond)
}
