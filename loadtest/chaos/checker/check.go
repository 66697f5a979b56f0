package checker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Config says what to check.
type Config struct {
	Brokers []string
	Topics  Topics
	Group   string // of the members: its offsets are compared with the ends; "" for not

	Submissions string   // log of [Submission] and [Fate]
	Runs        []string // logs of [Run]
	Marks       string   // log of [Mark]; "" when there is no roost.progress to be checked

	ClockSlack time.Duration // how far the members' clocks are apart; 0: one machine's clock
}

// Check reads the topics of a cluster that has come to rest and adds up. An error
// means that it could not.
func Check(ctx context.Context, cfg Config) (*Report, error) {
	c := &check{cfg: cfg, rep: &Report{Outcomes: map[string]int{}, Refused: map[string]int{}}, jobs: map[string]*job{}}
	var err error
	if c.subs, c.fates, err = submissions(cfg.Submissions); err != nil {
		return nil, err
	}
	if c.runs, err = runs(cfg.Runs); err != nil {
		return nil, err
	}
	c.countRuns()
	for _, step := range []struct {
		topic string
		fn    func(context.Context) error
	}{
		{cfg.Topics.Jobs, c.readJobs}, {cfg.Topics.Results, c.readResults}, {cfg.Topics.Dead, c.readDead},
		{cfg.Topics.Progress, c.checkProgress}, {cfg.Topics.State, c.readState}, {"offsets of " + cfg.Group, c.checkGroup},
	} {
		if err := step.fn(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", step.topic, err)
		}
	}
	return c.rep, nil
}

// countRuns counts executions; one assignment may have run with several outcomes.
func (c *check) countRuns() {
	first := map[[2]string]bool{}
	for r, n := range c.runs {
		c.rep.Runs += n
		first[[2]string{r.Job, r.Node}] = true
	}
	c.rep.Again = c.rep.Runs - len(first)
}

type check struct {
	cfg   Config
	rep   *Report
	subs  map[int64]*Submission
	fates map[int64]*Fate
	runs  map[Run]int

	log  [][]*entry // roost.jobs: by partition, in order
	ends []int64    // of roost.jobs
	jobs map[string]*job
}

// entry is one record of roost.jobs, and where its outcomes are.
type entry struct {
	sub       *Submission
	partition int32
	offset    int64
	ms        int64  // timestamp
	dead      string // why it belongs into roost.dead; "": it does not
	prefix    string // what the reason in roost.dead has to start with
	record    *kgo.Record
	deadCount int
	job       *job // of a job that counts

	out    []place // of its outcomes: the last in each partition
	lastMs int64   // the newest timestamp of an outcome
}

// place is a position in roost.results or roost.dead.
type place struct {
	dead      bool
	partition int32
	offset    int64
}

// job is one that counts: the first record with its id.
type job struct {
	entry     *entry
	got       []int // results by index
	cancelled bool
	ran       map[string]bool // nodes with an outcome ok or failed
}

// put notes where an outcome of the record is.
func (e *entry) put(dead bool, r *kgo.Record) {
	e.lastMs = max(e.lastMs, r.Timestamp.UnixMilli())
	for i := range e.out {
		if p := &e.out[i]; p.dead == dead && p.partition == r.Partition {
			p.offset = max(p.offset, r.Offset)
			return
		}
	}
	e.out = append(e.out, place{dead, r.Partition, r.Offset})
}

func (e *entry) String() string {
	return fmt.Sprintf("%s %q (%s), %d/%d", e.sub.What, e.sub.ID, e.sub.Class, e.partition, e.offset)
}

// readJobs learns what the server was asked, in the order in which it is.
func (c *check) readJobs(ctx context.Context) error {
	var found = map[int64]int{}
	ends, err := readAll(ctx, c.cfg.Brokers, c.cfg.Topics.Jobs, func(r *kgo.Record) {
		if r.Attrs.IsControl() {
			return
		}
		c.rep.Records++
		seq, ok := seqOf([]byte(header(r, SeqHeader)))
		sub := c.subs[seq]
		if !ok || sub == nil {
			c.rep.wrong("foreign record", "%s/%d offset %d is not from the submitter", r.Topic, r.Partition, r.Offset)
			return
		}
		found[seq]++
		if f := c.fates[seq]; f != nil && f.Acked && f.Partition == r.Partition && f.Offset == r.Offset {
			found[seq] += 1 << 20
		}
		for int(r.Partition) >= len(c.log) {
			c.log = append(c.log, nil)
		}
		c.log[r.Partition] = append(c.log[r.Partition], &entry{
			sub: sub, partition: r.Partition, offset: r.Offset, ms: r.Timestamp.UnixMilli(), record: r,
		})
	})
	if err != nil {
		return err
	}
	c.ends = ends
	for len(c.log) < len(ends) {
		c.log = append(c.log, nil)
	}
	c.rep.Submitted = len(c.subs)
	for seq, sub := range c.subs {
		f := c.fates[seq]
		switch {
		case f == nil || !f.Acked:
			c.rep.Unsure++
		case found[seq] < 1<<20:
			c.rep.lost("acknowledged by Kafka and not there", "submission %d, %s %q, at %d/%d", seq, sub.What, sub.ID, f.Partition, f.Offset)
		}
	}
	for _, log := range c.log {
		for _, e := range log {
			c.judge(e)
		}
	}
	return nil
}

// judge tells what has to become of a record, given those before it in its partition.
func (c *check) judge(e *entry) {
	first := c.jobs[e.sub.ID]
	switch e.sub.What {
	case Invalid:
		e.dead = "invalid"
	case Cancel:
		if first == nil || first.entry.partition != e.partition {
			e.dead, e.prefix = "cancel of an unknown job", "cancel: "
			break
		}
		if !first.cancelled {
			c.rep.Cancelled++
		}
		first.cancelled = true
	default:
		if first != nil {
			e.dead, e.prefix = "duplicate", "duplicate: "
			break
		}
		e.job = &job{entry: e, got: make([]int, e.sub.Size())}
		c.jobs[e.sub.ID] = e.job
		c.rep.Jobs++
		c.rep.Assignments += len(e.job.got)
	}
	if e.dead != "" {
		c.rep.Refused[e.dead]++
	} else {
		e.record = nil
	}
}

// find returns the record of roost.jobs at a place.
func (c *check) find(partition int32, offset int64) *entry {
	if partition < 0 || int(partition) >= len(c.log) {
		return nil
	}
	log := c.log[partition]
	i, ok := slices.BinarySearchFunc(log, offset, func(e *entry, o int64) int { return int(e.offset - o) })
	if !ok {
		return nil
	}
	return log[i]
}

// readState counts what is left in the state topic: of no interest to users, but it
// should not grow.
func (c *check) readState(ctx context.Context) error {
	type key struct {
		partition int32
		key       string
	}
	live := map[key]int{}
	_, err := readAll(ctx, c.cfg.Brokers, c.cfg.Topics.State, func(r *kgo.Record) {
		switch k := (key{r.Partition, string(r.Key)}); {
		case r.Attrs.IsControl():
		case r.Value == nil:
			delete(live, k)
		default:
			live[k] = len(r.Value)
		}
	})
	if errors.Is(err, errNoTopic) {
		c.rep.wrong("no topic", "%s does not exist", c.cfg.Topics.State)
		return nil
	}
	c.rep.StateKeys = len(live)
	for k, n := range live {
		c.rep.StateBytes += len(k.key) + n
	}
	return err
}

// checkGroup sees that what was read is committed: members that stopped in order have
// nothing to do again.
func (c *check) checkGroup(ctx context.Context) error {
	if c.cfg.Group == "" {
		return nil
	}
	got, err := committedOffsets(ctx, c.cfg.Brokers, c.cfg.Group, c.cfg.Topics.Jobs, int32(len(c.ends)))
	if err != nil {
		return err
	}
	for p, end := range c.ends {
		if len(c.log[p]) > 0 && got[p] != end {
			c.rep.wrong("committed offset", "partition %d ends at %d, and the group %q has committed %d after an orderly end", p, end, c.cfg.Group, got[p])
		}
	}
	return nil
}
