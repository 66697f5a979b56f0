package supervisor

import (
	"fmt"
	"sync"
	"time"

	"github.com/asynkron/protoactor-go/actor"
)

// Policy is how often and how fast the children of one supervisor are restarted.
type Policy struct {
	MaxRestarts int           // of one child within Window; one more escalates. 0: stop the child; -1: always escalate
	Window      time.Duration // what counts as recent
	Backoff     time.Duration // before the second restart within Window; doubles from there
	MaxBackoff  time.Duration
}

// DefaultPolicy restarts at once, then ever more slowly, and gives up after ten
// restarts within a minute.
func DefaultPolicy() Policy {
	return Policy{MaxRestarts: 10, Window: time.Minute, Backoff: 100 * time.Millisecond, MaxBackoff: 5 * time.Second}
}

// Failure is one failure of an actor, as operators see it.
type Failure struct {
	Actor    string
	Reason   string
	Action   string // restarted, stopped or escalated
	TimeMs   int64  // Unix time
	Restarts int    // of this actor within the window, this one included
}

// keepFailures is how many failures a tree remembers for queries.
const keepFailures = 100

// failures counts and remembers what failed. Any goroutine may use it.
type failures struct {
	mu     sync.Mutex
	last   []Failure
	counts map[string]int // restarts since the start, by actor; sessions under one name
	report func(Failure)
}

func (f *failures) add(x Failure) {
	f.mu.Lock()
	f.last = append(f.last, x)
	if len(f.last) > keepFailures {
		f.last = append(f.last[:0:0], f.last[len(f.last)-keepFailures:]...)
	}
	f.counts[x.Actor]++
	f.mu.Unlock()
	f.report(x)
}

// strategy is one-for-one supervision with a window, exponential backoff and
// escalation. protoactor's own backoff strategy grows linearly and never gives up.
type strategy struct {
	policy   Policy
	failures *failures
	name     func(child *actor.PID) string
	escalate func(reason any) // nil: to the supervisor's own supervisor
	now      func() time.Time

	mu       sync.Mutex
	recent   map[string][]time.Time // by child; guarded by mu
	waiting  map[string]*time.Timer // restarts to come; guarded by mu
	removing map[string]bool        // children that are to end; guarded by mu
}

// HandleFailure implements actor.SupervisorStrategy.
func (s *strategy) HandleFailure(_ *actor.ActorSystem, sup actor.Supervisor, child *actor.PID, _ *actor.RestartStatistics, reason, message any) {
	f := Failure{Actor: s.name(child), Reason: fmt.Sprint(reason), TimeMs: s.now().UnixMilli()}
	if s.policy.MaxRestarts == 0 || s.ends(child.Id) {
		f.Action = "stopped"
		s.failures.add(f)
		sup.StopChildren(child)
		return
	}
	f.Restarts = s.count(child.Id)
	if f.Restarts > s.policy.MaxRestarts {
		f.Action = "escalated"
		s.failures.add(f)
		if s.escalate != nil {
			s.escalate(reason)
		} else {
			sup.EscalateFailure(reason, message)
		}
		return
	}
	f.Action = "restarted"
	s.failures.add(f)
	if f.Restarts == 1 {
		sup.RestartChildren(child)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting[child.Id] = time.AfterFunc(s.policy.delay(f.Restarts), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.waiting[child.Id] != nil { // else it was removed, and another may have its name
			delete(s.waiting, child.Id)
			sup.RestartChildren(child)
		}
	})
}

// remove notes that a child is to end: it is not restarted any more. It reports
// whether the child waits for a restart, and so takes no messages.
func (s *strategy) remove(id string) (waits bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removing[id] = true
	if t := s.waiting[id]; t != nil {
		t.Stop()
		delete(s.waiting, id)
		return true
	}
	return false
}

// removed forgets a child that has ended.
func (s *strategy) removed(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.removing, id)
	delete(s.recent, id)
}

func (s *strategy) ends(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.removing[id]
}

// stop calls off the restarts to come.
func (s *strategy) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, t := range s.waiting {
		t.Stop()
		delete(s.waiting, id)
	}
}

// count notes a failure and returns how many there were within the window.
func (s *strategy) count(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	kept := s.recent[id][:0]
	for _, t := range s.recent[id] {
		if now.Sub(t) < s.policy.Window {
			kept = append(kept, t)
		}
	}
	s.recent[id] = append(kept, now)
	return len(s.recent[id])
}

// delay returns how long the n-th restart within the window waits.
func (p Policy) delay(n int) time.Duration {
	d := p.Backoff
	for i := 2; i < n && d < p.MaxBackoff; i++ {
		d *= 2
	}
	return min(d, p.MaxBackoff)
}
