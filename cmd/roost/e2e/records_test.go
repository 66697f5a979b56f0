//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// plainClient is a Kafka client without anything of Roost.
func (c *cluster) plainClient(opts ...kgo.Opt) *kgo.Client {
	c.t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(c.broker.addr), kgo.RecordDeliveryTimeout(patience)}, opts...)...)
	require.NoError(c.t, err)
	c.t.Cleanup(cl.Close)
	return cl
}

// producer writes job records.
type producer struct {
	c  *cluster
	cl *kgo.Client
}

func (c *cluster) producer() *producer { c.t.Helper(); return &producer{c, c.plainClient()} }

// json returns a job record; its key is the node's id for one node, else the job's.
func (p *producer) json(job map[string]any) *kgo.Record {
	p.c.t.Helper()
	value, err := json.Marshal(job)
	require.NoError(p.c.t, err)
	key, _ := job["id"].(string)
	if target, ok := job["target"].(map[string]any); ok {
		if node, ok := target["node"].(string); ok {
			key = node
		}
	}
	return p.raw(key, value, "application/json")
}

func (p *producer) raw(key string, value []byte, contentType string) *kgo.Record {
	r := &kgo.Record{Topic: p.c.topic("jobs"), Key: []byte(key), Value: value,
		Headers: []kgo.RecordHeader{{Key: "origin", Value: []byte("of " + key)}}}
	if contentType != "" {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: "content-type", Value: []byte(contentType)})
	}
	return r
}

// send writes records and returns when the broker has them; partition and offset are
// filled in.
func (p *producer) send(rs ...*kgo.Record) {
	p.c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(p.c.t, p.cl.ProduceSync(ctx, rs...).FirstErr())
}

// job is a job for one node as JSON.
func job(id, node, kind string, args any, more ...any) map[string]any {
	j := map[string]any{"id": id, "kind": kind, "target": map[string]any{"node": node}, "args": args}
	for i := 0; i+1 < len(more); i += 2 {
		j[more[i].(string)] = more[i+1]
	}
	return j
}

// reader collects all records of a topic.
type reader struct {
	t     testing.TB
	c     *cluster
	topic string
	mu    sync.Mutex
	all   []*kgo.Record
	keys  map[string]int  // how often each key came
	next  map[int32]int64 // offset after what was read, markers of transactions included
}

// read begins to read what is committed of a topic, from its start.
func (c *cluster) read(topic string) *reader {
	c.t.Helper()
	cl := c.plainClient(kgo.ConsumeTopics(c.topic(topic)), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.FetchMaxWait(100*time.Millisecond), kgo.MetadataMinAge(100*time.Millisecond))
	r := &reader{t: c.t, c: c, topic: topic, keys: map[string]int{}, next: map[int32]int64{}}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			f := cl.PollFetches(ctx)
			r.mu.Lock()
			f.EachRecord(func(rec *kgo.Record) {
				r.next[rec.Partition] = rec.Offset + 1
				if rec.Attrs.IsControl() {
					return
				}
				r.all = append(r.all, rec)
				r.keys[string(rec.Key)]++
			})
			r.mu.Unlock()
		}
	}()
	c.t.Cleanup(func() { cancel(); <-ended })
	return r
}

// distinct returns how many keys came, and count how many records.
func (r *reader) distinct() int { r.mu.Lock(); defer r.mu.Unlock(); return len(r.keys) }
func (r *reader) count() int    { r.mu.Lock(); defer r.mu.Unlock(); return len(r.all) }

// has tells how many records came with a key.
func (r *reader) has(key string) int { r.mu.Lock(); defer r.mu.Unlock(); return r.keys[key] }

// records returns what came so far.
func (r *reader) records() []*kgo.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*kgo.Record(nil), r.all...)
}

// awaitDistinct waits for so many different keys.
func (r *reader) awaitDistinct(n int, limit time.Duration) {
	r.t.Helper()
	eventually(r.t, limit, func() string { return fmt.Sprintf("%d of %d keys have a record", r.distinct(), n) }, func() bool {
		return r.distinct() >= n
	})
}

// await waits for so many records.
func (r *reader) await(n int, limit time.Duration) {
	r.t.Helper()
	eventually(r.t, limit, func() string { return fmt.Sprintf("%d of %d records in %s", r.count(), n, r.topic) }, func() bool {
		return r.count() >= n
	})
}

// of waits for the first record with a key.
func (r *reader) of(key string) *kgo.Record {
	r.t.Helper()
	eventually(r.t, patience, text("no record with key "+key), func() bool { return r.has(key) > 0 })
	for _, rec := range r.records() {
		if string(rec.Key) == key {
			return rec
		}
	}
	return nil
}

// result waits for the first outcome of a job that was written as JSON.
func (r *reader) result(id string) map[string]any {
	r.t.Helper()
	var v map[string]any
	rec := r.of(id)
	require.NoError(r.t, json.Unmarshal(rec.Value, &v), "%s", rec.Value)
	return v
}

func header(r *kgo.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

// committed returns the group's offsets in a jobs topic with 4 partitions.
func (c *cluster) committed() map[int32]int64 { c.t.Helper(); return c.committedOf(4) }

// committedOf asks the group's coordinator for its offsets in the jobs topic.
func (c *cluster) committedOf(partitions int32) map[int32]int64 {
	c.t.Helper()
	cl := c.plainClient()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Group = c.group
	group := kmsg.NewOffsetFetchRequestGroup()
	group.Group = c.group
	topic, inGroup := kmsg.NewOffsetFetchRequestTopic(), kmsg.NewOffsetFetchRequestGroupTopic()
	topic.Topic, inGroup.Topic = c.topic("jobs"), c.topic("jobs")
	for p := range partitions {
		topic.Partitions, inGroup.Partitions = append(topic.Partitions, p), append(inGroup.Partitions, p)
	}
	req.Topics, group.Topics = append(req.Topics, topic), append(group.Topics, inGroup)
	req.Groups = append(req.Groups, group)
	resp, err := req.RequestWith(ctx, cl)
	require.NoError(c.t, err)
	out := map[int32]int64{}
	for _, g := range resp.Groups {
		require.NoError(c.t, kerr.ErrorForCode(g.ErrorCode))
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				out[p.Partition] = max(0, p.Offset)
			}
		}
	}
	return out
}

// requireAllCommitted waits until the group's offsets are after all records sent.
func (c *cluster) requireAllCommitted(sent []*kgo.Record) {
	c.t.Helper()
	want := ends(sent)
	var got map[int32]int64
	eventually(c.t, patience, func() string { return fmt.Sprintf("committed are %v, not %v", got, want) }, func() bool {
		got = c.committed()
		for p, offset := range want {
			if got[p] < offset {
				return false
			}
		}
		return true
	})
}

// idOf reads the id of a job record written as JSON.
func idOf(r *kgo.Record) string {
	var j struct {
		ID string `json:"id"`
	}
	_ = json.Unmarshal(r.Value, &j)
	return j.ID
}

// outcomeOf reads the outcome of a result written as JSON.
func outcomeOf(t testing.TB, r *kgo.Record) string {
	t.Helper()
	var v struct {
		Outcome string `json:"outcome"`
	}
	require.NoError(t, json.Unmarshal(r.Value, &v), "%s", r.Value)
	return v.Outcome
}
