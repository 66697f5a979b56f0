package member

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/shard"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
	"github.com/roost-server/roost/transport/kafka"
)

// bench is a committer between shards and a Kafka that do as they are told. The real
// ones are in the end-to-end tests; here are the orders of events that are hard to
// bring about there.
type bench struct {
	*committer
	mu      sync.Mutex
	ready   map[uint32]*shard.Batch // what a cut gets
	epochs  map[uint32]uint64
	answers []error // of Commit, in order; nil when there are none left
	commits [][]string
	given   []uint32 // shards that got their batch back
	resets  int
	rebuilt int
	failed  error
	stale   bool // not in the group
	onTx    func()
}

func newBench(outcomes int) *bench {
	b := &bench{ready: map[uint32]*shard.Batch{}, epochs: map[uint32]uint64{}}
	b.committer = &committer{tx: b, shards: b, source: b, interval: 50 * time.Millisecond, outcomes: outcomes, log: zap.NewNop(),
		topics: kafka.Topics{}.Plan(), giveUp: func(err error) { b.mu.Lock(); b.failed = err; b.mu.Unlock() }, dirty: map[uint32]struct{}{},
		wake: make(chan struct{}, 1), busy: make(chan struct{}, 1), requests: make(chan *finishing)}
	b.group = func() *kafka.GroupMetadata {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.stale {
			return nil
		}
		return &kafka.GroupMetadata{}
	}
	return b
}

// has gives a shard something to commit.
func (b *bench) has(p uint32, outcomes ...string) {
	b.mu.Lock()
	if b.epochs[p] == 0 {
		b.epochs[p] = 1
	}
	batch := &shard.Batch{Shard: p, Epoch: b.epochs[p], Next: int64(len(outcomes)), Outcomes: len(outcomes)}
	for _, o := range outcomes {
		batch.Writes = append(batch.Writes, shard.Write{Stream: shard.Results, Key: []byte(o), Value: []byte(o)})
	}
	b.ready[p] = batch
	b.mu.Unlock()
	b.Dirty(p, len(outcomes))
}

// ToShard implements shardSender.
func (b *bench) ToShard(p uint32, m any) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch m := m.(type) {
	case *shard.Cut:
		batch := b.ready[p]
		delete(b.ready, p)
		m.Reply <- batch
	case *shard.Committed:
		b.given = append(b.given, m.Batch.Shard)
	}
	return true
}

// Shards implements shardSender.
func (b *bench) Shards() []uint32 { return []uint32{0, 1, 2} }

// Epoch implements ownership.
func (b *bench) Epoch(p uint32) uint64 { b.mu.Lock(); defer b.mu.Unlock(); return b.epochs[p] }

// RebuildAll implements ownership.
func (b *bench) RebuildAll() { b.mu.Lock(); defer b.mu.Unlock(); b.rebuilt++ }

// Commit implements transactor.
func (b *bench) Commit(ctx context.Context, tx *kafka.Transaction) error {
	if b.onTx != nil {
		b.onTx()
	}
	var texts []string
	for _, m := range tx.Messages {
		texts = append(texts, m.Topic+" "+string(m.Value))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.commits = append(b.commits, append(texts, fmt.Sprint(tx.Offsets)))
	if len(b.answers) == 0 {
		return ctx.Err()
	}
	err := b.answers[0]
	b.answers = b.answers[1:]
	return err
}

// Reset implements transactor.
func (b *bench) Reset(context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.resets++
	return nil
}

// seen is what came of it so far.
type seen struct {
	commits         [][]string
	given           []uint32
	resets, rebuilt int
	failed          error
}

// see waits until nothing happens any more without time passing.
func (b *bench) see() seen {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	return seen{slices.Clone(b.commits), slices.Clone(b.given), b.resets, b.rebuilt, b.failed}
}

// first reports whether there was no transaction yet.
func (b *bench) first() bool { b.mu.Lock(); defer b.mu.Unlock(); return len(b.commits) == 0 }

func (b *bench) setStale(stale bool) { b.mu.Lock(); defer b.mu.Unlock(); b.stale = stale }

// while runs the committer and fn in a bubble of time.
func (b *bench) while(t *testing.T, fn func()) {
	synctest.Test(t, func(t *testing.T) {
		b.wake, b.busy, b.requests = make(chan struct{}, 1), make(chan struct{}, 1), make(chan *finishing)
		ctx, cancel := context.WithCancel(t.Context())
		idle, done := make(chan struct{}), make(chan error)
		go func() { done <- b.run(ctx, idle) }()
		fn()
		synctest.Wait()
		cancel()
		close(idle)
		require.NoError(t, <-done)
	})
}

func TestWhatComesWithinTheIntervalIsOneTransaction(t *testing.T) {
	b := newBench(100)
	b.while(t, func() {
		b.has(1, "a")
		time.Sleep(30 * time.Millisecond)
		b.has(2, "b", "c")
		time.Sleep(19 * time.Millisecond)
		require.Empty(t, b.see().commits)
		time.Sleep(time.Millisecond)
		require.Len(t, b.see().commits, 1)
		require.ElementsMatch(t, []string{"roost.results a", "roost.results b", "roost.results c", "map[1:1 2:2]"}, b.see().commits[0])
		require.ElementsMatch(t, []uint32{1, 2}, b.see().given)
		time.Sleep(time.Second)
		require.Len(t, b.see().commits, 1, "an idle committer commits nothing")
	})
}

func TestManyOutcomesDoNotWait(t *testing.T) {
	b := newBench(3)
	b.while(t, func() {
		b.has(1, "a")
		require.Empty(t, b.see().commits)
		b.has(2, "b", "c")
		require.Len(t, b.see().commits, 1)
	})
}

func TestAnAbortedTransactionIsTriedAgainWithWhatIsNew(t *testing.T) {
	b := newBench(1)
	b.answers = []error{&kafka.TxError{Outcome: kafka.TxAborted, Err: errors.New("rebalance")}}
	b.onTx = func() {
		if b.first() {
			b.has(2, "b")
		}
	}
	b.while(t, func() {
		b.has(1, "a")
		time.Sleep(time.Second)
		require.Len(t, b.see().commits, 2)
		require.ElementsMatch(t, []string{"roost.results a", "map[1:1]"}, b.see().commits[0])
		require.ElementsMatch(t, []string{"roost.results a", "roost.results b", "map[1:1 2:1]"}, b.see().commits[1])
		require.ElementsMatch(t, []uint32{1, 2}, b.see().given)
		require.Zero(t, b.see().rebuilt)
	})
}

func TestWhatIsOfALostPartitionIsNotCommitted(t *testing.T) {
	b := newBench(1)
	b.answers = []error{&kafka.TxError{Outcome: kafka.TxAborted, StaleGroup: true, Err: errors.New("generation")}}
	b.while(t, func() {
		b.onTx = func() {
			b.mu.Lock()
			b.epochs[1]++ // lost, and ours again
			b.mu.Unlock()
		}
		b.has(1, "a")
		time.Sleep(time.Second)
		require.Len(t, b.see().commits, 1)
		require.Empty(t, b.see().given)
	})
}

func TestNothingIsCommittedOutsideTheGroup(t *testing.T) {
	b := newBench(1)
	b.stale = true
	b.while(t, func() {
		b.has(1, "a")
		time.Sleep(10 * time.Second)
		require.Empty(t, b.see().commits)
		b.setStale(false)
		time.Sleep(retryMax)
		require.Len(t, b.see().commits, 1)
	})
}

func TestAnUnknownEndRebuildsTheShards(t *testing.T) {
	b := newBench(1)
	b.answers = []error{&kafka.TxError{Outcome: kafka.TxUnknown, Err: errors.New("fenced")}}
	b.while(t, func() {
		b.has(1, "a")
		time.Sleep(time.Second)
		require.Len(t, b.see().commits, 1, "it may be committed already")
		require.Equal(t, 1, b.see().resets)
		require.Equal(t, 1, b.see().rebuilt)
		require.Empty(t, b.see().given)
		require.NoError(t, b.see().failed)
	})
}

func TestAMemberWithOurNameIsNoticed(t *testing.T) {
	b := newBench(1)
	for range maxFenced + 1 {
		b.answers = append(b.answers, &kafka.TxError{Outcome: kafka.TxUnknown, Fenced: true, Err: errors.New("fenced")})
	}
	b.while(t, func() {
		for range maxFenced + 1 {
			require.NoError(t, b.see().failed)
			b.has(1, "a")
			time.Sleep(time.Second)
			synctest.Wait()
		}
		require.ErrorContains(t, b.see().failed, "--name")
	})
}

func TestAResultThatKafkaRefusesLosesItsOutput(t *testing.T) {
	b := newBench(1)
	b.answers = []error{&kafka.TxError{Outcome: kafka.TxAborted, Err: errors.New("too large"),
		Rejected: []kafka.RejectedMessage{{Index: 1, Err: errors.New("4 bytes are too many")}}}}
	var w record.ResultWriter
	value, err := w.Append(nil, record.Msgpack, &record.Result{Job: "j", Node: "n", Outcome: protocol.OutcomeOK, Output: []byte{0xa3, 'a', 'b', 'c'}})
	require.NoError(t, err)
	b.while(t, func() {
		b.epochs[1] = 1
		b.ready[1] = &shard.Batch{Shard: 1, Epoch: 1, Next: 7, Outcomes: 1, Writes: []shard.Write{
			{Stream: shard.State, Key: []byte("k"), Value: []byte("v")}, {Stream: shard.Results, Key: []byte("j"), Value: value}}}
		b.Dirty(1, 1)
		time.Sleep(time.Second)
		require.Len(t, b.see().commits, 2)
		r, err := record.ParseResult("", []byte(b.see().commits[1][1][len("roost.results "):]))
		require.NoError(t, err)
		require.Empty(t, r.Output)
		require.Equal(t, protocol.OutcomeOK, r.Outcome)
		require.Contains(t, r.Error, "4 bytes are too many")
	})
}

func TestARecordThatCannotBeMadeSmallerEndsTheMember(t *testing.T) {
	b := newBench(1)
	b.answers = []error{&kafka.TxError{Outcome: kafka.TxAborted, Err: errors.New("refused"),
		Rejected: []kafka.RejectedMessage{{Index: 0, Err: errors.New("no")}}}}
	b.while(t, func() {
		b.epochs[1] = 1
		b.ready[1] = &shard.Batch{Shard: 1, Epoch: 1, Writes: []shard.Write{{Stream: shard.State, Key: []byte("k"), Value: []byte("v")}}}
		b.Dirty(1, 0)
		time.Sleep(time.Second)
		require.Error(t, b.see().failed)
	})
}

func TestFinishCommitsAtOnceAndCutsShortWhatHangs(t *testing.T) {
	b := newBench(100)
	b.while(t, func() {
		b.has(1, "a")
		b.finish(context.Background(), []int32{1})
		require.Len(t, b.see().commits, 1)
		require.Equal(t, []uint32{1}, b.see().given)
	})
	b = newBench(1)
	b.while(t, func() {
		hang := make(chan struct{})
		b.onTx = func() {
			if b.first() {
				<-hang
			}
		}
		b.answers = []error{&kafka.TxError{Outcome: kafka.TxAborted, Err: context.Canceled}}
		b.has(1, "a")
		synctest.Wait()
		start := time.Now()
		time.AfterFunc(finishTimeout, func() { close(hang) }) // as a transactor whose context ends
		b.finish(context.Background(), []int32{1})
		require.Equal(t, finishTimeout, time.Since(start).Truncate(time.Second))
		require.Len(t, b.see().commits, 2)
	})
}

func TestWhatAStoppedCommitterIsAskedForIsDone(t *testing.T) {
	b := newBench(1)
	synctest.Test(t, func(t *testing.T) {
		b.wake, b.busy, b.requests = make(chan struct{}, 1), make(chan struct{}, 1), make(chan *finishing)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		idle, done := make(chan struct{}), make(chan error)
		go func() { done <- b.run(ctx, idle) }()
		b.has(1, "a")
		require.Empty(t, b.see().commits)
		b.finish(context.Background(), nil)
		require.Len(t, b.see().commits, 1)
		close(idle)
		require.NoError(t, <-done)
	})
}

func TestDeadRecordsSayWhy(t *testing.T) {
	c := &committer{topics: kafka.Topics{}.Plan()}
	m := c.message(3, &shard.Write{Stream: shard.Dead, Reason: "kind: missing", Record: &actors.Record{Offset: 41, Key: []byte("k"),
		Value: []byte("v"), ContentType: "application/json", Headers: []actors.Header{{Key: "trace", Value: []byte("7")}}}})
	require.Equal(t, "roost.dead", m.Topic)
	require.Equal(t, "k v", string(m.Key)+" "+string(m.Value))
	got := map[string]string{}
	for _, h := range m.Headers {
		got[h.Key] = string(h.Value)
	}
	require.Equal(t, map[string]string{record.HeaderReason: "kind: missing", record.HeaderTopic: "roost.jobs", record.HeaderPartition: "3",
		record.HeaderOffset: "41", record.HeaderContentType: "application/json", "trace": "7"}, got)
	m = c.message(3, &shard.Write{Stream: shard.State, Key: []byte("k")})
	require.Equal(t, "roost.state", m.Topic)
	require.Equal(t, int32(3), m.Partition)
	require.Nil(t, m.Value, "a deletion")
}
