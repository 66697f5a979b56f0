//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/roost-server/roost/loadtest/internal/wait"
)

// lacksProxy tells why nodes cannot come through HAProxy here.
func lacksProxy(r *runner) string {
	if !r.can.proxy {
		return "the binary has no --proxy-protocol"
	}
	_, why := haproxy(r.opt)
	return why
}

// What is replaced in the configuration beside addresses: limits above what a machine may
// allow, and a socket outside of the run's directory.
var (
	maxconn = regexp.MustCompile(`\bmaxconn \d+`)
	control = regexp.MustCompile(`\bstats socket \S+`)
)

// startProxy runs HAProxy with the configuration that is delivered, in which the members'
// addresses are replaced by those of the lab.
func startProxy(ctx context.Context, s *stage) error {
	program, why := haproxy(s.opt)
	if why != "" {
		return fmt.Errorf("HAProxy: %s", why)
	}
	text, err := os.ReadFile(s.opt.haproxyCfg)
	if err != nil {
		return err
	}
	config := maxconn.ReplaceAllString(string(text), fmt.Sprintf("maxconn %d", s.opt.nodes*nodeHosts+1000))
	config = control.ReplaceAllString(config, "stats socket "+filepath.Join(s.dir, "haproxy.sock"))
	for i, m := range s.members {
		model := fmt.Sprintf(" 10.0.0.%d:", i+1)
		if !strings.Contains(config, model) {
			return fmt.Errorf("%s has no server at%s, for member %s", s.opt.haproxyCfg, model, m.Name)
		}
		config = strings.ReplaceAll(config, model, " "+s.lab.Addr(m.Name).String()+":")
		m.args = append(m.args, "--proxy-protocol", "--proxy-from", s.lab.Addr(proxyHost).String()+"/32")
	}
	path := filepath.Join(s.dir, "haproxy.cfg")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, program, "-c", "-f", path).CombinedOutput(); err != nil {
		return fmt.Errorf("haproxy -c -f %s: %w: %s", path, err, out)
	}
	p, err := s.on(proxyHost, "haproxy", program, "-db", "-f", path)
	if err != nil {
		return err
	}
	s.entry = s.at(proxyHost, nodesPort)
	if !wait.Await(ctx, func() bool { return p.Ended() || reachable(s.entry) }) || p.Ended() {
		return fmt.Errorf("HAProxy does not listen at %s: %s", s.entry, p.Last())
	}
	return nil
}

// proxyNotices is how long HAProxy takes to notice that a member is not ready: two checks,
// of one a second.
const proxyNotices = 3 * time.Second

func reachable(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// drainBehindProxy drains a member whose nodes know the proxy's address alone: they have
// to end up at the others, since its readiness fails.
func drainBehindProxy(ctx context.Context, s *stage) (func(), error) {
	m := s.members[0]
	e := s.strike(m)
	s.say("%s is drained", m.Name)
	limit, cancel := context.WithTimeout(ctx, drainLimit)
	defer cancel()
	if s.can.drain {
		if err := m.drain(limit, s.members[1]); err != nil {
			return nil, err
		}
	} else {
		m.Stop(true)
	}
	gone := wait.Await(limit, func() bool { return len(s.history().at(m.Name, time.Now())) == 0 })
	e.over()
	s.say("%s is stopped", m.Name)
	m.Stop(true)
	wait.Pause(ctx, calmBetween)
	if err := m.Start(ctx); err != nil {
		return nil, err
	}
	return func() {
		if !gone {
			s.fail("%s still had sockets %v after its drain began", m.Name, drainLimit)
		}
		if n := s.history().ups(m.Name, e.begin.Add(proxyNotices), e.end); n > 0 {
			s.fail("%d sessions began at the member that is being drained", n)
		}
		e.others()
		e.returns()
		e.paced(e.begin, e.end)
		e.recovers()
	}, ctx.Err()
}
