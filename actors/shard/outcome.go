package shard

import (
	"unsafe"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// end gives the assignment its outcome, which goes into the next batch. The result is
// encoded at once: what it refers to lives only as long as the event.
func (c *Core) end(a *assignment, o protocol.Outcome, reason string, r *actors.Result) {
	c.unpark(a)
	c.timers.stop(a)
	c.setState(a, ending)
	a.outcome = o
	a.flags &^= over | again
	c.stats.Outcomes[o]++
	j := a.job
	res := record.Result{
		Job: j.id, Node: a.node, Index: a.index, Outcome: o, Attempt: uint32(a.attempt), Kind: j.kind,
		Tenant: j.tenant, Error: reason, JobMs: j.timestampMs, TimeMs: c.nowMs,
		Member: c.cfg.Member, Partition: int32(c.cfg.Partition), Offset: j.offset,
	}
	if r != nil {
		res.Attempt, res.DurationUs, res.Error, res.Output = r.Attempt, r.DurationUs, string(r.Error), r.Output
		a.ackAttempt = attemptOf(r.Attempt)
		a.flags |= ackDue
	}
	value := c.books.encode(&res, j)
	c.write(Write{Stream: Results, Key: bytesOf(j.id), Value: value, Encoding: j.encoding, a: a}, len(value))
	c.eff.Outcomes++
	c.books.barrier = max(c.books.barrier, j.offset+1)
	if j.left--; j.left == 0 {
		c.books.over = append(c.books.over, j)
		if !j.is(put) {
			c.books.freshOpen--
		}
		return
	}
	j.flags |= urgent // an outcome goes with the state that has it
	c.touch(a)
}

// attemptOf makes an attempt's number small: nodes are held to protocol.MaxAttempts.
func attemptOf(n uint32) uint8 { return uint8(min(n, protocol.MaxAttempts)) }

// bytesOf returns a string's bytes, which nobody may change.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// encode returns a result's record. One whose output cannot be encoded is recorded
// without it: sessions check outputs, so that is a fault of ours, and an outcome
// without its output is better than none.
func (k *books) encode(res *record.Result, j *job) []byte {
	var err error
	if k.scratch, err = k.results.Append(k.scratch[:0], j.encoding, res); err != nil {
		res.Output, res.Error = nil, noted(res.Error, "output dropped: "+err.Error())
		k.scratch, _ = k.results.Append(k.scratch[:0], j.encoding, res)
	}
	if cap(k.scratch) > maxScratch {
		defer func() { k.scratch = nil }()
	}
	if j.extra != nil { // kept for as long as the job is pending: it must not hold others
		return append([]byte(nil), k.scratch...)
	}
	return k.values.keep(k.scratch)
}

// noted adds a note to an error's text.
func noted(text, note string) string {
	if text == "" {
		return note
	}
	return text + " (" + note + ")"
}

// DropOutput makes a record smaller that Kafka refuses as too large: a result is written
// again without its output, a dead record without its value, of which the headers tell
// where it lies. It reports whether there was one to drop.
func (w *Write) DropOutput(cause error) bool {
	note := "dropped, Kafka refused it: " + cause.Error()
	if w.Stream == Dead && len(w.Record.Value) > 0 {
		w.Record.Value, w.Reason = nil, noted(w.Reason, "value "+note)
		return true
	}
	if w.Stream != Results {
		return false
	}
	res, err := record.ParseResult(w.Encoding.ContentType(), w.Value)
	if err != nil || len(res.Output) == 0 {
		return false
	}
	res.Output, res.Error = nil, noted(res.Error, "output "+note)
	value, err := new(record.ResultWriter).Append(nil, w.Encoding, &res)
	if err != nil {
		return false
	}
	w.Value = value
	return true
}

// Committed takes back a batch that Kafka has: what it holds is acknowledged to nodes
// and told to followers, and jobs that have ended are forgotten.
func (c *Core) Committed(nowMs int64, b *Batch, eff *Effects) {
	c.begin(nowMs, eff)
	k := &c.books
	if b == nil || b != k.batch {
		return
	}
	k.batch = nil
	for i := range b.Writes {
		switch w := &b.Writes[i]; w.Stream {
		case Results:
			k.uncommitted--
			c.committed(w.a, w.Value)
		case Dead:
			k.uncommitted--
		}
	}
	k.bytes -= b.bytes
	k.committed = b.position
	clear(b.Writes)
	k.spare, b.Writes = b.Writes[:0], nil
	if cap(k.spare) > maxSpare {
		k.spare = nil
	}
	if c.unsaved() {
		c.tell()
	}
}

// committed notes that Kafka has an assignment's outcome.
func (c *Core) committed(a *assignment, value []byte) {
	j := a.job
	a.state = recorded
	if a.is(ackDue) {
		c.ack(a.gate, a.node, j.id, uint32(a.ackAttempt))
	}
	j.open--
	c.eff.Events = append(c.eff.Events, Event{JobID: j.id, Value: value, Done: j.open == 0})
	if j.open > 0 {
		j.extra.keep(value, &c.pending)
		return
	}
	j.summarize(c.recent.next(), c.cfg.Partition, value)
	c.recent.keep()
	c.pending.remove(j)
}

// keep keeps a result of a pending job for queries.
func (e *extra) keep(value []byte, p *pending) {
	if e.kept+len(value) > keptBytes {
		return // it is in the results topic
	}
	e.results = append(e.results, value)
	e.kept += len(value)
	p.charge(len(value))
}

func (c *Core) ack(gate uint32, node, jobID string, attempt uint32) {
	c.eff.Acks = append(c.eff.Acks, GateAck{Gate: gate, Ack: actors.Ack{Node: node, JobID: jobID, Attempt: attempt}})
}
