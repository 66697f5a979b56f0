//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/roost-server/roost/loadtest/chaos/process"
	"github.com/roost-server/roost/loadtest/internal/suite"
	"github.com/roost-server/roost/loadtest/internal/wait"
)

// member is a member's place: its name and its host.
type member struct {
	*suite.Member
	stage *stage
	args  []string // beyond those that all have
}

func newMember(s *stage, name string) *member {
	m := &member{stage: s}
	m.Member = suite.NewMember(name, suite.Host{
		Launch:  func() (*process.Process, error) { return s.on(name, name, s.opt.Roost, m.flags()...) },
		Serves:  m.serves,
		Crashed: func(p *process.Process) { s.fail("%s", m.HowEnded(p)) },
		Failed:  func(err error) { s.fail("member %s: %v", name, err) },
		Wrong:   func(_, detail string) { s.fail("%s", detail) },
		Go:      s.wg.Go, StopPatience: stopPatience,
	})
	return m
}

// serves waits until the API says that the member is ready. Its nodes know its address.
func (m *member) serves(ctx context.Context, p *process.Process) (string, error) {
	if !wait.Await(ctx, func() bool { return p.Ended() || m.ready(ctx) }) {
		return "", ctx.Err()
	}
	if p.Ended() {
		return "", errors.New("it has ended")
	}
	return "", nil
}

// ready asks the API.
func (m *member) ready(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.stage.at(m.Name, apiPort)+"/readyz", nil)
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

func (m *member) flags() []string {
	s, o := m.stage, m.stage.opt
	args := []string{"serve", "--kafka", s.broker, "--name", m.Name, "--nodes-listen", fmt.Sprintf("0.0.0.0:%d", nodesPort),
		"--api-listen", fmt.Sprintf("0.0.0.0:%d", apiPort), "--api-open", "--heartbeat", o.heartbeat.String(), "--partitions", strconv.Itoa(o.Partitions)}
	if o.Kafka == suite.Embedded {
		args = append(args, "--unsafe-embedded-broker")
	}
	if s.can.cluster {
		args = append(args, "--cluster-listen", fmt.Sprintf("0.0.0.0:%d", clusterPort), "--cluster-advertise", s.at(m.Name, clusterPort))
		if s.can.tls && s.can.certs {
			args = append(args, "--cluster-tls-ca", filepath.Join(s.dir, "ca.crt"),
				"--cluster-tls-cert", filepath.Join(s.dir, m.Name+".crt"), "--cluster-tls-key", filepath.Join(s.dir, m.Name+".key"))
		} else {
			args = append(args, "--cluster-insecure")
		}
	}
	if s.can.advertise {
		nodes := s.entry
		if nodes == "" {
			nodes = s.at(m.Name, nodesPort)
		}
		args = append(args, "--nodes-advertise", nodes, "--api-advertise", s.at(m.Name, apiPort))
	}
	if s.can.paced {
		args = append(args, "--drain-rate", strconv.Itoa(o.drainRate), "--drain-timeout", drainLimit.String())
	}
	return append(args, m.args...)
}

// drain has the product move the member's nodes, and waits until it says that it is done.
func (m *member) drain(ctx context.Context, by *member) error {
	s := m.stage
	p, err := s.launcher.Start("drain-"+m.Name, s.opt.Roost, "drain", m.Name, "--api", "http://"+s.at(by.Name, apiPort),
		"--rate", strconv.Itoa(s.opt.drainRate), "--wait")
	if err != nil {
		return err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		p.Signal(os.Interrupt.(syscall.Signal))
		return fmt.Errorf("roost drain %s is not done: %w; see %s", m.Name, ctx.Err(), p.Log)
	}
	if p.Code() != 0 {
		return fmt.Errorf("roost drain %s ended with code %d: %s", m.Name, p.Code(), p.Last())
	}
	return nil
}
