package supervisor

import (
	"sync"
	"sync/atomic"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/shard"
)

// Remote is the way to the other members of the cluster. Its methods never block; any
// goroutine may call them.
type Remote interface {
	// ToGate takes over a batch of a shard of this member for a gate of another one. What
	// cannot be sent comes back to the shard as notices.
	ToGate(from, gate uint32, b *actors.ToGate)
	// ToShard sends what a shard says to another member's; false when nobody is known to
	// have that.
	ToShard(partition uint32, m any) bool
	// Shards returns the partitions that others have.
	Shards() []uint32
	// Ready tells the others that a shard of this member is ready, so that their gates
	// register the nodes that hash to it.
	Ready(partition uint32)
}

// alone is the Remote of a member without others.
type alone struct{ r *Router }

func (a alone) ToGate(from, gate uint32, b *actors.ToGate) {
	a.r.Return(from, gate, b, actors.Undelivered)
}
func (alone) ToShard(uint32, any) bool { return false }
func (alone) Shards() []uint32         { return nil }
func (alone) Ready(uint32)             {}

// Router finds actors by number: shards by partition, gates by member and event loop. Any
// goroutine may use it; it never blocks.
type Router struct {
	root   *actor.RootContext
	shards []atomic.Pointer[actor.PID]
	mu     sync.Mutex
	gates  atomic.Pointer[[]*actor.PID] // replaced under mu, never changed
	remote Remote
}

func newRouter(root *actor.RootContext, partitions uint32) *Router {
	r := &Router{root: root, shards: make([]atomic.Pointer[actor.PID], partitions)}
	r.gates.Store(&[]*actor.PID{})
	r.remote = alone{r}
	return r
}

// Join gives the router the way to other members. It has to come before the first shard.
func (r *Router) Join(remote Remote) { r.remote = remote }

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

// ToGate sends a batch to a gate of this member, by its event loop. It takes the batch
// over; without such a gate it disappears: the sessions' end is reported by other ways.
func (r *Router) ToGate(loop uint32, b *actors.ToGate) {
	gates := *r.gates.Load()
	if loop >= uint32(len(gates)) || gates[loop] == nil {
		b.Release()
		return
	}
	r.root.Send(gates[loop], b)
}

// ToLoop sends a message to the gate of an event loop of this member, if there is one.
func (r *Router) ToLoop(loop uint32, m any) {
	if gates := *r.gates.Load(); loop < uint32(len(gates)) && gates[loop] != nil {
		r.root.Send(gates[loop], m)
	}
}

// ToGates sends a message to each gate of this member.
func (r *Router) ToGates(m func() any) {
	for _, pid := range *r.gates.Load() {
		if pid != nil {
			r.root.Send(pid, m())
		}
	}
}

// Announce has the gates of this member register their nodes with a shard, wherever that
// is, and tell what of it these have.
func (r *Router) Announce(partition uint32) {
	r.ToGates(func() any { return &actors.Announce{Shard: partition} })
}

// Return gives the deliveries of a batch back to the shard that it is from, as a gate does
// that cannot have them, and releases it.
func (r *Router) Return(from, gate uint32, b *actors.ToGate, why actors.NoticeKind) {
	if len(b.Deliveries) > 0 {
		back := actors.NewFromGate(gate)
		for i := range b.Deliveries {
			d := &b.Deliveries[i]
			back.Notices = append(back.Notices, actors.Notice{Kind: why, Node: d.Node, JobID: d.JobID, Attempt: d.Attempt})
		}
		if !r.ToShard(from, back) {
			back.Release()
		}
	}
	b.Release()
}

// shardSide is the router as a shard sees the gates.
type shardSide struct {
	*Router
	from uint32
}

// Send implements shard.Gates.
func (s shardSide) Send(gate uint32, b *actors.ToGate) {
	if actors.SlotOf(gate) == 0 {
		s.ToGate(gate, b)
		return
	}
	s.remote.ToGate(s.from, gate, b)
}

// Announce implements shard.Gates.
func (s shardSide) Announce(partition uint32) {
	s.Router.Announce(partition)
	s.remote.Ready(partition)
}

// peerSide is the router as shards see each other.
type peerSide struct{ *Router }

// Send implements shard.Peers.
func (p peerSide) Send(partition uint32, m any) bool {
	return p.ToShard(partition, m) || p.remote.ToShard(partition, m)
}

// Shards implements shard.Peers.
func (p peerSide) Shards() []uint32 { return append(p.Router.Shards(), p.remote.Shards()...) }

var _ shard.Peers = peerSide{}
