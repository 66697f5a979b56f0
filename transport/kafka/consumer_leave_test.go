package kafka

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLeaveAndJoin has a consumer leave the group for a while: what it had is committed and
// another reads on, without a session timeout; then it takes its share again.
func TestLeaveAndJoin(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		const partitions = 4
		plan := makeTopics(t, cfg, partitions)
		j := &journal{}
		a, b := newRecorder("a", j), newRecorder("b", j)
		commitAtRevoke(t, cfg, plan.Jobs, a)
		commitAtRevoke(t, cfg, plan.Jobs, b)
		ra := runConsumer(t, cfg, plan.Jobs, a, nil)
		rb := runConsumer(t, cfg, plan.Jobs, b, nil)
		eventually(t, func() bool { return a.ownedCount() == 2 && b.ownedCount() == 2 }, "two partitions each")
		produceN(t, cfg, plan.Jobs, "a", 200)
		eventually(t, func() bool { return a.count()+b.count() == 200 }, "both read")

		ra.Leave()
		eventually(t, func() bool { return b.ownedCount() == partitions && a.ownedCount() == 0 }, "b has all")
		require.Empty(t, ra.Stats().Assigned)
		produceN(t, cfg, plan.Jobs, "b", 200)
		eventually(t, func() bool { return a.count()+b.count() == 400 }, "b reads on")

		ra.Join()
		eventually(t, func() bool { return a.ownedCount() == 2 && b.ownedCount() == 2 }, "two partitions each again")
		produceN(t, cfg, plan.Jobs, "c", 200)
		eventually(t, func() bool { return a.count()+b.count() == 600 }, "both read on")
		requireHandovers(t, j, partitions)
		require.False(t, a.has("lost") || b.has("lost"))

		ra.Leave() // and ends while it is away
		eventually(t, func() bool { return b.ownedCount() == partitions }, "b has all again")
		ra.stop(t)()
		rb.stop(t)()
	})
}
