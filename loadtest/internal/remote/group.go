//go:build linux

package remote

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/roost-server/roost/loadtest/internal/nodes"
	"github.com/roost-server/roost/loadtest/internal/timeline"
)

// Group is a set of nodes in several workers. It implements nodes.Group: a worker that is
// lost makes no command fail, but its nodes count as dead, and Stats().Problems names it.
// Commands fail when none is left.
type Group struct {
	nodes int
	links []*link
	count atomic.Uint64 // of errors that workers have reported, to know the newest

	once    sync.Once
	stopErr error
}

var _ nodes.Group = (*Group)(nil)

// Names says where the nodes are, for the report.
func (g *Group) Names() []string {
	var names []string
	for _, l := range g.links {
		at, left := "", ""
		if l.child == nil {
			at = " on " + l.hello.Host
		}
		if l.unstamped {
			left = ", which latencies to and from nodes leave out: its clock is another"
		}
		names = append(names, fmt.Sprintf("%s%s: %d nodes%s", l.name, at, l.nodes, left))
	}
	return names
}

// command gives every worker that is there what make returns for it.
func (g *Group) command(ctx context.Context, make func(i int, l *link) *message) (sum reply, err error) {
	var mu sync.Mutex
	left := false
	var lost []error
	err = g.each(func(l *link) error {
		r, err := l.ask(ctx, make(l.index(g), l))
		mu.Lock()
		defer mu.Unlock()
		if gone := (*lostError)(nil); errors.As(err, &gone) {
			lost = append(lost, gone)
			return nil
		}
		left = true
		if err == nil {
			sum.Cut += r.Cut
		}
		return err
	})
	if !left {
		return sum, fmt.Errorf("no worker is left: %w", errors.Join(lost...))
	}
	return sum, err
}

// sizes are the numbers of nodes of the workers.
func (g *Group) sizes() []int {
	var sizes []int
	for _, l := range g.links {
		sizes = append(sizes, l.nodes)
	}
	return sizes
}

// Ramp implements nodes.Group.
func (g *Group) Ramp(ctx context.Context, upTo int, perS float64) error {
	if upTo < 0 || upTo > g.nodes {
		return fmt.Errorf("ramp to %d: there are %d nodes", upTo, g.nodes)
	}
	shares := share(upTo, g.sizes())
	_, err := g.command(ctx, func(i int, l *link) *message {
		l.mu.Lock()
		l.asked = max(l.asked, shares[i])
		l.mu.Unlock()
		return &message{Ramp: &ramp{UpTo: shares[i], PerS: g.part(perS, l)}}
	})
	return err
}

// part is a worker's part of a rate.
func (g *Group) part(perS float64, l *link) float64 {
	return perS * float64(l.nodes) / float64(g.nodes)
}

// Cut implements nodes.Group.
func (g *Group) Cut(ctx context.Context, fraction float64) (int, error) {
	r, err := g.command(ctx, func(int, *link) *message { return &message{Cut: &fraction} })
	return r.Cut, err
}

// Churn implements nodes.Group.
func (g *Group) Churn(ctx context.Context, perS float64) error {
	_, err := g.command(ctx, func(_ int, l *link) *message {
		rate := g.part(perS, l)
		return &message{Churn: &rate}
	})
	return err
}

// Slow implements nodes.Group.
func (g *Group) Slow(ctx context.Context, fraction float64) error {
	_, err := g.command(ctx, func(int, *link) *message { return &message{Slow: &fraction} })
	return err
}

// Stop implements nodes.Group. It waits for the children's end, too. A worker that is
// lost before or meanwhile is no error here but a problem in Stats.
func (g *Group) Stop() error {
	g.once.Do(func() {
		g.stopErr = g.each(func(l *link) error {
			_, err := l.ask(context.Background(), &message{Stop: true})
			l.hangUp()
			if gone := (*lostError)(nil); errors.As(err, &gone) {
				return nil
			}
			return err
		})
	})
	return g.stopErr
}

// Stats implements nodes.Group: what the workers reported last, added up.
func (g *Group) Stats() nodes.Stats {
	sum := nodes.Stats{Nodes: g.nodes, Closes: map[string]uint64{}, Load: timeline.Process{Name: "load"}}
	var newest uint64
	settled := true
	for _, l := range g.links {
		l.mu.Lock()
		s := &l.stats
		add(&sum, s)
		if l.lost != nil {
			sum.Problems = append(sum.Problems, l.lost.Error())
		} else if l.asked > 0 && s.ConnectTook == 0 {
			settled = false
		}
		if l.unstamped {
			sum.Unstamped += l.nodes
		}
		if s.LastError != "" && l.erredAt >= newest {
			newest, sum.LastError = l.erredAt, s.LastError
			if l.lost == nil {
				sum.LastError = "worker " + l.name + ": " + s.LastError
			}
		}
		l.mu.Unlock()
	}
	if !settled {
		sum.ConnectTook = 0
	}
	return sum
}

// add adds what can be added; the time to connect is the longest.
func add(sum, s *nodes.Stats) {
	sum.Connected += s.Connected
	sum.Dead += s.Dead
	sum.Dials += s.Dials
	sum.DialErrors += s.DialErrors
	sum.OpenTimeouts += s.OpenTimeouts
	sum.Sessions += s.Sessions
	sum.Dropped += s.Dropped
	sum.Cut += s.Cut
	sum.GoAways += s.GoAways
	sum.BadFrames += s.BadFrames
	sum.Pings += s.Pings
	sum.Pongs += s.Pongs
	sum.Jobs += s.Jobs
	sum.Results += s.Results
	sum.Acks += s.Acks
	sum.Unacked += s.Unacked
	for reason, n := range s.Closes {
		sum.Closes[reason] += n
	}
	sum.Problems = append(sum.Problems, s.Problems...)
	sum.ConnectTook = max(sum.ConnectTook, s.ConnectTook)
	sum.Load.CPUMs += s.Load.CPUMs
	sum.Load.RSSBytes += s.Load.RSSBytes
}
