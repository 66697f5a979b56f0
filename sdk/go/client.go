package roost

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/roost-server/roost/protocol"
)

// Client is one node. All methods may be called from any goroutine.
type Client struct {
	cfg  Config         // never changed after New
	rand func() float64 // in [0, 1); replaced in tests
	full func() error   // of the outbox; never nil

	base    context.Context // parent of every job's context
	endBase context.CancelCauseFunc

	// mu guards what follows. It is taken before an outbound's mutex, and no user
	// code runs under it.
	mu       sync.Mutex
	handlers map[string]Handler
	attrs    protocol.Attributes // without Kinds
	limit    int                 // concurrency
	tasks    map[string]*task    // queued, running, or ended with the handler still running
	queue    taskQueue
	slots    int // handlers running
	seq      uint64
	held     map[string]*heldResult
	recent   *recentResults
	session  *session      // the connection after WELCOME, or nil
	last     uint64        // the incarnation of the last WELCOME, 0 before the first
	idle     chan struct{} // closed and cleared when work ends; nil without a waiter
	ran      bool
	draining bool // no more jobs are taken
	stopping bool // no more handlers are started
	stats    Stats
}

// heldResult is a result that no member has acknowledged yet.
type heldResult struct {
	Entry
	seq  uint64
	sent time.Time // last, on any connection
}

// New checks cfg, reads the outbox, and returns a client that does nothing until
// [Client.Run]. A mistake in cfg is named with its key and the allowed values.
func New(cfg Config) (*Client, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	entries, err := cfg.Outbox.All()
	if err != nil {
		return nil, fmt.Errorf("roost: read the outbox: %w", err)
	}
	c := &Client{
		cfg: cfg, rand: rand.Float64, full: func() error { return nil },
		handlers: make(map[string]Handler), attrs: cloneAttributes(cfg.Attributes), limit: cfg.Concurrency,
		tasks: make(map[string]*task), held: make(map[string]*heldResult), recent: newRecent(cfg.Recent),
	}
	if f, ok := cfg.Outbox.(interface{ Full() error }); ok {
		c.full = f.Full
	}
	for _, e := range entries {
		c.seq++
		c.held[e.JobID] = &heldResult{Entry: e, seq: c.seq}
	}
	c.base, c.endBase = context.WithCancelCause(context.Background())
	return c, nil
}

// Handle registers h for jobs of a kind, normally before Run; afterwards members are
// told of the new kind. It panics on a mistake of the program's: an empty, too long,
// unprintable or repeated kind, more than protocol.MaxKinds of them, or a nil handler.
func (c *Client) Handle(kind string, h Handler) {
	if len(kind) > protocol.MaxKindBytes || !protocol.ValidID(kind) {
		panic(fmt.Sprintf("roost: Handle: kind %q; allowed are 1 to %d bytes of printable UTF-8 without spaces", kind, protocol.MaxKindBytes))
	}
	if h == nil {
		panic("roost: Handle: nil handler for kind " + kind)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.handlers[kind]; ok {
		panic("roost: Handle: a second handler for kind " + kind)
	}
	if len(c.handlers) == protocol.MaxKinds {
		panic(fmt.Sprintf("roost: Handle: more than %d kinds", protocol.MaxKinds))
	}
	c.handlers[kind] = h
	c.tellAttributes()
}

// SetAttributes replaces the node's attributes and tells the member. a.Kinds has to
// be empty, as in [Config].
func (c *Client) SetAttributes(a protocol.Attributes) error {
	if err := checkAttributes(&a); err != nil {
		return fmt.Errorf("roost: SetAttributes: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.attrs = cloneAttributes(a)
	c.tellAttributes()
	return nil
}

// SetConcurrency changes how many jobs run at once, 0 (take none) to
// protocol.MaxCredit, and tells the member. Jobs that run are not stopped.
func (c *Client) SetConcurrency(n int) error {
	if n < 0 || n > protocol.MaxCredit {
		return fmt.Errorf("roost: SetConcurrency: %d; allowed is 0 to %d", n, protocol.MaxCredit)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = n
	if c.session != nil && c.session.hello == nil && !c.draining { // else Client.resume tells it
		c.session.out.send(&protocol.Credit{Credit: uint32(n)})
	}
	c.schedule()
	return nil
}

// tellAttributes runs under mu.
func (c *Client) tellAttributes() {
	if c.session != nil && c.session.hello == nil { // else Client.resume tells them
		c.session.out.send(&protocol.AttributesUpdate{Attributes: c.attributes()})
	}
}

// attributes returns them with the kinds; under mu.
func (c *Client) attributes() protocol.Attributes {
	a := cloneAttributes(c.attrs)
	a.Kinds = slices.Sorted(maps.Keys(c.handlers))
	return a
}

func cloneAttributes(a protocol.Attributes) protocol.Attributes {
	a.Tags = slices.Clone(a.Tags)
	return a
}

func (c *Client) emit(e Event) { c.cfg.OnEvent(e) }

// Stats are counters since New, and the state of the moment.
type Stats struct {
	Connected   bool
	Addr        string // of the member connected to
	Member      string
	Incarnation uint64

	Running int // handlers, with those that ignore the end of their context
	Queued  int
	Held    int // results unacknowledged

	Sessions   uint64 // connections that reached WELCOME
	Jobs       uint64 // JOB frames
	Duplicates uint64 // of them: not run again
	Refused    uint64 // of them: refused without running
	Acked      uint64 // results acknowledged

	// Finished counts results by outcome, without those in Refused.
	Finished [5]uint64 // indexed by protocol.OutcomeOK to OutcomeCancelled
}

// Stats returns the client's counters.
func (c *Client) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Running, s.Queued, s.Held = c.slots, c.queue.Len(), len(c.held)
	if c.session != nil {
		s.Connected, s.Addr = true, c.session.addr
		s.Member, s.Incarnation = c.session.welcome.Member, c.session.welcome.Incarnation
	}
	return s
}

var errRanBefore = errors.New("roost: Run was called before on this client")
