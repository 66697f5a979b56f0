package supervisor

import (
	"context"
	"fmt"

	"github.com/asynkron/protoactor-go/actor"
)

// member is the root actor: it only spawns the three supervisors.
type member struct {
	tree                    *Tree
	shards, gates, services *actor.PID
}

// Receive implements actor.Actor.
func (m *member) Receive(ctx actor.Context) {
	switch msg := ctx.Message().(type) {
	case *actor.Started:
		m.services = m.spawn(ctx, "services")
		m.shards = m.spawn(ctx, "shards")
		m.gates = m.spawn(ctx, "gates")
	case chan *member:
		msg <- m
	}
}

func (m *member) spawn(ctx actor.Context, name string) *actor.PID {
	s := m.tree.strategy(m.tree.cfg.Policy, nil)
	props := actor.PropsFromProducer(func() actor.Actor { return &group{strategy: s, waiting: map[string]chan<- error{}} },
		actor.WithSupervisor(s))
	pid, err := ctx.SpawnNamed(props, name)
	if err != nil {
		panic(fmt.Errorf("spawn %s: %w", name, err))
	}
	return pid
}

// spawn asks a group for a child; remove to stop one.
type (
	spawn struct {
		name    string
		props   *actor.Props
		spawned func(*actor.PID)
		done    chan<- error
	}
	remove struct {
		pid  *actor.PID
		done chan<- error
	}
)

func (s *spawn) reply(done chan<- error)  { s.done = done }
func (r *remove) reply(done chan<- error) { r.done = done }

// group supervises children of one sort.
type group struct {
	strategy *strategy
	waiting  map[string]chan<- error
}

// Receive implements actor.Actor.
func (g *group) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *spawn:
		pid, err := ctx.SpawnNamed(m.props, m.name)
		if err == nil && m.spawned != nil {
			m.spawned(pid)
		}
		m.done <- err
	case *remove:
		g.waiting[m.pid.Id] = m.done
		if g.strategy.remove(m.pid.Id) {
			ctx.Stop(m.pid) // what is in its mailbox is of no use to a child that failed
		} else {
			ctx.Poison(m.pid)
		}
	case *actor.Stopping:
		g.strategy.stop()
	case *actor.Terminated:
		g.strategy.removed(m.Who.Id)
		if done := g.waiting[m.Who.Id]; done != nil {
			delete(g.waiting, m.Who.Id)
			done <- nil
		}
	}
}

// service runs a function beside the actors, so that its failure is handled as
// theirs are.
type service struct {
	run    func(context.Context) error
	cancel context.CancelFunc
	ended  chan struct{}
}

type serviceEnded struct{ err error }

// Receive implements actor.Actor.
func (s *service) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *actor.Started:
		var c context.Context
		c, s.cancel = context.WithCancel(context.Background())
		s.ended = make(chan struct{})
		root, self, ended := ctx.ActorSystem().Root, ctx.Self(), s.ended
		go func() {
			err := s.guarded(c)
			close(ended)
			if c.Err() == nil && err != nil {
				root.Send(self, &serviceEnded{err})
			}
		}()
	case *serviceEnded:
		panic(m.err)
	case *actor.Stopping, *actor.Restarting:
		s.cancel()
		<-s.ended
	}
}

// guarded turns a panic of the function into an error.
func (s *service) guarded(ctx context.Context) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return s.run(ctx)
}
