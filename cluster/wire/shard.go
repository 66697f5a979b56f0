package wire

import (
	"strings"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/directory"
	"github.com/roost-server/roost/actors/shard"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// AppendShard appends the bodies that hold a message for a shard on another member: one of
// *shard.Locate, *shard.Located, *shard.Rebuilt, *shard.Silent, *shard.Answered, *shard.Select
// and *shard.Candidates. It reports false for anything else. inst returns the instance of
// the member behind a slot, this one's for slot 0; false when it is gone. Where a
// location is of such a member, Located says that it is unknown, and Candidates goes without.
func AppendShard(bodies [][]byte, to uint32, epoch uint64, m any, inst func(slot uint16) (uint64, bool)) ([][]byte, bool) {
	w := newWriter(bodies, Header{Kind: KindShard, Shard: to, Epoch: epoch})
	known := true
	switch m := m.(type) {
	case *shard.Locate:
		w.begin(tagLocate)
		w.uint(uint64(m.From))
		w.text(m.Node)
		w.uint(uint64(max(0, m.WaitMs)))
		w.end()
	case *shard.Located:
		if !m.Unknown {
			w.location(&m.Location, inst)
		}
		w.begin(tagLocated)
		w.text(m.Location.Node)
		w.end()
	case *shard.Rebuilt:
		w.begin(tagRebuilt)
		w.uint(uint64(m.Shard))
		w.end()
	case *shard.Silent:
		w.begin(tagSilent)
		w.text(m.Node)
		w.uint(uint64(max(0, m.UntilMs)))
		w.end()
	case *shard.Answered:
		w.begin(tagAnswered)
		w.text(m.Node)
		w.end()
	case *shard.Select:
		w.search(m)
	case *shard.Candidates:
		w.candidates(m, inst)
	default:
		known = false
	}
	return w.done(), known
}

// location writes a location, unless its member is gone.
func (w *writer) location(l *shard.Location, inst func(slot uint16) (uint64, bool)) {
	instance, ok := inst(actors.SlotOf(l.Gate))
	if !ok {
		return
	}
	profile := w.profile(l.Profile)
	w.begin(tagLocation)
	w.text(l.Node)
	w.fixed(instance)
	w.uint(uint64(actors.LoopOf(l.Gate)))
	w.uint(l.Incarnation)
	w.uint(profile)
	w.end()
}

// maxExcludeBytes is what a Select tells of nodes that are not wanted. Of more than that, the
// asker leaves out itself what it is offered.
const maxExcludeBytes = MaxBodyBytes - 32<<10

func (w *writer) search(m *shard.Select) {
	var sel record.Selector
	if m.Selector != nil {
		sel = *m.Selector
	}
	w.begin(tagSelect)
	w.uint(uint64(m.From))
	w.text(m.JobID)
	w.uint(uint64(m.Round))
	w.text(m.Kind)
	w.uint(uint64(max(0, m.Count)))
	w.text(sel.Country)
	w.text(sel.City)
	w.uint(uint64(sel.ASN))
	w.text(sel.Platform)
	w.list(sel.Tags)
	n, bytes := 0, 0
	for n < len(m.Exclude) && bytes+len(m.Exclude[n])+2 <= maxExcludeBytes {
		bytes += len(m.Exclude[n]) + 2
		n++
	}
	w.list(m.Exclude[:n])
	w.end()
}

func (w *writer) candidates(m *shard.Candidates, inst func(slot uint16) (uint64, bool)) {
	for i := range m.Nodes {
		l := &m.Nodes[i]
		if len(w.buf)+len(l.Node)+profileBytes(l.Profile)+5*recordBytes > MaxBodyBytes {
			w.answer(m, true)
			w.cut()
		}
		w.location(l, inst)
	}
	w.answer(m, m.More)
}

// answer writes the end of an answer, or of a part of it.
func (w *writer) answer(m *shard.Candidates, more bool) {
	w.begin(tagCandidates)
	w.text(m.JobID)
	w.uint(uint64(m.Round))
	w.flag(more)
	if more {
		w.uint(0)
	} else {
		w.uint(uint64(len(m.Funnel)))
		for _, n := range m.Funnel {
			w.uint(uint64(max(0, n)))
		}
	}
	w.end()
}

// DecodeShard reads a body of [KindShard]. slotOf returns the slot of the link to the member
// with an instance, 0 for this one; false when there is none. m is one of the messages that
// [AppendShard] names, or nil for one that this version does not know. What shards keep of
// it has memory of its own; the rest lies in the body, which must not be changed any more.
func DecodeShard(body []byte, slotOf func(instance uint64) (slot uint16, known bool)) (h Header, m any, err error) {
	h, rest, err := head(body)
	if err == nil && h.Kind != KindShard {
		err = wrongKind(h.Kind)
	}
	if err != nil {
		return h, nil, err
	}
	of := tally(rest)
	r := shardReader{slotOf: slotOf, profiles: make(profiles, 0, of[tagProfile]), locations: make([]shard.Location, 0, of[tagLocation])}
	if err := records(rest, r.record); err != nil {
		return h, nil, err
	}
	return h, r.message, nil
}

// shardReader collects what a message consists of.
type shardReader struct {
	slotOf    func(uint64) (uint16, bool)
	profiles  profiles
	locations []shard.Location
	message   any
}

func (r *shardReader) record(tag byte, f *fields) bool {
	switch tag {
	case tagProfile:
		return r.profiles.add(f)
	case tagLocation:
		r.location(f)
	case tagLocate:
		r.message = &shard.Locate{From: number(f), Node: strings.Clone(f.node()), WaitMs: moment(f)}
	case tagLocated:
		m := &shard.Located{Unknown: len(r.locations) == 0}
		if m.Location.Node = strings.Clone(f.node()); !m.Unknown {
			m.Location = r.locations[0]
		}
		r.message = m
	case tagRebuilt:
		r.message = &shard.Rebuilt{Shard: number(f)}
	case tagSilent:
		r.message = &shard.Silent{Node: f.node(), UntilMs: moment(f)}
	case tagAnswered:
		r.message = &shard.Answered{Node: f.node()}
	case tagSelect:
		r.message = search(f)
	case tagCandidates:
		r.message = r.candidates(f)
	}
	return true
}

func (r *shardReader) location(f *fields) {
	l := shard.Location{Node: strings.Clone(f.node())}
	slot, known := r.slotOf(f.fixed())
	l.Gate = actors.GateOf(slot, uint32(f.uint(maxLoop)))
	l.Incarnation, l.Profile = f.uint(1<<64-1), r.profiles.take(f)
	if known {
		r.locations = append(r.locations, l)
	}
}

func search(f *fields) *shard.Select {
	m := &shard.Select{From: number(f), JobID: f.job(), Round: number(f), Kind: f.view(protocol.MaxKindBytes),
		Count: int(f.uint(record.MaxTargets))}
	m.Selector = &record.Selector{Country: f.view(protocol.MaxCountryBytes), City: f.view(protocol.MaxTextBytes), ASN: number(f),
		Platform: f.view(protocol.MaxTextBytes), Tags: f.list(protocol.MaxTags, protocol.MaxTagBytes)}
	m.Exclude = f.list(MaxBodyBytes, protocol.MaxNodeIDBytes)
	return m
}

func (r *shardReader) candidates(f *fields) *shard.Candidates {
	m := &shard.Candidates{JobID: f.job(), Round: number(f), More: f.uint(1) == 1}
	if len(r.locations) > 0 {
		m.Nodes = r.locations
	}
	for i := range f.count(1 << 8) { // a newer member may tell of more stages
		if n := int(f.uint(maxCounted)); i < int(directory.Stages) {
			m.Funnel[i] = n
		}
	}
	return m
}

// maxCounted is far over the nodes that there may be, and sums of it do not overflow.
const maxCounted = 1 << 40

func number(f *fields) uint32 { return uint32(f.uint(1<<32 - 1)) }

// moment takes a time or duration in milliseconds.
func moment(f *fields) int64 { return int64(f.uint(1<<62 - 1)) }
