// Package actors holds the messages that gates and shards exchange. The actors
// themselves are in the folders below; none of them knows sockets, Kafka or the
// clock.
//
// Both directions are batches: a gate collects what its event loop heard and sends
// one [FromGate] to each shard concerned, a shard collects what one of its inputs
// caused and sends one [ToGate] to each gate concerned. Batches come from a pool and
// belong to the receiver, who gives them back with Release.
package actors

import (
	"sync"

	"github.com/roost-server/roost/protocol"
)

// Profile is what a node says of itself and that many nodes have in common, so that
// equal ones are shared. It is never changed once made.
type Profile struct {
	protocol.Attributes
	Agent string
}

// Offers reports whether the node runs jobs of a kind.
func (p *Profile) Offers(kind string) bool {
	for _, k := range p.Kinds {
		if k == kind {
			return true
		}
	}
	return false
}

// Delivery is one attempt of an assignment on its way to a node. Its strings and
// Args are never changed once made, so they may be kept and shared.
type Delivery struct {
	Node      string
	JobID     string
	Kind      string
	Args      []byte // one encoded msgpack value
	Shard     uint32
	Attempt   uint32
	TimeoutMs uint32
	Priority  uint8
}

// Withdrawal takes back a delivery: its attempt has ended for the shard.
type Withdrawal struct {
	Node    string
	JobID   string
	Attempt uint32
	Reason  string
}

// Ack says that the result of a node's attempt is recorded.
type Ack struct {
	Node    string
	JobID   string
	Attempt uint32
}

// Eviction closes a session that a newer one of the same node has replaced.
type Eviction struct {
	Node        string
	Incarnation uint64 // this one; a newer one stays
	Contested   bool   // the clocks of two members cannot tell which one is newer: the node may come back
}

// ToGate is a batch from one shard to one gate.
type ToGate struct {
	Deliveries  []Delivery
	Withdrawals []Withdrawal
	Acks        []Ack
	Evictions   []Eviction
}

var toGates = sync.Pool{New: func() any { return new(ToGate) }}

// NewToGate returns an empty batch.
func NewToGate() *ToGate { return toGates.Get().(*ToGate) }

// Release gives the batch back; the caller must not touch it afterwards.
func (b *ToGate) Release() {
	b.Deliveries, b.Withdrawals = emptied(b.Deliveries), emptied(b.Withdrawals)
	b.Acks, b.Evictions = emptied(b.Acks), emptied(b.Evictions)
	toGates.Put(b)
}

// maxPooledItems keeps one huge batch from pinning its memory in the pool.
const maxPooledItems = 4096

// emptied returns a list for the next use of its batch.
func emptied[T any](list []T) []T {
	if cap(list) > maxPooledItems {
		return nil
	}
	clear(list)
	return list[:0]
}

// LoopBits is how many bits of a gate's number tell its event loop.
const LoopBits = 16

// GateOf returns the number by which shards know a gate: the slot of the link to its
// member, 0 for this one, and its event loop there.
func GateOf(slot uint16, loop uint32) uint32 { return uint32(slot)<<LoopBits | loop&(1<<LoopBits-1) }

// SlotOf returns the slot of a gate's member, and LoopOf its event loop there.
func SlotOf(gate uint32) uint16 { return uint16(gate >> LoopBits) }

// LoopOf returns a gate's event loop on its member.
func LoopOf(gate uint32) uint32 { return gate & (1<<LoopBits - 1) }

// MemberGone tells a shard that the member behind a slot is gone, and with it every
// session at its gates. Nothing of that slot may follow.
type MemberGone struct{ Slot uint16 }

// Announce asks a gate to register again all of its nodes that hash to a shard, which has
// just started or begun anew, and to tell it which of its jobs nodes have.
type Announce struct{ Shard uint32 }

// Result is a RESULT as a gate heard it. The byte fields lie in the batch's arena
// and live as long as the batch.
type Result struct {
	Node       string
	JobID      []byte
	Attempt    uint32
	Outcome    protocol.Outcome
	DurationUs uint64
	Error      []byte
	Output     []byte
}

// Progress is a PROGRESS as a gate heard it; Data lies in the batch's arena.
type Progress struct {
	Node    string
	JobID   string
	Attempt uint32
	Data    []byte
}

// Registration says that a node has a session on the gate. Sent again with the same
// incarnation it changes the profile.
type Registration struct {
	Node        string
	Incarnation uint64
	Profile     *Profile
}

// Departure says that a session ended.
type Departure struct {
	Node        string
	Incarnation uint64
}

// Notice is what became of one delivery short of its result.
type Notice struct {
	Kind        NoticeKind
	Node        string
	JobID       string
	Attempt     uint32
	Incarnation uint64 // of the session meant; 0 when there was none
}

// NoticeKind says what a [Notice] is about.
type NoticeKind uint8

// The notices.
const (
	Undelivered NoticeKind = iota // the node has no session on this gate
	Queued                        // waits at the session for the node's credit
	Sent                          // left the session's queue for the socket
	Busy                          // the session's queue is full
	Accepted                      // the node has it and works on it
	Running                       // the node has it: it says so in HELLO, or the shard began anew
	Held                          // the node says in HELLO that its result follows
	Lost                          // the session that had it ended
)

// FromGate is a batch from one gate to one shard. Its parts are to be taken in the
// order of the fields: results before the notices of a session's end.
type FromGate struct {
	Gate          uint32
	Results       []Result
	Progress      []Progress
	Registrations []Registration
	Notices       []Notice
	Departures    []Departure
	arena         []byte
}

var fromGates = sync.Pool{New: func() any { return new(FromGate) }}

// maxPooledArena keeps one huge result from pinning its memory in the pool.
const maxPooledArena = 64 << 10

// NewFromGate returns an empty batch.
func NewFromGate(gate uint32) *FromGate {
	b := fromGates.Get().(*FromGate)
	b.Gate = gate
	return b
}

// Keep copies bytes into the batch's arena.
func (b *FromGate) Keep(p []byte) []byte {
	if len(p) == 0 {
		return nil
	}
	if len(b.arena)+len(p) > cap(b.arena) { // what was kept stays in the old array
		b.arena = make([]byte, 0, max(4<<10, 2*cap(b.arena), len(p)))
	}
	start := len(b.arena)
	b.arena = append(b.arena, p...)
	return b.arena[start:len(b.arena):len(b.arena)]
}

// Empty reports whether there is nothing in the batch.
func (b *FromGate) Empty() bool {
	return len(b.Results)+len(b.Progress)+len(b.Registrations)+len(b.Notices)+len(b.Departures) == 0
}

// Release gives the batch back; the caller must not touch it, or anything in its
// arena, afterwards.
func (b *FromGate) Release() {
	b.Results, b.Progress, b.Registrations = emptied(b.Results), emptied(b.Progress), emptied(b.Registrations)
	b.Notices, b.Departures = emptied(b.Notices), emptied(b.Departures)
	if cap(b.arena) > maxPooledArena {
		b.arena = nil
	}
	b.arena = b.arena[:0]
	fromGates.Put(b)
}

// Record is one record of the jobs topic, as shards take it. The receiver owns the
// byte slices, which are never changed.
type Record struct {
	Offset      int64
	TimestampMs int64
	Key         []byte
	Value       []byte
	ContentType string // of the header; may be empty
	Headers     []Header
}

// Header is a header of a record that means nothing here: a dead record keeps it.
type Header struct {
	Key   string
	Value []byte
}

// Records is a batch of records of one partition, in order. Epoch counts how often
// the partition was rewound: a shard that restarted takes only what was read after.
type Records struct {
	Epoch   uint64
	Records []Record
}
