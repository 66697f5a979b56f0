//go:build linux

package fleet

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/roost-server/roost/loadtest/internal/nodes"
	"github.com/roost-server/roost/loadtest/internal/proc"
	"github.com/roost-server/roost/loadtest/internal/timeline"
	"github.com/roost-server/roost/protocol"
)

// churnTries is how often churn looks for a node with an open session before it skips
// one: so it is cheap also when hardly any is connected.
const churnTries = 16

// group is a fleet as a load test moves it.
type group struct {
	*Fleet
	mu    sync.Mutex
	rss   int64
	rssAt time.Time
}

// rssEvery is how often the memory of this process is read.
const rssEvery = 500 * time.Millisecond

// NewGroup makes a group of nodes in this process; none is connected yet. The error says
// which field of spec cannot be. The caller stops it.
func NewGroup(spec nodes.Spec) (nodes.Group, error) {
	f, err := open(Config(spec))
	if err != nil {
		return nil, err
	}
	go f.run()
	return &group{Fleet: f}, nil
}

// do has the loop call fn, and waits for it.
func (f *Fleet) do(ctx context.Context, fn func()) error {
	done := make(chan struct{})
	f.mu.Lock()
	f.asked = append(f.asked, func() { fn(); close(done) })
	f.mu.Unlock()
	f.wake()
	select {
	case <-done:
		return nil
	case <-f.done:
		return fmt.Errorf("the nodes have ended: %s", f.Stats().LastError)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// obey does what was asked for.
func (f *Fleet) obey() {
	f.mu.Lock()
	asked := f.asked
	f.asked = nil
	f.mu.Unlock()
	for _, fn := range asked {
		fn()
	}
	if len(asked) > 0 {
		f.publish()
	}
}

// Ramp implements [nodes.Group].
func (g *group) Ramp(ctx context.Context, upTo int, perS float64) error {
	if upTo < 0 || upTo > len(g.nodes) || perS < 0 {
		return fmt.Errorf("ramp to %d nodes at %v a second: allowed are 0 to %d, at 0 or more", upTo, perS, len(g.nodes))
	}
	return g.do(ctx, func() { g.ramp(upTo, perS) })
}

func (f *Fleet) ramp(upTo int, perS float64) {
	if f.rampBegan.IsZero() {
		f.rampBegan = time.Now()
	}
	if upTo > f.fresh && f.fresh >= f.rampTo { // the last one is over
		f.st.ConnectTook, f.rampDue, f.rampMs = 0, 0, f.nowMs
	}
	f.rampTo, f.rampPerS = max(upTo, f.fresh), perS
}

// mayRamp reports whether the next node may be dialled, and takes it that it is.
func (f *Fleet) mayRamp() bool {
	if f.fresh >= f.rampTo {
		return false
	}
	if f.rampPerS == 0 {
		return true
	}
	f.rampDue += f.rampPerS * float64(f.nowMs-f.rampMs) / 1000
	f.rampMs = f.nowMs
	if f.rampDue < 1 {
		return false
	}
	f.rampDue--
	return true
}

// Cut implements [nodes.Group].
func (g *group) Cut(ctx context.Context, fraction float64) (int, error) {
	if fraction < 0 || fraction > 1 {
		return 0, badFraction("cut", fraction)
	}
	var hit int
	if err := g.do(ctx, func() { hit = g.cutAll(fraction) }); err != nil {
		return 0, err
	}
	return hit, nil
}

func badFraction(what string, fraction float64) error {
	return fmt.Errorf("%s %v of the nodes: allowed are 0 to 1", what, fraction)
}

func (f *Fleet) cutAll(fraction float64) (hit int) {
	f.cuts++
	for i := range f.nodes {
		n := &f.nodes[i]
		if n.fd >= 0 && nodes.Hit(f.cfg.Seed, f.cuts, f.cfg.First+i, fraction) {
			f.cut(n, i)
			hit++
		}
	}
	return hit
}

// cut resets a node's connection.
func (f *Fleet) cut(n *node, i int) {
	_ = unix.SetsockoptLinger(int(n.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	f.st.Cut++
	f.retry(n, i, protocol.ReconnectBackoff, 0)
}

// Churn implements [nodes.Group].
func (g *group) Churn(ctx context.Context, perS float64) error {
	if perS < 0 {
		return fmt.Errorf("churn of %v sockets a second: 0 or more are allowed", perS)
	}
	return g.do(ctx, func() {
		if g.churnPerS == 0 {
			g.churnDue, g.churnMs = 0, g.nowMs
		}
		g.churnPerS = perS
	})
}

// churn cuts open sessions at random, at its rate.
func (f *Fleet) churn() {
	if f.churnPerS == 0 {
		return
	}
	f.churnDue += f.churnPerS * float64(f.nowMs-f.churnMs) / 1000
	f.churnMs = f.nowMs
	for ; f.churnDue >= 1; f.churnDue-- {
		for range churnTries {
			i := f.rng.IntN(len(f.nodes))
			if n := &f.nodes[i]; n.state == stateOpen {
				f.cut(n, i)
				break
			}
		}
	}
}

// Slow implements [nodes.Group].
func (g *group) Slow(ctx context.Context, fraction float64) error {
	if fraction < 0 || fraction > 1 {
		return badFraction("slow", fraction)
	}
	return g.do(ctx, func() { g.slowDown(fraction) })
}

func (f *Fleet) slowDown(fraction float64) {
	f.slow = fraction
	for i := range f.nodes {
		n := &f.nodes[i]
		if n.state != stateOpen {
			continue // those are told at WELCOME
		}
		if deaf := fraction > 0 && nodes.Hit(f.cfg.Seed, nodes.OfSlow, f.cfg.First+i, fraction); deaf != n.deaf {
			f.setDeaf(n, i, deaf)
		}
	}
}

func (f *Fleet) setDeaf(n *node, i int, deaf bool) {
	n.deaf = deaf
	f.listen(n, i)
}

// Stats implements [nodes.Group].
func (g *group) Stats() nodes.Stats {
	s := g.Fleet.Stats()
	out := nodes.Stats{
		Nodes: len(g.nodes), Connected: s.Connected, Dead: s.Dead, Dials: s.Dials, DialErrors: s.DialErrors,
		OpenTimeouts: s.OpenTimeouts, Sessions: s.Sessions, Dropped: s.Dropped + s.SlowServer, Cut: s.Cut, GoAways: s.GoAways,
		BadFrames: s.BadFrames, Pings: s.Pings, Pongs: s.Pongs, Jobs: s.Jobs, Results: s.Results, Acks: s.Acks,
		Unacked: s.Unacked, Closes: map[string]uint64{}, LastError: s.LastError, ConnectTook: s.ConnectTook,
		Load: timeline.Process{Name: "load", CPUMs: proc.SelfCPU().Milliseconds()},
	}
	for r, n := range s.Closes {
		out.Closes[r.String()] += n
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Since(g.rssAt) >= rssEvery {
		g.rssAt = time.Now()
		g.rss, _ = proc.QuickRSS(os.Getpid()) // it is there
	}
	out.Load.RSSBytes = g.rss
	return out
}

// Stop implements [nodes.Group].
func (g *group) Stop() error {
	g.Fleet.Stop()
	return nil
}
