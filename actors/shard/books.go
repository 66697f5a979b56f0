package shard

import (
	"github.com/roost-server/roost/protocol/record"
)

// books is what a core has for Kafka and does not have there yet.
type books struct {
	writes      []Write // outcomes and dead records since the last cut
	spare       []Write // empty; its memory is used again
	uncommitted int     // outcomes and dead records, those of the batch under way included
	bytes       int     // of these
	batch       *Batch  // under way
	told        bool    // the ledger knows that there is something to be cut
	committed   position

	fresh     []*job // that came since, in order: not in the state topic, and may never get there
	freshOpen int    // of these, those that have not ended
	dirty     []*job // that are in the state topic, and changed since
	over      []*job // whose last outcome is among writes
	marks     []mark // of the young tail

	barrier int64 // no offset before this is committed without everything before it
	next    int64 // as of the last cut
	jobs    uint64
	sum     uint64 // xor of the hashes of the ids of the jobs in the state topic

	progress   int64 // the watermark that was published last
	progressMs int64 // when

	values  arena // results that queries may keep
	state   arena // the rest
	scratch []byte
	key     [160]byte // scratch for keys
	results record.ResultWriter
}

// position is how far a batch gets.
type position struct {
	next      int64 // read up to here
	watermark int64 // all outcomes before this
	jobMs     int64 // timestamp of the job at the watermark, or of the newest taken
}

// mark says when the records from an offset on were taken.
type mark struct{ ms, offset int64 }

const (
	// maxScratch keeps one huge record from pinning its memory, maxSpare one huge batch.
	maxScratch = 64 << 10
	maxSpare   = 4096
)

func newBooks() books {
	return books{committed: position{next: -1}}
}

// write puts something into the next batch.
func (c *Core) write(w Write, bytes int) {
	k := &c.books
	k.writes = append(k.writes, w)
	k.uncommitted++
	k.bytes += bytes
	c.tell()
}

// tell has the ledger hear that there is something to commit.
func (c *Core) tell() { c.eff.Dirty, c.books.told = true, true }

// touch notes that what the state topic has of an assignment is not right any more.
func (c *Core) touch(a *assignment) {
	j := a.job
	if j.extra != nil && j.extra.chunks != nil {
		j.extra.chunks[a.index/chunkSize] |= chunkDirty
	}
	if !j.is(put) {
		return // it will be written as it is then, if at all
	}
	if !j.is(dirty) {
		j.flags |= dirty
		c.books.dirty = append(c.books.dirty, j)
	}
	c.tell()
}

// took notes when the records from an offset on were taken. Marks close together are
// one, so that there are only a few.
func (k *books) took(nowMs, offset, youngMs int64) {
	k.age(nowMs, youngMs)
	if n := len(k.marks); n == 0 || nowMs-k.marks[n-1].ms >= max(1, youngMs/8) {
		k.marks = append(k.marks, mark{nowMs, offset})
	}
}

// age forgets the marks of what is not young any more, and those from before the clock
// was set back.
func (k *books) age(nowMs, youngMs int64) {
	n := 0
	for n < len(k.marks) && (k.marks[n].ms <= nowMs-youngMs || k.marks[n].ms > nowMs) {
		n++
	}
	k.marks = append(k.marks[:0], k.marks[n:]...)
}

// young returns the offset from which on records are young.
func (c *Core) young() int64 {
	if k := &c.books; len(k.marks) > 0 {
		return k.marks[0].offset
	}
	return c.nextOffset
}

// due returns up to which offset a cut would commit now. What was read and is not
// young is in it, and all that has caused a write.
func (c *Core) due() int64 {
	return max(c.books.barrier, c.young(), c.books.next)
}

// unsaved reports whether a cut would have something.
func (c *Core) unsaved() bool {
	k := &c.books
	return len(k.writes)+len(k.dirty) > 0 || c.due() > k.next
}

// booksDue asks for a cut when something was waiting for its time.
func (c *Core) booksDue() {
	k := &c.books
	k.age(c.nowMs, c.cfg.YoungMs)
	if k.batch == nil && !k.told && (c.unsaved() || c.watermarkDue(c.nowMs)) {
		c.tell()
	}
}

// watermark returns the offset before which every job has all of its outcomes, and
// the timestamp of the job there. It is as good as committed with the next batch.
func (c *Core) watermark(next int64) position {
	p := position{next: next, watermark: next, jobMs: c.newestMs}
	if j := c.pending.open(); j != nil {
		p.watermark, p.jobMs = min(next, j.offset), j.timestampMs
	}
	return p
}

// watermarkDue reports whether the watermark moved and may be published.
func (c *Core) watermarkDue(nowMs int64) bool {
	return c.watermark(c.due()).watermark > c.books.progress && c.books.mayPublish(nowMs, c.cfg.ProgressMs)
}

// mayPublish reports whether the last watermark was published long enough ago, or the
// clock was set back.
func (k *books) mayPublish(nowMs, pauseMs int64) bool {
	return nowMs-k.progressMs >= pauseMs || nowMs < k.progressMs
}

// nextOfBooks returns when booksDue has something to do.
func (c *Core) nextOfBooks() (dueMs int64, ok bool) {
	k := &c.books
	if k.batch != nil || k.told {
		return 0, false // what is due then is seen when the batch comes back
	}
	if len(k.marks) > 0 {
		dueMs, ok = k.marks[0].ms+c.cfg.YoungMs, true
	}
	if c.watermark(c.due()).watermark > k.progress {
		if due := k.progressMs + c.cfg.ProgressMs; !ok || due < dueMs {
			dueMs, ok = due, true
		}
	}
	return dueMs, ok
}
