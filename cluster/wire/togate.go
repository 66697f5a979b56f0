package wire

import (
	"bytes"
	"slices"
	"strings"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
)

// maxReasonBytes caps the reason of a withdrawal.
const maxReasonBytes = 4 << 10

// AppendToGate appends the bodies that hold a shard's batch for the gate of an event loop on
// another member; none for an empty batch. The batch stays the caller's. Every delivery
// has to be of that shard.
func AppendToGate(bodies [][]byte, shard uint32, epoch uint64, loop uint32, b *actors.ToGate) [][]byte {
	w := newWriter(bodies, Header{Kind: KindToGate, Shard: shard, Epoch: epoch, Loop: loop})
	for i := range b.Withdrawals {
		x := &b.Withdrawals[i]
		reason := x.Reason[:min(len(x.Reason), maxReasonBytes)]
		w.room(len(x.Node) + len(x.JobID) + len(reason))
		w.begin(tagWithdrawal)
		w.text(x.Node)
		w.text(x.JobID)
		w.uint(uint64(x.Attempt))
		w.text(reason)
		w.end()
	}
	for i := range b.Deliveries {
		w.delivery(&b.Deliveries[i])
	}
	for i := range b.Acks {
		x := &b.Acks[i]
		w.room(len(x.Node) + len(x.JobID))
		w.begin(tagAck)
		w.text(x.Node)
		w.text(x.JobID)
		w.uint(uint64(x.Attempt))
		w.end()
	}
	for i := range b.Evictions {
		x := &b.Evictions[i]
		w.room(len(x.Node))
		w.begin(tagEviction)
		w.text(x.Node)
		w.uint(x.Incarnation)
		w.flag(x.Contested)
		w.end()
	}
	return w.done()
}

// again reports whether a delivery is of the same job as the one before.
func (w *writer) again(d *actors.Delivery) bool {
	l := w.last
	return l != nil && l.JobID == d.JobID && l.Kind == d.Kind && l.TimeoutMs == d.TimeoutMs &&
		l.Priority == d.Priority && bytes.Equal(l.Args, d.Args)
}

// delivery writes what is to be done once, for all nodes that follow each other with it.
func (w *writer) delivery(d *actors.Delivery) {
	if w.again(d) {
		w.room(len(d.Node))
	}
	if w.again(d) { // still in the same body
		w.begin(tagAgain)
		w.text(d.Node)
		w.uint(uint64(d.Attempt))
		w.end()
		return
	}
	w.room(len(d.Node) + len(d.JobID) + len(d.Kind) + len(d.Args))
	w.begin(tagDelivery)
	w.text(d.Node)
	w.text(d.JobID)
	w.text(d.Kind)
	w.bytes(d.Args)
	w.uint(uint64(d.Attempt))
	w.uint(uint64(d.TimeoutMs))
	w.uint(uint64(d.Priority))
	w.end()
	w.last = d
}

// DecodeToGate reads a body of [KindToGate] into a batch from the pool. The batch holds on to
// the body, which must not be changed any more; its deliveries do not.
func DecodeToGate(body []byte) (Header, *actors.ToGate, error) {
	h, rest, err := head(body)
	if err == nil && h.Kind != KindToGate {
		err = wrongKind(h.Kind)
	}
	if err != nil {
		return h, nil, err
	}
	b, of := actors.NewToGate(), tally(rest)
	b.Deliveries = slices.Grow(b.Deliveries, of[tagDelivery]+of[tagAgain])
	b.Withdrawals = slices.Grow(b.Withdrawals, of[tagWithdrawal])
	b.Acks, b.Evictions = slices.Grow(b.Acks, of[tagAck]), slices.Grow(b.Evictions, of[tagEviction])
	if err := records(rest, func(tag byte, f *fields) bool { return toGate(b, h.Shard, tag, f) }); err != nil {
		b.Release()
		return h, nil, err
	}
	return h, b, nil
}

func toGate(b *actors.ToGate, shard uint32, tag byte, f *fields) bool {
	switch tag {
	case tagWithdrawal:
		b.Withdrawals = append(b.Withdrawals, actors.Withdrawal{
			Node: f.node(), JobID: f.job(), Attempt: f.attempt(), Reason: f.view(maxReasonBytes)})
	case tagDelivery:
		b.Deliveries = append(b.Deliveries, delivery(shard, f))
	case tagAgain:
		if len(b.Deliveries) == 0 {
			return false
		}
		d := b.Deliveries[len(b.Deliveries)-1]
		d.Node, d.Attempt = strings.Clone(f.node()), f.attempt()
		b.Deliveries = append(b.Deliveries, d)
	case tagAck:
		b.Acks = append(b.Acks, actors.Ack{Node: f.node(), JobID: f.job(), Attempt: f.attempt()})
	case tagEviction:
		b.Evictions = append(b.Evictions, actors.Eviction{
			Node: f.node(), Incarnation: f.uint(1<<64 - 1), Contested: f.uint(1) == 1})
	}
	return true
}

// delivery reads a delivery. Sessions keep deliveries, so it has bytes of its own.
func delivery(shard uint32, f *fields) actors.Delivery {
	own := fields{b: append(make([]byte, 0, len(f.b)), f.b...)}
	d := actors.Delivery{
		Node: own.node(), JobID: own.job(), Kind: own.view(protocol.MaxKindBytes), Args: own.bytes(protocol.MaxPayloadBytes),
		Shard: shard, Attempt: own.attempt(), TimeoutMs: uint32(own.uint(protocol.MaxTimeoutMs)),
		Priority: uint8(own.uint(protocol.MaxPriority)),
	}
	f.bad = own.bad
	return d
}
