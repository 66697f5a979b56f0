package member

import (
	"sync"
	"sync/atomic"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/gate"
)

// The results that may wait for shards, and their bytes. What is over them stays in
// the nodes' outboxes until they reconnect.
const (
	parkedResults = 1 << 16
	parkedBytes   = 16 << 20
)

// parking is the gates' way to the shards, on this member and on others. Nodes are back after a restart before
// Kafka has assigned the partitions and their shards are rebuilt, and send what their
// outboxes hold once in a session; so results for a shard that is not ready wait for
// it. Registrations do not: a shard that is ready asks for them.
type parking struct {
	deliver func(shard uint32, b *actors.FromGate) bool // false: not here, and b is still the caller's
	away    func(shard uint32, b *actors.FromGate) bool // the same for shards of other members
	ready   []atomic.Bool                               // by shard

	mu      sync.Mutex
	waiting map[uint32][]*actors.FromGate
	results int
	bytes   int
}

var _ gate.Shards = (*parking)(nil)

func newParking(partitions int, deliver, away func(shard uint32, b *actors.FromGate) bool) *parking {
	return &parking{deliver: deliver, away: away, ready: make([]atomic.Bool, partitions), waiting: map[uint32][]*actors.FromGate{}}
}

// partitions returns the number of shards there are in the cluster.
func (p *parking) partitions() int { return len(p.ready) }

func (p *parking) send(shard uint32, b *actors.FromGate) bool {
	if p.ready[shard].Load() {
		return p.deliver(shard, b)
	}
	return p.away(shard, b)
}

// Send implements gate.Shards.
func (p *parking) Send(shard uint32, b *actors.FromGate) bool {
	if p.send(shard, b) {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	// Again under the lock: the shard may have come between, and Arrived with it.
	if p.send(shard, b) {
		return true
	}
	size := resultBytes(b)
	if len(b.Results) == 0 || p.results+len(b.Results) > parkedResults || p.bytes+size > parkedBytes {
		b.Release()
		return false
	}
	waits := actors.NewFromGate(b.Gate)
	for i := range b.Results {
		r := b.Results[i]
		r.JobID, r.Error, r.Output = waits.Keep(r.JobID), waits.Keep(r.Error), waits.Keep(r.Output)
		waits.Results = append(waits.Results, r)
	}
	b.Release()
	p.waiting[shard] = append(p.waiting[shard], waits)
	p.results += len(waits.Results)
	p.bytes += size
	return true
}

// Open lets a shard have what waits for it, and from now on everything at once, when
// tell returns true: that tells the shard that it is ready, so nothing comes before.
func (p *parking) Open(shard uint32, tell func() bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !tell() {
		return false
	}
	p.ready[shard].Store(true)
	for _, b := range p.waiting[shard] {
		p.results -= len(b.Results)
		p.bytes -= resultBytes(b)
		if !p.deliver(shard, b) {
			b.Release() // gone again
		}
	}
	delete(p.waiting, shard)
	return true
}

// Flush sends what waits for a shard that another member has now. What cannot be sent goes
// on waiting.
func (p *parking) Flush(shard uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	batches := p.waiting[shard]
	for len(batches) > 0 {
		b := batches[0]
		results, size := len(b.Results), resultBytes(b)
		if !p.send(shard, b) {
			break
		}
		batches = batches[1:]
		p.results -= results
		p.bytes -= size
	}
	if p.waiting[shard] = batches; len(batches) == 0 {
		delete(p.waiting, shard)
	}
}

// Close has results wait again.
func (p *parking) Close(shard uint32) { p.ready[shard].Store(false) }

func resultBytes(b *actors.FromGate) (n int) {
	for i := range b.Results {
		r := &b.Results[i]
		n += len(r.JobID) + len(r.Error) + len(r.Output)
	}
	return n
}
