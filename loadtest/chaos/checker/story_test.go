package checker

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
	"github.com/vmihailenco/msgpack/v5"
)

// story is what a server made of some records, told to real topics. A test changes
// what newStory begins with, which is right.
type story struct {
	t      *testing.T
	topics Topics
	addrs  []string
	cl     *kgo.Client // produces without transactions
	tx     *kgo.Client
	dir    string
	watch  *Watch

	subs    []*Submission
	fates   []*Fate
	records []*kgo.Record // of the submissions, as they are in the topic
	runs    []Run
	results []*told
	dead    []*told
	marks   []*told
	commits map[int32]int64 // of the group

	before func() // runs after the records were submitted
}

// told is a record that the server writes.
type told struct {
	fields    map[string]any // of a result or a mark
	record    *kgo.Record
	msgpack   bool
	early     bool // in a transaction before the others
	late      bool // in one after
	plain     bool // without a transaction
	forgotten bool // not at all
}

const group = "members"

func newStory(t *testing.T) *story {
	s := &story{t: t, topics: NewTopics("test."), dir: t.TempDir(), commits: map[int32]int64{}}
	c, err := kfake.NewCluster(kfake.NumBrokers(1),
		kfake.SeedTopics(2, s.topics.Jobs, s.topics.Results, s.topics.State), kfake.SeedTopics(1, s.topics.Dead, s.topics.Progress))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	s.addrs = c.ListenAddrs()
	s.cl = s.client()
	s.tx = s.client(kgo.TransactionalID("server"))
	s.submissions()
	return s
}

func (s *story) client(opts ...kgo.Opt) *kgo.Client {
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(s.addrs...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DisableClientMetrics())...)
	require.NoError(s.t, err)
	s.t.Cleanup(cl.Close)
	return cl
}

func (s *story) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	s.t.Cleanup(cancel)
	return ctx
}

// submit adds a record to roost.jobs, at once.
func (s *story) submit(partition int32, sub *Submission) *kgo.Record {
	sub.Seq = int64(len(s.subs) + 1)
	r := &kgo.Record{Topic: s.topics.Jobs, Partition: partition, Key: []byte("key-" + sub.ID), Value: []byte("value " + strconv.Itoa(len(s.subs))),
		Headers: []kgo.RecordHeader{{Key: SeqHeader, Value: strconv.AppendInt(nil, sub.Seq, 10)}, {Key: "mine", Value: []byte("yes")}}}
	require.NoError(s.t, s.cl.ProduceSync(s.context(), r).FirstErr())
	s.subs, s.records = append(s.subs, sub), append(s.records, r)
	s.fates = append(s.fates, &Fate{Seq: sub.Seq, Acked: true, Partition: r.Partition, Offset: r.Offset})
	s.commits[partition] = r.Offset + 1
	return r
}

// submissions is the story's beginning: in partition 0 a job for one node, its
// duplicate, a record that is invalid and a job for two nodes; in partition 1 a selector for two that is
// cancelled, and a cancel record for nothing.
func (s *story) submissions() {
	one := &Submission{What: Job, ID: "one", Nodes: []string{"n1"}, Kind: "echo", Tenant: "acme", Attempts: 3, JSON: true, Echo: 7, Allowed: []string{"ok", "lost"}}
	s.result(one, s.submit(0, one), 0, "n1", "ok")
	s.refuse(s.submit(0, &Submission{What: Job, ID: "one", Nodes: []string{"n1"}, Kind: "echo"}), "duplicate: it was taken at 0")
	s.refuse(s.submit(0, &Submission{What: Invalid}), "id: missing")
	two := &Submission{What: Job, ID: "two", Nodes: []string{"n1", "n2"}, Kind: "echo", Attempts: 1, Echo: 8}
	r := s.submit(0, two)
	s.result(two, r, 0, "n1", "ok")
	s.result(two, r, 1, "n2", "failed")
	some := &Submission{What: Job, ID: "some", Count: 2, Kind: "echo", Attempts: 2, JSON: true, Echo: 9}
	r = s.submit(1, some)
	s.result(some, r, 0, "n3", "ok")
	s.result(some, r, 1, "", "cancelled")
	s.submit(1, &Submission{What: Cancel, ID: "some"})
	s.refuse(s.submit(1, &Submission{What: Cancel, ID: "nothing"}), "cancel: there is no such job")
	s.mark(0, 4, 3)
	s.mark(1, 3, 6)
}

// result adds a right result, and the run that it needs.
func (s *story) result(sub *Submission, r *kgo.Record, index int, node, outcome string) *told {
	f := map[string]any{
		"job": sub.ID, "node": node, "index": index, "outcome": outcome, "attempt": 1, "kind": sub.Kind, "duration_ms": 1.5,
		"job_ms": r.Timestamp.UnixMilli(), "time_ms": r.Timestamp.UnixMilli(), "member": "m1", "partition": r.Partition, "offset": r.Offset,
	}
	if sub.Tenant != "" {
		f["tenant"] = sub.Tenant
	}
	switch outcome {
	case "ok":
		f["output"] = map[string]any{"echo": sub.Echo, "more": []any{nil, true, -1, "text", 1.25, []byte("bytes")}}
	default:
		f["error"] = "for a reason"
	}
	if outcome == "ok" || outcome == "failed" {
		s.runs = append(s.runs, Run{sub.ID, node, outcome})
	}
	t := &told{fields: f, msgpack: !sub.JSON, record: &kgo.Record{Topic: s.topics.Results, Partition: r.Partition, Key: []byte(sub.ID)}}
	s.results = append(s.results, t)
	return t
}

func (s *story) refuse(r *kgo.Record, reason string) *told {
	t := &told{record: &kgo.Record{Topic: s.topics.Dead, Key: r.Key, Value: r.Value, Headers: append(r.Headers[:len(r.Headers):len(r.Headers)],
		kgo.RecordHeader{Key: headerReason, Value: []byte(reason)}, kgo.RecordHeader{Key: headerTopic, Value: []byte(r.Topic)},
		kgo.RecordHeader{Key: headerPartition, Value: []byte(fmt.Sprint(r.Partition))}, kgo.RecordHeader{Key: headerOffset, Value: []byte(fmt.Sprint(r.Offset))})}}
	s.dead = append(s.dead, t)
	return t
}

// mark adds a watermark; its job_ms is the timestamp of a record.
func (s *story) mark(partition int32, offset int64, record int) *told {
	ms := s.records[record].Timestamp.UnixMilli()
	t := &told{fields: map[string]any{"partition": partition, "offset": offset, "job_ms": ms, "time_ms": ms, "member": "m1", "later": "field"},
		record: &kgo.Record{Topic: s.topics.Progress, Key: []byte(fmt.Sprint(partition))}}
	s.marks = append(s.marks, t)
	return t
}

// encode fills in the value of what has fields.
func (t *told) encode(test *testing.T) *kgo.Record {
	r := t.record
	if t.fields == nil || r.Value != nil {
		return r
	}
	var err error
	contentType := contentJSON
	if t.msgpack {
		contentType = contentMsgpack
		r.Value, err = msgpack.Marshal(t.fields)
	} else {
		r.Value, err = json.Marshal(t.fields)
	}
	require.NoError(test, err)
	r.Headers = append(r.Headers, kgo.RecordHeader{Key: headerContentType, Value: []byte(contentType)})
	return r
}

// commit writes in one transaction what is chosen.
func (s *story) commit(end kgo.TransactionEndTry, chosen func(*told) bool) {
	var list []*kgo.Record
	for _, all := range [][]*told{s.results, s.dead, s.marks} {
		for _, t := range all {
			if chosen(t) && !t.plain && !t.forgotten {
				list = append(list, t.encode(s.t))
			}
		}
	}
	if len(list) == 0 {
		return
	}
	require.NoError(s.t, s.tx.BeginTransaction())
	require.NoError(s.t, s.tx.ProduceSync(s.context(), list...).FirstErr())
	require.NoError(s.t, s.tx.EndTransaction(s.context(), end))
}

// tell writes everything and checks it.
func (s *story) tell() *Report {
	var err error
	s.watch, err = StartWatch(s.context(), WatchConfig{Brokers: s.addrs, Topics: s.topics, Path: s.path("marks")})
	require.NoError(s.t, err)
	if s.before != nil {
		s.before()
	}
	s.commit(kgo.TryCommit, func(t *told) bool { return t.early })
	s.awaitMarks(func(t *told) bool { return t.early })
	s.commit(kgo.TryCommit, func(t *told) bool { return !t.early && !t.late })
	s.awaitMarks(func(t *told) bool { return !t.late && !t.plain })
	s.commit(kgo.TryCommit, func(t *told) bool { return t.late })
	for _, t := range append(s.results, s.marks...) {
		if t.plain {
			require.NoError(s.t, s.cl.ProduceSync(s.context(), t.encode(s.t)).FirstErr())
		}
	}
	s.awaitMarks(func(*told) bool { return true })
	require.NoError(s.t, s.watch.Stop())
	s.commitOffsets()
	s.logs()
	rep, err := Check(s.context(), Config{Brokers: s.addrs, Topics: s.topics, Group: group,
		Submissions: s.path("submissions"), Runs: []string{s.path("runs")}, Marks: s.path("marks")})
	require.NoError(s.t, err)
	return rep
}

func (s *story) path(name string) string { return filepath.Join(s.dir, name) }

// awaitMarks waits until the watch has logged the marks that are chosen.
func (s *story) awaitMarks(chosen func(*told) bool) {
	want := 0
	for _, t := range s.marks {
		if chosen(t) {
			want++
		}
	}
	require.Eventually(s.t, func() bool {
		list, _, err := marks(s.path("marks"))
		return err == nil && len(list) >= want // a line may be there in part
	}, 20*time.Second, 5*time.Millisecond)
}

func (s *story) commitOffsets() {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation = group, -1
	t := kmsg.NewOffsetCommitRequestTopic()
	t.Topic = s.topics.Jobs
	for p, o := range s.commits {
		q := kmsg.NewOffsetCommitRequestTopicPartition()
		q.Partition, q.Offset = p, o
		t.Partitions = append(t.Partitions, q)
	}
	req.Topics = append(req.Topics, t)
	// Later versions of the request name topics by their ids.
	resp, err := req.RequestWith(s.context(), s.client(kgo.MaxVersions(kversion.V3_8_0())))
	require.NoError(s.t, err)
	for _, p := range resp.Topics[0].Partitions {
		require.Zero(s.t, p.ErrorCode)
	}
}

func (s *story) logs() {
	f, err := os.Create(s.path("submissions"))
	require.NoError(s.t, err)
	defer f.Close()
	w := bufio.NewWriter(f)
	enc := json.NewEncoder(w)
	for _, sub := range s.subs {
		require.NoError(s.t, enc.Encode(sub))
	}
	for _, fate := range s.fates {
		require.NoError(s.t, enc.Encode(fate))
	}
	require.NoError(s.t, w.Flush())
	var b []byte
	for i := range s.runs {
		b = s.runs[i].Append(b)
	}
	b = append(b, "one n1"...) // the process was killed in the middle of a line
	require.NoError(s.t, os.WriteFile(s.path("runs"), b, 0o600))
}
