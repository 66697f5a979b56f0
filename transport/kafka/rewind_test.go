package kafka

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// After a rewind the records come again from the newest commit on, and those of
// the new epoch can be told from those before it.
func TestRewind(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := makeTopics(t, cfg, 1)
		produceN(t, cfg, plan.Jobs, "a", 100)
		var mu sync.Mutex
		byEpoch := map[uint64][]int64{}
		rec := newRecorder("c", nil)
		var c *Consumer
		rec.onRecords = func(p int32, rs []Record) {
			mu.Lock()
			defer mu.Unlock()
			e := c.Epoch(p)
			for _, r := range rs {
				byEpoch[e] = append(byEpoch[e], r.Offset)
			}
		}
		count := func(e uint64) int { mu.Lock(); defer mu.Unlock(); return len(byEpoch[e]) }
		r := runConsumer(t, cfg, plan.Jobs, rec, func(x *Consumer) { c = x })
		require.Zero(t, r.Rewind(7)) // not ours
		eventually(t, func() bool { return count(0) == 100 }, "all records")

		r.Commit(0, 40)
		require.EqualValues(t, 1, r.Rewind(0))
		eventually(t, func() bool { return count(1) == 60 }, "the uncommitted ones again")
		require.EqualValues(t, 40, byEpoch[1][0])
		require.EqualValues(t, 99, byEpoch[1][59])

		// Together with a pause, as it goes when what follows has no room.
		r.Pause(0)
		require.EqualValues(t, 2, r.Rewind(0))
		eventually(t, func() bool { return r.Epoch(0) == 2 && r.Stats().Paused == 1 }, "both took effect")
		require.Zero(t, count(2))
		r.Resume(0)
		eventually(t, func() bool { return count(2) == 60 }, "again")
		r.Commit(0, 100)
		r.stop(t)()
		require.Equal(t, 220, rec.count())
	})
}
