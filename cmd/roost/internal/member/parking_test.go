package member

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors"
)

// batch is a gate's batch with one result and a registration.
func batch(job string, output []byte) *actors.FromGate {
	b := actors.NewFromGate(3)
	b.Registrations = append(b.Registrations, actors.Registration{Node: "n"})
	b.Results = append(b.Results, actors.Result{Node: "n", JobID: b.Keep([]byte(job)), Attempt: 2, Output: b.Keep(output)})
	return b
}

// shards is what the parking sends to; those in here take batches.
type shards struct {
	here map[uint32]bool
	got  []string
}

func (s *shards) send(shard uint32, b *actors.FromGate) bool {
	if !s.here[shard] {
		return false
	}
	for _, r := range b.Results {
		s.got = append(s.got, fmt.Sprintf("%d/%d %s %s/%d %s, %d registrations", shard, b.Gate, r.Node, r.JobID, r.Attempt, r.Output, len(b.Registrations)))
	}
	b.Release()
	return true
}

func (s *shards) nobody(uint32, *actors.FromGate) bool { return false }

func told() bool { return true }

func TestParkingPassesThrough(t *testing.T) {
	s := &shards{here: map[uint32]bool{1: true}}
	p := newParking(4, s.send, s.nobody)
	require.True(t, p.Open(1, told))
	require.True(t, p.Send(1, batch("a", []byte("x"))))
	require.Equal(t, []string{"1/3 n a/2 x, 1 registrations"}, s.got)
	require.Zero(t, p.results)
}

func TestParkingKeepsResultsOfAbsentShards(t *testing.T) {
	s := &shards{here: map[uint32]bool{}}
	p := newParking(4, s.send, s.nobody)
	require.True(t, p.Send(1, batch("a", []byte("x"))))
	require.True(t, p.Send(2, batch("b", []byte("y"))))
	require.True(t, p.Send(1, batch("c", []byte("z"))))
	none := batch("d", nil)
	none.Results = none.Results[:0]
	require.False(t, p.Send(1, none), "only results wait")
	s.here[1] = true
	require.True(t, p.Send(1, batch("e", nil)), "it is here and not rebuilt: this waits too")
	require.False(t, p.Open(1, func() bool { return false }), "that life of it is over")
	require.Empty(t, s.got)
	require.True(t, p.Open(1, told))
	require.Equal(t, []string{"1/3 n a/2 x, 0 registrations", "1/3 n c/2 z, 0 registrations", "1/3 n e/2 , 0 registrations"}, s.got)
	require.Equal(t, 1, p.results)
	require.True(t, p.Open(1, told))
	require.Len(t, s.got, 3, "handed over twice")
	require.True(t, p.Open(2, told)) // gone again
	require.Len(t, s.got, 3)
	require.Zero(t, p.results)
	require.Zero(t, p.bytes)
	require.Empty(t, p.waiting)
}

func TestParkingIsBounded(t *testing.T) {
	s := &shards{here: map[uint32]bool{}}
	p := newParking(4, s.send, s.nobody)
	output := make([]byte, 1<<20)
	n := 0
	for p.Send(1, batch("a", output)) {
		n++
		require.LessOrEqual(t, n, parkedBytes>>20)
	}
	require.Equal(t, parkedBytes>>20-1, n, "the last one has an id too")
	for i := range parkedResults {
		require.Equal(t, n+i < parkedResults, p.Send(2, batch("b", nil)))
	}
	require.Equal(t, parkedResults, p.results)
	s.here[1], s.here[2] = true, true
	p.Open(1, told)
	p.Open(2, told)
	require.Len(t, s.got, parkedResults)
	require.Zero(t, p.bytes)
}

func TestParkingKeepsResultsOfAShardThatIsRebuiltAgain(t *testing.T) {
	s := &shards{here: map[uint32]bool{1: true}}
	p := newParking(4, s.send, s.nobody)
	require.True(t, p.Open(1, told))
	p.Close(1)
	require.True(t, p.Send(1, batch("a", nil)))
	require.Empty(t, s.got)
	require.True(t, p.Open(1, told))
	require.Len(t, s.got, 1)
}
