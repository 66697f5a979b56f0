package wire

import (
	"fmt"
	"slices"
	"strings"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
)

// AppendFromGate appends the bodies that hold a gate's batch for a shard on another member;
// none for an empty batch. The batch stays the caller's.
func AppendFromGate(bodies [][]byte, shard uint32, epoch uint64, loop uint32, b *actors.FromGate) [][]byte {
	w := newWriter(bodies, Header{Kind: KindFromGate, Shard: shard, Epoch: epoch, Loop: loop})
	for i := range b.Results {
		x := &b.Results[i]
		w.room(len(x.Node) + len(x.JobID) + len(x.Error) + len(x.Output))
		w.begin(tagResult)
		w.text(x.Node)
		w.bytes(x.JobID)
		w.uint(uint64(x.Attempt))
		w.uint(uint64(x.Outcome))
		w.uint(x.DurationUs)
		w.bytes(x.Error)
		w.bytes(x.Output)
		w.end()
	}
	for i := range b.Progress {
		x := &b.Progress[i]
		w.room(len(x.Node) + len(x.JobID) + len(x.Data))
		w.begin(tagProgress)
		w.text(x.Node)
		w.text(x.JobID)
		w.uint(uint64(x.Attempt))
		w.bytes(x.Data)
		w.end()
	}
	// In the order in which a shard takes the parts of a batch, so that it may be split.
	w.notices(b.Notices, true)
	for i := range b.Registrations {
		x := &b.Registrations[i]
		w.room(len(x.Node) + profileBytes(x.Profile))
		profile := w.profile(x.Profile)
		w.begin(tagRegistration)
		w.text(x.Node)
		w.uint(x.Incarnation)
		w.uint(profile)
		w.end()
	}
	for i := range b.Departures {
		x := &b.Departures[i]
		w.room(len(x.Node))
		w.begin(tagDeparture)
		w.text(x.Node)
		w.uint(x.Incarnation)
		w.end()
	}
	w.notices(b.Notices, false)
	return w.done()
}

// notices writes those that come before registrations, or the others.
func (w *writer) notices(all []actors.Notice, before bool) {
	for i := range all {
		x := &all[i]
		if (x.Kind == actors.Running || x.Kind == actors.Held) != before {
			continue
		}
		w.room(len(x.Node) + len(x.JobID))
		w.begin(tagNotice)
		w.uint(uint64(x.Kind))
		w.text(x.Node)
		w.text(x.JobID)
		w.uint(uint64(x.Attempt))
		w.uint(x.Incarnation)
		w.end()
	}
}

// DecodeFromGate reads a body of [KindFromGate] that came over the link in a slot, into a
// batch from the pool, which has the gate's number here. The batch holds on to the body,
// which must not be changed any more; its registrations do not.
func DecodeFromGate(body []byte, slot uint16) (Header, *actors.FromGate, error) {
	h, rest, err := head(body)
	if err == nil && h.Kind != KindFromGate {
		err = wrongKind(h.Kind)
	}
	if err != nil {
		return h, nil, err
	}
	b, of := actors.NewFromGate(actors.GateOf(slot, h.Loop)), tally(rest)
	b.Results, b.Progress = slices.Grow(b.Results, of[tagResult]), slices.Grow(b.Progress, of[tagProgress])
	b.Notices, b.Registrations = slices.Grow(b.Notices, of[tagNotice]), slices.Grow(b.Registrations, of[tagRegistration])
	b.Departures = slices.Grow(b.Departures, of[tagDeparture])
	table := make(profiles, 0, of[tagProfile])
	if err := records(rest, func(tag byte, f *fields) bool { return fromGate(b, &table, tag, f) }); err != nil {
		b.Release()
		return h, nil, err
	}
	return h, b, nil
}

func fromGate(b *actors.FromGate, table *profiles, tag byte, f *fields) bool {
	switch tag {
	case tagResult:
		b.Results = append(b.Results, actors.Result{
			Node: f.node(), JobID: jobBytes(f), Attempt: f.attempt(), Outcome: protocol.Outcome(f.uint(uint64(protocol.OutcomeCancelled))),
			DurationUs: f.uint(1<<64 - 1), Error: f.bytes(protocol.MaxErrorBytes), Output: f.bytes(protocol.MaxPayloadBytes)})
	case tagProgress:
		b.Progress = append(b.Progress, actors.Progress{
			Node: f.node(), JobID: f.job(), Attempt: f.attempt(), Data: f.bytes(protocol.MaxPayloadBytes)})
	case tagNotice:
		kind := f.uint(1<<8 - 1)
		if kind > uint64(actors.Lost) {
			break // of a newer member
		}
		b.Notices = append(b.Notices, actors.Notice{Kind: actors.NoticeKind(kind),
			Node: f.node(), JobID: f.job(), Attempt: f.attempt(), Incarnation: f.uint(1<<64 - 1)})
	case tagProfile:
		return table.add(f)
	case tagRegistration:
		b.Registrations = append(b.Registrations, actors.Registration{
			Node: strings.Clone(f.node()), Incarnation: f.uint(1<<64 - 1), Profile: table.take(f)})
	case tagDeparture:
		b.Departures = append(b.Departures, actors.Departure{Node: f.node(), Incarnation: f.uint(1<<64 - 1)})
	}
	return true
}

// jobBytes is job for one that is kept as bytes.
func jobBytes(f *fields) []byte {
	b := f.bytes(protocol.MaxJobIDBytes)
	if len(b) == 0 {
		f.fail()
	}
	return b
}

func wrongKind(kind byte) error {
	return fmt.Errorf("%w: a body of kind %d in the place of another", ErrMalformed, kind)
}
