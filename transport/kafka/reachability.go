package kafka

import (
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

const (
	probeTimeoutMs = 1000
	probeInterval  = 500 * time.Millisecond
)

// reachability keeps whether the brokers answer. librdkafka reports when no
// connection is left, which includes an idle one that the broker closed, and
// does not report when a broker comes back while nothing flows. So a goroutine
// asks for metadata upon such a report, and as long as the state is not good.
type reachability struct {
	client string
	log    *zap.Logger
	notify func(string, bool, error)

	ok     atomic.Bool
	mu     sync.Mutex // serialises changes and their notification
	known  bool
	last   atomic.Pointer[string] // the newest error of any kind
	cause  atomic.Pointer[error]  // the newest error since the state was good
	kick   chan struct{}
	quit   chan struct{}
	worker sync.WaitGroup
}

func newReachability(client string, log *zap.Logger, notify func(string, bool, error)) *reachability {
	return &reachability{
		client: client, log: log, notify: notify,
		kick: make(chan struct{}, 1), quit: make(chan struct{}),
	}
}

// start probes at once and then after each suspicion.
func (r *reachability) start(probe func() error) {
	r.kick <- struct{}{}
	r.worker.Add(1)
	go func() {
		defer r.worker.Done()
		for {
			select {
			case <-r.quit:
				return
			case <-r.kick:
			}
			for again := true; again; again = !r.ok.Load() {
				err := probe()
				if err == nil {
					r.cause.Store(nil)
					r.good()
					break
				}
				if c := r.cause.Load(); c != nil {
					err = *c // it tells more than that the probe timed out
				}
				r.set(false, err)
				select {
				case <-r.quit:
					return
				case <-time.After(probeInterval):
				}
			}
		}
	}()
}

// stop ends the probing; the client may be closed after it.
func (r *reachability) stop() {
	close(r.quit)
	r.worker.Wait()
}

// good is cheap when nothing changes: it is called for every batch.
func (r *reachability) good() {
	if !r.ok.Load() {
		r.set(true, nil)
	}
}

// suspect has the brokers probed.
func (r *reachability) suspect(cause error) {
	if r.cause.Load() == nil { // a connection error told more, just before
		r.note(cause)
	}
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// note remembers an error that does not mean that the brokers are away.
func (r *reachability) note(err error) {
	s := err.Error()
	r.last.Store(&s)
	r.cause.Store(&err)
}

func (r *reachability) set(ok bool, cause error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if cause != nil {
		r.note(cause)
	}
	if r.known && r.ok.Load() == ok {
		return
	}
	first := !r.known
	r.known = true
	r.ok.Store(ok)
	if ok {
		r.cause.Store(nil)
	}
	switch {
	case !ok:
		r.log.Warn("kafka is not reachable; the client goes on trying", zap.String("client", r.client), zap.Error(cause))
	case !first:
		r.log.Info("kafka is reachable again", zap.String("client", r.client))
	}
	if r.notify != nil {
		r.notify(r.client, ok, cause)
	}
}

func (r *reachability) reachable() bool { return r.ok.Load() }

func (r *reachability) lastError() string {
	if s := r.last.Load(); s != nil {
		return *s
	}
	return ""
}
