package kafka

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A member dies with a transaction open that has offsets pending: the next owner waits for
// their partitions, is told so, and goes on once the dead one is fenced.
func TestStableOffsetsWaitForDeadMember(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := makeTopics(t, cfg, 3)
		a := joinMember(t, cfg, plan.Jobs, "a")
		eventually(t, func() bool { return a.rec.ownedCount() == 3 }, "assigned")
		id := "dead-" + unique()
		dead := newRawTx(t, cfg, id)
		require.NoError(t, dead.commitOffsets(plan.Jobs, map[int32]int64{0: 5, 1: 6}, a.Group()))
		dead.begin()
		require.NoError(t, dead.offsets(plan.Jobs, map[int32]int64{0: 50}, a.Group()))

		ctx, cancel := context.WithTimeoutCause(t.Context(), 2*time.Second, errors.New("time to look"))
		defer cancel()
		got, err := a.StableOffsets(ctx, []int32{0, 1, 2})
		var ue *UnstableError
		require.ErrorAs(t, err, &ue)
		require.ErrorIs(t, err, ErrUnstable)
		require.ErrorContains(t, err, "time to look")
		require.Equal(t, ClassRetry, Classify(err))
		if onEmbedded(t) { // an open transaction makes all offsets of the group pending there
			require.Equal(t, []int32{0, 1, 2}, ue.Partitions)
			require.Empty(t, got)
		} else {
			require.Equal(t, []int32{0}, ue.Partitions)
			require.Equal(t, map[int32]int64{1: 6, 2: NoOffset}, got)
		}

		type answer struct {
			offset int64
			err    error
			at     time.Time
		}
		done := make(chan answer, 1)
		go func() {
			n, err := a.StableOffset(t.Context(), 0)
			done <- answer{n, err, time.Now()}
		}()
		require.Never(t, func() bool { return len(done) > 0 }, 300*time.Millisecond, 10*time.Millisecond)
		require.NoError(t, Fence(t.Context(), cfg, id, testLog(t)))
		fenced := time.Now()
		x := <-done
		require.NoError(t, x.err)
		require.EqualValues(t, 5, x.offset, "what was pending is not committed")
		t.Logf("known %s after the fence", x.at.Sub(fenced))
		require.Error(t, dead.commit())
	})
}

func TestStableOffsetsWaitForCommit(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := makeTopics(t, cfg, 1)
		a := joinMember(t, cfg, plan.Jobs, "a")
		eventually(t, func() bool { return a.rec.ownedCount() == 1 }, "assigned")
		n, err := a.StableOffset(t.Context(), 0)
		require.NoError(t, err)
		require.Equal(t, NoOffset, n)
		a.tx.begin()
		require.NoError(t, a.tx.offsets(plan.Jobs, map[int32]int64{0: 7}, a.Group()))
		done := make(chan int64, 1)
		go func() {
			n, err := a.StableOffset(t.Context(), 0)
			if err != nil {
				n = -99
			}
			done <- n
		}()
		require.Never(t, func() bool { return len(done) > 0 }, 200*time.Millisecond, 10*time.Millisecond)
		require.NoError(t, a.tx.commit())
		require.EqualValues(t, 7, <-done)
		n, err = a.StableOffset(t.Context(), 0)
		require.NoError(t, err)
		require.EqualValues(t, 7, n)
	})
}

// Brokers that are away are told from an open transaction.
func TestStableOffsetsWithoutBroker(t *testing.T) {
	e := startEmbedded(t, EmbeddedConfig{Listen: ":0"})
	cfg := testConfig(t, e.Addr())
	plan := makeTopics(t, cfg, 1)
	a := joinMember(t, cfg, plan.Jobs, "a")
	eventually(t, func() bool { return a.rec.ownedCount() == 1 && a.Stats().Held == 0 }, "assigned")
	a.tx.close()
	require.NoError(t, e.Close())
	eventually(t, func() bool { return !a.Reachable() }, "absence is seen")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := a.StableOffset(ctx, 0)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NotErrorIs(t, err, ErrUnstable)
	_, err = a.Partitions(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	a.stop(t)()
	_, err = a.StableOffset(t.Context(), 0)
	require.ErrorIs(t, err, ErrClosed)
	_, err = a.Partitions(t.Context())
	require.ErrorIs(t, err, ErrClosed)
}

// The jobs topic grows under a running member: it is told, and gets the new partitions.
func TestPartitionsAreAddedUnderMember(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		cfg.Properties = map[string]string{"topic.metadata.refresh.interval.ms": "500"}
		plan := makeTopics(t, cfg, 2)
		admin := testAdmin(t, cfg)
		a := joinMember(t, cfg, plan.Jobs, "a")
		eventually(t, func() bool { return a.rec.ownedCount() == 2 }, "assigned")
		n, err := a.Partitions(t.Context())
		require.NoError(t, err)
		require.Equal(t, 2, n)
		var mu sync.Mutex
		var seen []int
		ctx, cancel := context.WithCancel(t.Context())
		var watch sync.WaitGroup
		watch.Go(func() {
			a.WatchPartitions(ctx, 20*time.Millisecond, func(n int) {
				mu.Lock()
				defer mu.Unlock()
				seen = append(seen, n)
			})
		})
		is := func(want ...int) bool {
			mu.Lock()
			defer mu.Unlock()
			for i := range want {
				if i >= len(seen) || seen[i] != want[i] {
					return false
				}
			}
			return len(seen) == len(want)
		}
		eventually(t, func() bool { return is(2) }, "the count at first")
		admin.grow(plan.Jobs, 4)
		eventually(t, func() bool { return is(2, 4) }, "and the change")
		eventually(t, func() bool { return a.rec.ownedCount() == 4 }, "the new partitions are assigned")
		produceN(t, cfg, plan.Jobs, "x", 100)
		eventually(t, func() bool { return a.rec.count() == 100 && len(a.rec.records) == 4 }, "and read")
		cancel()
		watch.Wait()
	})
}

func onEmbedded(t *testing.T) bool { return strings.HasSuffix(t.Name(), "/embedded") }
