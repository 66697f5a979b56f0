package shard

import (
	"fmt"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/directory"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// Core is the ledger and directory of one partition: a plain state machine. Events
// and the time go in, effects and batches for Kafka come out; nothing in it knows
// Kafka, sockets, actors or the clock. It belongs to one goroutine at a time.
//
// Invariants: a job is pending from its record until its last outcome is committed;
// an assignment gets exactly one outcome; what a batch holds is the state of one
// moment: whoever restores it and reads on from its offset has every pending job once.
type Core struct {
	cfg     Config
	shards  func() []uint32 // the shards to be asked for candidates, this one included
	pending pending
	away    crowd // what waits for nodes of this shard
	afar    crowd // what waits for nodes of other shards
	timers  timers
	dir     *directory.Directory
	hushMs  int64 // until when nodes may be silent in dir
	recent  recent
	ended   ended
	early   early
	books   books
	stats   Stats
	onNode  int // jobs with an assignment on its node

	nextOffset int64 // every record before it was taken
	newestMs   int64 // timestamp of the record taken last

	rebuild  *rebuild // nil when the committed state is read
	restored int
	missing  int

	nowMs int64 // of the step under way
	eff   *Effects
}

// NewCore returns a core that waits for its state: [Core.Restore], then
// [Core.Restored]. shards tells which shards exist at the moment.
func NewCore(cfg Config, shards func() []uint32) *Core {
	for _, pause := range []*int64{&cfg.RetryMs, &cfg.SelectMs, &cfg.LocateMs} {
		*pause = max(1, *pause) // without a pause one tick would never end
	}
	cfg.MaxLocateMs = max(cfg.MaxLocateMs, cfg.LocateMs)
	return &Core{
		cfg: cfg, shards: shards, pending: newPending(), away: newCrowd(), afar: newCrowd(),
		dir: directory.New(), early: newEarly(), books: newBooks(), rebuild: newRebuild(),
	}
}

// begin starts a step.
func (c *Core) begin(nowMs int64, eff *Effects) { c.nowMs, c.eff = nowMs, eff }

// Records takes records of the partition, in order.
func (c *Core) Records(nowMs int64, records []actors.Record, eff *Effects) {
	c.begin(nowMs, eff)
	if c.rebuild != nil || len(records) == 0 {
		return
	}
	c.books.took(nowMs, c.nextOffset, c.cfg.YoungMs)
	for i := range records {
		c.record(&records[i])
	}
}

func (c *Core) record(r *actors.Record) {
	if r.Offset < c.nextOffset {
		return // fed again; it is in the ledger already
	}
	c.nextOffset, c.newestMs = r.Offset+1, r.TimestampMs
	c.stats.Jobs++
	rec, raw, err := parse(r)
	if err == nil && len(raw) > c.cfg.MaxJobBytes {
		err = fmt.Errorf("the record has %d bytes as msgpack; at most %d are allowed", len(raw), c.cfg.MaxJobBytes)
	}
	switch {
	case err != nil:
		c.stats.Invalid++
		c.stats.Outcomes[protocol.OutcomeInvalid]++
		c.bury(r, err.Error())
		return
	case rec.Cancel:
		c.cancel(r, &rec)
		return
	}
	if offset, taken := c.taken(rec.ID); taken {
		if offset != r.Offset { // else its offset was set back, by hand
			c.stats.Duplicates++
			c.bury(r, fmt.Sprintf("%sjob %q was taken at offset %d of partition %d; a job id is used once", record.ReasonDuplicate, rec.ID, offset, c.cfg.Partition))
		}
		return
	}
	j := newJob(&rec, raw, r.Offset, r.TimestampMs)
	j.deadlineMs = deadline(&rec, r.TimestampMs, c.nowMs)
	c.pending.add(j)
	c.books.fresh = append(c.books.fresh, j)
	c.books.freshOpen++
	c.claim(j)
	c.launch(j)
}

// taken reports whether a job id is known, and the offset of its record.
func (c *Core) taken(id string) (offset int64, ok bool) {
	if j := c.pending.byID[id]; j != nil {
		return j.offset, true
	}
	return c.ended.find(hashID(id))
}

// claim takes the results that were faster than Kafka.
func (c *Core) claim(j *job) {
	if c.early.empty() {
		return
	}
	all := j.all()
	for i := range all {
		if node := all[i].node; node != "" {
			if er := c.early.take(j.id, node); er != nil {
				c.result(er.gate, &er.result)
			}
		}
	}
}

// launch starts a job, now or when its time has come.
func (c *Core) launch(j *job) {
	if at := j.notBeforeMs(); at > c.nowMs {
		c.timers.set(&j.extra.alarm, min(at, j.deadlineMs))
		return
	}
	c.start(j)
}

// start looks for the job's nodes. What has an attempt already, be it by a result that
// came early or in the shard's life before, goes on from there.
func (c *Core) start(j *job) {
	j.flags |= launched
	all := j.all()
	for i := range all {
		switch a := &all[i]; {
		case a.state == choosing:
			c.join(a)
		case a.state == waiting && a.slot == 0: // with a timer it pauses before an attempt
			c.place(a)
		}
	}
	if j.selector() != nil {
		c.seek(j)
	}
}

// cancel ends what is left of a job.
func (c *Core) cancel(r *actors.Record, rec *record.Job) {
	j := c.pending.byID[rec.ID]
	switch {
	case j == nil:
		if _, ended := c.ended.find(hashID(rec.ID)); !ended {
			c.bury(r, fmt.Sprintf("%sjob %q is not known in partition %d: it was never taken there, or it ended long ago", record.ReasonCancel, rec.ID, c.cfg.Partition))
			return
		}
		fallthrough
	case j.left == 0:
		c.stats.Overdue++
		c.books.barrier = max(c.books.barrier, r.Offset+1)
		return
	}
	c.stats.Cancels++
	c.books.barrier = max(c.books.barrier, r.Offset+1)
	all := j.all()
	for i := range all {
		a := &all[i]
		if a.state >= ending {
			continue
		}
		if a.state == queued || a.state == sent || a.state == detached {
			c.withdraw(a, rec.CancelReason)
		}
		c.end(a, protocol.OutcomeCancelled, rec.CancelReason, nil)
	}
	if j.extra != nil {
		c.timers.stop(&j.extra.alarm)
		j.extra.search.remaining = nil
	}
}

// bury refuses a record, for a reason that goes with it.
func (c *Core) bury(r *actors.Record, reason string) {
	own := *r
	c.write(Write{Stream: Dead, Record: &own, Reason: reason}, len(r.Key)+len(r.Value))
	c.books.barrier = max(c.books.barrier, r.Offset+1)
}

// Tick lets everything happen that is due at nowMs.
func (c *Core) Tick(nowMs int64, eff *Effects) {
	c.begin(nowMs, eff)
	c.dir.Forget(nowMs)
	if c.rebuild != nil {
		return
	}
	for !c.choked() {
		a := c.timers.due(nowMs)
		if a == nil {
			break
		}
		if a.state == jobAlarm {
			c.jobDue(a.job)
		} else {
			c.assignmentDue(a)
		}
	}
	c.expireEarly()
	c.booksDue()
}

// choked reports whether so many outcomes wait for Kafka that nothing is done which
// may make more of them. A node's results are taken all the same.
func (c *Core) choked() bool { return c.books.uncommitted >= max(1, c.cfg.MaxUncommitted/2) }

// Next returns when Tick is due next, and false when nothing waits.
func (c *Core) Next() (dueMs int64, ok bool) {
	if c.rebuild != nil {
		return 0, false
	}
	sooner := func(due int64, some bool) {
		if some && (!ok || due < dueMs) {
			dueMs, ok = due, true
		}
	}
	if len(c.timers) > 0 && !c.choked() {
		sooner(c.timers[0].dueMs, true)
	}
	sooner(c.early.next())
	sooner(c.nextOfBooks())
	return dueMs, ok
}

// Pending returns how many jobs have not got all their outcomes committed.
func (c *Core) Pending() int { return len(c.pending.byID) }

// Overfull reports whether the shard should be fed no more for now.
func (c *Core) Overfull() bool { return c.full(4) }

// Hungry reports whether an overfull shard may be fed again.
func (c *Core) Hungry() bool { return !c.full(3) }

// full reports whether something has reached so many quarters of what it may have.
func (c *Core) full(quarters int) bool {
	reached := func(n, most int) bool { return n >= max(1, most*quarters/4) }
	return reached(len(c.pending.byID), c.cfg.MaxPending) ||
		reached(c.pending.bytes+c.books.bytes, c.cfg.MaxPendingBytes) ||
		reached(c.books.uncommitted, c.cfg.MaxUncommitted) ||
		reached(c.books.freshOpen, c.cfg.MaxFresh) ||
		reached(c.books.bytes, c.cfg.MaxUncommittedBytes)
}

// Stats returns what the core counted.
func (c *Core) Stats() Stats { return c.stats }
