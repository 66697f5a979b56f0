package kafka

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A transaction may fail of a message while others are still queued: these are not to blame.
func TestRefusedWhileQueueing(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := makeTopics(t, cfg, 1)
		setTopic(t, cfg, plan.Results, "max.message.bytes", "40000")
		tr := readyTransactor(t, cfg, unique())
		ctx := within(t, patience)
		require.NoError(t, tr.ensure(ctx))
		c := tr.client.Load()
		require.NoError(t, c.p.BeginTransaction())
		tr.open = true
		rejected, err := c.produceAll(ctx, []Message{{Topic: plan.Results, Value: make([]byte, 45_000)}})
		require.NoError(t, err)
		require.Empty(t, rejected)
		eventually(t, func() bool { return c.health() != nil }, "the broker refused it")

		rejected, err = c.produceAll(ctx, messages(plan.Results, "a", 3, 1))
		require.Empty(t, rejected)
		var failed *txFailed
		require.ErrorAs(t, err, &failed)
		require.True(t, isRejection(err), "%v", err) // undo looks for the one
	})
}
