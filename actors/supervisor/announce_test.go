package supervisor

import (
	"testing"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors"
)

// TestAShardIsAnnouncedWhenItCanBeReached checks that a gate hears of a new shard at a
// time when what it sends there arrives.
func TestAShardIsAnnouncedWhenItCanBeReached(t *testing.T) {
	tree, _ := startTree(t, quick())
	arrived := make(chan any, 10)
	tree.router.addGate(0, tree.system.Root.Spawn(actor.PropsFromFunc(func(ctx actor.Context) {
		if m, ok := ctx.Message().(*actors.Announce); ok {
			arrived <- tree.Router().ToShard(m.Shard, "registrations")
		}
	})))
	got := addChild(t, tree, 2)
	require.Equal(t, true, next(t, arrived))
	require.Equal(t, "registrations", next(t, got))
}
