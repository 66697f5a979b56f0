package supervisor

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/stretchr/testify/require"
)

func TestDelaysDoubleUpToAMost(t *testing.T) {
	p := DefaultPolicy()
	var got []time.Duration
	for n := 2; n <= 10; n++ {
		got = append(got, p.delay(n)/time.Millisecond)
	}
	require.Equal(t, []time.Duration{100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000}, got)
	require.Equal(t, 5*time.Second, p.delay(1<<30))
	require.Equal(t, time.Second, Policy{Backoff: time.Minute, MaxBackoff: time.Second}.delay(2))
	require.Zero(t, Policy{}.delay(5))
}

// deeds is what a strategy had its supervisor do.
type deeds struct {
	mu    sync.Mutex
	start time.Time
	did   []string
}

func (d *deeds) add(what string, pids []*actor.PID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range pids {
		what += " " + p.Id
	}
	d.did = append(d.did, time.Since(d.start).String()+" "+what)
}

// Children implements actor.Supervisor.
func (d *deeds) Children() []*actor.PID { return nil }

// EscalateFailure implements actor.Supervisor.
func (d *deeds) EscalateFailure(any, any) { d.add("escalate", nil) }

// RestartChildren implements actor.Supervisor.
func (d *deeds) RestartChildren(p ...*actor.PID) { d.add("restart", p) }

// StopChildren implements actor.Supervisor.
func (d *deeds) StopChildren(p ...*actor.PID) { d.add("stop", p) }

// ResumeChildren implements actor.Supervisor.
func (d *deeds) ResumeChildren(p ...*actor.PID) { d.add("resume", p) }

func testStrategy(p Policy) (*strategy, *deeds, *failures) {
	f := &failures{counts: map[string]int{}, report: func(Failure) {}}
	tree := &Tree{failures: f}
	return tree.strategy(p, nil), &deeds{start: time.Now()}, f
}

func TestStrategyBacksOffWithinTheWindowAndEscalates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d, f := testStrategy(Policy{MaxRestarts: 3, Window: 10 * time.Second, Backoff: time.Second, MaxBackoff: time.Minute})
		fail := func(id string) { s.HandleFailure(nil, d, &actor.PID{Id: id}, nil, "reason", nil) }
		fail("a")
		fail("b")
		time.Sleep(time.Second)
		fail("a") // again after 1s
		time.Sleep(2 * time.Second)
		fail("a") // again after 2s
		time.Sleep(3 * time.Second)
		fail("a") // too often
		time.Sleep(20 * time.Second)
		fail("a") // the window is past
		synctest.Wait()
		require.Equal(t, []string{"0s restart a", "0s restart b", "2s restart a", "5s restart a", "6s escalate", "26s restart a"}, d.did)
		require.Equal(t, map[string]int{"a": 5, "b": 1}, f.counts)
		require.Equal(t, []int{1, 1, 2, 3, 4, 1}, restarts(f))
		require.Equal(t, "escalated", f.last[4].Action)
		require.Equal(t, "reason", f.last[4].Reason)
	})
}

func restarts(f *failures) (n []int) {
	for _, x := range f.last {
		n = append(n, x.Restarts)
	}
	return n
}

func TestStrategyRestartsNoneThatIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d, _ := testStrategy(Policy{MaxRestarts: 9, Window: time.Hour, Backoff: time.Second, MaxBackoff: time.Minute})
		fail := func(id string) { s.HandleFailure(nil, d, &actor.PID{Id: id}, nil, "reason", nil) }
		require.False(t, s.remove("a"))
		fail("a")
		s.removed("a")
		fail("a")
		fail("a")
		require.True(t, s.remove("a"), "it waits for its restart")
		s.removed("a")
		fail("b")
		fail("b")
		s.stop()
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Equal(t, []string{"0s stop a", "0s restart a", "0s restart b"}, d.did)
		require.Empty(t, s.waiting)
		require.Empty(t, s.removing)
	})
}

func TestStrategyOfSessionsStops(t *testing.T) {
	s, d, f := testStrategy(Policy{})
	for range keepFailures + 5 {
		s.HandleFailure(nil, d, &actor.PID{Id: "member/gates/gate-0/$1x"}, nil, "reason", nil)
	}
	require.Len(t, d.did, keepFailures+5)
	require.Contains(t, d.did[0], "stop member/gates/gate-0/$1x")
	require.Empty(t, s.recent, "nothing is kept of sessions")
	require.Equal(t, map[string]int{"member/gates/gate-0/session": keepFailures + 5}, f.counts)
	require.Len(t, f.last, keepFailures)
}
