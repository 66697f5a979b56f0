package member

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/roost-server/roost/actors/shard"
	"github.com/roost-server/roost/transport/kafka"
)

const (
	// blockedAfter is how long a transaction that somebody left open may stand in the
	// way of a shard's rebuilding before its producer is fenced. A member that lives
	// finishes its transactions well within that.
	blockedAfter = 2 * time.Second
	// deadAfter is the same for the transaction of a member that is known to be gone.
	deadAfter = 200 * time.Millisecond
	// fenceTimeout bounds one attempt to fence.
	fenceTimeout = 5 * time.Second
	// gatherFor is how long partitions are collected so that one reader serves them all:
	// those of one assignment come one by one.
	gatherFor = 10 * time.Millisecond
	// restoreWindow is how many records may wait in a shard's mailbox while it rebuilds.
	restoreWindow = 16_384
)

// restorer rebuilds shards: it learns from where a partition of the jobs topic has to
// be read, has its shard take in what the state topic holds, and then has it fed.
type restorer struct {
	cfg    kafka.Config
	topic  string // of the state
	own    string // our transactional id
	source *source
	// settled waits for the end of the transaction under way: it may have something of a
	// shard's life before.
	settled func(ctx context.Context) error
	// dead reports whether the member with a transactional id is known to be gone, and bereft
	// whether any has gone of late: then there is no point in waiting for its transaction.
	dead   func(owner string) bool
	bereft func() bool
	log    *zap.Logger

	mu     sync.Mutex
	wanted map[int32]uint64 // epoch of the shard's life, by partition
	wake   chan struct{}
}

// want asks for a partition; a newer life of its shard replaces an older one's wish.
func (r *restorer) want(partition int32, epoch uint64) {
	r.mu.Lock()
	r.wanted[partition] = epoch
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// rebuilt says what a shard has found in its state.
func (r *restorer) rebuilt(partition uint32, restored, missing int) {
	fields := []zap.Field{zap.Uint32("partition", partition), zap.Int("jobs", restored)}
	if missing > 0 {
		r.log.Error("the state topic has been cut off: jobs are missing from it and lost; see docs/GUARANTEES.md",
			append(fields, zap.Int("missing", missing))...)
		return
	}
	r.log.Debug("shard rebuilt", fields...)
}

// run serves wishes until ctx ends.
func (r *restorer) run(ctx context.Context) error {
	var readers sync.WaitGroup
	defer readers.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(gatherFor):
		}
		r.mu.Lock()
		wanted := r.wanted
		r.wanted = map[int32]uint64{}
		r.mu.Unlock()
		if len(wanted) > 0 {
			readers.Go(func() { r.restoreAll(ctx, wanted) })
		}
	}
}

// restoreAll tries until every partition is restored or not wanted any more.
func (r *restorer) restoreAll(ctx context.Context, wanted map[int32]uint64) {
	started := time.Now()
	for pause := retryMin; ; pause = min(2*pause, retryMax) {
		err := r.restore(ctx, wanted, started)
		for p, epoch := range wanted {
			if r.source.Epoch(uint32(p)) != epoch {
				delete(wanted, p) // done by now, lost, or begun anew
			}
		}
		if ctx.Err() != nil || len(wanted) == 0 {
			return
		}
		if err != nil {
			r.log.Warn("shards cannot be rebuilt yet; trying again", zap.Error(err), zap.Int("partitions", len(wanted)),
				zap.Duration("since", time.Since(started)))
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		var half *halfRead
		if errors.As(err, &half) {
			// What was read may be gone by the next reading, and its deletion with it: so the
			// shards begin anew, and ask again.
			for p := range wanted {
				if r.source.tree.Router().ToShard(uint32(p), &shard.Again{}) {
					delete(wanted, p)
				}
			}
			if len(wanted) == 0 {
				return
			}
		}
	}
}

// halfRead is the error of a reading after which shards have a part of their state.
type halfRead struct{ error }

// Unwrap returns the cause.
func (h *halfRead) Unwrap() error { return h.error }

// restore makes one attempt for the partitions. Those that succeed are taken out of
// wanted. The offsets are learnt first: what was committed with them is in the state
// topic then, below its end as the reader finds it.
func (r *restorer) restore(ctx context.Context, wanted map[int32]uint64, started time.Time) error {
	partitions := make([]int32, 0, len(wanted))
	for p := range wanted {
		partitions = append(partitions, p)
	}
	if err := r.settled(ctx); err != nil {
		return err
	}
	cfg := r.cfg
	if cfg.BlockedAfter = blockedAfter; r.bereft() {
		cfg.BlockedAfter = deadAfter
	}
	bounded, cancel := context.WithTimeout(ctx, cfg.BlockedAfter)
	offsets, err := r.source.consumer.StableOffsets(bounded, partitions)
	cancel()
	if err != nil {
		if ctx.Err() == nil && errors.Is(err, kafka.ErrUnstable) {
			r.fenceOwners(ctx, cfg, partitions, started)
		}
		return err
	}
	// A reader that ends early, because one partition is not wanted any more, would leave
	// the others without their state; so it goes on and what is stale is ignored.
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	h := &stateFeed{r: r, epochs: wanted, offsets: offsets, owners: map[int32]string{}, sent: map[int32]int{}, ctx: ctx, stop: stop}
	err = kafka.ReadState(ctx, cfg, r.topic, partitions, h, r.log)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err != nil && h.handed {
		return &halfRead{err}
	}
	return err
}

// fenceOwners ends the transactions that the members which had these partitions before
// left open, as far as the state topic shows that they did.
func (r *restorer) fenceOwners(ctx context.Context, cfg kafka.Config, partitions []int32, since time.Time) {
	peek, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer time.AfterFunc(blockedAfter+fenceTimeout, func() { stop(nil) }).Stop()
	h := &stateFeed{r: r, owners: map[int32]string{}, ctx: peek, peek: true, stop: stop}
	err := kafka.ReadState(peek, cfg, r.topic, partitions, h, r.log)
	if err != nil && peek.Err() == nil {
		r.log.Warn("the state topic cannot be read", zap.Error(err))
	}
	r.fence(ctx, h.blockedBy, since)
}

// fence ends a transaction that is in the way since then. That of a member that lives is
// given its time.
func (r *restorer) fence(ctx context.Context, owner string, since time.Time) {
	if owner == "" || owner == r.own || time.Since(since) < blockedAfter && !r.dead(owner) {
		return // ours is no open one: it ends by itself
	}
	r.log.Warn("a transaction that another member left open is in the way of a shard's rebuilding: it is aborted",
		zap.String("transactional_id", owner))
	ctx, cancel := context.WithTimeout(ctx, fenceTimeout)
	defer cancel()
	if err := kafka.Fence(ctx, r.cfg, owner, r.log); err != nil {
		r.log.Warn("the transaction cannot be aborted yet; it ends by its own timeout", zap.String("transactional_id", owner), zap.Error(err))
	}
}

// stateFeed hands what the reader finds to the shards. Its methods are called on the
// reader's goroutine.
type stateFeed struct {
	r       *restorer
	ctx     context.Context
	epochs  map[int32]uint64 // what is done is taken out
	offsets map[int32]int64
	owners  map[int32]string // transactional ids of who committed last
	sent    map[int32]int    // records in the shard's mailbox
	stop    context.CancelCauseFunc
	handed  bool // something to a shard

	peek      bool   // only to see who blocks
	blockedBy string // that
}

// Records implements kafka.StateHandler.
func (f *stateFeed) Records(partition int32, records []kafka.Record) {
	out := make([]shard.StateRecord, len(records))
	for i := range records {
		out[i] = shard.StateRecord{Key: records[i].Key, Value: records[i].Value}
		if owner, ok := shard.Owner(&out[i]); ok {
			f.owners[partition] = owner
		}
	}
	if f.peek {
		return
	}
	router := f.r.source.tree.Router()
	if !router.ToShard(uint32(partition), &shard.Restore{Epoch: f.epochs[partition], Records: out}) {
		f.stop(fmt.Errorf("the shard of partition %d is not there", partition)) // not yet, or not any more
		return
	}
	f.handed = true
	if f.sent[partition] += len(records); f.sent[partition] < restoreWindow {
		return
	}
	f.sent[partition] = 0
	if err := f.caughtUp(uint32(partition)); err != nil {
		f.stop(err)
	}
}

// caughtUp waits until the shard has taken what it was sent: an answer comes after
// what was in the mailbox before.
func (f *stateFeed) caughtUp(partition uint32) error {
	reply := make(chan shard.Status, 1)
	if !f.r.source.tree.Router().ToShard(partition, &shard.QueryStatus{Reply: reply}) {
		return nil // lost meanwhile
	}
	select {
	case <-reply:
		return nil
	case <-f.ctx.Done():
		return f.ctx.Err()
	case <-time.After(fenceTimeout):
		return fmt.Errorf("the shard of partition %d does not take its state", partition)
	}
}

// Done implements kafka.StateHandler.
func (f *stateFeed) Done(partition int32) {
	if f.peek {
		return
	}
	if f.r.source.start(partition, f.epochs[partition], f.offsets[partition]) {
		delete(f.epochs, partition)
	}
}

// Progress implements kafka.StateHandler.
func (f *stateFeed) Progress(read, about int64) {
	if f.peek || about < restoreWindow {
		return
	}
	f.r.log.Info("rebuilding shards from the state topic", zap.Int64("records", read), zap.Int64("of_about", about))
}

// Blocked implements kafka.StateHandler.
func (f *stateFeed) Blocked(partition int32, since time.Time) {
	if f.peek {
		f.blockedBy = f.owners[partition]
		f.stop(nil)
		return
	}
	f.r.fence(f.ctx, f.owners[partition], since)
}
