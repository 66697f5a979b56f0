//go:build linux

package suite

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/roost-server/roost/loadtest/chaos/process"
	"github.com/roost-server/roost/loadtest/internal/wait"
)

// restartAfter is how long a member that ended by itself is away: what systemd does.
const restartAfter = time.Second

// States of a member that say how it is doing.
const (
	stateUp     = "up"
	stateFrozen = "frozen"
)

// Host is the run that a member is in, as far as the member has to do with it. None of
// its fields is nil but Route.
type Host struct {
	// Launch starts a process.
	Launch func() (*process.Process, error)
	// Serves waits until a process serves, and returns its address for Route. An error
	// means that it ended, or ctx did.
	Serves func(ctx context.Context, p *process.Process) (addr string, err error)
	// Route is told where nodes find the member; "" is nowhere.
	Route func(addr string)
	// Crashed is told of a process that ended by itself. It is started again; Failed is
	// told when that does not work.
	Crashed func(p *process.Process)
	Failed  func(err error)
	// Wrong is told what a member has done that it must not: the kind, and the case.
	Wrong func(kind, detail string)
	// Go runs something in the background until ctx of Start ends.
	Go func(func())
	// StopPatience is how long an orderly end may take before it is wrong.
	StopPatience time.Duration
}

// Member is a member's place: its name and how nodes find it. Processes come and go in
// it. Any goroutine may call its methods.
type Member struct {
	Name string
	host Host

	mu     sync.Mutex
	proc   *process.Process // nil when it is not there
	state  string           // for people
	leaves bool             // the end of proc is our doing
}

// NewMember returns a place without a process.
func NewMember(name string, h Host) *Member { return &Member{Name: name, host: h} }

// Start runs a process in the place.
func (m *Member) Start(ctx context.Context) error {
	p, err := m.host.Launch()
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.proc, m.leaves, m.state = p, false, "starting"
	m.mu.Unlock()
	m.host.Go(func() {
		if addr, err := m.host.Serves(ctx, p); err == nil && !p.Ended() {
			m.mark(p, stateUp, addr)
		}
		select {
		case <-p.Done():
			m.ended(ctx, p)
		case <-ctx.Done():
		}
	})
	return nil
}

// mark says how a process is doing, unless another has taken its place.
func (m *Member) mark(p *process.Process, state, addr string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.proc != p || m.leaves {
		return
	}
	m.state = state
	if addr != "" {
		m.route(addr)
	}
}

func (m *Member) route(addr string) {
	if m.host.Route != nil {
		m.host.Route(addr)
	}
}

// ended starts a process again that ended by itself, as systemd would.
func (m *Member) ended(ctx context.Context, p *process.Process) {
	m.mu.Lock()
	unasked := m.proc == p && !m.leaves
	if m.proc == p {
		m.proc, m.state = nil, "down"
		m.route("")
	}
	m.mu.Unlock()
	if !unasked || ctx.Err() != nil {
		return
	}
	m.host.Crashed(p)
	if wait.Pause(ctx, restartAfter) {
		if err := m.Start(ctx); err != nil {
			m.host.Failed(err)
		}
	}
}

// HowEnded tells in words of a process that ended by itself.
func (m *Member) HowEnded(p *process.Process) string {
	return fmt.Sprintf("member %s ended by itself, %s; see %s, which ends with %q", m.Name, p.How(), p.Log, p.Last())
}

// take marks the process as one whose end is our doing, and returns it.
func (m *Member) take(state string) *process.Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leaves, m.state = true, state
	m.route("")
	return m.proc
}

// Process is the one that is there, or nil.
func (m *Member) Process() *process.Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.proc
}

// Kill ends it by SIGKILL.
func (m *Member) Kill() {
	if p := m.take("killed"); p != nil {
		p.Kill()
	}
}

// Stop ends it in order. While Kafka is well that has to succeed.
func (m *Member) Stop(well bool) {
	p := m.take("stopping")
	if p == nil {
		return
	}
	if !p.Stop(m.host.StopPatience) {
		m.host.Wrong("member that does not stop", fmt.Sprintf("member %s did not end within %v of SIGTERM; see %s", m.Name, m.host.StopPatience, p.Log))
	} else if p.Code() != 0 && well {
		m.host.Wrong("orderly end", fmt.Sprintf("member %s ended with code %d; see %s", m.Name, p.Code(), p.Log))
	}
}

// Freeze stops the process for a while without its knowing.
func (m *Member) Freeze(ctx context.Context, d time.Duration) {
	p := m.Process()
	if p == nil {
		return
	}
	m.mark(p, stateFrozen, "")
	p.Signal(syscall.SIGSTOP)
	wait.Pause(ctx, d)
	p.Signal(syscall.SIGCONT)
	m.mark(p, stateUp, "")
}

// Running tells whether there is a process that serves.
func (m *Member) Running() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.proc != nil && !m.leaves && m.state == stateUp
}

// AwaitUp waits until it serves.
func (m *Member) AwaitUp(ctx context.Context) bool { return wait.Await(ctx, m.Running) }

// Status is for people.
func (m *Member) Status() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.proc == nil && m.state == "" {
		return m.Name + " out"
	}
	return m.Name + " " + m.state
}

// StartAll starts members that live as long as ctx, and waits until all serve, or limit
// ends. logs is where the reader of the error has to look.
func StartAll[M interface {
	Start(context.Context) error
	AwaitUp(context.Context) bool
	Status() string
}](ctx, limit context.Context, members []M, logs string) error {
	for _, m := range members {
		if err := m.Start(ctx); err != nil {
			return err
		}
	}
	for _, m := range members {
		if !m.AwaitUp(limit) {
			return fmt.Errorf("a member does not come up: %s; see %s", m.Status(), logs)
		}
	}
	return nil
}
