package rpc

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"go.uber.org/zap"
)

// KindRPC is the first byte of every message of this package, by which whoever receives
// messages of several kinds tells it from others.
const KindRPC = 1

// Bounds.
const (
	ChunkBytes     = 512 << 10 // of a body in one message, and the longest item of a stream
	MaxBytes       = 16 << 20  // the longest body
	MaxMethodBytes = 64
	MaxErrorBytes  = 1 << 10 // of a RemoteError's text; the rest is cut off

	maxHandlers  = 64       // at once, for each peer
	maxAssembly  = 64 << 20 // bytes of calls of one peer that are not complete yet
	windowBytes  = 1 << 20  // of an answer or a stream that are not taken yet
	itemOverhead = 64       // what an item counts beyond its length
)

// Errors of calls and streams, to be compared with errors.Is.
var (
	// ErrDown: the member went down before the answer was complete. Whether it did what
	// was asked is not known.
	ErrDown = errors.New("rpc: the member went down")
	// ErrUnreachable: nothing was sent, the member is gone or too much waits for it already.
	ErrUnreachable = errors.New("rpc: the member cannot be reached now: it is gone, or its queue is full")
	// ErrClosed: Close was called.
	ErrClosed = errors.New("rpc: closed")
	// ErrTooLarge: a body is longer than MaxBytes, or an item of a stream than ChunkBytes.
	ErrTooLarge = errors.New("rpc: too large")
)

// Codes of errors that this package makes itself.
const (
	CodeBusy          = "busy"           // as many calls of this member as are allowed are under way there; nothing was done
	CodeUnknownMethod = "unknown method" // the member, of another version perhaps, has no such method
	CodeTooLarge      = "too large"      // the call or its answer
	CodeTimeout       = "timeout"        // the caller's deadline passed there
	CodeFailed        = "failed"         // the handler returned an error that has no code
	CodeBroken        = "broken"         // the handler crashed, or the peer does not keep to the protocol
)

// RemoteError is an error that travelled: what a handler returned, or why it was not
// run. Handlers return one themselves where the caller is to tell errors apart.
type RemoteError struct {
	Code string // short, for programs
	Text string // for people
}

func (e *RemoteError) Error() string { return e.Code + ": " + e.Text }

// Is makes a timeout that the member noticed first the same as one that the caller did.
func (e *RemoteError) Is(target error) bool {
	return e.Code == CodeTimeout && target == context.DeadlineExceeded
}

// Send takes a message for a member over and does not block. False: the member is gone or
// too much waits for it, and the message stays the caller's. It is called from many
// goroutines.
type Send func(slot uint16, body []byte) bool

// RPC makes and serves calls. All methods may be called from any goroutine, but Message and Down
// for one slot only one after the other.
type RPC struct {
	send    Send
	log     *zap.Logger
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	methods map[string]handler
	peers   map[uint16]*peer
}

// New returns an RPC without methods.
func New(send Send, log *zap.Logger) *RPC {
	r := &RPC{send: send, log: log, methods: map[string]handler{}, peers: map[uint16]*peer{}}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// Handle registers what answers calls of a method. It is called in a goroutine of its
// own, at most 64 at once for each peer; its context ends with the caller's, with the peer and
// with Close. The body is its own; what it returns is not used after that it was sent.
// It panics when the method has a handler already.
func (r *RPC) Handle(method string, fn func(ctx context.Context, body []byte) ([]byte, error)) {
	r.register(method, func(s *served, body []byte) error {
		answer, err := fn(s.ctx, body)
		if err != nil {
			return err
		}
		return s.answer(answer)
	})
}

// HandleStream registers what answers a method with a stream; see Handle. emit sends an item of
// at most ChunkBytes, which is not kept, and waits as long as the reader is behind; its error
// means that nobody reads any more.
func (r *RPC) HandleStream(method string, fn func(ctx context.Context, body []byte, emit func([]byte) error) error) {
	r.register(method, func(s *served, body []byte) error {
		if err := fn(s.ctx, body, func(item []byte) error { return s.emit(opItem, item) }); err != nil {
			return err
		}
		s.peer.post(appendOp(nil, opEnd, s.id))
		return nil
	})
}

func (r *RPC) register(method string, fn handler) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, twice := r.methods[method]; twice || method == "" || len(method) > MaxMethodBytes {
		panic(fmt.Sprintf("rpc: method %q is registered twice, or its name is not 1 to %d bytes long", method, MaxMethodBytes))
	}
	r.methods[method] = fn
}

func (r *RPC) method(name []byte) handler {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.methods[string(name)]
}

// Call asks a member and waits for the answer, which is the caller's. The body is not used after
// Call has returned. The context's deadline travels along; when the context ends the
// handler's does, too. Errors: *RemoteError, ErrDown, ErrUnreachable, ErrClosed, ErrTooLarge,
// or the context's.
func (r *RPC) Call(ctx context.Context, slot uint16, method string, body []byte) ([]byte, error) {
	c := newCall(false)
	if err := r.begin(ctx, slot, c, method, body); err != nil {
		return nil, fmt.Errorf("calling %s: %w", method, err)
	}
	select {
	case <-c.ended:
	case <-ctx.Done():
		c.abandon(ctx.Err())
	}
	if c.err != nil {
		return nil, fmt.Errorf("calling %s: %w", method, c.err)
	}
	return c.body, nil
}

// Stream asks a member for a stream. The channel yields its items, which are the reader's, and is
// closed at the end; the function waits for that and says why it ended: nil when it was
// complete, else an error as of Call. The reader takes all items or ends the context: till
// then a goroutine waits for it.
func (r *RPC) Stream(ctx context.Context, slot uint16, method string, body []byte) (<-chan []byte, func() error) {
	items, done := make(chan []byte), make(chan struct{})
	c := newCall(true)
	var err error
	wait := func() error {
		<-done
		return err
	}
	if failed := r.begin(ctx, slot, c, method, body); failed != nil {
		err = fmt.Errorf("stream %s: %w", method, failed)
		close(items)
		close(done)
		return items, wait
	}
	pumping := r.spawn(func() {
		if ended := c.pump(ctx, items); ended != nil {
			err = fmt.Errorf("stream %s: %w", method, ended)
		}
		close(items)
		close(done)
	})
	if !pumping {
		err = fmt.Errorf("stream %s: %w", method, ErrClosed)
		close(items)
		close(done)
	}
	return items, wait
}

// spawn runs fn in a goroutine that Close waits for.
func (r *RPC) spawn(fn func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.running.Go(fn)
	return true
}

// peer returns what is under way with a member.
func (r *RPC) peer(slot uint16) (*peer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, ErrClosed
	}
	p := r.peers[slot]
	if p == nil {
		p = newPeer(r, slot)
		r.peers[slot] = p
	}
	return p, nil
}

// Down ends all that is under way with a member: calls and streams with ErrDown, handlers by
// their context. Messages of the slot after it are of another member.
func (r *RPC) Down(slot uint16) {
	r.mu.Lock()
	p := r.peers[slot]
	delete(r.peers, slot)
	r.mu.Unlock()
	if p != nil {
		p.end(ErrDown)
	}
}

// Close ends all that is under way, as Down does but with ErrClosed, and waits for the
// handlers and for readers of streams to return.
func (r *RPC) Close() {
	r.mu.Lock()
	r.closed = true
	peers := r.peers
	r.peers = map[uint16]*peer{}
	r.mu.Unlock()
	for _, p := range peers {
		p.end(ErrClosed)
	}
	r.cancel()
	r.running.Wait()
}

func (r *RPC) transmit(slot uint16, body []byte) bool {
	if slot == 0 {
		r.Message(0, body)
		return true
	}
	return r.send(slot, body)
}
