package membertest

import (
	"bytes"
	"context"
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

	Member  *Member
	Brokers []string

	cl      *kgo.Client
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
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() { b.consume(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait(); b.Member.Close(); b.cl.Close() })
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

func every(n int, count int64) bool { return n > 0 && count%int64(n) == 0 }

func (b *Bridge) consume(ctx context.Context) {
	for ctx.Err() == nil {
		fs := b.cl.PollFetches(ctx)
		fs.EachRecord(func(rec *kgo.Record) {
			j, err := record.ParseJob("", rec.Value)
			if err != nil {
				b.Member.fail(err)
				return
			}
			if record.Partition(j.Target.Node, Partitions) != rec.Partition || string(rec.Key) != j.Target.Node {
				b.wrong.Add(1)
			}
			c := b.Member.Conn(j.Target.Node)
			if every(b.Drop, b.jobs.Add(1)) || c == nil {
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
	enc := record.Msgpack
	if b.JSON {
		enc = record.JSON
	}
	b.mu.Lock()
	value, err := b.rw.Append(nil, enc, &res)
	b.mu.Unlock()
	if err != nil {
		b.Member.fail(err)
		return
	}
	times := 1
	if every(b.Double, n) {
		times = 2
	}
	for range times {
		b.cl.Produce(context.Background(), &kgo.Record{
			Topic: b.Prefix + "results", Key: []byte(res.Job), Value: value,
			Headers: []kgo.RecordHeader{{Key: record.HeaderContentType, Value: []byte(enc.ContentType())}},
		}, nil)
	}
	c.Ack(r)
}
