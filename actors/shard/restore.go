package shard

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// rebuild is what a core knows of its state while it reads it. The jobs are in
// Core.pending by their ids only.
type rebuild struct {
	single map[*job]entry            // of jobs without chunks, those that are not as new
	chunks map[string]map[int][]byte // by job id; there may be some of jobs that have ended
	slots  map[int]slot
	head   *head
	bad    map[string]error // keys whose latest record cannot be read
}

func newRebuild() *rebuild {
	return &rebuild{single: map[*job]entry{}, chunks: map[string]map[int][]byte{}, slots: map[int]slot{}, bad: map[string]error{}}
}

// Unreadable returns what is wrong with the state, nil for nothing: it has to be asked
// before Restored, since the core cannot go on without losing something then.
func (c *Core) Unreadable() error {
	if c.rebuild == nil {
		return nil
	}
	for _, err := range c.rebuild.bad {
		return err
	}
	return nil
}

// Restore takes the next record of the state topic; it keeps the record's value. The
// error says what to do, unless a later record with the same key makes it good.
func (c *Core) Restore(r StateRecord) error {
	if c.rebuild == nil {
		return nil
	}
	err := errDamaged
	if len(r.Key) > 0 {
		err = c.restore(r.Key, r.Value)
	}
	if err == nil {
		delete(c.rebuild.bad, string(r.Key))
		return nil
	}
	err = fmt.Errorf("the record with key %q (%x) in partition %d of the state topic cannot be read: %w. "+
		"If it is of no use to you, write a record with this key and no value to that partition, and start again",
		r.Key, r.Key, c.cfg.Partition, err)
	c.rebuild.bad[string(r.Key)] = err
	return err
}

func (c *Core) restore(key, value []byte) error {
	kind, rest := key[0], key[1:]
	switch {
	case kind == keyHead && len(rest) == 0:
		return c.restoreHead(value)
	case kind == keyJob:
		return c.restoreJob(string(rest), value)
	case kind == keyChunk && len(rest) > 2:
		return c.restoreChunk(string(rest[2:]), int(binary.BigEndian.Uint16(rest)), value)
	case kind == keySlot && len(rest) == 2:
		return c.restoreSlot(int(binary.BigEndian.Uint16(rest)), value)
	case len(value) == 0:
		return nil // somebody took away what nobody knew
	}
	if _, err := versionOf(value); err != nil {
		return err
	}
	return errDamaged
}

func (c *Core) restoreHead(value []byte) (err error) {
	if len(value) == 0 {
		c.rebuild.head = nil
		return nil
	}
	c.rebuild.head, err = decodeHead(value)
	return err
}

func (c *Core) restoreJob(id string, value []byte) error {
	if old := c.pending.byID[id]; old != nil {
		delete(c.pending.byID, id)
		delete(c.rebuild.single, old)
	}
	if len(value) == 0 {
		return nil
	}
	j, e, err := decodeJob(id, value)
	if err != nil {
		return err
	}
	if e.flags != 0 {
		c.rebuild.single[j] = e
	}
	c.pending.byID[j.id] = j
	return nil
}

func (c *Core) restoreChunk(id string, chunk int, value []byte) error {
	chunks := c.rebuild.chunks[id]
	if len(value) == 0 {
		if delete(chunks, chunk); len(chunks) == 0 {
			delete(c.rebuild.chunks, id)
		}
		return nil
	}
	if err := decodeChunk(value, func(int, *entry) {}); err != nil {
		return err
	}
	if chunks == nil {
		chunks = map[int][]byte{}
		c.rebuild.chunks[id] = chunks
	}
	chunks[chunk] = value
	return nil
}

func (c *Core) restoreSlot(n int, value []byte) error {
	if len(value) == 0 {
		delete(c.rebuild.slots, n)
		return nil
	}
	s, err := decodeSlot(value)
	if err == nil && int(s.first%endedMost)/slotSize != n {
		err = errDamaged
	}
	if err == nil {
		c.rebuild.slots[n] = s
	}
	return err
}

// Restored ends the rebuilding: records from next on follow, or from the beginning for
// -1. All that was on its way goes on.
func (c *Core) Restored(nowMs, next int64, eff *Effects) {
	c.begin(nowMs, eff)
	if c.rebuild == nil {
		return
	}
	c.nextOffset = max(next, 0)
	c.restoreEnded()
	jobs := c.restoreJobs()
	c.restoreBooks(next)
	c.rebuild = nil
	c.early.extend(nowMs + c.cfg.EarlyMs)
	for _, s := range c.shards() {
		if s != c.cfg.Partition {
			c.eff.Asks = append(c.eff.Asks, Ask{Shard: s, Message: &Rebuilt{Shard: c.cfg.Partition}})
		}
	}
	for _, j := range jobs {
		if j.left == 0 { // its deletion should have come with its last outcome
			c.pending.remove(j)
			c.books.over = append(c.books.over, j)
			c.tell()
			continue
		}
		c.claim(j)
		c.relaunch(j)
	}
	c.early.each(func(er *earlyResult) { // those of jobs that have ended wait for nothing
		if _, ok := c.ended.find(hashID(er.key.job)); ok {
			c.early.take(er.key.job, er.key.node)
			c.late(er.gate, &er.result)
		}
	})
}

// relaunch starts a job again. One whose deadline has passed ends by its timer, since
// there may be very many of them.
func (c *Core) relaunch(j *job) {
	switch {
	case j.deadlineMs > c.nowMs:
		c.launch(j)
	case j.extra != nil:
		c.timers.set(&j.extra.alarm, c.nowMs)
	case j.single[0].state < ending:
		c.timers.set(&j.single[0], c.nowMs)
	}
}

func (c *Core) restoreEnded() {
	slots := make([]slot, 0, len(c.rebuild.slots))
	for _, s := range c.rebuild.slots {
		slots = append(slots, s)
	}
	slices.SortFunc(slots, func(x, y slot) int { return compare(x.first, y.first) })
	for i := range slots {
		c.ended.restore(slots[i].first, slots[i].jobs)
	}
}

func compare[N int64 | uint64](x, y N) int {
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

// restoreJobs puts the jobs in order, and their assignments to where they were.
func (c *Core) restoreJobs() []*job {
	jobs := make([]*job, 0, len(c.pending.byID))
	for _, j := range c.pending.byID {
		jobs = append(jobs, j)
	}
	slices.SortFunc(jobs, func(x, y *job) int { return compare(x.offset, y.offset) })
	for _, j := range jobs {
		j.deadlineMs = min(j.deadlineMs, c.nowMs+record.MaxTTL.Milliseconds())
		if e, ok := c.rebuild.single[j]; ok {
			c.resume(&j.single[0], &e)
		}
		for i, value := range c.rebuild.chunks[j.id] {
			if j.extra == nil || i >= len(j.extra.chunks) {
				continue
			}
			j.extra.chunks[i] = chunkPut
			all := j.all()[i*chunkSize:]
			_ = decodeChunk(value, func(i int, e *entry) { // it was decoded before
				if i < len(all) {
					c.resume(&all[i], e)
				}
			})
		}
		j.flags |= put
		c.books.jobs++
		c.books.sum ^= hashID(j.id).lo
		c.pending.enter(j)
	}
	c.restored = len(jobs)
	return jobs
}

// resume puts an assignment to where it was. One whose attempt was on its node counts
// as not having made it: it is delivered again with the same number, by which the node
// knows it.
func (c *Core) resume(a *assignment, e *entry) {
	j := a.job
	if sel := j.selector(); sel != nil {
		for _, node := range e.tried {
			a.node = node
			j.extra.try(a)
		}
		a.node = ""
		if e.node != "" && j.find(e.node) == nil {
			j.setNode(a, e.node)
		}
	}
	a.attempt = min(e.attempt, j.attempts)
	switch {
	case e.flags&hasEnded != 0:
		a.state, a.outcome = recorded, e.what
		j.left--
		j.open--
		return
	case a.attempt == 0:
		return
	}
	if a.cause = e.what; a.cause == protocol.OutcomeExpired {
		a.cause = protocol.OutcomeLost // how the first attempt ended is not known yet
	}
	if e.flags&isLive != 0 && a.node != "" {
		a.attempt--
		a.flags |= again
		a.overMs = c.nowMs + int64(j.timeoutMs) + c.cfg.GraceMs
		return
	}
	if a.node == "" {
		return // another one is looked for
	}
	a.flags |= over
	if e.dueMs > c.nowMs {
		c.timers.set(a, min(e.dueMs, j.deadlineMs, c.nowMs+c.cfg.MaxBackoffMs))
	}
}

// restoreBooks notes what Kafka has.
func (c *Core) restoreBooks(next int64) {
	k, h := &c.books, c.rebuild.head
	k.next = c.nextOffset
	switch {
	case h == nil && next > 0:
		c.missing = 1 // at least: with every offset a head is committed
	case h != nil:
		if h.jobs != k.jobs || h.sum != k.sum {
			c.missing = max(1, int(int64(h.jobs)-int64(k.jobs)))
		}
		c.newestMs, k.progress = h.newestMs, h.progress
	}
	k.committed = c.watermark(k.next)
	k.committed.next = next
	k.progress = min(k.progress, k.committed.watermark)
}

// reborn returns a core that waits for its state, and knows nodes and what they sent
// of late as this one does.
func (c *Core) reborn() *Core {
	n := NewCore(c.cfg, c.shards)
	n.dir, n.hushMs, n.early, n.stats = c.dir, c.hushMs, c.early, c.stats
	return n
}
