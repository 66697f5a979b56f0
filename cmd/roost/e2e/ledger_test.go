//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// outcome is a result record.
type outcome struct {
	Job       string  `json:"job"`
	Node      string  `json:"node"`
	Index     int     `json:"index"`
	Outcome   string  `json:"outcome"`
	Attempt   int     `json:"attempt"`
	Duration  float64 `json:"duration_ms"`
	Error     string  `json:"error"`
	Output    any     `json:"output"`
	JobMs     int64   `json:"job_ms"`
	TimeMs    int64   `json:"time_ms"`
	Member    string  `json:"member"`
	Partition int32   `json:"partition"`
	Offset    int64   `json:"offset"`
}

// assignment names an outcome for good.
func (o *outcome) assignment() string { return fmt.Sprintf("%s/%d", o.Job, o.Index) }

// outcomes are the results read so far, all of jobs that were written as JSON.
func (r *reader) outcomes() []outcome {
	r.t.Helper()
	var out []outcome
	for _, rec := range r.records() {
		var o outcome
		require.NoError(r.t, json.Unmarshal(rec.Value, &o), "%s", rec.Value)
		out = append(out, o)
	}
	return out
}

// outcomesOf waits for so many outcomes of one job.
func (r *reader) outcomesOf(job string, n int) []outcome {
	r.t.Helper()
	eventually(r.t, patience, func() string { return fmt.Sprintf("job %s has %d of %d outcomes", job, r.has(job), n) }, func() bool {
		return r.has(job) >= n
	})
	var out []outcome
	for _, o := range r.outcomes() {
		if o.Job == job {
			out = append(out, o)
		}
	}
	require.Len(r.t, out, n, "%v", out)
	return out
}

// outcome waits for the outcome of a job that has one.
func (r *reader) outcome(job string) outcome {
	r.t.Helper()
	return r.outcomesOf(job, 1)[0]
}

// once reads all that is committed by now and checks that it is so many outcomes, each
// assignment's once. They are returned by assignment.
func (r *reader) once(n int) map[string]outcome {
	r.t.Helper()
	r.upToEnd()
	all := map[string]outcome{}
	twice := 0
	for _, o := range r.outcomes() {
		if was, ok := all[o.assignment()]; ok {
			if twice++; twice < 10 {
				r.t.Errorf("%s has two outcomes: %+v and %+v", o.assignment(), was, o)
			}
		}
		all[o.assignment()] = o
	}
	require.Zero(r.t, twice, "assignments with more than one outcome")
	require.Len(r.t, all, n, "outcomes")
	return all
}

// upToEnd reads up to what is committed now.
func (r *reader) upToEnd() {
	r.t.Helper()
	starts, ends := r.c.bounds(r.topic)
	var left map[int32]int64
	eventually(r.t, patience, func() string { return fmt.Sprintf("%s: partitions not read up to %v", r.topic, left) }, func() bool {
		left = maps.Clone(ends)
		r.mu.Lock()
		defer r.mu.Unlock()
		maps.DeleteFunc(left, func(p int32, end int64) bool { return end <= max(starts[p], r.next[p]) })
		return len(left) == 0
	})
}

// bounds returns the first offsets of a topic, and those after what is committed.
func (c *cluster) bounds(topic string) (starts, ends map[int32]int64) {
	c.t.Helper()
	cl := c.plainClient()
	defer cl.Close()
	return c.offsetsAt(cl, topic, -2), c.offsetsAt(cl, topic, -1)
}

// partitionsOf returns how many partitions a topic has.
func (c *cluster) partitionsOf(cl *kgo.Client, topic string) int32 {
	c.t.Helper()
	return int32(len(c.describe(cl, topic).Partitions))
}

func (c *cluster) describe(cl *kgo.Client, topic string) kmsg.MetadataResponseTopic {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = kmsg.StringPtr(c.topic(topic))
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, cl)
	require.NoError(c.t, err)
	require.Len(c.t, resp.Topics, 1)
	require.NoError(c.t, kerr.ErrorForCode(resp.Topics[0].ErrorCode), topic)
	return resp.Topics[0]
}

func (c *cluster) offsetsAt(cl *kgo.Client, topic string, timestamp int64) map[int32]int64 {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID, req.IsolationLevel = -1, 1 // as committed
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = c.topic(topic)
	for p := range c.partitionsOf(cl, topic) {
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Partition, rp.Timestamp = p, timestamp
		t.Partitions = append(t.Partitions, rp)
	}
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, cl)
	require.NoError(c.t, err)
	out := map[int32]int64{}
	for _, rt := range resp.Topics {
		for _, rp := range rt.Partitions {
			require.NoError(c.t, kerr.ErrorForCode(rp.ErrorCode), "%s/%d", topic, rp.Partition)
			out[rp.Partition] = rp.Offset
		}
	}
	return out
}

// progress is a record of the low watermark.
type progress struct {
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	JobMs     int64  `json:"job_ms"`
	TimeMs    int64  `json:"time_ms"`
	Member    string `json:"member"`
}

// marks returns the newest watermark of each partition that was read so far, and checks
// that none ever went back.
func (r *reader) marks() map[int32]progress {
	r.t.Helper()
	out := map[int32]progress{}
	for _, rec := range r.records() {
		var p progress
		require.NoError(r.t, json.Unmarshal(rec.Value, &p), "%s", rec.Value)
		require.Equal(r.t, fmt.Sprint(p.Partition), string(rec.Key))
		require.Equal(r.t, "application/json", header(rec, "content-type"))
		require.GreaterOrEqual(r.t, p.Offset, out[p.Partition].Offset, "the watermark of partition %d went back", p.Partition)
		out[p.Partition] = p
	}
	return out
}

// requireWatermarks checks that what lies before a watermark has all its outcomes:
// the watermarks are read first, the results afterwards.
func requireWatermarks(t testing.TB, sent []*kgo.Record, marks, results *reader) {
	t.Helper()
	at := marks.marks()
	results.upToEnd()
	for _, r := range sent {
		if id := idOf(r); r.Offset < at[r.Partition].Offset {
			require.Equal(t, targetsOf(r), results.has(id), "outcomes of job %s at %d/%d, which is before the watermark %d",
				id, r.Partition, r.Offset, at[r.Partition].Offset)
		}
	}
}

// awaitWatermarks waits until the watermarks are after all records sent.
func awaitWatermarks(t testing.TB, sent []*kgo.Record, marks *reader) {
	t.Helper()
	want := ends(sent)
	var at map[int32]progress
	eventually(t, patience, func() string { return fmt.Sprintf("watermarks are %v, not %v", at, want) }, func() bool {
		at = marks.marks()
		for p, offset := range want {
			if at[p].Offset < offset {
				return false
			}
		}
		return true
	})
}

// ends are the offsets after the records sent.
func ends(sent []*kgo.Record) map[int32]int64 {
	out := map[int32]int64{}
	for _, r := range sent {
		out[r.Partition] = max(out[r.Partition], r.Offset+1)
	}
	return out
}

// targetsOf counts the assignments of a job record that was written as JSON.
func targetsOf(r *kgo.Record) int {
	var j struct {
		Target struct {
			Nodes  []string `json:"nodes"`
			Select *struct {
				Count int `json:"count"`
			} `json:"select"`
		} `json:"target"`
	}
	_ = json.Unmarshal(r.Value, &j)
	switch {
	case j.Target.Select != nil:
		return max(1, j.Target.Select.Count)
	default:
		return max(1, len(j.Target.Nodes))
	}
}
