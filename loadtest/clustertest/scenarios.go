//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/roost-server/roost/loadtest/clustertest/clock"
	"github.com/roost-server/roost/loadtest/clustertest/netlab"
	"github.com/roost-server/roost/loadtest/internal/wait"
)

// scenario is one thing that is done to a cluster.
type scenario struct {
	name       string
	what       string
	members    int // 0: three
	clockSlack time.Duration
	// lacking tells why it cannot be run here; "" when it can. nil: it always can.
	lacking func(*runner) string
	// prepare runs before the members start.
	prepare func(context.Context, *stage) error
	// act breaks something and heals it. What it returns is called when all open jobs have
	// ended, to judge the figures.
	act func(context.Context, *stage) (judge func(), err error)
}

func (s *scenario) size() int {
	if s.members == 0 {
		return 3
	}
	return s.members
}

var scenarios []*scenario

func init() { // not as its value: scenarios refer to functions that refer to it
	scenarios = []*scenario{
		{name: "kill9", what: "one of three members is killed, and comes back", act: kill9(1)},
		{name: "stop", what: "one member is stopped for 20 s by SIGSTOP, and goes on", act: freeze},
		{name: "partition-members", what: "one member and the others do not reach each other for 20 s; Kafka is there for all", act: partitionMembers},
		{name: "partition-kafka", what: "one member does not reach Kafka for 20 s; the others are there", act: partitionKafka},
		{name: "one-way", what: "nothing that one member sends reaches another for 20 s; what that sends arrives", act: oneWay},
		{name: "slow-link", what: "what one member sends takes 100 ms longer, and 2 % of it is lost, for 20 s", act: slowLink},
		{name: "clock", what: "the clock of one member is 10 s ahead for 20 s, and jumps back", lacking: func(*runner) string { return clock.Lacking() },
			clockSlack: clockJump + time.Second, act: jumpClock},
		{name: "rolling", what: "all members are restarted, one after the other, each drained before", act: rolling},
		{name: "haproxy", what: "nodes come through HAProxy, and one member is drained", lacking: lacksProxy, prepare: startProxy, act: drainBehindProxy},
		{name: "five-members", what: "two of five members are killed at once, and come back", members: 5, act: kill9(2)},
	}
}

const faultTime = 20 * time.Second

// kill9 kills the first members.
func kill9(n int) func(context.Context, *stage) (func(), error) {
	return func(ctx context.Context, s *stage) (func(), error) {
		e := s.strike(s.members[:n]...)
		for _, m := range e.hit {
			s.say("kill -9 %s", m.Name)
			m.Kill()
		}
		if !wait.Pause(ctx, faultTime) {
			return nil, ctx.Err()
		}
		e.over()
		for _, m := range e.hit {
			s.say("%s comes back", m.Name)
			if err := m.Start(ctx); err != nil {
				return nil, err
			}
		}
		return func() { e.others(); e.moves(); e.returns(); e.recovers() }, nil
	}
}

func freeze(ctx context.Context, s *stage) (func(), error) {
	e := s.strike(s.members[0])
	s.say("SIGSTOP %s", e.hit[0].Name)
	e.hit[0].Freeze(ctx, faultTime)
	e.over()
	s.say("SIGCONT %s", e.hit[0].Name)
	return func() { e.others(); e.moves(); e.returns(); e.recovers() }, ctx.Err()
}

// behind impairs a member's connection for a while.
func behind(ctx context.Context, s *stage, rules ...netlab.Rule) (*event, error) {
	e := s.strike(s.members[0])
	s.say("a wire lies before %s", e.hit[0].Name)
	if err := s.impair(e.hit[0], rules...); err != nil {
		return nil, err
	}
	wait.Pause(ctx, faultTime)
	for _, w := range s.wires {
		passed, dropped := w.Counts()
		s.say("the wire goes: it has passed %d packets and dropped %d", passed, dropped)
		s.figure("packets_dropped", float64(dropped))
	}
	s.heal(ctx)
	e.over()
	return e, ctx.Err()
}

// cut drops what goes between two hosts, in both directions.
func (s *stage) cut(a string, others ...string) []netlab.Rule {
	one, many := []netip.Addr{s.lab.Addr(a)}, []netip.Addr(nil)
	for _, o := range others {
		many = append(many, s.lab.Addr(o))
	}
	return []netlab.Rule{{From: one, To: many, Loss: 1}, {From: many, To: one, Loss: 1}}
}

func partitionMembers(ctx context.Context, s *stage) (func(), error) {
	var others []string
	for _, m := range s.members[1:] {
		others = append(others, m.Name)
	}
	e, err := behind(ctx, s, s.cut(s.members[0].Name, others...)...)
	return func() { e.others(); e.stays(); e.recovers() }, err
}

func partitionKafka(ctx context.Context, s *stage) (func(), error) {
	e, err := behind(ctx, s, s.cut(s.members[0].Name, brokerHost)...)
	return func() { e.others(); e.moves(); e.stays(); e.recovers() }, err
}

func oneWay(ctx context.Context, s *stage) (func(), error) {
	e, err := behind(ctx, s, netlab.Rule{From: []netip.Addr{s.lab.Addr(s.members[0].Name)}, To: []netip.Addr{s.lab.Addr(s.members[1].Name)}, Loss: 1})
	return func() { e.others(); e.stays(); e.recovers() }, err
}

func slowLink(ctx context.Context, s *stage) (func(), error) {
	e, err := behind(ctx, s, netlab.Rule{From: []netip.Addr{s.lab.Addr(s.members[0].Name)}, Loss: 0.02, Delay: 100 * time.Millisecond})
	return func() { e.others(); e.stays(); e.recovers() }, err
}

// clockJump is above the skew at which members refuse each other.
const clockJump = 10 * time.Second

func jumpClock(ctx context.Context, s *stage) (func(), error) {
	m := s.members[0]
	p := m.Process()
	if p == nil {
		return nil, fmt.Errorf("member %s is not there", m.Name)
	}
	e := s.strike(m)
	s.say("the clock of %s is %v ahead", m.Name, clockJump)
	if err := clock.Set(p.PID(), clockJump); err != nil {
		return nil, err
	}
	wait.Pause(ctx, faultTime)
	s.say("the clock of %s jumps back", m.Name)
	err := clock.Set(p.PID(), 0)
	e.over()
	return func() { e.others(); e.stays(); e.recovers() }, err
}

// rolling restarts every member. Whose sockets fall is told beforehand, so all of them
// come back, at the pace of the drain.
func rolling(ctx context.Context, s *stage) (func(), error) {
	e := s.strike(s.members...)
	for i, m := range s.members {
		begin := time.Now()
		if s.can.drain {
			s.say("%s is drained", m.Name)
			limit, cancel := context.WithTimeout(ctx, drainLimit)
			err := m.drain(limit, s.members[(i+1)%len(s.members)])
			cancel()
			if err != nil {
				return nil, err
			}
			if left := len(s.history().at(m.Name, time.Now())); left > 0 {
				s.fail("%d sockets are left at %s when its drain is done", left, m.Name)
			}
		}
		s.say("%s is stopped", m.Name)
		m.Stop(true)
		if err := m.Start(ctx); err != nil {
			return nil, err
		}
		limit, cancel := context.WithTimeout(ctx, time.Minute)
		up := m.AwaitUp(limit)
		cancel()
		if !up {
			return nil, fmt.Errorf("%s does not come back", m.Name)
		}
		s.say("%s is back after %v", m.Name, round(time.Since(begin)))
		if !wait.Pause(ctx, calmBetween) {
			return nil, ctx.Err()
		}
	}
	e.over()
	return func() { e.returns(); e.paced(e.begin, e.end); e.recovers() }, nil
}

const (
	drainLimit  = 2 * time.Minute
	calmBetween = 5 * time.Second
)

// paced judges that nodes came back no faster than the drain lets them.
func (e *event) paced(from, to time.Time) {
	s := e.stage
	if !s.can.drain {
		return
	}
	most := s.history().busiest(from, to)
	s.show("connects/s while members were drained: %d at most; the rate was %d", most, s.opt.drainRate)
	if most > 2*s.opt.drainRate {
		s.fail("%d nodes connected within a second; the drain's rate is %d/s", most, s.opt.drainRate)
	}
}
