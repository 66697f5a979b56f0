//go:build !race

package wire

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAllocations holds what the benchmarks show: of a batch its body, and of a delivery that
// arrives the memory that the session may keep.
func TestAllocations(t *testing.T) {
	down, up := deliveries(batchOf), results(batchOf)
	bodies := AppendToGate(AppendFromGate(nil, 5, 1, 1, up), 5, 1, 1, down)
	require.Len(t, bodies, 2)
	scratch := make([][]byte, 0, 1)
	for name, x := range map[string]struct {
		most float64
		fn   func()
	}{
		"encode deliveries": {1, func() { scratch = AppendToGate(scratch[:0], 5, 1, 1, down) }},
		"encode results":    {1, func() { scratch = AppendFromGate(scratch[:0], 5, 1, 1, up) }},
		"decode deliveries": {batchOf + 1, func() {
			_, b, err := DecodeToGate(bodies[1])
			require.NoError(t, err)
			b.Release()
		}},
		"decode results": {1, func() {
			_, b, err := DecodeFromGate(bodies[0], 3)
			require.NoError(t, err)
			b.Release()
		}},
	} {
		x.fn()
		require.LessOrEqual(t, testing.AllocsPerRun(200, x.fn), x.most, name) // the pools may be emptied once
	}
}
