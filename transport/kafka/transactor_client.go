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

const (
	initSlice    = time.Second            // of one call of InitTransactions
	commitSlice  = 500 * time.Millisecond // of one call of CommitTransaction
	commitGrace  = time.Second            // for a commit under way when ctx ends
	abortWait    = time.Second            // for an abort, whatever ctx says
	hangSlack    = 250 * time.Millisecond // for a call to return after its time
	closeWait    = 10 * time.Second       // for clients to end at Close
	retryFirst   = 10 * time.Millisecond  // before what failed is tried again
	retryMost    = 500 * time.Millisecond
	fullWait     = time.Millisecond       // for room in a full queue
	drainPoll    = 500 * time.Microsecond // between two looks at the queue, at first
	drainMost    = 5 * time.Millisecond
	metadataWait = 5 * time.Second

	maxBatchBytes = 1_000_000 // librdkafka's default of batch.size
	minBatchBytes = 16 << 10
	maxTxLinger   = time.Millisecond
)

// errHung: a call into librdkafka did not return after its time.
var errHung = errors.New("the call into librdkafka does not return")

// txClient is one client of librdkafka in the life of a Transactor.
type txClient struct {
	p   *ck.Producer
	out *outbox
	log *zap.Logger

	cuts atomic.Uint64 // connections lost

	use    sync.RWMutex // held for reading while the client is used beside its owner
	closed bool

	stuck    chan struct{} // when not nil: closed when the call that hung returned
	stopLogs chan struct{}
	wg       sync.WaitGroup
}

// newClient makes a client. perRequest, when not 0, is the number of messages that go in
// one request.
func (t *Transactor) newClient(perRequest int) (*txClient, error) {
	logs := make(chan ck.LogEvent, 64)
	m := t.cfg.transactorMap(t.id, t.batchBytes, logs)
	if perRequest > 0 {
		m["batch.num.messages"] = perRequest
	}
	p, err := ck.NewProducer(&m)
	if err != nil {
		return nil, configError(err)
	}
	out, err := newOutbox(p)
	if err != nil {
		p.Close()
		return nil, err
	}
	t.clients.Add(1)
	c := &txClient{p: p, out: out, log: t.log, stopLogs: make(chan struct{})}
	c.wg.Add(2)
	go func() { defer c.wg.Done(); logPump(t.log, logs, c.stopLogs) }()
	go func() { defer c.wg.Done(); c.serve(t.state) }()
	return c, nil
}

// serve follows what the client says of its connections. Messages that fail are not among
// it: librdkafka fails their transaction.
func (c *txClient) serve(state *reachability) {
	for ev := range c.p.Events() {
		e, ok := ev.(ck.Error)
		switch {
		case !ok:
		case e.Code() == ck.ErrAllBrokersDown:
			c.cuts.Add(1)
			state.suspect(e)
		default:
			if e.Code() == ck.ErrTransport {
				c.cuts.Add(1)
			}
			state.note(e)
			c.log.Debug("kafka transactor", zap.Error(e))
		}
	}
}

func (c *txClient) probe() error {
	c.use.RLock()
	defer c.use.RUnlock()
	if c.closed {
		return errors.New("the client is being replaced")
	}
	_, err := c.p.GetMetadata(nil, false, probeTimeoutMs)
	return err
}

// call runs one call of the transactional API for at most limit, or until ctx ends. Some of
// these calls do not honour their timeout, or never return, when a coordinator is away
// (librdkafka #5456, #5511); then errHung is returned and the client must be given up.
func (c *txClient) call(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var err error
	done := make(chan struct{})
	go func() { defer close(done); err = f(ctx) }()
	select {
	case <-done:
		return err
	case <-ctx.Done():
	}
	slack := time.NewTimer(hangSlack)
	defer slack.Stop()
	select {
	case <-done:
		return err
	case <-slack.C:
		c.stuck = done
		return errHung
	}
}

// close frees the client; a call that hangs has to return first.
func (c *txClient) close() {
	if c.stuck != nil {
		<-c.stuck
	}
	c.use.Lock()
	c.closed = true
	c.use.Unlock()
	c.out.close()
	c.p.Close()
	close(c.stopLogs)
	c.wg.Wait()
}
