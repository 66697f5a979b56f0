package member

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/shard"
	"github.com/roost-server/roost/actors/supervisor"
	"github.com/roost-server/roost/cluster"
	"github.com/roost-server/roost/cluster/rpc"
	"github.com/roost-server/roost/cluster/wire"
)

// resyncEvery is how often gates register anew with shards that have missed something of
// them, because the way to their member was full.
const resyncEvery = time.Second

// routing takes batches to shards and gates on other members, and what comes from there to
// those on this one. The cluster calls it from one goroutine, shards and gates from theirs;
// nothing in it blocks.
//
// A shard's epoch is of its life in the cluster. Whoever sends to a shard names the epoch
// that it believes in: a batch for another life comes back, and its results wait until the
// owner is known again. What a shard of an older life sends to a gate is dropped.
type routing struct {
	router  *supervisor.Router
	parking *parking
	log     *zap.Logger
	trace   *tracer
	stats   routingStats

	joined  chan struct{} // closed when cluster is set
	cluster *cluster.Cluster
	rpc     *rpc.RPC

	claims   sync.Mutex                  // one claim or disclaim at a time
	assigned func(partition uint32) bool // by Kafka, to this member

	own     []atomic.Uint64 // by partition: the epoch of the shard here; 0 when it is not ready
	refused []atomic.Uint64 // by partition: the epoch whose owner sent something back
	missed  []atomic.Bool   // by partition: the owner lacks something of this member's gates

	mu    sync.Mutex
	peers []cluster.Peer       // that are up
	gone  map[string]time.Time // when members were lost, by name, that did not come back
}

// bereftFor is how long after a member was lost its transactions are suspected.
const bereftFor = 30 * time.Second

type routingStats struct {
	toGates   atomic.Uint64 // batches of shards here, sent to other members' gates
	toShards  atomic.Uint64 // batches of gates here, sent to other members' shards
	toPeers   atomic.Uint64 // what shards here said to other members' shards
	taken     atomic.Uint64 // batches of other members' gates that shards here took
	refused   atomic.Uint64 // came for a life of a shard that is not here
	stale     atomic.Uint64 // came from a life of a shard that is over
	returned  atomic.Uint64 // deliveries that could not be sent
	malformed atomic.Uint64
}

var (
	_ supervisor.Remote = (*routing)(nil)
	_ cluster.Handler   = (*handler)(nil)
	_ peers             = (*routing)(nil)
)

func newRouting(log *zap.Logger, trace *tracer) *routing {
	r := &routing{log: log, trace: trace, joined: make(chan struct{}), gone: map[string]time.Time{}}
	r.rpc = rpc.New(func(slot uint16, body []byte) bool { return r.cluster.Send(slot, body) }, log)
	return r
}

// prepare comes before the first shard, gate and message.
func (r *routing) prepare(router *supervisor.Router, partitions int) {
	r.router = router
	router.Join(r)
	r.own, r.refused = make([]atomic.Uint64, partitions), make([]atomic.Uint64, partitions)
	r.missed = make([]atomic.Bool, partitions)
}

// join lets the cluster's news in.
func (r *routing) join(c *cluster.Cluster) {
	r.cluster = c
	close(r.joined)
}

// inCluster reports whether there may be others.
func (r *routing) inCluster() bool {
	select {
	case <-r.joined:
		return true
	default:
		return false
	}
}

// ToGate implements supervisor.Remote.
func (r *routing) ToGate(from, gate uint32, b *actors.ToGate) {
	slot := actors.SlotOf(gate)
	for _, body := range wire.AppendToGate(nil, from, r.own[from].Load(), actors.LoopOf(gate), b) {
		if r.cluster.Send(slot, body) {
			continue
		}
		why := actors.Busy
		if _, up := r.cluster.InstanceOf(slot); !up {
			why = actors.Undelivered
		}
		r.stats.returned.Add(uint64(len(b.Deliveries)))
		r.router.Return(from, gate, b, why)
		return
	}
	r.stats.toGates.Add(1)
	b.Release()
}

// ToShard implements supervisor.Remote.
func (r *routing) ToShard(partition uint32, m any) bool {
	if _, ok := m.(*shard.Rebuilt); ok {
		return true // the claim says it, to every member
	}
	slot, epoch, known := r.Owner(partition)
	if !known || slot == 0 {
		return false
	}
	bodies, ok := wire.AppendShard(nil, partition, epoch, m, r.cluster.InstanceOf)
	for _, body := range bodies {
		ok = ok && r.cluster.Send(slot, body)
	}
	if ok {
		r.stats.toPeers.Add(1)
	}
	return ok
}

// Shards implements supervisor.Remote.
func (r *routing) Shards() []uint32 {
	var out []uint32
	for p := range r.own {
		if slot, _, known := r.Owner(uint32(p)); known && slot != 0 {
			out = append(out, uint32(p))
		}
	}
	return out
}

// allOwned reports whether every partition has an owner, so that a member without any serves
// too.
func (r *routing) allOwned() bool {
	for p := range r.own {
		if slot, _, known := r.Owner(uint32(p)); !known || slot == 0 {
			return false
		}
	}
	return r.inCluster()
}

// Ready implements supervisor.Remote: from now on the others send to the shard. One that was
// lost before it came to that claims nothing.
func (r *routing) Ready(partition uint32) {
	r.claims.Lock()
	defer r.claims.Unlock()
	if r.inCluster() && r.assigned(partition) {
		r.own[partition].Store(r.cluster.Claim(partition))
	}
}

// over says that the life of a shard is over, or the shard gone. It is not assigned any more
// by then, or not ready.
func (r *routing) over(partition uint32) {
	r.claims.Lock()
	defer r.claims.Unlock()
	if int(partition) < len(r.own) && r.own[partition].Swap(0) != 0 {
		r.cluster.Disclaim(partition)
		// Another member may have claimed it before this one knew that it had lost it: what gates
		// registered then went to the shard here.
		r.missed[partition].Store(true)
	}
}

// away sends a gate's batch to a shard that another member has; false: nobody is known to
// have it, or it cannot be sent, and the batch is the caller's still.
func (r *routing) away(partition uint32, b *actors.FromGate) bool {
	slot, epoch, known := r.Owner(partition)
	if !known || slot == 0 || r.refused[partition].Load() == epoch {
		return false
	}
	for _, body := range wire.AppendFromGate(nil, partition, epoch, actors.LoopOf(b.Gate), b) {
		if !r.cluster.Send(slot, body) {
			r.missed[partition].Store(true)
			return false
		}
	}
	r.stats.toShards.Add(1)
	b.Release()
	return true
}

// resync has gates register again where they were not heard, until ctx ends.
func (r *routing) resync(ctx context.Context) error {
	tick := time.NewTicker(resyncEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for p := range r.missed {
			if _, _, known := r.Owner(uint32(p)); known && r.missed[p].Swap(false) {
				r.parking.Flush(uint32(p))
				r.router.Announce(uint32(p))
			}
		}
	}
}

// handler is the routing as the cluster sees it.
type handler struct {
	*routing
	conflict func(error)
}

// Up implements cluster.Handler.
func (h *handler) Up(p cluster.Peer) {
	<-h.joined
	h.mu.Lock()
	h.peers = append(h.peers, p)
	delete(h.gone, p.Name)
	h.mu.Unlock()
}

// Down implements cluster.Handler.
func (h *handler) Down(p cluster.Peer, _ string, unacked [][]byte) {
	h.mu.Lock()
	h.peers = slices.DeleteFunc(h.peers, func(q cluster.Peer) bool { return q.Slot == p.Slot })
	h.gone[p.Name] = time.Now()
	h.mu.Unlock()
	for _, s := range h.router.Shards() {
		h.router.ToShard(s, &actors.MemberGone{Slot: p.Slot})
	}
	h.rpc.Down(p.Slot)
	for _, body := range unacked {
		if len(body) > 0 && body[0] == wire.KindFromGate {
			h.again(body)
		}
	}
}

// again gives a gate's batch that did not reach its shard to whoever has that now, or keeps
// its results until somebody does. Its nodes are registered by the claim of who that is.
func (h *handler) again(body []byte) {
	head, b, err := wire.DecodeFromGate(body, 0)
	switch {
	case err != nil || int(head.Shard) >= len(h.own):
		h.stats.malformed.Add(1)
	case !h.parking.Send(head.Shard, b):
		h.missed[head.Shard].Store(true)
	}
}

// Owner implements cluster.Handler: a partition has another owner, or its shard a new life.
func (h *handler) Owner(partition uint32, slot uint16, _ uint64, known bool) {
	<-h.joined
	h.refused[partition].Store(0)
	if !known || slot == 0 {
		return // the shard here announces itself
	}
	h.parking.Flush(partition)
	h.router.Announce(partition)
	for _, s := range h.router.Shards() {
		h.router.ToShard(s, &shard.Rebuilt{Shard: partition})
	}
}

// Conflict implements cluster.Handler.
func (h *handler) Conflict(err error) { h.conflict(err) }

// Message implements cluster.Handler. Whatever another member sends, this one goes on.
func (h *handler) Message(slot uint16, body []byte) {
	<-h.joined
	defer func() {
		if p := recover(); p != nil {
			h.stats.malformed.Add(1)
			h.log.Error("a message of another member could not be handled", zap.Uint16("slot", slot), zap.Any("panic", p), zap.StackSkip("stack", 1))
		}
	}()
	if len(body) == 0 {
		h.stats.malformed.Add(1)
		return
	}
	var err error
	switch body[0] {
	case wire.KindRPC:
		h.rpc.Message(slot, body)
	case wire.KindToGate:
		err = h.toGate(body)
	case wire.KindFromGate:
		err = h.fromGate(slot, body)
	case wire.KindShard:
		err = h.toShard(body)
	case wire.KindReturned:
		err = h.returned(body[1:])
	}
	if err != nil {
		h.stats.malformed.Add(1)
		h.log.Warn("a member sent what cannot be read; its version may be another one", zap.Uint16("slot", slot), zap.Error(err))
	}
}

func (h *handler) toGate(body []byte) error {
	head, b, err := wire.DecodeToGate(body)
	if err != nil {
		return err
	}
	if int(head.Shard) >= len(h.own) {
		b.Release()
		return wire.ErrMalformed
	}
	if _, epoch, known := h.routing.Owner(head.Shard); known && head.Epoch < epoch {
		h.stats.stale.Add(1)
		b.Release()
		return nil
	}
	h.router.ToGate(head.Loop, b)
	return nil
}

func (h *handler) fromGate(slot uint16, body []byte) error {
	head, err := wire.Head(body)
	if err != nil || int(head.Shard) >= len(h.own) {
		return wire.ErrMalformed
	}
	if head.Epoch != h.own[head.Shard].Load() {
		h.stats.refused.Add(1)
		h.cluster.Send(slot, append([]byte{wire.KindReturned}, body...)) // full: the node has its results still
		return nil
	}
	_, b, err := wire.DecodeFromGate(body, slot)
	if err != nil {
		return err
	}
	h.stats.taken.Add(1)
	h.trace.fromGate(b)
	if !h.router.ToShard(head.Shard, b) {
		b.Release()
	}
	return nil
}

func (h *handler) toShard(body []byte) error {
	head, m, err := wire.DecodeShard(body, h.cluster.SlotOf)
	if err != nil || int(head.Shard) >= len(h.own) {
		return wire.ErrMalformed
	}
	if m == nil || head.Epoch != h.own[head.Shard].Load() {
		h.stats.refused.Add(1)
		return nil // who asks does so again
	}
	h.router.ToShard(head.Shard, m)
	return nil
}

// returned takes back a batch that was sent to a life of a shard that is over. Nothing more
// is sent to that.
func (h *handler) returned(body []byte) error {
	head, err := wire.Head(body)
	if err != nil || int(head.Shard) >= len(h.own) {
		return wire.ErrMalformed
	}
	if _, epoch, known := h.routing.Owner(head.Shard); known && epoch == head.Epoch {
		h.refused[head.Shard].Store(epoch)
	}
	h.again(body)
	return nil
}

// dead reports whether the member of a name was lost and is not back.
func (r *routing) dead(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, gone := r.gone[name]
	return gone
}

// bereft reports whether a member was lost a short while ago.
func (r *routing) bereft() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, at := range r.gone {
		if time.Since(at) < bereftFor {
			return true
		}
	}
	return false
}

// Peers implements peers.
func (r *routing) Peers() []Peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Peer, len(r.peers))
	for i, p := range r.peers {
		out[i] = Peer{Slot: p.Slot, Name: p.Name}
	}
	return out
}

// Owner implements peers.
func (r *routing) Owner(partition uint32) (slot uint16, epoch uint64, known bool) {
	if !r.inCluster() {
		return 0, 0, true
	}
	return r.cluster.Owner(partition)
}

// Call implements peers.
func (r *routing) Call(ctx context.Context, slot uint16, method string, body []byte) ([]byte, error) {
	return r.rpc.Call(ctx, slot, method, body)
}

// Stream implements peers.
func (r *routing) Stream(ctx context.Context, slot uint16, method string, body []byte) (<-chan []byte, func() error) {
	return r.rpc.Stream(ctx, slot, method, body)
}
