package member

import (
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHeapPercent(t *testing.T) {
	for live, percent := range map[uint64]int{0: 100, 30 << 20: 100, 256 << 20: 100, 300 << 20: 85, 512 << 20: 50, 1 << 30: 25, 64 << 30: 25} {
		require.Equal(t, percent, heapPercent(live), "%d MiB", live>>20)
	}
}

func TestHeapPaceIsUndone(t *testing.T) {
	t.Setenv("GOGC", "")
	p := newHeapPace()
	p.tick()
	require.Equal(t, heapPercent(p.live[0].Value.Uint64()), p.percent, "what other tests have left alive")
	p.set(50)
	p.stop()
	require.Equal(t, heapDefault, debug.SetGCPercent(heapDefault))
	t.Setenv("GOGC", "400")
	p = newHeapPace()
	p.set(50)
	p.stop()
	require.Equal(t, heapDefault, debug.SetGCPercent(heapDefault), "the environment decides")
}
