package session

import (
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestIncarnationsOnlyGrow(t *testing.T) {
	now := StartedMs(NextIncarnation(1_800_000_000_000, 0))
	require.Equal(t, int64(1_800_000_000_000), now)
	var mu sync.Mutex
	var all []uint64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			last := uint64(0)
			for i := range 1000 {
				inc := NextIncarnation(now-int64(i), 0) // a clock that is set back
				if inc <= last {
					t.Errorf("%d after %d", inc, last)
				}
				last = inc
				mu.Lock()
				all = append(all, inc)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(all)
	require.Len(t, slices.Compact(all), 4000)
	require.Equal(t, now, StartedMs(all[3999]))
	require.Greater(t, NextIncarnation(now+1, 0), all[3999])
}

func TestAnIncarnationFollowsTheOneThatTheNodeHad(t *testing.T) {
	now := StartedMs(NextIncarnation(0, 0)) + 60_000
	ahead := uint64(now+2_000) << incarnationShift // of a member whose clock is two seconds ahead
	first := NextIncarnation(now, ahead)
	require.Greater(t, first, ahead)
	require.Greater(t, NextIncarnation(now, 0), first, "of another node, or the same after a restart")
	before := NextIncarnation(now, 0)
	for _, lie := range []uint64{1<<64 - 1, uint64(now+MaxAheadMs+1) << incarnationShift} {
		after := NextIncarnation(now, lie)
		require.Equal(t, before+1, after, "a number that cannot be true changes nothing")
		before = after
	}
	require.LessOrEqual(t, StartedMs(NextIncarnation(now, uint64(now+MaxAheadMs)<<incarnationShift)), now+MaxAheadMs)
}
