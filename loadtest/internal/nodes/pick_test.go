package nodes

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestIDs(t *testing.T) {
	s := Spec{NodePrefix: "sim-", Nodes: 15_000}
	require.Equal(t, "sim-000123", s.ID(123))
	s.Nodes = 1_000_000
	require.Equal(t, "sim-999999", s.ID(999_999))
	s.Nodes = 1_000_001
	require.Equal(t, "sim-0000123", s.ID(123))
	require.Equal(t, "sim-1000000", s.ID(1_000_000))
	part := Spec{NodePrefix: "sim-", First: 10, Nodes: 5, Of: 1_000_001}
	require.Equal(t, s.ID(12), part.ID(12), "a part of a test names its nodes as the whole does")
	require.Zero(t, testing.AllocsPerRun(100, func() { part.AppendID(make([]byte, 0, 64), 12) }))
}

func TestHitIsTheFractionByTheSeed(t *testing.T) {
	const n = 20_000
	count := func(seed, round uint64, fraction float64) (k int) {
		for i := range n {
			if Hit(seed, round, i, fraction) {
				k++
			}
		}
		return k
	}
	require.Zero(t, count(1, 1, 0))
	require.Equal(t, n, count(1, 1, 1))
	for _, fraction := range []float64{0.1, 0.5} {
		require.InDelta(t, fraction*n, count(7, 3, fraction), n/50)
	}
	same, rounds := 0, 0
	for i := range n {
		require.Equal(t, Hit(1, 1, i, 0.5), Hit(1, 1, i, 0.5))
		if Hit(1, 1, i, 0.5) == Hit(2, 1, i, 0.5) {
			same++
		}
		if Hit(1, 1, i, 0.5) == Hit(1, 2, i, 0.5) {
			rounds++
		}
	}
	require.InDelta(t, n/2, same, n/50)
	require.InDelta(t, n/2, rounds, n/50)
}
