//go:build !race

package gate

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
)

// liveHeap is what the garbage collector leaves.
func liveHeap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // the first one only empties the pools
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// An idle session is its own struct, its node's id, its places in the gate's map and in the
// registry of actors, and its id there. After it had jobs, it is that again.
func TestAnIdleSessionCostsFewBytes(t *testing.T) {
	const nodes = 100_000 // so that the maps of the registry are not mostly empty
	loop := &turnLoop{decoder: protocol.NewDecoder()}
	nowMs := int64(1)
	door := NewDoor(&Config{
		Member: "m", Partitions: 1, Heartbeat: time.Second, Stats: &Stats{}, NowMs: func() int64 { return nowMs },
		Shards: sendFunc(func(_ uint32, b *actors.FromGate) bool { b.Release(); return true }),
	}, 0, loop)
	system := quietSystem()
	pid := system.Root.Spawn(door.Props(actor.DefaultSupervisorStrategy()))
	loop.turn()
	conns := make([]plainConn, nodes)
	enc := protocol.NewEncoder()
	before := liveHeap()
	frame := make([]byte, 0, 256)
	for i := range conns {
		conns[i].enc = enc
		var err error
		frame, err = enc.Append(frame[:0], helloOf(fmt.Sprintf("node-%07d", i)))
		require.NoError(t, err)
		require.NoError(t, door.Frame(&conns[i], protocol.TypeHello, frame[protocol.HeaderBytes:]))
		conns[i].out = nil
		if i%100 == 0 {
			loop.turn()
		}
	}
	loop.turn()
	idle := float64(liveHeap()-before) / nodes
	t.Logf("%.0f bytes a session", idle)
	require.LessOrEqual(t, idle, 280.0)

	result, err := enc.Append(nil, resultOf("the-job"))
	require.NoError(t, err)
	for i := range conns {
		b := actors.NewToGate()
		node := fmt.Sprintf("node-%07d", i)
		b.Deliveries = append(b.Deliveries, actors.Delivery{Node: node, JobID: "the-job", Kind: "ping", Attempt: 1})
		door.gate.take(b)
		require.NoError(t, door.Frame(&conns[i], protocol.TypeResult, result[protocol.HeaderBytes:]))
		b.Deliveries = b.Deliveries[:0]
		b.Acks = append(b.Acks, actors.Ack{Node: node, JobID: "the-job", Attempt: 1})
		door.gate.take(b)
		b.Release()
		conns[i].out = nil
		loop.turn()
	}
	require.Greater(t, float64(liveHeap()-before)/nodes, idle+100, "acknowledgements that wait")
	nowMs += 1000
	door.gate.sendAcks()
	for i := range conns {
		require.NotEmpty(t, conns[i].out)
		conns[i].out = nil
	}
	again := float64(liveHeap()-before) / nodes
	t.Logf("%.0f bytes a session that had a job", again)
	require.LessOrEqual(t, again, idle+10)
	runtime.KeepAlive(conns)
	loop.end()
	system.Root.Stop(pid) // at once, since the loop has ended
	system.Shutdown()
}
