//go:build linux

package main

import (
	"context"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/roost-server/roost/loadtest/chaos/process"
	"github.com/roost-server/roost/loadtest/chaos/proxy"
)

// member is a member's place: its name and the address that nodes know. Processes
// come and go in it.
type member struct {
	name  string
	proxy *proxy.Proxy
	run   *runner

	busy target

	mu     sync.Mutex
	proc   *process.Process // nil when it is not there
	state  string           // for people
	leaves bool             // the end of proc is our doing
	up     chan struct{}    // closed when proc serves
}

// stopPatience is how long an orderly end may take before it is called wrong.
const stopPatience = 40 * time.Second

var serves = regexp.MustCompile(`serves: nodes ([0-9.:]+),`)

func (m *member) start(ctx context.Context) error {
	o := m.run.opt
	args := []string{"serve", "--kafka", m.run.broker.address(), "--name", m.name,
		"--nodes-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0", "--heartbeat", "2s", "--partitions", strconv.Itoa(o.partitions)}
	if o.kafka == embedded {
		args = append(args, "--unsafe-embedded-broker")
	}
	p, err := m.run.launcher.Start(m.name, o.roost, args...)
	if err != nil {
		return err
	}
	up := make(chan struct{})
	m.mu.Lock()
	m.proc, m.leaves, m.state, m.up = p, false, "starting", up
	m.mu.Unlock()
	m.run.wg.Go(func() {
		if found, err := p.Find(ctx, serves); err == nil {
			m.mu.Lock()
			if m.proc == p {
				m.state = "up"
				m.proxy.SetTarget(found[0])
				close(up)
			}
			m.mu.Unlock()
		}
		select {
		case <-p.Done():
			m.ended(ctx, p)
		case <-ctx.Done():
		}
	})
	return nil
}

// ended starts a process again that ended by itself, as systemd would.
func (m *member) ended(ctx context.Context, p *process.Process) {
	m.mu.Lock()
	unasked := m.proc == p && !m.leaves
	if m.proc == p {
		m.proc, m.state = nil, "down"
		m.proxy.SetTarget("")
	}
	m.mu.Unlock()
	if !unasked || ctx.Err() != nil {
		return
	}
	m.run.exits.Add(1)
	detail := "member " + m.name + " ended by itself, " + p.How() + "; see " + p.Log + ", which ends with " + strconv.Quote(p.Last())
	if p.Code() < 0 {
		m.run.blame("member that crashed", detail) // a signal that nobody here sent
	} else {
		m.run.say("%s", detail)
	}
	if pause(ctx, time.Second) {
		m.run.check(m.start(ctx))
	}
}

// take marks the process as one whose end is our doing, and returns it.
func (m *member) take(state string) *process.Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leaves, m.state = true, state
	m.proxy.SetTarget("")
	return m.proc
}

func (m *member) kill() {
	if p := m.take("killed"); p != nil {
		p.Kill()
	}
}

// stop ends it in order. While Kafka is well that has to succeed.
func (m *member) stop(well bool) {
	p := m.take("stopping")
	if p == nil {
		return
	}
	if !p.Stop(stopPatience) {
		m.run.blame("member that does not stop", "member "+m.name+" did not end within "+stopPatience.String()+" of SIGTERM; see "+p.Log)
	} else if p.Code() != 0 && well {
		m.run.blame("orderly end", "member "+m.name+" ended with code "+strconv.Itoa(p.Code())+"; see "+p.Log)
	}
}

// freeze stops the process for a while without its knowing.
func (m *member) freeze(ctx context.Context, d time.Duration) {
	m.mu.Lock()
	p := m.proc
	m.state = "frozen"
	m.mu.Unlock()
	if p == nil {
		return
	}
	p.Signal(syscall.SIGSTOP)
	pause(ctx, d)
	p.Signal(syscall.SIGCONT)
	m.mu.Lock()
	if m.proc == p {
		m.state = "up"
	}
	m.mu.Unlock()
}

// running tells whether there is a process that serves.
func (m *member) running() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.proc != nil && !m.leaves && m.state == "up"
}

func (m *member) status() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.proc == nil && m.state == "" {
		return m.name + " out"
	}
	return m.name + " " + m.state
}

// awaitUp waits until it serves.
func (m *member) awaitUp(ctx context.Context) bool {
	for !m.running() {
		if !pause(ctx, 20*time.Millisecond) {
			return false
		}
	}
	return true
}
