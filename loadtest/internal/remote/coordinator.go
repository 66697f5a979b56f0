//go:build linux

package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/roost-server/roost/loadtest/internal/nodes"
	"github.com/roost-server/roost/loadtest/internal/ports"
)

// Bounds of [Config].
const (
	MaxWorkers = 256
	MaxWeight  = 1000
)

// Host is a worker that listens.
type Host struct {
	Addr   string // host:port
	Weight int    // of its share of the nodes, beside other workers; 0 is 1
}

// ParseHost reads "host:port" or "host:port=weight".
func ParseHost(s string) (Host, error) {
	addr, weight, has := strings.Cut(s, "=")
	h := Host{Addr: addr, Weight: 1}
	if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
		return Host{}, fmt.Errorf("--worker: %q; host:port or host:port=weight is expected", s)
	}
	if has {
		n, err := strconv.Atoi(weight)
		if err != nil || n < 1 || n > MaxWeight {
			return Host{}, fmt.Errorf("--worker %s: weight %q; allowed are 1 to %d", addr, weight, MaxWeight)
		}
		h.Weight = n
	}
	return h, nil
}

// Config says which workers a [Group] has.
type Config struct {
	Local int // child processes, of weight 1
	// Program and Args are how a child is started: it calls [Inherited] and
	// [Worker.ServeConn]. Program is this one when it is empty.
	Program string
	Args    []string
	Hosts   []Host // workers that run already
	Token   string // of Hosts
	Version string // default [Version]
	// Patience is how long a worker may be silent; default [DefaultPatience].
	Patience time.Duration
	// Answer is how long a worker may take for a command; default a minute.
	Answer time.Duration
}

func (c *Config) validate(spec *nodes.Spec) error {
	if c.Program == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		c.Program = self
	}
	c.Version = cmp.Or(c.Version, Version())
	c.Patience = cmp.Or(c.Patience, DefaultPatience)
	c.Answer = cmp.Or(c.Answer, defaultAnswer)
	all := c.Local + len(c.Hosts)
	switch {
	case c.Local < 0 || all < 1 || all > MaxWorkers:
		return fmt.Errorf("--workers %d and %d --worker: allowed are 1 to %d together", c.Local, len(c.Hosts), MaxWorkers)
	case spec.Nodes < all:
		return fmt.Errorf("--nodes: %d for %d workers: each needs one at least", spec.Nodes, all)
	case len(spec.Sources) > ports.MaxSources:
		return fmt.Errorf("--source: %d addresses; at most %d are allowed", len(spec.Sources), ports.MaxSources)
	}
	for i, h := range c.Hosts {
		if h.Weight == 0 {
			c.Hosts[i].Weight = 1
		}
		for _, o := range c.Hosts[:i] {
			if o.Addr == h.Addr {
				return fmt.Errorf("--worker %s is there twice: a worker serves one coordinator at a time", h.Addr)
			}
		}
	}
	return nil
}

// Start finds all workers and has them make their nodes, none of them connected yet. When
// one cannot, all are given up, and the error names it. The caller ends the group with
// [Group.Stop].
func Start(ctx context.Context, cfg Config, spec nodes.Spec) (*Group, error) {
	cfg.Hosts = append([]Host(nil), cfg.Hosts...)
	if err := cfg.validate(&spec); err != nil {
		return nil, err
	}
	g := &Group{nodes: spec.Nodes}
	for i := range cfg.Local {
		g.links = append(g.links, &link{name: fmt.Sprintf("local-%d", i+1), cfg: &cfg, group: g, weight: 1})
	}
	for _, h := range cfg.Hosts {
		g.links = append(g.links, &link{name: h.Addr, cfg: &cfg, group: g, weight: h.Weight, addr: h.Addr})
	}
	var weights []int
	for _, l := range g.links {
		weights = append(weights, l.weight)
	}
	first := spec.First
	for i, n := range share(spec.Nodes, weights) {
		g.links[i].nodes, g.links[i].first = n, first
		first += n
	}
	if here := g.nodesOf(cfg.Local); here > 0 {
		if err := ports.Check(&spec, here); err != nil {
			return nil, err
		}
	}
	if err := g.each(func(l *link) error { return l.connect(ctx) }); err != nil {
		return nil, errors.Join(err, g.give(ctx))
	}
	if err := g.begin(ctx, spec); err != nil {
		return nil, errors.Join(err, g.give(ctx))
	}
	return g, nil
}

// nodesOf is how many nodes the first workers have.
func (g *Group) nodesOf(workers int) (n int) {
	for _, l := range g.links[:workers] {
		n += l.nodes
	}
	return n
}

// begin gives every worker its part of the nodes.
func (g *Group) begin(ctx context.Context, spec nodes.Spec) error {
	var sizes []int
	for _, l := range g.links {
		if l.nodes == 0 {
			return fmt.Errorf("worker %s: its weight %d is too small for one of %d nodes", l.name, l.weight, spec.Nodes)
		}
		sizes = append(sizes, l.nodes)
	}
	inFlight := share(spec.InFlight, sizes)
	mine := clock()
	return g.each(func(l *link) error {
		part := spec
		part.First, part.Nodes = l.first, l.nodes
		if spec.InFlight > 0 {
			part.InFlight = max(1, inFlight[l.index(g)])
		}
		if l.child == nil {
			part.Sources = nil // those of this host
		}
		if l.hello.Clock != mine || mine == "" {
			if err := reachable(spec.Servers); err != nil {
				return fmt.Errorf("worker %s is on another host: %w", l.name, err)
			}
			part.Stamp = false
		}
		l.unstamped = spec.Stamp && !part.Stamp
		_, err := l.ask(ctx, &message{Start: &part})
		return err
	})
}

// reachable refuses what only this host can reach.
func reachable(servers []netip.AddrPort) error {
	for _, s := range servers {
		if s.Addr().IsLoopback() {
			return fmt.Errorf("--server %s is a loopback address; give one at which that host finds the server", s)
		}
	}
	return nil
}

// each runs f for every worker at once.
func (g *Group) each(f func(*link) error) error {
	errs := make([]error, len(g.links))
	var wg sync.WaitGroup
	for i, l := range g.links {
		wg.Go(func() { errs[i] = f(l) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// give ends what was begun and did not succeed. The workers end their nodes when the
// connection ends.
func (g *Group) give(ctx context.Context) error {
	_ = g.each(func(l *link) error { l.hangUp(); return nil })
	return ctx.Err()
}
