package supervisor

import (
	"sync"
	"sync/atomic"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/shard"
)

// Router finds the actors of this member by number: shards by partition, gates by
// event loop. Any goroutine may use it; it never blocks.
type Router struct {
	root   *actor.RootContext
	shards []atomic.Pointer[actor.PID]
	mu     sync.Mutex
	gates  atomic.Pointer[[]*actor.PID] // replaced under mu, never changed
}

func newRouter(root *actor.RootContext, partitions uint32) *Router {
	r := &Router{root: root, shards: make([]atomic.Pointer[actor.PID], partitions)}
	r.gates.Store(&[]*actor.PID{})
	return r
}

// ToShard sends a message to a shard; false when the shard is not here.
func (r *Router) ToShard(partition uint32, m any) bool {
	if partition >= uint32(len(r.shards)) {
		return false
	}
	pid := r.shards[partition].Load()
	if pid == nil {
		return false
	}
	r.root.Send(pid, m)
	return true
}

// Shards returns the partitions whose shards are here.
func (r *Router) Shards() []uint32 {
	var out []uint32
	for p := range r.shards {
		if r.shards[p].Load() != nil {
			out = append(out, uint32(p))
		}
	}
	return out
}

func (r *Router) addGate(index uint32, pid *actor.PID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	gates := append([]*actor.PID(nil), *r.gates.Load()...)
	for uint32(len(gates)) <= index {
		gates = append(gates, nil)
	}
	gates[index] = pid
	r.gates.Store(&gates)
}

// shardSide is the router as shards see the gates.
type shardSide struct{ *Router }

// Send implements shard.Gates.
func (r shardSide) Send(gate uint32, b *actors.ToGate) {
	gates := *r.gates.Load()
	if gate >= uint32(len(gates)) || gates[gate] == nil {
		b.Release()
		return
	}
	r.root.Send(gates[gate], b)
}

// Announce implements shard.Gates.
func (r shardSide) Announce(partition uint32) {
	for _, pid := range *r.gates.Load() {
		if pid != nil {
			r.root.Send(pid, &actors.Announce{Shard: partition})
		}
	}
}

// peerSide is the router as shards see each other.
type peerSide struct{ *Router }

// Send implements shard.Peers.
func (r peerSide) Send(partition uint32, m any) bool { return r.ToShard(partition, m) }

var _ shard.Peers = peerSide{}
