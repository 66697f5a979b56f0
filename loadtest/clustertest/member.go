//go:build linux

package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/roost-server/roost/loadtest/chaos/process"
)

// member is a member's place: its name and its host. Processes come and go in it.
type member struct {
	name  string
	stage *stage
	args  []string // beyond those that all have

	mu     sync.Mutex
	proc   *process.Process // nil when it is not there
	state  string           // for people
	leaves bool             // the end of proc is our doing
}

// States of a member that say how it is doing.
const (
	stateUp     = "up"
	stateFrozen = "frozen"
)

func (m *member) flags() []string {
	s, o := m.stage, m.stage.opt
	args := []string{"serve", "--kafka", s.broker, "--name", m.name, "--nodes-listen", fmt.Sprintf("0.0.0.0:%d", nodesPort),
		"--api-listen", fmt.Sprintf("0.0.0.0:%d", apiPort), "--api-open", "--heartbeat", o.heartbeat.String(), "--partitions", strconv.Itoa(o.partitions)}
	if o.kafka == embedded {
		args = append(args, "--unsafe-embedded-broker")
	}
	if s.can.cluster {
		args = append(args, "--cluster-listen", fmt.Sprintf("0.0.0.0:%d", clusterPort), "--cluster-advertise", s.at(m.name, clusterPort))
		if s.can.tls && s.can.certs {
			args = append(args, "--cluster-tls-ca", filepath.Join(s.dir, "ca.crt"),
				"--cluster-tls-cert", filepath.Join(s.dir, m.name+".crt"), "--cluster-tls-key", filepath.Join(s.dir, m.name+".key"))
		} else {
			args = append(args, "--cluster-insecure")
		}
	}
	if s.can.advertise {
		nodes := s.entry
		if nodes == "" {
			nodes = s.at(m.name, nodesPort)
		}
		args = append(args, "--nodes-advertise", nodes, "--api-advertise", s.at(m.name, apiPort))
	}
	if s.can.paced {
		args = append(args, "--drain-rate", strconv.Itoa(o.drainRate), "--drain-timeout", drainLimit.String())
	}
	return append(args, m.args...)
}

// start runs a process in the place; it is up when its API says that it is ready.
func (m *member) start(ctx context.Context) error {
	p, err := m.stage.on(m.name, m.name, m.stage.opt.roost, m.flags()...)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.proc, m.leaves, m.state = p, false, "starting"
	m.mu.Unlock()
	m.stage.wg.Go(func() {
		if await(ctx, func() bool { return p.Ended() || m.ready(ctx) }) && !p.Ended() {
			m.mark(p, stateUp)
		}
		select {
		case <-p.Done():
			m.ended(ctx, p)
		case <-ctx.Done():
		}
	})
	return nil
}

// ready asks the API.
func (m *member) ready(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.stage.at(m.name, apiPort)+"/readyz", nil)
	if err != nil {
		return false
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// mark says how a process is doing, unless another has taken its place.
func (m *member) mark(p *process.Process, state string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.proc == p && !m.leaves {
		m.state = state
	}
}

// ended starts a process again that ended by itself, as systemd would.
func (m *member) ended(ctx context.Context, p *process.Process) {
	m.mu.Lock()
	unasked := m.proc == p && !m.leaves
	if m.proc == p {
		m.proc, m.state = nil, "down"
	}
	m.mu.Unlock()
	if !unasked || ctx.Err() != nil {
		return
	}
	m.stage.fail("member %s ended by itself, %s; see %s, which ends with %q", m.name, p.How(), p.Log, p.Last())
	if pause(ctx, time.Second) {
		if err := m.start(ctx); err != nil {
			m.stage.fail("member %s: %v", m.name, err)
		}
	}
}

// take marks the process as one whose end is our doing, and returns it.
func (m *member) take(state string) *process.Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leaves, m.state = true, state
	return m.proc
}

func (m *member) process() *process.Process {
	m.mu.Lock()
	defer m.mu.Unlock()
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
		m.stage.fail("member %s did not end within %v of SIGTERM; see %s", m.name, stopPatience, p.Log)
	} else if p.Code() != 0 && well {
		m.stage.fail("member %s ended with code %d; see %s", m.name, p.Code(), p.Log)
	}
}

// freeze stops the process for a while without its knowing.
func (m *member) freeze(ctx context.Context, d time.Duration) {
	p := m.process()
	if p == nil {
		return
	}
	m.mark(p, stateFrozen)
	p.Signal(syscall.SIGSTOP)
	pause(ctx, d)
	p.Signal(syscall.SIGCONT)
	m.mark(p, stateUp)
}

// drain has the product move the member's nodes, and waits until it says that it is done.
func (m *member) drain(ctx context.Context, by *member) error {
	s := m.stage
	p, err := s.launcher.Start("drain-"+m.name, s.opt.roost, "drain", m.name, "--api", "http://"+s.at(by.name, apiPort),
		"--rate", strconv.Itoa(s.opt.drainRate), "--wait")
	if err != nil {
		return err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		p.Signal(os.Interrupt.(syscall.Signal))
		return fmt.Errorf("roost drain %s is not done: %w; see %s", m.name, ctx.Err(), p.Log)
	}
	if p.Code() != 0 {
		return fmt.Errorf("roost drain %s ended with code %d: %s", m.name, p.Code(), p.Last())
	}
	return nil
}

func (m *member) status() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.name + " " + m.state
}

func (m *member) awaitUp(ctx context.Context) bool {
	return await(ctx, func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.proc != nil && m.state == stateUp
	})
}
