package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
)

const (
	compactorName = "roost-embedded-compactor" // client, group and transactional id
	// compactMinBytes is what a partition may hold before compaction is worth while, and
	// compactGrowth by what it has to grow until it comes again: what is left is copied.
	compactMinBytes = 2 << 20
	compactGrowth   = 3
	// quietWait is how long new transactions of a partition are held back, at most, for
	// those that are open to end; copyWait is for the copy.
	quietWait = 500 * time.Millisecond
	copyWait  = 20 * time.Second
	quietPoll = 2 * time.Millisecond
	copyBatch = 10_000 // records
)

// errBusy tells that a transaction stayed open.
var errBusy = errors.New("a transaction is open")

// compactor compacts partitions of an embedded broker by writing the newest record of each
// key once more, at the end, and dropping everything before. This takes nothing but appends
// and the removal of whole segments, so a kill at any time loses nothing: what is left then is
// the old, or the old and copies of some of it, or the copies.
//
// kfake's own compaction is not used: it removes the files before it writes new ones; it drops
// what an open transaction supersedes, and has lost it when that aborts; it keeps the marker of
// every transaction for as long as its producer has any record left; and the broker stands
// still meanwhile.
type compactor struct {
	c    *kfake.Cluster
	cfg  Config
	log  *zap.Logger
	min  int64
	tx   *Transactor
	left map[tpKey]int64 // bytes after the last compaction
}

type tpKey struct {
	topic     string
	partition int32
}

func newCompactor(c *kfake.Cluster, addr string, least int64, log *zap.Logger) *compactor {
	if least == 0 {
		least = compactMinBytes
	}
	cfg := DefaultConfig()
	cfg.Bootstrap, cfg.ClientID, cfg.Group = addr, compactorName, compactorName
	return &compactor{c: c, cfg: cfg, log: log, min: least, left: map[tpKey]int64{}}
}

// close ends the clients.
func (k *compactor) close() {
	if k.tx == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), embeddedCloseWait)
	defer cancel()
	if err := k.tx.Close(ctx); err != nil {
		k.log.Debug("embedded kafka: compactor", zap.Error(err))
	}
}

// due tells whether a partition has grown enough.
func (k *compactor) due(topic string, p *kfake.PartitionInfo) bool {
	return p.NumBytes >= max(k.min, compactGrowth*k.left[tpKey{topic, p.Partition}])
}

// compact compacts one partition. Writers of it wait meanwhile; they see errors that clients
// repeat by themselves.
func (k *compactor) compact(ctx context.Context, topic string, partition int32) error {
	ctx, cancel := context.WithTimeout(ctx, copyWait)
	defer cancel()
	if err := k.begin(ctx); err != nil {
		return err
	}
	live := &liveRecords{newest: map[string]int{}}
	r, err := newStateReader(k.cfg, topic, live, k.log)
	if err != nil {
		return err
	}
	defer r.close() // after the gate is open again
	started := time.Now()
	g := &writeGate{c: k.c, topic: topic, partition: partition}
	defer g.open()
	end, err := g.shut(ctx)
	if err != nil {
		return err
	}
	if err := r.read(ctx, []int32{partition}); err != nil {
		return err
	}
	if err := k.copy(ctx, live.messages(topic, partition)); err != nil {
		return err
	}
	before := k.c.PartitionInfo(topic, partition).NumBytes
	if err := k.c.DeleteRecords(topic, partition, end); err != nil {
		return fmt.Errorf("delete what was copied: %w", err)
	}
	after := k.c.PartitionInfo(topic, partition).NumBytes
	k.left[tpKey{topic, partition}] = after
	k.log.Debug("embedded kafka: partition compacted", zap.String("topic", topic), zap.Int32("partition", partition),
		zap.Int64("bytes_before", before), zap.Int64("bytes_after", after), zap.Duration("took", time.Since(started)))
	return nil
}

// begin makes the producer, and ends what a former life of it left open.
func (k *compactor) begin(ctx context.Context) error {
	if k.tx == nil {
		tx, err := NewTransactor(k.cfg, compactorName, k.log)
		if err != nil {
			return err
		}
		k.tx = tx
	}
	return k.tx.Init(ctx)
}

// copy writes the records again. A copy that stays without its end does no harm.
func (k *compactor) copy(ctx context.Context, messages []Message) error {
	for len(messages) > 0 {
		n := min(len(messages), copyBatch)
		err := k.tx.Commit(ctx, &Transaction{Messages: messages[:n]})
		var te *TxError
		if errors.As(err, &te) && te.Outcome == TxUnknown {
			err = errors.Join(err, k.tx.Reset(ctx))
		}
		if err != nil {
			return err
		}
		messages = messages[n:]
	}
	return nil
}

// writeGate keeps others from writing to a partition.
type writeGate struct {
	c         *kfake.Cluster
	topic     string
	partition int32
	faults    []*kfake.FaultHandle
}

// shut returns the end of the partition, when no transaction has records in it any more and
// nobody but us can write to it. Who has begun to write may finish; a transaction that has
// not written yet waits.
func (g *writeGate) shut(ctx context.Context) (end int64, err error) {
	// For all partitions of a request or none: librdkafka takes it for the end of the
	// transaction when only some are refused.
	g.refuse(kfake.Fault{Keys: []kmsg.Key{kmsg.AddPartitionsToTxn}, Err: kerr.ConcurrentTransactions, When: g.joins})
	for limit := time.Now().Add(quietWait); time.Now().Before(limit); {
		if end, ok := g.quiet(); ok {
			g.refuse(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: g.topic, Partitions: []int32{g.partition},
				Err: kerr.KafkaStorageError, When: foreignWrite})
			if now, ok := g.quiet(); ok && now == end {
				return end, nil
			}
			g.faults[1].Remove()
			g.faults = g.faults[:1]
		}
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(quietPoll):
		}
	}
	return 0, errBusy
}

// quiet returns the end of the partition when all of it is committed or aborted.
func (g *writeGate) quiet() (int64, bool) {
	p := g.c.PartitionInfo(g.topic, g.partition)
	if p == nil {
		return 0, false
	}
	return p.HighWatermark, p.HighWatermark == p.LastStableOffset
}

func (g *writeGate) refuse(f kfake.Fault) {
	f.Count = -1
	g.faults = append(g.faults, g.c.Fault(f))
}

func (g *writeGate) open() {
	for _, f := range g.faults {
		f.Remove()
	}
}

// joins tells whether a request would have another's transaction write to the partition.
func (g *writeGate) joins(req kmsg.Request) bool {
	r, ok := req.(*kmsg.AddPartitionsToTxnRequest)
	if !ok || r.TransactionalID == compactorName {
		return false
	}
	for i := range r.Topics {
		if t := &r.Topics[i]; t.Topic == g.topic && slices.Contains(t.Partitions, g.partition) {
			return true
		}
	}
	return false
}

func foreignWrite(req kmsg.Request) bool {
	r, ok := req.(*kmsg.ProduceRequest)
	return ok && (r.TransactionID == nil || *r.TransactionID != compactorName)
}

// liveRecords is a StateHandler that keeps the newest record of each key.
type liveRecords struct {
	records []Record
	newest  map[string]int // index of records
	last    []byte         // key of the newest record of all
}

// Records implements StateHandler.
func (l *liveRecords) Records(_ int32, rs []Record) {
	for i := range rs {
		key := string(rs[i].Key)
		l.last = rs[i].Key
		if old, ok := l.newest[key]; ok {
			l.records[old] = Record{Offset: -1}
		}
		if rs[i].Value == nil {
			delete(l.newest, key)
			continue
		}
		l.newest[key] = len(l.records)
		l.records = append(l.records, rs[i])
	}
}

// Progress implements StateHandler.
func (l *liveRecords) Progress(_, _ int64) {}

// Blocked implements StateHandler.
func (l *liveRecords) Blocked(int32, time.Time) {}

// Done implements StateHandler.
func (l *liveRecords) Done(int32) {}

// messages returns the records in the order of their offsets. There is at least one: kfake
// forgets the offsets of a partition that it has emptied.
func (l *liveRecords) messages(topic string, partition int32) []Message {
	out := make([]Message, 0, len(l.newest)+1)
	for i := range l.records {
		if r := &l.records[i]; r.Offset >= 0 {
			out = append(out, Message{Topic: topic, Partition: partition, Key: r.Key, Value: r.Value, Headers: r.Headers})
		}
	}
	if len(out) == 0 {
		key := l.last
		if key == nil {
			key = []byte(compactorName)
		}
		out = append(out, Message{Topic: topic, Partition: partition, Key: key})
	}
	return out
}
