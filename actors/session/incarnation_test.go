package session

import (
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestIncarnationsOnlyGrow(t *testing.T) {
	now := StartedMs(NextIncarnation(1_800_000_000_000))
	require.Equal(t, int64(1_800_000_000_000), now)
	var mu sync.Mutex
	var all []uint64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			last := uint64(0)
			for i := range 1000 {
				inc := NextIncarnation(now - int64(i)) // a clock that is set back
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
	require.Greater(t, NextIncarnation(now+1), all[3999])
}
