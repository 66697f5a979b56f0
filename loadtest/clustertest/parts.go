//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/roost-server/roost/loadtest/chaos/apache"
	"github.com/roost-server/roost/loadtest/chaos/nodes"
	"github.com/roost-server/roost/loadtest/chaos/process"
	"github.com/roost-server/roost/loadtest/internal/suite"
	"github.com/roost-server/roost/loadtest/internal/wait"
)

const (
	kafkaPort    = 9092
	insidePort   = 9192 // of the embedded broker, on its host's loopback
	nodesPort    = 7400
	apiPort      = 7480
	clusterPort  = 7946
	stopPatience = drainLimit + 40*time.Second
)

// at is HOST:PORT of a host of the lab.
func (r *runner) at(host string, port int) string {
	return net.JoinHostPort(r.lab.Addr(host).String(), strconv.Itoa(port))
}

// on starts a process on a host.
func (s *stage) on(host, name, program string, args ...string) (*process.Process, error) {
	program, args = s.lab.Command(host, program, args...)
	return s.launcher.Start(name, program, args...)
}

// startBroker runs the broker on its host and waits until it serves.
func (s *stage) startBroker(ctx context.Context) error {
	s.broker = s.at(brokerHost, kafkaPort)
	if s.opt.Kafka == suite.Apache {
		b, err := apache.New(ctx, apache.Config{
			Launcher: s.launcher, Dir: filepath.Join(s.dir, "kafka"), Host: s.lab.Addr(brokerHost).String(), Port: kafkaPort,
			Kafka: s.opt.KafkaDir, Script: s.opt.KafkaSh, Say: s.say,
			Wrap: func(program string, args ...string) (string, []string) {
				return s.lab.Command(brokerHost, program, args...)
			},
		})
		if err != nil {
			return err
		}
		p, err := b.Launch()
		if err != nil {
			return err
		}
		_, err = p.Find(ctx, apache.Serves)
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	inside := fmt.Sprintf("127.0.0.1:%d", insidePort)
	p, err := s.on(brokerHost, "broker", s.opt.Roost, "broker", "--listen", inside, "--data", filepath.Join(s.dir, "broker"))
	if err != nil {
		return err
	}
	if _, err := p.Find(ctx, regexp.MustCompile(`embedded broker at `)); err != nil {
		return err
	}
	door, err := s.on(brokerHost, "door", self, "door", "--listen", s.broker, "--target", inside)
	if err != nil {
		return err
	}
	_, err = door.Find(ctx, regexp.MustCompile(`open`))
	return err
}

// makeCertificates has the product make those of the members.
func (s *stage) makeCertificates(ctx context.Context) error {
	if !s.can.tls || !s.can.certs {
		return nil
	}
	calls := [][]string{{"certs", "ca", "--dir", s.dir}}
	for i := range s.sc.size() {
		calls = append(calls, []string{"certs", "member", memberName(i), "--dir", s.dir})
	}
	for i, args := range calls {
		p, err := s.launcher.Start(fmt.Sprintf("certs-%d", i), s.opt.Roost, args...)
		if err != nil {
			return err
		}
		select {
		case <-p.Done():
		case <-ctx.Done():
			return ctx.Err()
		}
		if p.Code() != 0 {
			return fmt.Errorf("roost %s ended with code %d: %s", strings.Join(args, " "), p.Code(), p.Tail())
		}
	}
	return nil
}

// fleet is a process with nodes, on a host of theirs.
type fleet struct {
	stage    *stage
	prefix   string
	proc     *process.Process
	sessions string // path of the log
}

func (s *stage) startFleets(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	addrs := []string{s.entry}
	if s.entry == "" {
		addrs = nil
		for _, m := range s.members {
			addrs = append(addrs, s.at(m.Name, nodesPort))
		}
	}
	for i := range nodeHosts {
		f := &fleet{stage: s, prefix: string(rune('a'+i)) + "-", sessions: filepath.Join(s.dir, "sessions-"+nodeHost(i)+".log")}
		s.fleets = append(s.fleets, f)
		args := []string{"nodes", "--members", strings.Join(addrs, ","), "--prefix", f.prefix, "--count", strconv.Itoa(s.opt.nodes),
			"--seed", strconv.FormatUint(s.opt.Seed+uint64(i), 10), "--runs", filepath.Join(s.dir, "runs-"+nodeHost(i)+".log"), "--sessions", f.sessions}
		if s.can.cluster || s.entry != "" {
			args = append(args, "--one")
		}
		if f.proc, err = s.on(nodeHost(i), "nodes-"+nodeHost(i), self, args...); err != nil {
			return err
		}
	}
	want := int64(s.opt.nodes * nodeHosts)
	if !s.can.cluster && s.entry == "" {
		want *= int64(len(s.members))
	}
	if !wait.Await(ctx, func() bool { return s.sessions() >= want }) {
		return fmt.Errorf("%d of %d sessions of nodes are open: %w", s.sessions(), want, ctx.Err())
	}
	s.say("%d sessions are open", want)
	return nil
}

func (f *fleet) ids() []string {
	ids := make([]string, f.stage.opt.nodes)
	for i := range ids {
		ids[i] = nodes.ID(f.prefix, i)
	}
	return ids
}

// stats are the newest that the process said.
func (f *fleet) stats() (st nodes.Stats) {
	if f.proc != nil {
		_ = json.Unmarshal([]byte(f.proc.Last()), &st) // zero until it says some
	}
	return st
}

func (f *fleet) stop() {
	for _, b := range f.stats().Blames {
		f.stage.fail("what a node was told: %s", b)
	}
	f.proc.In.Close() // they end with it
	select {
	case <-f.proc.Done():
	case <-time.After(10 * time.Second):
		f.proc.Kill()
	}
	if f.proc.Code() != 0 {
		f.stage.fail("the nodes %s* ended with code %d; see %s", f.prefix, f.proc.Code(), f.proc.Log)
	}
}
