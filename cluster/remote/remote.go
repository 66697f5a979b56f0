package remote

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/roost-server/roost/cluster/certs"
)

// Limits.
const (
	// MaxBodyBytes is the longest body that Send takes and a stream may bring.
	MaxBodyBytes = 1 << 20
	// MaxQueueBytes is what waits for one address: some times what a link has in flight (its
	// credit), so that only a peer that does not take anything loses messages here.
	MaxQueueBytes = 4 << 20
	// MaxPeers is how many addresses are sent to at once: far more than members, so that a list
	// of seeds gone wild costs bounded memory.
	MaxPeers = 1024
	// MaxInbound is how many connections are accepted at once.
	MaxInbound = 1024
)

// Config says where a Remote listens and to whom it gives what comes.
type Config struct {
	Listen    string       // HOST:PORT; port 0 lets the system choose
	Advertise string       // HOST:PORT that others dial, port 0 for that of Listen; empty: what Listen became
	TLS       *certs.Store // nil: plaintext, accepted only when Listen and Advertise are loopback, or Insecure is set
	Insecure  bool         // plaintext beyond loopback: whoever reaches the port can act as a member
	// Receive gets what comes, one at a time for each stream, from that stream's goroutine; a
	// peer that reconnects can have two for a moment. While it blocks its stream is held back, and
	// after some seconds the peer gives the connection up: it must not block.
	Receive func(Inbound)
	// Connected, if set, is told of each new connection to an address, before anything is sent on it:
	// what an earlier one carried may be lost, so a link sends again at once. It must not block.
	Connected func(address string)
	Log       *zap.Logger // nil: none
}

// Inbound is one body that came from a peer.
type Inbound struct {
	Peer string // name in the peer's certificate; empty without TLS
	From string // the network address that it came from, for logs: not where the peer listens
	Body []byte // the callee's own
}

// tuning is what tests make smaller.
type tuning struct {
	connect    time.Duration // for TCP, TLS and the first answer together
	stuck      time.Duration // a write that takes longer ends the connection
	backoffMin time.Duration // after the first failure, doubled at each further one
	backoffMax time.Duration
	steady     time.Duration // a connection that lasted this long forgets earlier failures
	idle       time.Duration // an address without connection and messages is forgotten
	flush      time.Duration // that Close gives messages to leave
	inbound    int64         // connections at once
}

var defaultTuning = tuning{
	connect: 5 * time.Second, stuck: 5 * time.Second,
	backoffMin: 100 * time.Millisecond, backoffMax: 2 * time.Second, steady: 2 * time.Second,
	idle: 30 * time.Second, flush: time.Second, inbound: MaxInbound,
}

// Remote sends to other members and hears from them. Its methods may be called from any goroutine.
type Remote struct {
	cfg        Config
	tuning     tuning
	log        *zap.Logger
	memberID   string // in connect messages, as protoactor's system id
	advertised string
	lis        net.Listener
	server     *grpc.Server
	served     chan struct{}
	limiter    *limiter
	counters   counters

	ctx        context.Context // ends everything at once
	cancel     context.CancelFunc
	closing    context.Context // done when Close begins: what waits is still sent
	beginClose context.CancelFunc

	mu     sync.RWMutex
	peers  map[string]*peer
	closed bool
	wg     sync.WaitGroup // of the peers' goroutines
}

type counters struct {
	outbound, inbound                 atomic.Int64
	sentBytes, receivedBytes          atomic.Uint64
	dropped, droppedBytes             atomic.Uint64
	connects, connectFailures, broken atomic.Uint64
	refusedHandshakes, refusedStreams atomic.Uint64
}

// Stats are counters since the start, except Outbound and Inbound, which are connections at the moment.
type Stats struct {
	Outbound, Inbound        int
	SentBytes, ReceivedBytes uint64 // of bodies
	Dropped, DroppedBytes    uint64 // bodies that were not sent: no connection, or the queue was full
	Connects                 uint64 // connections made to peers
	ConnectFailures          uint64 // attempts that failed
	Broken                   uint64 // connections to peers that ended by an error
	RefusedHandshakes        uint64 // of others with us: TLS, not a member, too many
	RefusedStreams           uint64 // ended because of what the peer sent
}

// Start listens and serves until Close. The error says which address cannot be listened on and why,
// or what is wrong with the configuration.
func Start(cfg Config) (*Remote, error) { return start(cfg, defaultTuning) }

func start(cfg Config, t tuning) (*Remote, error) {
	if cfg.Receive == nil {
		return nil, errors.New("members' listener: nothing receives what comes")
	}
	if err := checkPlaintext(&cfg); err != nil {
		return nil, err
	}
	lis, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("members' listener: %w; is %q (--cluster-listen) an address of this machine, and free?", err, cfg.Listen)
	}
	advertised, err := advertise(cfg.Advertise, lis.Addr())
	if err != nil {
		return nil, errors.Join(err, lis.Close())
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	r := &Remote{
		cfg: cfg, tuning: t, log: cfg.Log, memberID: rand.Text(), advertised: advertised, lis: lis,
		served: make(chan struct{}), limiter: newLimiter(), peers: map[string]*peer{},
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.closing, r.beginClose = context.WithCancel(r.ctx)
	r.server = newServer(r)
	go func() {
		defer close(r.served)
		if err := r.server.Serve(&listener{Listener: lis, r: r}); err != nil && r.closing.Err() == nil {
			r.log.Error("members' listener stopped", zap.String("listen", r.Addr()), zap.Error(err))
		}
	}()
	return r, nil
}

// Addr is where it listens, with the port that Listen became.
func (r *Remote) Addr() string { return r.lis.Addr().String() }

// Advertised is the address that other members are to dial.
func (r *Remote) Advertised() string { return r.advertised }

// Send sends body to the member that listens at address (HOST:PORT) and takes it over: nobody may
// change it after. It never blocks and promises nothing: what is sent to an address that cannot be
// reached, or takes nothing, is lost. A connection is made when there is none, and made again after
// it broke, after a pause of 100 ms to 2 s. Messages that one goroutine sends arrive in order while
// the connection lasts.
func (r *Remote) Send(address string, body []byte) {
	if len(body) > MaxBodyBytes {
		r.drop(1, len(body))
		r.warn("size", address, "message to a member dropped: too long", zap.Int("bytes", len(body)), zap.Int("max", MaxBodyBytes))
		return
	}
	r.mu.RLock()
	p := r.peers[address]
	if p != nil {
		p.push(body) // with the lock held, so that the peer is not forgotten meanwhile
		r.mu.RUnlock()
		return
	}
	r.mu.RUnlock()
	r.sendNew(address, body)
}

func (r *Remote) sendNew(address string, body []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.peers[address]
	switch {
	case p != nil:
	case r.closed:
		r.drop(1, len(body))
		return
	case len(r.peers) >= MaxPeers:
		r.drop(1, len(body))
		r.warn("peers", "", "messages to a member dropped: too many addresses are sent to",
			zap.String("address", address), zap.Int("max", MaxPeers))
		return
	default:
		p = newPeer(r, address)
		r.peers[address] = p
		r.wg.Add(1)
		go p.run()
	}
	p.push(body)
}

// Disconnect ends the connection to address, and an attempt to make one, with what waits for it. The
// next Send connects anew. Streams that the peer opened to us are not touched.
func (r *Remote) Disconnect(address string) {
	r.mu.Lock()
	p := r.peers[address]
	delete(r.peers, address)
	r.mu.Unlock()
	if p != nil {
		p.cancel()
	}
}

// ConnError returns why the newest attempt to connect to address failed or its connection broke; nil
// while there is a connection, and when nothing was sent there lately.
func (r *Remote) ConnError(address string) error {
	r.mu.RLock()
	p := r.peers[address]
	r.mu.RUnlock()
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Stats counts since Start.
func (r *Remote) Stats() Stats {
	c := &r.counters
	return Stats{
		Outbound: int(c.outbound.Load()), Inbound: int(c.inbound.Load()),
		SentBytes: c.sentBytes.Load(), ReceivedBytes: c.receivedBytes.Load(),
		Dropped: c.dropped.Load(), DroppedBytes: c.droppedBytes.Load(),
		Connects: c.connects.Load(), ConnectFailures: c.connectFailures.Load(), Broken: c.broken.Load(),
		RefusedHandshakes: c.refusedHandshakes.Load(), RefusedStreams: c.refusedStreams.Load(),
	}
}

// Close sends what waits for peers that are connected, for a second at most and not longer than ctx
// allows, then ends all connections and waits until Receive is not running. The error is that of ctx,
// when Receive does not return.
func (r *Remote) Close(ctx context.Context) error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.beginClose()
	flushed := make(chan struct{})
	go func() {
		defer close(flushed)
		r.wg.Wait()
	}()
	timer := time.NewTimer(r.tuning.flush)
	defer timer.Stop()
	select {
	case <-flushed:
	case <-timer.C:
	case <-ctx.Done():
	}
	r.cancel()
	<-flushed
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.server.Stop()
		<-r.served
	}()
	select {
	case <-stopped:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("members' listener: what receives messages does not end: %w", ctx.Err())
	}
}

func (r *Remote) drop(n, bytes int) {
	r.counters.dropped.Add(uint64(n))
	r.counters.droppedBytes.Add(uint64(bytes))
}

// warn logs at most once a minute for each kind and address.
func (r *Remote) warn(kind, address, message string, fields ...zap.Field) {
	if r.limiter.allow(kind+" "+address, time.Now()) {
		if address != "" {
			fields = append(fields, zap.String("address", address))
		}
		r.log.Warn(message, fields...)
	}
}
