package supervisor

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/gate"
	"github.com/roost-server/roost/protocol"
)

func quick() Policy {
	return Policy{MaxRestarts: 3, Window: time.Minute, Backoff: time.Millisecond, MaxBackoff: 10 * time.Millisecond}
}

func startTree(t *testing.T, p Policy) (*Tree, chan error) {
	gaveUp := make(chan error, 10)
	tree, err := NewTree(Config{Partitions: 4, Policy: p, Log: zap.NewNop(), GiveUp: func(err error) { gaveUp <- err }})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tree.Stop()) })
	return tree, gaveUp
}

// child is a shard in small: it notes what it gets and fails when told to.
type child struct {
	restarted bool
	got       chan<- any
}

// Receive implements actor.Actor.
func (c *child) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *actor.Started:
		c.got <- map[bool]string{false: "started", true: "restarted"}[c.restarted]
	case *actor.Stopped:
		c.got <- "stopped"
	case error:
		panic(m)
	case chan struct{}:
		<-m
	case string:
		c.got <- m
	}
}

func addChild(t *testing.T, tree *Tree, partition uint32) chan any {
	got := make(chan any, 100)
	require.NoError(t, tree.AddShard(partition, func(restarted bool) actor.Actor { return &child{restarted, got} }))
	require.Equal(t, "started", next(t, got))
	return got
}

func next(t *testing.T, got chan any) any {
	t.Helper()
	select {
	case x := <-got:
		return x
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came")
		return nil
	}
}

var errBad = errors.New("bad message")

func TestAShardIsRestartedAndKeepsItsMail(t *testing.T) {
	tree, gaveUp := startTree(t, quick())
	got := addChild(t, tree, 2)
	other := addChild(t, tree, 3)
	require.Equal(t, []uint32{2, 3}, tree.Router().Shards())
	for range 3 {
		require.True(t, tree.Router().ToShard(2, errBad))
	}
	require.True(t, tree.Router().ToShard(2, "mail"))
	for _, want := range []any{"restarted", "restarted", "restarted", "mail"} {
		require.Equal(t, want, next(t, got))
	}
	require.Empty(t, gaveUp)
	require.Empty(t, other, "one for one")
	last, counts := tree.Failures()
	require.Len(t, last, 3)
	require.Equal(t, "member/shards/shard-2", last[0].Actor)
	require.Equal(t, "bad message", last[0].Reason)
	require.Equal(t, "restarted", last[2].Action)
	require.Equal(t, 3, last[2].Restarts)
	require.Equal(t, map[string]int{"member/shards/shard-2": 3}, counts)
}

func TestTooManyFailuresReachTheTop(t *testing.T) {
	core, logs := observer.New(zap.ErrorLevel)
	gaveUp := make(chan error, 10)
	tree, err := NewTree(Config{Partitions: 4, Policy: quick(), Log: zap.New(core), GiveUp: func(err error) { gaveUp <- err }})
	require.NoError(t, err)
	defer func() { require.NoError(t, tree.Stop()) }()
	addChild(t, tree, 0)
	addChild(t, tree, 1)
	for range 4 {
		tree.Router().ToShard(0, errBad)
		tree.Router().ToShard(1, errBad)
	}
	select {
	case err := <-gaveUp:
		require.ErrorContains(t, err, "bad message")
	case <-time.After(10 * time.Second):
		t.Fatal("did not give up")
	}
	require.Eventually(t, func() bool { return logs.FilterField(zap.String("action", "escalated")).Len() >= 2 }, 10*time.Second, time.Millisecond)
	require.Empty(t, gaveUp, "said once")
	require.Equal(t, "actor failed", logs.All()[0].Message)
}

func TestRemoveShardLetsItReadItsMail(t *testing.T) {
	tree, _ := startTree(t, quick())
	got := addChild(t, tree, 1)
	busy := make(chan struct{})
	tree.Router().ToShard(1, busy)
	for _, m := range []string{"a", "b", "c"} {
		tree.Router().ToShard(1, m)
	}
	removed := make(chan error)
	go func() { removed <- tree.RemoveShard(1) }()
	require.Eventually(t, func() bool { return !tree.Router().ToShard(1, "too late") }, 10*time.Second, time.Millisecond)
	close(busy)
	require.NoError(t, <-removed)
	var all []any
	for len(got) > 0 {
		if m := <-got; m != "too late" { // what came before the end of its address is read too
			all = append(all, m)
		}
	}
	require.Equal(t, []any{"a", "b", "c", "stopped"}, all)
	require.Empty(t, tree.Router().Shards())
	require.NoError(t, tree.RemoveShard(1), "it is gone already")
	addChild(t, tree, 1) // and may come back
	require.Error(t, tree.AddShard(1, func(bool) actor.Actor { return &child{} }), "it is there")
}

func TestRemoveShardDoesNotWaitForARestart(t *testing.T) {
	tree, _ := startTree(t, Policy{MaxRestarts: 9, Window: time.Minute, Backoff: time.Hour, MaxBackoff: time.Hour})
	got := addChild(t, tree, 1)
	tree.Router().ToShard(1, errBad)
	require.Equal(t, "restarted", next(t, got), "the first restart is at once")
	tree.Router().ToShard(1, errBad)
	require.Eventually(t, func() bool { last, _ := tree.Failures(); return len(last) == 2 }, 10*time.Second, time.Millisecond)
	tree.Router().ToShard(1, "never read")
	require.NoError(t, tree.RemoveShard(1))
	require.Equal(t, "stopped", next(t, got))
	require.Empty(t, addChild(t, tree, 1), "the next one of the name is not restarted in its stead")
}

func TestAShardThatFailsWhileItIsRemoved(t *testing.T) {
	tree, _ := startTree(t, quick())
	got := addChild(t, tree, 1)
	busy := make(chan struct{})
	tree.Router().ToShard(1, busy)
	tree.Router().ToShard(1, errBad)
	removed := make(chan error)
	go func() { removed <- tree.RemoveShard(1) }()
	shards := tree.Router()
	require.Eventually(t, func() bool { return len(shards.Shards()) == 0 }, 10*time.Second, time.Millisecond)
	close(busy)
	require.NoError(t, <-removed)
	for next(t, got) != "stopped" {
	}
}

func TestServicesAreRestartedAndStopped(t *testing.T) {
	tree, gaveUp := startTree(t, quick())
	var runs atomic.Int32
	running := make(chan int32, 10)
	require.NoError(t, tree.Go("source", func(ctx context.Context) error {
		n := runs.Add(1)
		running <- n
		switch n {
		case 1:
			return errors.New("no broker")
		case 2:
			panic("nil map")
		}
		<-ctx.Done()
		runs.Add(100)
		return ctx.Err()
	}))
	var once atomic.Int32
	require.NoError(t, tree.Go("once", func(context.Context) error { once.Add(1); return nil }))
	require.Error(t, tree.Go("once", func(context.Context) error { return nil }), "the name is taken")
	for want := int32(1); want <= 3; want++ {
		require.Equal(t, want, <-running)
	}
	last, counts := tree.Failures()
	require.Equal(t, map[string]int{"member/services/source": 2}, counts)
	require.Equal(t, "no broker", last[0].Reason)
	require.Equal(t, "panic: nil map", last[1].Reason)
	require.NoError(t, tree.StopServices())
	require.Equal(t, int32(103), runs.Load(), "waited for")
	require.Equal(t, int32(1), once.Load())
	require.Empty(t, gaveUp)
}

func TestAServiceThatAlwaysFailsReachesTheTop(t *testing.T) {
	tree, gaveUp := startTree(t, quick())
	require.NoError(t, tree.Go("source", func(context.Context) error { return errors.New("no broker") }))
	select {
	case err := <-gaveUp:
		require.ErrorContains(t, err, "no broker")
	case <-time.After(10 * time.Second):
		t.Fatal("did not give up")
	}
}

func TestRouterWithoutActors(t *testing.T) {
	tree, _ := startTree(t, quick())
	require.False(t, tree.Router().ToShard(0, "x"))
	require.False(t, tree.Router().ToShard(99, "x"))
	require.False(t, tree.Peers().Send(1, "x"))
	require.Empty(t, tree.Peers().Shards())
	require.False(t, tree.Router().ToShard(0, actors.NewFromGate(1)))
	tree.ShardGates(0).Send(5, actors.NewToGate())
	tree.ShardGates(0).Announce(0)
	require.NoError(t, tree.StopGates())

	// A connection that comes now is not waited for.
	late := gate.NewDoor(&gate.Config{Stats: &gate.Stats{}, Partitions: 1}, 0, nobodysLoop{})
	require.ErrorIs(t, tree.AddGate(0, late), ErrStopped)
}

// nobodysLoop runs nothing.
type nobodysLoop struct{}

func (nobodysLoop) Execute(func()) error       { return errors.New("ended") }
func (nobodysLoop) Decoder() *protocol.Decoder { return protocol.NewDecoder() }
