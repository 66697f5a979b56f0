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

// modelRecord is what the model knows of one record of the partition.
type modelRecord struct {
	rec      actors.Record
	offset   int64
	id       string // empty for one that cannot be understood
	job      string // id, unless it is a duplicate
	targets  int
	attempts uint32
	ended    map[uint32]string // node by index, of the outcomes
	open     int               // not recorded in Kafka
}

// world runs a core against a model: a plain list of records and what came of them.
type world struct {
	*rapid.T
	core    *Core
	eff     Effects
	now     int64
	offset  int64
	records []*modelRecord
	pending map[string]*modelRecord
	done    map[string]bool
	tokens  []*Token
	byToken map[*Token]*modelRecord
	acked   map[string]bool // recorded assignments, job/node
	commit  int64
	first   int      // of records, in the core's life
	stale   []*Token // of lives before
	asked   []*Select
	inc     uint64
}

func (w *world) pick(label string, options ...string) string {
	return rapid.SampledFrom(options).Draw(w.T, label)
}

func (w *world) node() string { return w.pick("node", "n0", "n1", "n2", "n3") }
func (w *world) jobID() string {
	return w.pick("job", "j0", "j1", "j2", "j3", "j4", "j5", "j6", "j7")
}
func (w *world) number(label string, most int) int { return rapid.IntRange(0, most).Draw(w.T, label) }

func (w *world) addRecord() {
	w.offset += int64(1 + w.number("gap", 2))
	r := actors.Record{Offset: w.offset, TimestampMs: w.now}
	m := &modelRecord{offset: w.offset}
	w.records = append(w.records, m)
	m.rec = r
	if w.number("poison", 9) == 0 {
		m.rec.Value = []byte("poison")
	} else {
		w.describe(m)
	}
	w.feed(m)
	if w.number("older", 3) == 0 {
		older := m.rec
		older.Offset--
		w.core.Records(w.now, []actors.Record{older, m.rec}, &w.eff) // fed again: no effect
	}
}

func (w *world) describe(m *modelRecord) {
	job := record.Job{ID: w.jobID(), Kind: w.pick("kind", "ping", "ping", "ping", "http"), Attempts: uint32(1 + w.number("attempts", 2)),
		Timeout: 10e9, TTL: 60e9}
	switch w.number("target", 2) {
	case 0:
		job.Target.Node = w.node()
	case 1:
		job.Target.Nodes = []string{"n0", "n1", "n2", "n3"}[w.number("from", 3):]
	default:
		job.Target.Select = &record.Selector{Count: uint32(1 + w.number("count", 2))}
	}
	switch w.number("knob", 5) {
	case 0:
		job.NotBeforeMs = w.now + int64(w.number("later", 80_000))
	case 1:
		job.DeadlineMs = w.now + int64(w.number("deadline", 20_000)) - 5_000
	}
	m.id, m.targets, m.attempts = job.ID, job.Target.Size(), job.Attempts
	var err error
	m.rec.Value, err = record.AppendJob(nil, &job)
	require.NoError(w, err)
}

// feed gives the core a record for the first time in its life.
func (w *world) feed(m *modelRecord) {
	m.job, m.open, m.ended = "", 0, map[uint32]string{}
	switch {
	case m.id == "":
		m.open = 1
	case w.pending[m.id] == nil && !w.done[m.id]: // else a duplicate: nothing is open
		m.job, m.open = m.id, m.targets
		w.pending[m.id] = m
	}
	w.core.Records(w.now, []actors.Record{m.rec}, &w.eff)
}

// restart begins the core's next life, from what was committed.
func (w *world) restart() {
	w.stale = append(w.stale, w.tokens...)
	w.tokens, w.asked = nil, nil
	w.pending, w.done, w.acked = map[string]*modelRecord{}, map[string]bool{}, map[string]bool{}
	w.core = NewCore(w.core.cfg, w.core.shards)
	for w.first = 0; w.first < len(w.records) && w.records[w.first].offset < w.commit; {
		w.first++
	}
	for _, m := range w.records[w.first:] {
		m.open = 1 // not read yet
	}
	for _, m := range w.records[w.first:] {
		w.feed(m)
		w.check()
	}
}

func (w *world) incarnation() uint64 { return uint64(w.number("incarnation", int(w.inc)+1)) }

func profileOf(kinds ...string) *actors.Profile {
	return &actors.Profile{Attributes: protocol.Attributes{Kinds: kinds}}
}

func (w *world) addBatch() {
	b := actors.NewFromGate(uint32(1 + w.number("gate", 1)))
	for range 1 + w.number("parts", 4) {
		switch w.number("part", 5) {
		case 0, 1:
			b.Results = append(b.Results, actors.Result{Node: w.node(), JobID: b.Keep([]byte(w.jobID())),
				Attempt: uint32(w.number("attempt", 4)), Outcome: protocol.OutcomeOK, Output: b.Keep([]byte{1, 2})})
		case 2:
			w.inc++
			b.Registrations = append(b.Registrations, actors.Registration{Node: w.node(), Incarnation: w.incarnation(), Profile: profileOf("ping")})
		case 3:
			b.Departures = append(b.Departures, actors.Departure{Node: w.node(), Incarnation: w.incarnation()})
		default:
			b.Notices = append(b.Notices, actors.Notice{Kind: actors.NoticeKind(w.number("notice", int(actors.Lost))),
				Node: w.node(), JobID: w.jobID(), Attempt: uint32(w.number("attempt", 4)), Incarnation: w.incarnation()})
		}
	}
	w.core.FromGate(w.now, b, &w.eff)
	w.check()
	b.Release()
}

func (w *world) addCandidates() {
	m := &Candidates{JobID: w.jobID(), Round: uint32(w.number("round", 3))}
	if len(w.asked) > 0 && w.number("true answer", 3) > 0 {
		q := w.asked[w.number("question", len(w.asked)-1)]
		m.JobID, m.Round = q.JobID, q.Round
	}
	for range w.number("candidates", 3) {
		m.Nodes = append(m.Nodes, Location{Node: w.node(), Gate: 1, Incarnation: w.incarnation(), Profile: profileOf("ping")})
	}
	w.core.Candidates(w.now, m, &w.eff)
}

func (w *world) step() {
	switch w.number("step", 12) {
	case 12:
		if w.number("restart", 3) == 0 {
			w.restart()
		}
		for _, t := range w.stale { // Kafka tells what it has of the lives before
			w.core.Recorded(w.now, t, &w.eff)
		}
		require.Empty(w, w.eff.Acks)
		require.Empty(w, w.eff.Events)
		require.Negative(w, w.eff.Commit)
	case 0, 1:
		w.addRecord()
	case 2, 3, 4, 5:
		w.addBatch()
	case 6:
		w.addCandidates()
	case 7:
		w.core.Located(w.now, &Location{Node: w.node(), Gate: 2, Incarnation: w.incarnation(), Profile: profileOf("ping")}, &w.eff)
	case 8:
		w.core.Locate(w.now, &Locate{From: 1, Node: w.node()}, &w.eff)
	case 9:
		w.now += int64(w.number("passes", 15_000))
		w.core.Tick(w.now, &w.eff)
	default:
		if len(w.tokens) > 0 {
			w.record(w.number("token", len(w.tokens)-1))
		}
	}
	w.check()
}

// record says that Kafka has what a token stands for.
func (w *world) record(i int) {
	t := w.tokens[i]
	w.tokens = slices.Delete(w.tokens, i, i+1)
	m := w.byToken[t]
	m.open--
	if t.a != nil {
		w.acked[m.job+"/"+t.a.node] = true
	}
	if m.open == 0 && m.job != "" {
		delete(w.pending, m.job)
		w.done[m.job] = true
	}
	w.core.Recorded(w.now, t, &w.eff)
}

// check compares what the core wants done with what the model allows.
func (w *world) check() {
	for _, d := range w.eff.Deliveries {
		m := w.pending[d.Delivery.JobID]
		require.NotNil(w, m, "delivery of %s, which is not pending", d.Delivery.JobID)
		require.True(w, d.Delivery.Attempt >= 1 && d.Delivery.Attempt <= m.attempts, "attempt %d of %d", d.Delivery.Attempt, m.attempts)
		for _, node := range m.ended {
			require.NotEqual(w, node, d.Delivery.Node, "delivered again after the outcome")
		}
	}
	for i := range w.eff.Outcomes {
		w.outcome(&w.eff.Outcomes[i])
	}
	for _, d := range w.eff.Dead {
		w.tokens = append(w.tokens, d.Token)
		for _, m := range w.records[w.first:] {
			if m.offset == d.Record.Offset {
				w.byToken[d.Token] = m
			}
		}
		require.NotNil(w, w.byToken[d.Token])
	}
	for _, a := range w.eff.Acks {
		if m := w.pending[a.Ack.JobID]; m != nil {
			if j := w.core.jobs[a.Ack.JobID]; j.find(a.Ack.Node) != nil {
				require.True(w, w.acked[a.Ack.JobID+"/"+a.Ack.Node], "acknowledged before it was recorded: %+v", a)
			}
		}
	}
	for _, a := range w.eff.Asks {
		if q, ok := a.Message.(*Select); ok {
			w.asked = append(w.asked, q)
		}
	}
	if w.eff.Commit >= 0 {
		require.Greater(w, w.eff.Commit, w.commit)
		w.commit = w.eff.Commit
	}
	w.eff.Reset()
	require.Equal(w, w.watermark(), w.core.mark.Next())
	require.Len(w, w.core.jobs, len(w.pending))
	w.structure()
}

func (w *world) outcome(o *Outcome) {
	r := &o.Result
	m := w.pending[r.Job]
	require.NotNil(w, m)
	require.Equal(w, m.offset, r.Offset)
	require.Less(w, int(r.Index), m.targets)
	_, twice := m.ended[r.Index]
	require.False(w, twice, "two outcomes for %s[%d]", r.Job, r.Index)
	m.ended[r.Index] = r.Node
	if r.Outcome == protocol.OutcomeExpired || r.Outcome == protocol.OutcomeUnmatched {
		require.LessOrEqual(w, r.Attempt, uint32(1), "%v after attempt %d", r.Outcome, r.Attempt)
	}
	o.Token.Value = []byte("v")
	w.tokens = append(w.tokens, o.Token)
	w.byToken[o.Token] = m
}

// watermark is the model's: the offset after the longest finished prefix.
func (w *world) watermark() int64 {
	next := int64(-1)
	for _, m := range w.records[w.first:] {
		if m.open > 0 {
			break
		}
		next = m.offset + 1
	}
	return next
}

// structure checks that nothing is stuck: all that has no outcome is due some time,
// and what waits for a node is found when it comes.
func (w *world) structure() {
	for i, t := range w.core.timers {
		require.Equal(w, i, t.index)
	}
	parked := 0
	for id, j := range w.core.jobs {
		for i := range j.assignments {
			a := &j.assignments[i]
			name := fmt.Sprintf("%s[%d] on %q in state %d", id, i, a.node, a.state)
			if a.parked {
				parked++
				require.Contains(w, w.core.away[a.node], a, name)
			}
			switch a.state {
			case ending, recorded:
				require.Negative(w, a.timer.index, name)
				require.False(w, a.parked, name)
			case choosing:
				require.GreaterOrEqual(w, j.timer.index, 0, name)
			default:
				require.True(w, a.timer.index >= 0 || j.timer.index >= 0, name)
			}
		}
	}
	for node, list := range w.core.away {
		parked -= len(list)
		require.NotEmpty(w, list, node)
	}
	require.Zero(w, parked)
}

// finish lets all that is due happen and Kafka record everything.
func (w *world) finish() {
	for range 10_000 {
		for len(w.tokens) > 0 {
			w.record(0)
			w.check()
		}
		due, ok := w.core.Next()
		if !ok {
			break
		}
		w.now = max(w.now, due)
		w.core.Tick(w.now, &w.eff)
		w.check()
	}
	w.core.Tick(w.now+3*w.core.cfg.LocateMs+sweepEveryMs, &w.eff)
	w.check()
	for _, m := range w.records[w.first:] {
		require.Zero(w, m.open, "record %d", m.offset)
		if m.job != "" {
			require.Len(w, m.ended, m.targets, m.job)
		}
	}
	require.Empty(w, w.core.jobs)
	require.Empty(w, w.core.away)
	require.Empty(w, w.core.timers)
	require.Empty(w, w.core.early.byKey)
	require.Empty(w, w.core.early.fifo)
	require.Zero(w, w.core.early.bytes)
	require.Empty(w, w.core.dir.waiting)
	require.Zero(w, w.core.mark.Open())
}

func TestCoreAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := DefaultConfig()
		cfg.Partitions, cfg.Member = 2, "m"
		w := &world{T: t, core: NewCore(cfg, func() []uint32 { return []uint32{0, 1} }), now: t0, commit: -1,
			pending: map[string]*modelRecord{}, done: map[string]bool{}, byToken: map[*Token]*modelRecord{}, acked: map[string]bool{}}
		w.eff.Reset()
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			w.step()
		}
		w.finish()
	})
}
