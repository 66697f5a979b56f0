package checker

import (
	"bytes"
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
)

// readResults holds every result against its job, and every job against its results.
func (c *check) readResults(ctx context.Context) error {
	_, err := readAll(ctx, c.cfg.Brokers, c.cfg.Topics.Results, func(r *kgo.Record) {
		if !r.Attrs.IsControl() {
			c.result(r)
		}
	})
	if err != nil {
		return err
	}
	for _, log := range c.log {
		for _, e := range log {
			if e.job == nil {
				continue
			}
			for i, n := range e.job.got {
				if n == 0 {
					c.rep.lost("outcome", "%v, assignment %d of %d has no result", e, i, len(e.job.got))
				}
			}
			if n := len(e.out); n > 1 {
				c.rep.wrong("results of one job in several partitions", "%v: in %d", e, n)
			}
		}
	}
	return nil
}

func (c *check) result(r *kgo.Record) {
	contentType := header(r, headerContentType)
	res, err := parseResult(contentType, r.Value)
	if err != nil {
		c.rep.wrong("result that cannot be understood", "%d/%d: %v", r.Partition, r.Offset, err)
		return
	}
	j := c.jobs[*res.Job]
	if j == nil {
		c.rep.wrong("result without a job", "%d/%d: job %q, index %d, %s", r.Partition, r.Offset, *res.Job, *res.Index, *res.Outcome)
		return
	}
	if *res.Index < 0 || *res.Index >= len(j.got) {
		c.rep.wrong("index", "%v has %d assignments, and there is a result with index %d", j.entry, len(j.got), *res.Index)
		return
	}
	if j.got[*res.Index]++; j.got[*res.Index] > 1 {
		c.rep.twice("outcome", "%v, assignment %d: another result at %d/%d, %s by member %s at %s", j.entry, *res.Index,
			r.Partition, r.Offset, *res.Outcome, *res.Member, r.Timestamp.UTC().Format("15:04:05.000"))
		return
	}
	j.entry.put(false, r)
	c.rep.Outcomes[*res.Outcome]++
	if *res.Attempt > 1 {
		c.rep.Retried++
	}
	c.origin(j, res, r, contentType)
	c.outcome(j, res)
}

// origin compares what the result repeats of the job.
func (c *check) origin(j *job, res *result, r *kgo.Record, contentType string) {
	e, s := j.entry, j.entry.sub
	bad := func(what string, got, want any) {
		c.rep.wrong("result's "+what, "%v, assignment %d: %v instead of %v", e, *res.Index, got, want)
	}
	if string(r.Key) != s.ID {
		bad("key", string(r.Key), s.ID)
	}
	if (contentType == contentJSON) != s.JSON {
		bad("encoding", contentType, "the job's")
	}
	if *res.Kind != s.Kind {
		bad("kind", *res.Kind, s.Kind)
	}
	if res.Tenant != s.Tenant {
		bad("tenant", res.Tenant, s.Tenant)
	}
	if *res.Partition != e.partition || *res.Offset != e.offset {
		bad("place of the job", []int64{int64(*res.Partition), *res.Offset}, []int64{int64(e.partition), e.offset})
	}
	if *res.JobMs != e.ms {
		bad("job_ms", *res.JobMs, e.ms)
	}
	if *res.Member == "" {
		bad("member", "nothing", "a name")
	}
	if ms := r.Timestamp.UnixMilli(); *res.TimeMs <= 0 || *res.TimeMs > ms+c.slackMs() {
		bad("time_ms", *res.TimeMs, ms)
	}
}

// slackMs is how far two readings of clocks may be apart: on one machine 5 ms.
func (c *check) slackMs() int64 { return max(5, c.cfg.ClockSlack.Milliseconds()) }

// outcome checks who it came from, and whether it may be.
func (c *check) outcome(j *job, res *result) {
	e, s := j.entry, j.entry.sub
	node, outcome := *res.Node, *res.Outcome
	bad := func(kind, why string) {
		c.rep.wrong(kind, "%v, assignment %d: %s by node %q, attempt %d, %q: %s", e, *res.Index, outcome, node, *res.Attempt, res.Error, why)
	}
	if !outcomes[outcome] {
		bad("outcome", "there is no such outcome of a result")
		return
	}
	if len(s.Nodes) > 0 && node != s.Nodes[*res.Index] {
		bad("node", "the target is "+s.Nodes[*res.Index])
	}
	switch {
	case outcome == "cancelled":
		if !j.cancelled {
			bad("outcome", "nobody cancelled it")
		}
	case len(s.Allowed) > 0 && !slices.Contains(s.Allowed, outcome):
		bad("outcome", "allowed are "+strings.Join(s.Allowed, ", "))
	}
	if *res.Attempt < 0 || s.Attempts > 0 && *res.Attempt > s.Attempts {
		bad("attempt", "the job has attempts "+strconv.Itoa(s.Attempts))
	}
	if outcome != "ok" && outcome != "failed" {
		if res.Error == "" && outcome != "cancelled" {
			bad("error", "it does not say why")
		}
		return
	}
	if c.runs[Run{s.ID, node, outcome}] == 0 {
		bad("outcome of a job that did not run", "no node's log has it")
	}
	if *res.Attempt == 0 {
		bad("attempt", "it ran")
	}
	if j.ran[node] {
		bad("node", "it has another outcome of this job")
	}
	if j.ran == nil {
		j.ran = map[string]bool{}
	}
	j.ran[node] = true
	if n, there := res.echo(); outcome == "ok" && (!there || n != s.Echo) {
		bad("output", "the node was to say "+strconv.FormatInt(s.Echo, 10)+", and the output is "+string(res.Output))
	}
}

// readDead holds the refused records against those that had to be.
func (c *check) readDead(ctx context.Context) error {
	_, err := readAll(ctx, c.cfg.Brokers, c.cfg.Topics.Dead, func(r *kgo.Record) {
		if !r.Attrs.IsControl() {
			c.deadRecord(r)
		}
	})
	if err != nil {
		return err
	}
	for _, log := range c.log {
		for _, e := range log {
			if e.dead != "" && e.deadCount == 0 {
				c.rep.lost("dead record", "%v is not in %s: %s", e, c.cfg.Topics.Dead, e.dead)
			}
		}
	}
	return nil
}

func (c *check) deadRecord(r *kgo.Record) {
	at := strconv.Itoa(int(r.Partition)) + "/" + strconv.FormatInt(r.Offset, 10)
	reason := header(r, headerReason)
	partition, err1 := strconv.ParseInt(header(r, headerPartition), 10, 32)
	offset, err2 := strconv.ParseInt(header(r, headerOffset), 10, 64)
	if err1 != nil || err2 != nil || header(r, headerTopic) != c.cfg.Topics.Jobs {
		c.rep.wrong("dead record's place", "%s: its headers name topic %q, partition %q, offset %q", at,
			header(r, headerTopic), header(r, headerPartition), header(r, headerOffset))
		return
	}
	e := c.find(int32(partition), offset)
	if e == nil {
		c.rep.wrong("dead record of nothing", "%s: %s has no record %d/%d", at, c.cfg.Topics.Jobs, partition, offset)
		return
	}
	if e.dead == "" {
		c.rep.wrong("refused", "%v is in %s: %s", e, c.cfg.Topics.Dead, reason)
		return
	}
	if e.deadCount++; e.deadCount > 1 {
		c.rep.twice("dead record", "%v is in %s again, at %s", e, c.cfg.Topics.Dead, at)
		return
	}
	e.put(true, r)
	if reason == "" || !strings.HasPrefix(reason, e.prefix) {
		c.rep.wrong("dead record's reason", "%v, which is %s: %q", e, e.dead, reason)
	}
	if !bytes.Equal(r.Key, e.record.Key) || !bytes.Equal(r.Value, e.record.Value) {
		c.rep.wrong("dead record's content", "%v: key or value is not the record's own", e)
	}
	for _, h := range e.record.Headers {
		if header(r, h.Key) != string(h.Value) {
			c.rep.wrong("dead record's headers", "%v: header %s is %q instead of %q", e, h.Key, header(r, h.Key), h.Value)
		}
	}
}
