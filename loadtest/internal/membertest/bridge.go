package membertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// Bridge is the least that lies between Kafka and nodes: it consumes the jobs topic,
// sends each job to its node on the [Member], and produces the result. It can be told
// to misbehave, so that what checks a server can be checked itself.
type Bridge struct {
	Drop    int              // every so many jobs gets no outcome; 0: none
	Double  int              // every so many results is produced twice
	Corrupt int              // every so many outputs is changed
	Outcome protocol.Outcome // of every result
	JSON    bool             // results are written as JSON
	Prefix  string           // of the topics; default "roost."
	Abort   int              // every so many results is also written in a transaction that is aborted
	Ignore  int              // every so many cancel records is ignored

	Member  *Member
	Brokers []string

	cl      *kgo.Client
	aborter *kgo.Client      // transactional; guarded by mu
	away    map[string]int32 // jobs for nodes that are not connected, by id, with their partition; the consumer's
	waiting atomic.Int64     // len(away)
	cancels atomic.Int64
	jobs    atomic.Int64
	results atomic.Int64
	wrong   atomic.Int64 // jobs whose record lay in another partition than its node's
	mu      sync.Mutex
	rw      record.ResultWriter
}

// Partitions is how many partitions the topics of a [Bridge] have.
const Partitions = 4

// StartBridge starts an embedded broker, a member and the bridge between them. All end
// with the test.
func StartBridge(t testing.TB, b *Bridge) *Bridge {
	t.Helper()
	if b.Prefix == "" {
		b.Prefix = "roost."
	}
	kafka, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(Partitions, b.Prefix+"jobs", b.Prefix+"results"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kafka.Close)
	b.Brokers = kafka.ListenAddrs()
	b.Member = Start(t, &Member{HeartbeatMs: 30_000, OnResult: b.onResult})
	b.cl, err = kgo.NewClient(kgo.SeedBrokers(b.Brokers...), kgo.ConsumeTopics(b.Prefix+"jobs"), kgo.ProducerLinger(0),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableClientMetrics())
	if err != nil {
		t.Fatal(err)
	}
	if b.aborter, err = kgo.NewClient(kgo.SeedBrokers(b.Brokers...), kgo.TransactionalID("bridge"), kgo.DisableClientMetrics()); err != nil {
		t.Fatal(err)
	}
	b.away = map[string]int32{}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() { b.consume(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait(); b.Member.Close(); b.cl.Close(); b.aborter.Close() })
	return b
}

// Seed puts a record on the results topic, as an earlier run would have left it.
func (b *Bridge) Seed(t testing.TB, value []byte) {
	t.Helper()
	if err := b.cl.ProduceSync(context.Background(), &kgo.Record{Topic: b.Prefix + "results", Value: value}).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// Misplaced is how many job records lay in another partition than their node's.
func (b *Bridge) Misplaced() int64 { return b.wrong.Load() }

// Jobs is how many jobs were consumed.
func (b *Bridge) Jobs() int64 { return b.jobs.Load() }

// Waiting is how many jobs wait for nodes that are not connected.
func (b *Bridge) Waiting() int64 { return b.waiting.Load() }

func every(n int, count int64) bool { return n > 0 && count%int64(n) == 0 }

func (b *Bridge) consume(ctx context.Context) {
	for ctx.Err() == nil {
		fs := b.cl.PollFetches(ctx)
		fs.EachRecord(func(rec *kgo.Record) {
			if b.cancel(rec) {
				return
			}
			j, err := record.ParseJob("", rec.Value)
			if err != nil {
				b.Member.fail(err)
				return
			}
			if record.Partition(j.Target.Node, Partitions) != rec.Partition || string(rec.Key) != j.Target.Node {
				b.wrong.Add(1)
			}
			c := b.Member.Conn(j.Target.Node)
			if c == nil {
				b.away[j.ID] = rec.Partition
				b.waiting.Store(int64(len(b.away)))
				return
			}
			if every(b.Drop, b.jobs.Add(1)) {
				return
			}
			c.Send(&protocol.Job{
				JobID: []byte(j.ID), Shard: uint32(rec.Partition), Attempt: 1, Kind: []byte(j.Kind),
				TimeoutMs: uint32(j.Timeout.Milliseconds()), Priority: j.Priority, Args: j.Args,
			})
		})
	}
}

// onResult runs on the goroutines of the connections.
func (b *Bridge) onResult(c *Conn, r *protocol.Result) {
	n := b.results.Add(1)
	res := record.Result{
		Job: string(r.JobID), Node: strings.Clone(c.Node), Outcome: r.Outcome, Attempt: r.Attempt, Kind: "echo",
		DurationUs: r.DurationUs, Output: bytes.Clone(r.Output), TimeMs: time.Now().UnixMilli(), Member: "bridge",
	}
	if b.Outcome != protocol.OutcomeOK {
		res.Outcome, res.Output, res.Error = b.Outcome, nil, "so it was asked"
	}
	if every(b.Corrupt, n) {
		res.Output[len(res.Output)-1]++
	}
	b.record(&res, n)
	c.Ack(r)
}

// cancel gives a job that waits its outcome, when the record is a cancel record. It
// reports whether it is one.
func (b *Bridge) cancel(rec *kgo.Record) bool {
	var c struct {
		ID     string
		Cancel bool
	}
	if json.Unmarshal(rec.Value, &c) != nil || !c.Cancel {
		return false
	}
	p, ok := b.away[c.ID]
	if !ok || p != rec.Partition {
		b.Member.fail(fmt.Errorf("cancel record for job %q in partition %d: no such job waits there", c.ID, rec.Partition))
		return true
	}
	if every(b.Ignore, b.cancels.Add(1)) {
		return true
	}
	delete(b.away, c.ID)
	b.waiting.Store(int64(len(b.away)))
	b.record(&record.Result{Job: c.ID, Node: string(rec.Key), Outcome: protocol.OutcomeCancelled, Kind: "echo", TimeMs: time.Now().UnixMilli(), Member: "bridge"}, b.results.Add(1))
	return true
}

// record writes the n-th result. Any goroutine may call it.
func (b *Bridge) record(res *record.Result, n int64) {
	enc := record.Msgpack
	if b.JSON {
		enc = record.JSON
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	value, err := b.rw.Append(nil, enc, res)
	if err != nil {
		b.Member.fail(err)
		return
	}
	out := func() *kgo.Record {
		return &kgo.Record{
			Topic: b.Prefix + "results", Key: []byte(res.Job), Value: value,
			Headers: []kgo.RecordHeader{{Key: record.HeaderContentType, Value: []byte(enc.ContentType())}},
		}
	}
	if every(b.Abort, n) {
		err := b.aborter.BeginTransaction()
		if err == nil {
			err = b.aborter.ProduceSync(context.Background(), out()).FirstErr()
		}
		if err = errors.Join(err, b.aborter.EndTransaction(context.Background(), kgo.TryAbort)); err != nil {
			b.Member.fail(err)
		}
	}
	b.cl.Produce(context.Background(), out(), nil)
	if every(b.Double, n) {
		b.cl.Produce(context.Background(), out(), nil)
	}
}
