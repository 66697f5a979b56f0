//go:build !race

package directory

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors"
)

// liveHeap is what the garbage collector leaves.
func liveHeap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // the first one only empties the pools
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// perNode returns the bytes of live heap that a directory takes for each node beside
// the ids and profiles, which exist before. The profiles are numbered from first on.
func perNode(t *testing.T, nodes, distinct, first int, indexed bool) float64 {
	ids, profiles := make([]string, nodes), make([]*actors.Profile, distinct)
	for i := range ids {
		ids[i] = fmt.Sprintf("node-%07d", i)
	}
	for i := range profiles {
		profiles[i] = profileNumber(first + i)
	}
	before := liveHeap()
	d := New()
	for i := range ids {
		d.Register(uint32(i%4), &actors.Registration{Node: ids[i], Incarnation: 1, Profile: profiles[i%distinct]})
	}
	if indexed {
		d.Match(&Query{Kind: "http", Count: 10}, 0)
	}
	bytes := float64(liveHeap()-before) / float64(nodes)
	require.Equal(t, nodes, d.Len())
	require.Len(t, profiles, distinct)
	require.Len(t, ids, nodes)
	return bytes
}

func TestANodeCostsFewBytes(t *testing.T) {
	for _, c := range []struct {
		nodes, distinct, first int
		indexed                bool
		most                   int
	}{
		{200_000, 200_000, ownTowns, false, 125},
		{200_000, 2000, 0, true, 135},
		{230_000, 2000, 0, true, 145},            // where the map by id has just doubled
		{200_000, 200_000, 0, true, 570},         // a tag of its own for each
		{200_000, 200_000, ownTowns, true, 1510}, // a tag and a town
	} {
		bytes := perNode(t, c.nodes, c.distinct, c.first, c.indexed)
		t.Logf("%d nodes with %d profiles, index %v: %.1f bytes a node", c.nodes, c.distinct, c.indexed, bytes)
		assert.LessOrEqual(t, bytes, float64(c.most), "%d nodes with %d profiles, index %v", c.nodes, c.distinct, c.indexed)
	}
}

func TestAMatchAllocatesItsAnswerOnly(t *testing.T) {
	d := fleet(20_000, func(i int) *actors.Profile { return profileNumber(i % 2000) })
	for _, q := range fleetQueries {
		d.Match(q, 0)
		require.LessOrEqual(t, testing.AllocsPerRun(100, func() { d.Match(q, 0) }), 1.0)
	}
}
