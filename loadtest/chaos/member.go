//go:build linux

package main

import (
	"context"
	"regexp"
	"strconv"
	"time"

	"github.com/roost-server/roost/loadtest/chaos/process"
	"github.com/roost-server/roost/loadtest/chaos/proxy"
	"github.com/roost-server/roost/loadtest/internal/suite"
)

// member is a member's place, and the address that nodes know.
type member struct {
	*suite.Member
	proxy *proxy.Proxy
	busy  target
}

// stopPatience is how long an orderly end may take before it is called wrong.
const stopPatience = 40 * time.Second

var serves = regexp.MustCompile(`serves: nodes ([0-9.:]+),`)

func newMember(r *runner, name string) (*member, error) {
	p, err := proxy.New(nil)
	if err != nil {
		return nil, err
	}
	m := &member{proxy: p}
	m.Member = suite.NewMember(name, suite.Host{
		Launch: func() (*process.Process, error) { return r.launch(name) },
		Serves: func(ctx context.Context, p *process.Process) (string, error) {
			found, err := p.Find(ctx, serves)
			if err != nil {
				return "", err
			}
			return found[0], nil
		},
		Route: p.SetTarget,
		Crashed: func(p *process.Process) {
			r.exits.Add(1)
			if p.Code() < 0 {
				r.blame("member that crashed", m.HowEnded(p)) // a signal that nobody here sent
			} else {
				r.say("%s", m.HowEnded(p))
			}
		},
		Failed: func(err error) { r.check(err) },
		Wrong:  r.blame, Go: r.wg.Go, StopPatience: stopPatience,
	})
	return m, nil
}

// launch starts a member's process.
func (r *runner) launch(name string) (*process.Process, error) {
	o := r.opt
	args := []string{"serve", "--kafka", r.broker.address(), "--name", name,
		"--nodes-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0", "--heartbeat", "2s", "--partitions", strconv.Itoa(o.Partitions)}
	if o.Kafka == suite.Embedded {
		args = append(args, "--unsafe-embedded-broker")
	}
	return r.launcher.Start(name, o.Roost, args...)
}
