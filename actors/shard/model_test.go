package shard

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// world runs a core among nodes that say anything at any time, over a Kafka and crashes,
// and checks it against an oracle.
type world struct {
	*rapid.T
	oracle *oracle
	kafka  *kafka
	core   *Core
	eff    Effects
	now    int64
	offset int64
	cut    *Batch // not committed yet
	asked  []*Select
	inc    uint64
	jobs   int
	floors map[string]uint8 // of jobs on one node: the attempt that comes next after a crash, or a later one
	slots  []uint16         // of the members that are there; the first one is this
	used   uint16           // slots that were given
	lost   []GateDelivery   // sent to members that are gone
	failed map[string]bool  // job/node/attempt that were said to have failed: another attempt may follow
}

func newWorld(t *rapid.T) *world {
	cfg := DefaultConfig()
	cfg.Partitions, cfg.Member, cfg.Owner = 2, "m", "o"
	w := &world{T: t, now: t0, kafka: newKafka(), oracle: newOracle(t), failed: map[string]bool{}, floors: map[string]uint8{},
		slots: []uint16{0, 1, 2}, used: 2}
	w.core = NewCore(cfg, func() []uint32 { return []uint32{0, 1} })
	w.core.Restored(w.now, -1, &w.eff)
	return w
}

func (w *world) pick(label string, options ...string) string {
	return rapid.SampledFrom(options).Draw(w.T, label)
}
func (w *world) number(label string, most int) int { return rapid.IntRange(0, most).Draw(w.T, label) }
func (w *world) node() string                      { return w.pick("node", "n0", "n1", "n2", "n3", "n4") }
func (w *world) incarnation() uint64               { return uint64(w.number("incarnation", int(w.inc)+1)) }

// gate is one that is there.
func (w *world) gate() uint32 {
	return actors.GateOf(rapid.SampledFrom(w.slots).Draw(w.T, "member"), uint32(1+w.number("gate", 1)))
}

// place is a gate that was there some time.
func (w *world) place() uint32 {
	return actors.GateOf(uint16(w.number("slot", int(w.used))), uint32(1+w.number("gate", 1)))
}

// memberGone takes a member away; it comes back with another slot.
func (w *world) memberGone() {
	i := 1 + w.number("gone", 1)
	gone := w.slots[i]
	if w.number("credit", 1) == 0 {
		w.queueAt(gone)
	}
	w.used++
	w.slots[i] = w.used
	w.core.MemberGone(w.now, gone, &w.eff)
}

// queueAt has what was sent to a member wait there for the nodes' credit.
func (w *world) queueAt(slot uint16) {
	b := actors.NewFromGate(actors.GateOf(slot, 1))
	for j := w.core.pending.first; j != nil; j = j.next {
		all := j.all()
		for i := range all {
			if a := &all[i]; a.state == sent && actors.SlotOf(a.gate) == slot {
				b.Notices = append(b.Notices, actors.Notice{Kind: actors.Queued, Node: a.node, JobID: j.id, Attempt: uint32(a.attempt), Incarnation: a.incarnation})
			}
		}
	}
	w.core.FromGate(w.now, b, &w.eff)
	b.Release()
}

// bounce does as the way to the gates: it gives back what is for members that are gone.
func (w *world) bounce() {
	lost := w.lost
	w.lost = nil
	for i := range lost {
		d := &lost[i].Delivery
		b := actors.NewFromGate(lost[i].Gate)
		b.Notices = append(b.Notices, actors.Notice{Kind: actors.Undelivered, Node: d.Node, JobID: d.JobID, Attempt: d.Attempt})
		w.core.FromGate(w.now, b, &w.eff)
		b.Release()
	}
	if len(lost) > 0 {
		w.check()
	}
	w.noGhosts()
}

// noGhosts checks that nothing is where nobody is any more.
func (w *world) noGhosts() {
	there := func(gate uint32) bool { return slices.Contains(w.slots, actors.SlotOf(gate)) }
	for l := range w.core.dir.All {
		require.True(w, there(l.Gate), "node %s", l.Node)
	}
	if w.core.rebuild != nil {
		return
	}
	for _, j := range w.core.pending.byID {
		all := j.all()
		for i := range all {
			a := &all[i]
			require.False(w, (a.state == sent || a.state == queued) && !there(a.gate), "%s on %s", j.id, a.node)
		}
	}
}

// jobID is one of those that there are, or the next.
func (w *world) jobID() string { return fmt.Sprint("j", w.number("job", w.jobs)) }

func (w *world) addRecord() {
	w.offset += int64(1 + w.number("gap", 2))
	r := actors.Record{Offset: w.offset, TimestampMs: w.now}
	var job *record.Job
	switch w.number("record", 12) {
	case 0:
		r.Value = []byte("poison")
	case 1, 2:
		job = &record.Job{ID: w.jobID(), Cancel: true, CancelReason: "r"}
	default:
		job = w.describe()
	}
	if job != nil {
		var err error
		job.Encoding = record.Encoding(w.number("encoding", 1))
		r.Value, err = record.AppendJob(nil, job)
		require.NoError(w, err)
	}
	w.oracle.add(r, job)
	w.core.Records(w.now, []actors.Record{r}, &w.eff)
	if w.number("older", 3) == 0 {
		older := r
		older.Offset--
		w.core.Records(w.now, []actors.Record{older, r}, &w.eff) // fed again: no effect
	}
}

func (w *world) describe() *record.Job {
	job := &record.Job{ID: w.jobID(), Kind: w.pick("kind", "ping", "ping", "ping", "http"), Attempts: uint32(1 + w.number("attempts", 2)),
		Timeout: 10e9, TTL: 60e9}
	if job.ID == fmt.Sprint("j", w.jobs) {
		w.jobs++
	}
	switch w.number("target", 3) {
	case 0, 1:
		job.Target.Node = w.node()
	case 2:
		job.Target.Nodes = []string{"n0", "n1", "n2", "n3"}[w.number("from", 3):]
	default:
		job.Target.Select = &record.Selector{Count: uint32(1 + w.number("count", 2))}
	}
	switch w.number("knob", 6) {
	case 0:
		job.NotBeforeMs = w.now + int64(w.number("later", 80_000))
	case 1:
		job.DeadlineMs = w.now + int64(w.number("deadline", 20_000)) - 5_000
	case 2:
		job.Backoff = record.NoBackoff
	}
	return job
}

func (w *world) addBatch() {
	b := actors.NewFromGate(w.gate())
	for range 1 + w.number("parts", 4) {
		switch w.number("part", 5) {
		case 0, 1:
			b.Results = append(b.Results, actors.Result{Node: w.node(), JobID: b.Keep([]byte(w.jobID())),
				Attempt: uint32(w.number("attempt", 4)), Outcome: protocol.Outcome(w.number("outcome", int(protocol.OutcomeCancelled))),
				Output: b.Keep([]byte{7}[:w.number("output", 1)])})
			if r := &b.Results[len(b.Results)-1]; r.Outcome > protocol.OutcomeFailed {
				w.failed[fmt.Sprint(string(r.JobID), r.Node, r.Attempt)] = true
			}
			delete(w.floors, string(b.Results[len(b.Results)-1].JobID)) // nodes may know of lower ones
		case 2:
			w.inc++
			b.Registrations = append(b.Registrations, actors.Registration{Node: w.node(), Incarnation: w.incarnation(), Profile: profileOf("ping")})
		case 3:
			b.Departures = append(b.Departures, actors.Departure{Node: w.node(), Incarnation: w.incarnation()})
		default:
			b.Notices = append(b.Notices, actors.Notice{Kind: actors.NoticeKind(w.number("notice", int(actors.Lost))),
				Node: w.node(), JobID: w.jobID(), Attempt: uint32(w.number("attempt", 4)), Incarnation: w.incarnation()})
			delete(w.floors, b.Notices[len(b.Notices)-1].JobID)
		}
	}
	w.core.FromGate(w.now, b, &w.eff)
	w.check()
	b.Release()
}

func (w *world) addCandidates() {
	m := &Candidates{JobID: w.jobID(), Round: uint32(w.number("round", 3)), More: w.number("more", 5) == 0}
	if len(w.asked) > 0 && w.number("true answer", 3) > 0 {
		q := w.asked[w.number("question", len(w.asked)-1)]
		m.JobID, m.Round = q.JobID, q.Round
	}
	for range w.number("candidates", 3) {
		m.Nodes = append(m.Nodes, Location{Node: w.node(), Gate: w.place(), Incarnation: w.incarnation(), Profile: profileOf("ping")})
	}
	w.core.Candidates(w.now, m, &w.eff)
}

func (w *world) step() {
	switch w.number("step", 15) {
	case 0, 1:
		w.addRecord()
	case 2, 3, 4, 5:
		w.addBatch()
	case 6:
		w.addCandidates()
	case 7:
		w.core.Located(w.now, &Location{Node: w.node(), Gate: w.place(), Incarnation: w.incarnation(), Profile: profileOf("ping")}, &w.eff)
	case 8:
		w.question()
	case 9, 10:
		w.now += int64(w.number("passes", 15_000))
		w.core.Tick(w.now, &w.eff)
	case 11:
		w.makeCut()
	case 12:
		if w.number("gone", 1) == 0 {
			w.memberGone()
		}
	case 13:
		if w.number("crash", 2) == 0 {
			w.crash()
		}
	default:
		w.commit()
	}
	w.check()
}

// question is something that other shards say.
func (w *world) question() {
	switch w.number("question", 5) {
	case 0:
		w.core.Locate(w.now, &Locate{From: 1, Node: w.node()}, &w.eff)
	case 1:
		w.core.Rebuilt(w.now, &Rebuilt{Shard: 1}, &w.eff)
	case 2:
		w.core.Silent(w.now, &Silent{Node: w.node(), UntilMs: w.now + 1000}, &w.eff)
	case 3:
		w.core.Answered(&Answered{Node: w.node()})
	case 4:
		w.core.Misplaced(w.now, w.node(), &w.eff)
	default:
		w.core.Select(w.now, &Select{From: 1, JobID: w.jobID(), Selector: &record.Selector{}, Kind: "ping", Count: 2, Exclude: []string{w.node()}}, &w.eff)
	}
}

func (w *world) makeCut() {
	b := &Batch{}
	if !w.core.Cut(w.now, b) {
		return
	}
	require.Nil(w, w.cut, "two batches at a time")
	w.cut = b
	if w.number("shrink", 5) == 0 {
		for i := range b.Writes {
			b.Writes[i].DropOutput(fmt.Errorf("too large"))
		}
	}
}

// commit has Kafka take a batch, and the core hear of it.
func (w *world) commit() {
	if w.cut == nil {
		w.makeCut()
	}
	if w.cut == nil {
		return
	}
	b := w.cut
	w.cut = nil
	w.kafka.commit(b)
	w.oracle.committed(w.kafka)
	w.core.Committed(w.now, b, &w.eff)
}

// crash ends the core's life. Kafka may have the batch under way, or not.
func (w *world) crash() {
	if w.cut != nil && w.number("committed", 1) == 0 {
		w.kafka.commit(w.cut)
		w.oracle.committed(w.kafka)
	}
	w.setFloors()
	lost := w.cut
	w.cut, w.asked = nil, nil
	w.eff.Reset()
	if w.number("again", 1) == 0 {
		w.core = w.core.reborn()
	} else {
		w.core = NewCore(w.core.cfg, w.core.shards)
	}
	state := w.kafka.log
	if w.number("compacted", 1) == 0 {
		state = w.kafka.records()
	}
	for i, r := range state {
		require.NoError(w, w.core.Restore(StateRecord{Key: slices.Clone(r.Key), Value: slices.Clone(r.Value)}))
		if i == len(state)/2 && w.number("meanwhile", 1) == 0 {
			w.addBatch()
			w.memberGone()
			w.addCandidates()
			w.core.Tick(w.now, &w.eff)
			require.False(w, w.core.Cut(w.now, &Batch{}))
		}
	}
	w.core.Restored(w.now, w.kafka.next, &w.eff)
	st := w.core.Status()
	require.Zero(w, st.Missing)
	require.Equal(w, w.kafka.next, st.Next)
	w.check()
	if lost != nil {
		w.core.Committed(w.now, lost, &w.eff) // of a life that is over
		w.check()
	}
	for _, r := range w.oracle.from(w.kafka.next) {
		w.core.Records(w.now, []actors.Record{r}, &w.eff)
		w.check()
	}
}

// setFloors notes which attempts were put.
func (w *world) setFloors() {
	clear(w.floors)
	for key, value := range w.kafka.state {
		if key[0] != keyJob {
			continue
		}
		j, e, err := decodeJob(key[1:], value)
		require.NoError(w, err)
		switch {
		case e.flags&isLive != 0:
			w.floors[j.id] = e.attempt
		case e.flags&isOver != 0:
			w.floors[j.id] = e.attempt + 1
		}
	}
}

// check compares what the core wants done with what may be.
func (w *world) check() {
	for _, d := range w.eff.Deliveries {
		f := w.oracle.find(d.Delivery.JobID)
		require.NotNil(w, f, "delivery of %s, which is no job", d.Delivery.JobID)
		require.True(w, f.mayBeOn(d.Delivery.Node))
		require.True(w, d.Delivery.Attempt >= 1 && d.Delivery.Attempt <= f.tries, "attempt %d of %d", d.Delivery.Attempt, f.tries)
		require.GreaterOrEqual(w, d.Delivery.Attempt, uint32(w.floors[d.Delivery.JobID]), "an attempt that was made before")
		delete(w.floors, d.Delivery.JobID)
		if !slices.Contains(w.slots, actors.SlotOf(d.Gate)) {
			w.lost = append(w.lost, d)
		}
		for _, r := range w.oracle.done[d.Delivery.JobID] {
			require.NotEqual(w, r.Node, d.Delivery.Node, "delivered after its outcome")
		}
	}
	for _, a := range w.eff.Acks {
		w.checkAck(&a.Ack)
	}
	for _, a := range w.eff.Asks {
		if q, ok := a.Message.(*Select); ok && len(q.Exclude) < 5 {
			w.asked = append(w.asked, q)
		}
	}
	w.eff.Reset()
	w.structure()
	w.bounce()
}

// checkAck checks that no node is told to forget an outcome that Kafka has not.
func (w *world) checkAck(a *actors.Ack) {
	if w.failed[fmt.Sprint(a.JobID, a.Node, a.Attempt)] {
		return
	}
	for i := range w.core.books.writes {
		if x := w.core.books.writes[i].a; x != nil && x.job.id == a.JobID && x.node == a.Node {
			require.False(w, x.is(ackDue), "acknowledged before it was committed: %+v", a)
		}
	}
	if w.cut != nil {
		for i := range w.cut.Writes {
			x := w.cut.Writes[i].a
			require.False(w, x != nil && x.job.id == a.JobID && x.node == a.Node && x.is(ackDue), "acknowledged before it was committed: %+v", a)
		}
	}
}

// finish lets all that is due happen and Kafka take everything.
func (w *world) finish() {
	for range 10_000 {
		for w.cut != nil || w.core.books.told || w.core.unsaved() {
			w.commit()
			w.check()
		}
		due, ok := w.core.Next()
		if !ok {
			break
		}
		w.now = max(w.now, due)
		w.core.Tick(w.now, &w.eff)
		w.check()
		w.commit()
		w.check()
	}
	w.core.Tick(w.now+10*w.core.cfg.MaxLocateMs, &w.eff)
	w.check()
	for _, f := range w.oracle.log {
		require.False(w, w.oracle.open(f), f.job)
	}
	c := w.core
	require.Zero(w, c.Pending())
	require.Empty(w, c.away.byNode)
	require.Empty(w, c.afar.byNode)
	require.Empty(w, c.timers)
	require.Zero(w, c.pending.bytes)
	require.Zero(w, c.books.bytes)
	require.Zero(w, c.books.uncommitted)
	require.Zero(w, c.onNode)
	require.Nil(w, c.pending.first)
	require.Nil(w, c.pending.last)
	require.Nil(w, c.pending.open())
	require.Empty(w, c.early.byKey)
	require.Zero(w, c.early.bytes)
	if len(w.oracle.log) > 0 {
		require.Equal(w, w.offset+1, w.kafka.next)
		require.Equal(w, w.offset+1, w.oracle.low, "the last watermark")
		require.Equal(w, w.offset+1, c.Status().Watermark)
	}
}

func TestCoreAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			w.step()
		}
		w.finish()
	})
}
