package shard

import (
	"github.com/roost-server/roost/protocol/record"
)

// Cut fills in what is to be committed, and reports false when there is nothing, when
// the batch before was not given back, or while the core waits for its state. It costs
// as much as has changed since the last one, however many jobs are pending.
func (c *Core) Cut(nowMs int64, b *Batch) bool {
	k := &c.books
	if c.rebuild != nil || k.batch != nil {
		return false
	}
	k.told = false
	k.age(nowMs, c.cfg.YoungMs)
	next := c.due()
	outcomes := 0
	for i := range k.writes {
		if k.writes[i].Stream == Results {
			outcomes++
		}
	}
	c.forgetEnded()
	c.putDirty()
	c.putFresh(next)
	p := c.watermark(next)
	if p.watermark > k.progress && k.mayPublish(nowMs, c.cfg.ProgressMs) {
		c.publish(nowMs, p)
	}
	if len(k.writes) == 0 && next == k.next {
		return false
	}
	k.next = next
	for len(k.marks) > 1 && k.marks[1].offset <= next || len(k.marks) == 1 && c.nextOffset <= next {
		k.marks = k.marks[1:] // nothing of these is young any more
	}
	c.putHead()
	*b = Batch{Shard: c.cfg.Partition, Epoch: b.Epoch, Next: next, Writes: k.writes, Outcomes: outcomes,
		bytes: k.bytes, position: p}
	k.writes, k.spare = k.spare, nil
	k.batch = b
	if cap(k.scratch) > maxScratch {
		k.scratch = nil
	}
	return true
}

// publish writes the low watermark for readers of the results.
func (c *Core) publish(nowMs int64, p position) {
	k := &c.books
	r := record.Progress{Partition: int32(c.cfg.Partition), Offset: p.watermark, JobMs: p.jobMs, TimeMs: nowMs, Member: c.cfg.Member}
	k.writes = append(k.writes, Write{Stream: Progress, Key: []byte(r.Key()), Value: record.AppendProgress(nil, &r), Encoding: record.JSON})
	k.progress, k.progressMs = p.watermark, nowMs
}

// save puts a record of the state topic into the batch; a nil value is a deletion.
func (k *books) save(key, value []byte) {
	w := Write{Stream: State, Key: k.state.keep(key)}
	if value != nil {
		w.Value = k.state.keep(value)
	}
	k.writes = append(k.writes, w)
}

// forgetEnded takes jobs out of the state topic that have all their outcomes with this
// batch, and notes their ids there.
func (c *Core) forgetEnded() {
	k := &c.books
	for _, j := range k.over {
		h := hashID(j.id)
		c.ended.add(h, j.offset)
		if !j.is(put) {
			continue
		}
		j.flags &^= put
		k.jobs--
		k.sum ^= h.lo
		k.save(appendJobKey(k.key[:0], j.id), nil)
		if j.extra == nil {
			continue
		}
		for i, s := range j.extra.chunks {
			if s&chunkPut != 0 {
				k.save(appendChunkKey(k.key[:0], j.id, i), nil)
			}
		}
	}
	clear(k.over)
	k.over = k.over[:0]
	c.ended.unsaved(func(slot int, first uint64, jobs []endedJob) {
		k.scratch = appendSlot(k.scratch[:0], first, jobs)
		k.save(appendSlotKey(k.key[:0], slot), k.scratch)
	})
}

// maxDirty is how many jobs are written again with one batch, besides those that have to
// be. Many attempts may end at a time, and it is no matter if a restart makes one of them
// again.
const maxDirty = 4096

// putDirty writes jobs again that the state topic has otherwise.
func (c *Core) putDirty() {
	k := &c.books
	n := 0
	rest := k.dirty[:0]
	for _, j := range k.dirty {
		switch {
		case j.left == 0:
			j.flags &^= dirty | urgent
		case j.is(urgent) || n < maxDirty:
			n++
			j.flags &^= dirty | urgent
			c.put(j)
		default:
			rest = append(rest, j)
		}
	}
	clear(k.dirty[len(rest):])
	k.dirty = rest
}

// putFresh writes jobs before next that have not ended.
func (c *Core) putFresh(next int64) {
	k := &c.books
	n := 0
	for n < len(k.fresh) && k.fresh[n].offset < next {
		if j := k.fresh[n]; j.left > 0 {
			j.flags = j.flags&^urgent | put
			k.freshOpen--
			k.jobs++
			k.sum ^= hashID(j.id).lo
			c.putJob(j)
			c.putChunks(j)
		}
		n++
	}
	rest := copy(k.fresh, k.fresh[n:])
	clear(k.fresh[rest:])
	if k.fresh = k.fresh[:rest]; cap(k.fresh) > maxSpare && rest < cap(k.fresh)/8 {
		k.fresh = append(make([]*job, 0, 2*rest), k.fresh...)
	}
}

// put writes what changed of a job that is in the state topic.
func (c *Core) put(j *job) {
	if j.extra != nil && j.extra.chunks != nil {
		c.putChunks(j)
		return
	}
	c.putJob(j)
}

func (c *Core) putJob(j *job) {
	k := &c.books
	k.scratch = c.appendJob(k.scratch[:0], j)
	k.save(appendJobKey(k.key[:0], j.id), k.scratch)
}

// putChunks writes the chunks of a job's assignments that changed.
func (c *Core) putChunks(j *job) {
	if j.extra == nil {
		return
	}
	k := &c.books
	for i := range j.extra.chunks {
		if s := &j.extra.chunks[i]; *s&chunkDirty != 0 {
			*s = chunkPut
			k.scratch = c.appendChunk(k.scratch[:0], j, i)
			k.save(appendChunkKey(k.key[:0], j.id, i), k.scratch)
		}
	}
}

func (c *Core) putHead() {
	k := &c.books
	newestMs := c.newestMs
	if len(k.fresh) > 0 { // of the young tail, which will be read again
		newestMs = k.fresh[0].timestampMs
	}
	k.scratch = appendHead(k.scratch[:0], &head{
		jobs: k.jobs, sum: k.sum, partitions: c.cfg.Partitions, next: k.next, progress: k.progress,
		newestMs: newestMs, owner: c.cfg.Owner,
	})
	k.save([]byte{keyHead}, k.scratch)
}
