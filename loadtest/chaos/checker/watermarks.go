package checker

import (
	"context"
	"sort"
)

// checkProgress holds the watermarks against the outcomes.
//
// A watermark promises that all outcomes of the records before it were committed in
// its own transaction or earlier ones. Two things are tested of each outcome, and both
// hold of a right one without any allowance for time:
//
//   - it was written (its timestamp: when the producer was given it) no later than the
//     watermark's transaction ended (the timestamp of its commit marker): one process
//     and one clock wrote both, or clocks of one machine;
//   - it lies below the end of its topic, as asked after the watermark had been seen.
//     The end of all records, not of the committed ones: Kafka writes the markers of
//     one transaction to its partitions one after the other.
func (c *check) checkProgress(context.Context) error {
	if c.cfg.Marks == "" {
		return nil
	}
	list, snapshots, err := marks(c.cfg.Marks)
	if err != nil {
		return err
	}
	by := make([][]*Mark, len(c.log))
	for _, m := range list {
		c.rep.Watermarks++
		if m.Snapshot == 0 {
			c.rep.Unseen++
		}
		switch {
		case m.Bad != "":
			c.rep.wrong("progress record that cannot be understood", "%s", m.Bad)
		case m.Partition < 0 || int(m.Partition) >= len(by):
			c.rep.wrong("watermark of no partition", "%d, at offset %d", m.Partition, m.At)
		default:
			by[m.Partition] = append(by[m.Partition], m)
		}
	}
	if len(list) == 0 {
		c.rep.wrong("no watermarks", "%s has no records, or does not exist", c.cfg.Topics.Progress)
		return nil
	}
	for p, marks := range by {
		c.order(p, marks)
		c.cover(p, marks, snapshots)
	}
	return nil
}

// order looks at the marks of a partition by themselves.
func (c *check) order(p int, marks []*Mark) {
	before := int64(0)
	for _, m := range marks {
		if m.Offset < before {
			c.rep.wrong("watermark went back", "partition %d, from %d to %d by member %s at offset %d", p, before, m.Offset, m.Member, m.At)
		}
		before = max(before, m.Offset)
		if m.Offset < 0 || m.Offset > c.ends[p] {
			c.rep.wrong("watermark beyond the end", "partition %d ends at %d, and member %s said %d", p, c.ends[p], m.Member, m.Offset)
		}
		if !m.Transaction {
			c.rep.wrong("watermark without a transaction", "partition %d, watermark %d, at offset %d", p, m.Offset, m.At)
		}
		if m.Member == "" || m.TimeMs <= 0 || m.TimeMs > m.CommittedMs+c.slackMs() {
			c.rep.wrong("watermark's fields", "partition %d, watermark %d: member %q, time_ms %d, committed at %d", p, m.Offset, m.Member, m.TimeMs, m.CommittedMs)
		}
		c.jobMs(p, m)
	}
	if len(c.log[p]) > 0 && before != c.ends[p] {
		c.rep.wrong("final watermark", "partition %d ends at %d, and its last watermark is %d", p, c.ends[p], before)
	}
}

// jobMs compares the timestamp in a mark: of the first record that is open, which lies
// at the watermark, or of the newest that was read, which may be any from there on.
func (c *check) jobMs(p int, m *Mark) {
	if m.Offset <= 0 || m.Offset > c.ends[p] {
		return
	}
	if e := c.find(int32(p), m.Offset); e != nil && e.ms == m.JobMs {
		return
	}
	if e := c.find(int32(p), m.Offset-1); e != nil && e.ms == m.JobMs {
		return
	}
	c.rep.wrong("watermark's job_ms", "partition %d, watermark %d: %d is the timestamp of neither the record there nor the one before", p, m.Offset, m.JobMs)
}

// cover finds for each record the first mark above it, and sees whether its outcomes
// were there.
func (c *check) cover(p int, marks []*Mark, snapshots map[int]*Ends) {
	// Marks that go back are reported already; here the highest so far counts.
	var rising []*Mark
	for _, m := range marks {
		if len(rising) == 0 || m.Offset > rising[len(rising)-1].Offset {
			rising = append(rising, m)
		}
	}
	for _, e := range c.log[p] {
		i := sort.Search(len(rising), func(i int) bool { return rising[i].Offset > e.offset })
		if i == len(rising) || len(e.out) == 0 {
			continue // above all, or an outcome that is missing, or a cancel record
		}
		m := rising[i]
		if e.lastMs > m.CommittedMs+c.cfg.ClockSlack.Milliseconds() {
			c.rep.wrong("watermark too early", "partition %d, watermark %d by member %s was committed at %d, an outcome of %v was written %d ms later",
				p, m.Offset, m.Member, m.CommittedMs, e, e.lastMs-m.CommittedMs)
			continue
		}
		if ends := snapshots[m.Snapshot]; ends != nil {
			c.below(p, m, ends, e)
		}
	}
}

func (c *check) below(p int, m *Mark, ends *Ends, e *entry) {
	for _, out := range e.out {
		topic, list := c.cfg.Topics.Results, ends.Results
		if out.dead {
			topic, list = c.cfg.Topics.Dead, ends.Dead
		}
		if int(out.partition) < len(list) && out.offset >= list[out.partition] {
			c.rep.wrong("watermark too early", "partition %d, watermark %d by member %s was there when %s/%d ended at %d, and an outcome of %v is at %d",
				p, m.Offset, m.Member, topic, out.partition, list[out.partition], e, out.offset)
			return
		}
	}
}
