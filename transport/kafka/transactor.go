package kafka

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.uber.org/zap"
)

// GroupMetadata is a member's place in its consumer group: group, generation and
// member id. The broker refuses offsets that are committed with one the group has
// moved on from.
type GroupMetadata struct{ meta *ck.ConsumerGroupMetadata }

// Transaction is what becomes visible to readers all at once, or never. Commit only reads
// it, and copies what it needs.
type Transaction struct {
	// Messages are produced in this order; Message.Opaque is not used.
	Messages []Message
	// Offsets of Topic, by partition: the next record to be read of each.
	Offsets map[int32]int64
	Topic   string
	// Group is whose offsets these are. Group and Offsets come together or not at all:
	// the broker looks at the group's generation only when it is given an offset, so
	// without one a member that the group has given up could still write.
	Group *GroupMetadata
}

// check refuses what could not be committed safely.
func (tx *Transaction) check() error {
	switch {
	case tx == nil || len(tx.Messages)+len(tx.Offsets) == 0:
		return errors.New("the transaction is empty")
	case len(tx.Offsets) > 0 && (tx.Topic == "" || tx.Group == nil || tx.Group.meta == nil):
		return errors.New("the transaction has offsets, and no topic or no group that they belong to")
	case tx.Group != nil && len(tx.Offsets) == 0:
		return errors.New("the transaction has a group and no offset: the broker would not check the group; give the offset of a partition, be it the one committed before")
	}
	for p, o := range tx.Offsets {
		if p < 0 || o < 0 {
			return errors.New("the transaction has a negative partition or offset")
		}
	}
	return nil
}

// TransactorStats are counters since the start, and the present state.
type TransactorStats struct {
	Transactions uint64 // committed
	Aborted      uint64 // given back with nothing of them visible
	Unknown      uint64 // given back without knowing
	Fenced       uint64 // times that another client took over the transactional id
	Clients      uint64 // clients of librdkafka made; more than 1: replaced after trouble
	Messages     uint64 // in committed transactions
	Bytes        uint64 // of keys and values in committed transactions
	// Reachable is whether the last sign of the brokers was a good one.
	Reachable bool
	LastError string
}

// Transactor commits transactions under one transactional id. Only one client may live
// under an id at a time: a second one fences the first.
//
// Init, Commit, Reset and Close wait for one another; Stats and Reachable may be called
// from any goroutine at any time.
type Transactor struct {
	cfg   Config
	id    string
	log   *zap.Logger
	state *reachability

	busy       sync.Mutex // held by the call that uses what follows
	inited     bool       // client has done InitTransactions
	unknown    error      // why Reset is needed
	open       bool       // the broker may hold an open transaction of ours
	batchBytes int        // of one request; less than usual when a topic takes less
	closed     bool

	client  atomic.Pointer[txClient] // nil between two; changed under busy
	closing sync.WaitGroup           // clients that end in the background

	committed, aborted, unknowns, fenced, clients, messages, bytes atomic.Uint64
}

// NewTransactor makes a transactor; it connects in the background. Init comes first.
func NewTransactor(cfg Config, transactionalID string, log *zap.Logger) (*Transactor, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if transactionalID == "" {
		return nil, errors.New("kafka: the transactional id is empty: every member needs one of its own")
	}
	t := &Transactor{
		cfg: cfg, id: transactionalID, log: log.With(zap.String("transactional_id", transactionalID)),
		state:      newReachability("transactor", log, cfg.OnState),
		batchBytes: maxBatchBytes,
	}
	c, err := t.newClient(0)
	if err != nil {
		return nil, err
	}
	t.client.Store(c)
	t.state.start(t.probe)
	return t, nil
}

// probe asks the brokers for a sign of life.
func (t *Transactor) probe() error {
	c := t.client.Load()
	if c == nil {
		return errors.New("the client is being replaced")
	}
	return c.probe()
}

// Init takes over the transactional id. When it returns nil, whatever a former client with
// this id had left open is committed or aborted for good, and that client is fenced. It
// tries until ctx ends; an error of class fatal (credentials, settings) comes at once.
func (t *Transactor) Init(ctx context.Context) error {
	t.busy.Lock()
	defer t.busy.Unlock()
	if t.closed {
		return ErrClosed
	}
	if t.unknown != nil {
		return wrap("init transactions", t.needsReset())
	}
	return t.ensure(ctx)
}

// Reset replaces the client by a fresh one with the same transactional id. When it returns
// nil, the former transaction is committed or aborted for good, and Commit works again. It
// tries until ctx ends, and may be called again; an error of class fatal comes at once.
func (t *Transactor) Reset(ctx context.Context) error {
	t.busy.Lock()
	defer t.busy.Unlock()
	if t.closed {
		return ErrClosed
	}
	t.discard()
	if err := t.ensure(ctx); err != nil {
		return err
	}
	t.unknown = nil
	return nil
}

// Close aborts what may still be open, until ctx ends, and frees the client. What it could
// not abort is aborted by the broker after Config.TransactionTimeout, or by Fence.
func (t *Transactor) Close(ctx context.Context) error {
	t.busy.Lock()
	defer t.busy.Unlock()
	if t.closed {
		return ErrClosed
	}
	t.closed = true
	var err error
	if t.open && !isFenced(t.unknown) { // one that fenced us would be fenced in turn
		t.discard()
		err = t.ensure(ctx)
	}
	t.discard()
	t.state.stop()
	done := make(chan struct{})
	go func() { t.closing.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(closeWait):
		t.log.Warn("kafka transactor: a client of librdkafka does not end; it is left behind")
	}
	return err
}

// Reachable tells whether the brokers answer.
func (t *Transactor) Reachable() bool { return t.state.reachable() }

// Stats returns the counters.
func (t *Transactor) Stats() TransactorStats {
	return TransactorStats{
		Transactions: t.committed.Load(), Aborted: t.aborted.Load(), Unknown: t.unknowns.Load(),
		Fenced: t.fenced.Load(), Clients: t.clients.Load(),
		Messages: t.messages.Load(), Bytes: t.bytes.Load(),
		Reachable: t.Reachable(), LastError: t.state.lastError(),
	}
}

// needsReset is what stands in the way of any use but Reset.
func (t *Transactor) needsReset() error {
	return errors.Join(errors.New("Reset has to be called: it is not known what became of the former transaction"), t.unknown)
}

// ensure makes the client ready for a transaction, with a fresh client if need be. The
// error is an *Error; nothing is open at the broker when it is nil.
func (t *Transactor) ensure(ctx context.Context) error {
	if t.inited {
		return nil
	}
	for wait := retryFirst; ; wait = min(2*wait, retryMost) {
		err := t.tryInit(ctx)
		if err == nil {
			t.inited, t.open = true, false
			t.state.good()
			return nil
		}
		t.state.note(err)
		if isHopeless(err) {
			return &Error{Class: ClassFatal, Op: "init transactions", Err: err}
		}
		select {
		case <-ctx.Done():
			return &Error{Class: ClassRetry, Op: "init transactions", Err: errors.Join(err, ctx.Err())}
		case <-time.After(wait):
		}
	}
}

// tryInit calls InitTransactions for as long as an attempt goes on.
func (t *Transactor) tryInit(ctx context.Context) error {
	c := t.client.Load()
	if c == nil {
		var err error
		if c, err = t.newClient(0); err != nil {
			return err
		}
		t.client.Store(c)
	}
	for {
		err := c.call(ctx, initSlice, c.p.InitTransactions)
		var ke ck.Error
		switch {
		case err == nil:
			return nil
		case !errors.As(err, &ke) || ke.IsFatal():
			t.discard() // it is of no more use; the next attempt makes another
			return err
		case ctx.Err() != nil || !ke.IsRetriable():
			return err
		case ke.Code() != ck.ErrTimedOut:
			t.state.note(err)
			return err // the attempt goes on in the background; the caller waits a moment
		}
	}
}

// discard gives the client up; it ends in the background.
func (t *Transactor) discard() {
	t.inited = false
	if c := t.client.Swap(nil); c != nil {
		t.end(c)
	}
}

func (t *Transactor) end(c *txClient) {
	t.closing.Add(1)
	go func() { defer t.closing.Done(); c.close() }()
}
