//go:build linux

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/roost-server/roost/loadtest/internal/wait"
)

// target is something that one fault at a time happens to.
type target struct{ taken atomic.Bool }

func (t *target) take() bool { return t.taken.CompareAndSwap(false, true) }
func (t *target) free()      { t.taken.Store(false) }

// fault is a sort of fault. begin takes its target and returns what happens, which
// runs beside other faults; nil when no target is free.
type fault struct {
	name  string
	cards int // in a deck
	begin func(*runner, *rand.Rand) func(context.Context)
}

// faults are all sorts. The deck that they are drawn from makes sure that a short run
// has some of each.
var faults = []fault{
	{"member killed", 2, killMember},
	{"member frozen past its session", 1, zombie},
	{"member frozen for a moment", 1, freezeMember},
	{"member restarted in order", 1, restartMember},
	{"member joins or leaves", 2, extraMember},
	{"broker killed", 1, killBroker},
	{"broker frozen", 1, freezeBroker},
	{"broker answers with errors", 2, brokerErrors},
	{"broker's connections break or are slow", 2, brokerWire},
	{"sockets cut", 1, cutSockets},
	{"sockets stalled", 1, stallSockets},
	{"nodes killed", 1, killNodes},
}

// plan is what a seed decides: the order of the faults, the pauses between them, and the
// random numbers of each.
type plan struct {
	sort  *fault
	pause time.Duration
	seed  uint64
}

func makePlan(seed uint64, n int, only ...string) []plan {
	rng := rand.New(rand.NewPCG(seed, 0x6368616f73))
	var deck []*fault
	var list []plan
	for range n {
		if len(deck) == 0 {
			for i := range faults {
				if len(only) > 0 && !slices.Contains(only, faults[i].name) {
					continue
				}
				for range faults[i].cards {
					deck = append(deck, &faults[i])
				}
			}
			rng.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		list = append(list, plan{deck[0], 500*time.Millisecond + time.Duration(rng.IntN(2000))*time.Millisecond, rng.Uint64()})
		deck = deck[1:]
	}
	return list
}

// attack carries out the plan. Faults overlap, each with a target of its own; one that
// finds no free target becomes another. It returns when all of them are over.
func (r *runner) attack(ctx context.Context) {
	for i, p := range makePlan(r.opt.Seed, r.opt.faults, r.opt.only...) {
		if !wait.Pause(ctx, p.pause) {
			break
		}
		rng := rand.New(rand.NewPCG(p.seed, uint64(i)))
		sort, act := p.sort, p.sort.begin(r, rng)
		for act == nil {
			if !wait.Pause(ctx, 20*time.Millisecond) {
				break
			}
			sort = &faults[rng.IntN(len(faults))]
			act = sort.begin(r, rng)
		}
		if act == nil {
			break
		}
		r.injected.Add(1)
		r.counts[sort.name]++
		r.faulting.Go(func() { act(ctx) })
	}
	r.faulting.Wait()
}

// someMember takes one of the members that are to be there, and serve.
func (r *runner) someMember(rng *rand.Rand) *member {
	for _, i := range rng.Perm(len(r.members)) {
		if m := r.members[i]; m.Running() && m.busy.take() {
			if m.Running() {
				return m
			}
			m.busy.free()
		}
	}
	return nil
}

func killMember(r *runner, rng *rand.Rand) func(context.Context) {
	m := r.someMember(rng)
	if m == nil {
		return nil
	}
	back := time.Duration(100+rng.IntN(2500)) * time.Millisecond
	return func(ctx context.Context) {
		defer m.busy.free()
		r.say("kill -9 %s, back after %v", m.Name, back)
		m.Kill()
		r.comeBack(ctx, m, back)
	}
}

// comeBack starts a member again and waits until it serves, so that the next fault has
// something to break.
func (r *runner) comeBack(ctx context.Context, m *member, after time.Duration) {
	if !wait.Pause(ctx, after) {
		return
	}
	if !r.check(m.Start(ctx)) {
		return
	}
	wait, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if !m.AwaitUp(wait) && ctx.Err() == nil {
		r.say("%s is not up after 30 s", m.Name)
	}
}

// zombie freezes a member until the group has given its partitions to others.
func zombie(r *runner, rng *rand.Rand) func(context.Context) {
	return frozen(r, rng, time.Duration(6500+rng.IntN(2500))*time.Millisecond)
}

func freezeMember(r *runner, rng *rand.Rand) func(context.Context) {
	return frozen(r, rng, time.Duration(200+rng.IntN(3000))*time.Millisecond)
}

func frozen(r *runner, rng *rand.Rand, d time.Duration) func(context.Context) {
	m := r.someMember(rng)
	if m == nil {
		return nil
	}
	return func(ctx context.Context) {
		defer m.busy.free()
		r.say("freeze %s for %v", m.Name, d)
		m.Freeze(ctx, d)
	}
}

func restartMember(r *runner, rng *rand.Rand) func(context.Context) {
	m := r.someMember(rng)
	if m == nil {
		return nil
	}
	back := time.Duration(rng.IntN(1000)) * time.Millisecond
	return func(ctx context.Context) {
		defer m.busy.free()
		r.say("stop %s, back after %v", m.Name, back)
		m.Stop(false)
		r.comeBack(ctx, m, back)
	}
}

// extraMember is one that joins, and leaves with the next fault of its sort: in order, or
// not.
func extraMember(r *runner, rng *rand.Rand) func(context.Context) {
	m := r.extra
	if !m.busy.take() {
		return nil
	}
	hard := rng.IntN(3) == 0
	return func(ctx context.Context) {
		defer m.busy.free()
		switch {
		case m.Process() == nil:
			r.say("%s joins", m.Name)
			r.comeBack(ctx, m, 0)
		case hard:
			r.say("kill -9 %s, for good", m.Name)
			m.Kill()
		default:
			r.say("%s leaves", m.Name)
			m.Stop(false)
		}
	}
}

func killBroker(r *runner, rng *rand.Rand) func(context.Context) {
	if !r.brokerBusy.take() {
		return nil
	}
	back := time.Duration(100+rng.IntN(2000)) * time.Millisecond
	return func(ctx context.Context) {
		defer r.brokerBusy.free()
		r.say("kill -9 the broker, back after %v", back)
		r.broker.kill()
		if !wait.Pause(ctx, back) {
			return
		}
		if err := r.broker.start(ctx); err != nil && ctx.Err() == nil {
			r.check(fmt.Errorf("the broker does not come back: %w", err))
		}
	}
}

func freezeBroker(r *runner, rng *rand.Rand) func(context.Context) {
	if !r.brokerBusy.take() {
		return nil
	}
	d := time.Duration(200+rng.IntN(3500)) * time.Millisecond
	return func(ctx context.Context) {
		defer r.brokerBusy.free()
		r.say("freeze the broker for %v", d)
		r.broker.freeze(ctx, d)
	}
}

func brokerErrors(r *runner, rng *rand.Rand) func(context.Context) {
	return func(context.Context) { r.say("broker: %s", r.broker.errors(rng)) }
}

func brokerWire(r *runner, rng *rand.Rand) func(context.Context) {
	return func(context.Context) { r.say("broker: %s", r.broker.wire(rng)) }
}

func cutSockets(r *runner, rng *rand.Rand) func(context.Context) {
	m := r.members[rng.IntN(len(r.members))]
	part := rng.Float64()
	return func(context.Context) {
		r.say("%d sockets of nodes to %s cut", m.proxy.Cut(rng, part), m.Name)
	}
}

func stallSockets(r *runner, rng *rand.Rand) func(context.Context) {
	m := r.members[rng.IntN(len(r.members))]
	part, d := rng.Float64(), time.Duration(500+rng.IntN(7500))*time.Millisecond
	return func(context.Context) {
		r.say("%d sockets of nodes to %s stalled for %v", m.proxy.Stall(rng, part, d), m.Name, d)
	}
}

func killNodes(r *runner, rng *rand.Rand) func(context.Context) {
	f := r.fleets[rng.IntN(len(r.fleets))]
	if !f.busy.take() {
		return nil
	}
	back := time.Duration(200+rng.IntN(2000)) * time.Millisecond
	return func(ctx context.Context) {
		defer f.busy.free()
		r.say("kill -9 the nodes %s*, back after %v", f.prefix, back)
		f.kill()
		if wait.Pause(ctx, back) {
			r.check(f.start(ctx))
		}
	}
}
