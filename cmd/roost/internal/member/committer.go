package member

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/roost-server/roost/actors/shard"
	"github.com/roost-server/roost/transport/kafka"
)

const (
	// cutTimeout bounds the wait for the shards' batches: one that has just failed does
	// not answer.
	cutTimeout = time.Second
	// commitTimeout bounds one transaction. Kafka may be away: then it is tried again.
	commitTimeout = 30 * time.Second
	// finishTimeout bounds how long a rebalance waits for the last transaction. It is
	// well below the group's session timeout.
	finishTimeout = 3 * time.Second
	// retryMin and retryMax bound the pause before an aborted transaction is tried again.
	retryMin = 20 * time.Millisecond
	retryMax = time.Second
	// maxFenced is how often another client with our transactional id may fence us
	// within fencedWindow: once is a member that took over our partitions while we were
	// away, more is a second member with our name.
	maxFenced    = 3
	fencedWindow = time.Minute
)

// transactor is what the committer needs of kafka.Transactor.
type transactor interface {
	Commit(ctx context.Context, tx *kafka.Transaction) error
	Reset(ctx context.Context) error
}

// committer writes what shards want committed, one transaction for all of them at a
// time. It is the shards' ledger.
type committer struct {
	tx       transactor
	group    func() *kafka.GroupMetadata
	topics   kafka.TopicPlan
	shards   shardSender
	source   ownership
	interval time.Duration
	outcomes int
	log      *zap.Logger
	trace    *tracer
	giveUp   func(error)

	mu    sync.Mutex
	dirty map[uint32]struct{}
	since time.Time // when the first of them became so
	fresh int       // outcomes since the last cut
	wake  chan struct{}

	busy     chan struct{} // has a token while a transaction is under way
	requests chan *finishing
	hurry    atomic.Pointer[context.CancelFunc] // ends the transaction under way

	// Of the goroutine that runs run:
	held   []*shard.Batch // of a transaction that was aborted: tried again
	stray  []chan *shard.Batch
	fenced []time.Time

	stats commitStats
}

// commitStats counts for the status and the metrics.
type commitStats struct {
	committed, aborted, unknown, outcomes, records atomic.Uint64
	lastError                                      atomic.Pointer[string]
}

// ownership says which life of a shard is the present one.
type ownership interface {
	// Epoch returns the number of the shard's life, 0 when the partition is not ours.
	Epoch(partition uint32) uint64
	// RebuildAll has all shards start again from what is committed.
	RebuildAll()
}

// shardSender is the way to the shards.
type shardSender interface {
	ToShard(partition uint32, m any) bool
	Shards() []uint32
}

// finishing asks for a last transaction with everything of these partitions (of all
// for nil).
type finishing struct {
	partitions []int32
	done       chan struct{}
}

// Dirty implements shard.Ledger.
func (c *committer) Dirty(partition uint32, outcomes int) {
	c.mu.Lock()
	first := len(c.dirty) == 0
	if first {
		c.since = time.Now()
	}
	c.dirty[partition] = struct{}{}
	before := c.fresh
	c.fresh += outcomes
	full := before < c.outcomes && c.fresh >= c.outcomes
	c.mu.Unlock()
	if first || full {
		c.poke()
	}
}

func (c *committer) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// due returns how long to wait until the next transaction; false when there is
// nothing to commit.
func (c *committer) due(now time.Time) (time.Duration, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case len(c.dirty) == 0:
		return 0, false
	case c.fresh >= c.outcomes:
		return 0, true
	}
	return max(0, c.since.Add(c.interval).Sub(now)), true
}

// run is the committer's loop. After ctx ends it still serves what asks for a last
// transaction, until idle is closed. It starts with a client whose former transaction
// is not resolved when it failed before.
func (c *committer) run(ctx context.Context, idle <-chan struct{}) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait := time.Hour
		if len(c.held) > 0 {
			wait = 0
		} else if d, ok := c.due(time.Now()); ok {
			wait = d
		}
		if ctx.Err() != nil {
			wait = time.Hour // only what is asked for
		}
		timer.Reset(wait)
		select {
		case <-idle:
			return nil
		case r := <-c.requests:
			c.finishNow(r)
		case <-c.wake:
		case <-timer.C:
			if ctx.Err() == nil {
				c.round(ctx)
			}
		}
	}
}

// round commits what there is, and tries again what was aborted.
func (c *committer) round(ctx context.Context) {
	pause := retryMin
	for ctx.Err() == nil {
		c.cut(nil)
		err := c.commit(ctx, commitTimeout)
		if err == nil {
			return
		}
		c.failed(ctx, err)
		select {
		case r := <-c.requests:
			c.finishNow(r)
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, retryMax)
		if len(c.held) == 0 {
			return
		}
	}
}

// cut collects the batches of the dirty shards, and of those given.
func (c *committer) cut(also []int32) {
	c.mu.Lock()
	ask := c.dirty
	c.dirty, c.fresh = make(map[uint32]struct{}, len(ask)), 0
	c.mu.Unlock()
	for _, p := range also {
		ask[uint32(p)] = struct{}{}
	}
	reply := make(chan *shard.Batch, len(ask))
	asked := 0
	for p := range ask {
		if c.shards.ToShard(p, &shard.Cut{Reply: reply}) {
			asked++
		}
	}
	timeout := time.NewTimer(cutTimeout)
	defer timeout.Stop()
	for ; asked > 0; asked-- {
		select {
		case b := <-reply:
			c.hold(b)
		case <-timeout.C:
			c.stray = append(c.stray, reply)
			c.log.Warn("shards did not answer in time", zap.Int("shards", asked))
			asked = 1
		}
	}
	c.late()
}

// late takes the batches of shards that answered after a cut had given them up.
func (c *committer) late() {
	for _, reply := range c.stray {
		for len(reply) > 0 {
			c.hold(<-reply)
		}
	}
	if len(c.stray) > 16 {
		c.stray = c.stray[1:] // its shards have failed
	}
}

func (c *committer) hold(b *shard.Batch) {
	if b != nil {
		c.held = append(c.held, b)
	}
}

// commit writes the batches that are held, as far as their shards are still ours. The
// group's metadata is taken before that is checked: so either the check sees that a
// partition was lost, or the broker refuses the metadata.
func (c *committer) commit(ctx context.Context, limit time.Duration) error {
	c.busy <- struct{}{}
	defer func() { <-c.busy }()
	group := c.group()
	kept := c.held[:0]
	for _, b := range c.held {
		if e := c.source.Epoch(b.Shard); e == b.Epoch {
			kept = append(kept, b)
		}
	}
	clear(c.held[len(kept):])
	c.held = kept
	if len(kept) == 0 {
		return nil
	}
	if group == nil {
		return &kafka.TxError{Outcome: kafka.TxAborted, StaleGroup: true, Err: errors.New("this member is not in the group at the moment")}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c.hurry.Store(&cancel)
	defer c.hurry.Store(nil)
	tx, outcomes := c.transaction(group)
	if err := c.tx.Commit(ctx, tx); err != nil {
		return err
	}
	c.stats.committed.Add(1)
	c.stats.outcomes.Add(uint64(outcomes))
	c.stats.records.Add(uint64(len(tx.Messages)))
	for i, b := range c.held {
		c.trace.committed(b)
		c.shards.ToShard(b.Shard, &shard.Committed{Batch: b})
		c.held[i] = nil
	}
	c.held = c.held[:0]
	return nil
}

// settled returns when a transaction that is under way has ended: from then on nothing
// is committed for lives of shards that were over at the call.
func (c *committer) settled(ctx context.Context) error {
	select {
	case c.busy <- struct{}{}:
		<-c.busy
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// failed deals with a transaction that did not go through.
func (c *committer) failed(ctx context.Context, err error) {
	text := err.Error()
	c.stats.lastError.Store(&text)
	var tx *kafka.TxError
	if !errors.As(err, &tx) {
		tx = &kafka.TxError{Outcome: kafka.TxUnknown, Err: err}
	}
	switch tx.Outcome {
	case kafka.TxAborted:
		c.stats.aborted.Add(1)
		c.log.Warn("a transaction was aborted and is tried again", zap.Error(err))
		c.shrink(tx)
	case kafka.TxFatal:
		c.giveUp(fmt.Errorf("outcomes cannot be recorded: %w", err))
	default:
		c.stats.unknown.Add(1)
		c.log.Warn("a transaction's end is not known: the shards start again from what is committed", zap.Error(err))
		if tx.Fenced {
			c.countFenced()
		}
		c.startAgain(ctx)
	}
}

// countFenced gives up when it happens too often.
func (c *committer) countFenced() {
	now := time.Now()
	c.fenced = append(slices.DeleteFunc(c.fenced, func(t time.Time) bool { return now.Sub(t) >= fencedWindow }), now)
	if len(c.fenced) > maxFenced {
		c.giveUp(fmt.Errorf("another client took over our transactional id %d times within %v: does another member have this one's name? "+
			"Every member needs its own (--name)", len(c.fenced), fencedWindow))
	}
}

// shrink drops the outputs of results that Kafka refuses for good, such as those over
// the topic's own size limit.
func (c *committer) shrink(tx *kafka.TxError) {
	if len(tx.Rejected) == 0 {
		return
	}
	writes := make([]*shard.Write, 0, 64)
	for _, b := range c.held {
		for i := range b.Writes {
			writes = append(writes, &b.Writes[i])
		}
	}
	for _, r := range tx.Rejected {
		if r.Index >= len(writes) || !writes[r.Index].DropOutput(r.Err) {
			c.giveUp(fmt.Errorf("Kafka refuses a record of %d bytes: %w", len(writes[r.Index].Value), r.Err))
			return
		}
	}
}

// startAgain makes a fresh client, which resolves the former transaction, and has the
// shards rebuilt.
func (c *committer) startAgain(ctx context.Context) {
	clear(c.held)
	c.held = c.held[:0]
	for pause := retryMin; ctx.Err() == nil; pause = min(2*pause, retryMax) {
		if err := c.tx.Reset(ctx); err == nil {
			break
		} else {
			c.log.Warn("Kafka's transaction coordinator does not answer; trying again", zap.Error(err))
		}
		select {
		case r := <-c.requests:
			close(r.done) // there is nothing open, and nothing that could be committed
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	c.source.RebuildAll()
}

// transaction puts the batches that are held into one.
func (c *committer) transaction(group *kafka.GroupMetadata) (*kafka.Transaction, int) {
	n, outcomes := 0, 0
	for _, b := range c.held {
		n += len(b.Writes)
		outcomes += b.Outcomes
	}
	tx := &kafka.Transaction{Topic: c.topics.Jobs, Offsets: make(map[int32]int64, len(c.held)), Group: group,
		Messages: make([]kafka.Message, 0, n)}
	for _, b := range c.held {
		if b.Next >= 0 {
			tx.Offsets[int32(b.Shard)] = b.Next
		}
		for i := range b.Writes {
			tx.Messages = append(tx.Messages, c.message(b.Shard, &b.Writes[i]))
		}
	}
	return tx, outcomes
}

// finish commits what the shards of these partitions (all for nil) have, and returns
// when that is done or has failed: then nothing of it is open.
func (c *committer) finish(ctx context.Context, partitions []int32) {
	r := &finishing{partitions: partitions, done: make(chan struct{})}
	late := time.AfterFunc(finishTimeout, func() {
		if cancel := c.hurry.Load(); cancel != nil {
			(*cancel)()
		}
	})
	defer late.Stop()
	select {
	case c.requests <- r:
	case <-ctx.Done():
		return
	}
	select {
	case <-r.done:
	case <-ctx.Done():
	}
}

func (c *committer) finishNow(r *finishing) {
	defer close(r.done)
	ctx, cancel := context.WithTimeout(context.Background(), finishTimeout)
	defer cancel()
	all := r.partitions
	if all == nil {
		for _, p := range c.shards.Shards() {
			all = append(all, int32(p))
		}
	}
	for pause := retryMin; ctx.Err() == nil; pause *= 2 {
		c.cut(all)
		err := c.commit(ctx, finishTimeout)
		if err == nil {
			return
		}
		c.failed(ctx, err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}
