// Package cluster joins the members of one consumer group: it finds the others, says who
// is up and who owns which partition, and carries messages to them, each once and in order
// for as long as the other is up.
//
// It ties four things together: cluster/remote carries bytes and may lose them,
// cluster/link makes ordered streams of that, cluster/view knows the members and what they
// own, cluster/discovery finds addresses. One goroutine, the loop, runs all of it and calls
// the [Handler]; what is sent goes into the link at once and leaves with the loop's next
// turn, together with whatever else there is by then.
package cluster

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roost-server/roost/cluster/discovery"
	"github.com/roost-server/roost/cluster/link"
	"github.com/roost-server/roost/cluster/remote"
	"github.com/roost-server/roost/cluster/view"
	"go.uber.org/zap"
)

// State is what a member says it is doing.
type State = view.State

// The states of a member.
const (
	Joining  = view.Joining
	Serving  = view.Serving
	Draining = view.Draining
	Leaving  = view.Leaving
)

// Config of a Cluster.
type Config struct {
	Name, Cluster, Version string
	Partitions             uint32
	NodesAddr, APIAddr     string        // told to the others; hints
	Remote                 remote.Config // Receive and Connected are the cluster's own
	Sources                []discovery.Source
	// Beat is how often each peer is told that this member lives, DeadAfter after how long
	// a silence a peer is down, MaxSkew how far clocks may be apart. 0: 500 ms, 3 s, 2 s.
	Beat, DeadAfter, MaxSkew time.Duration
	// QueueBytes bounds what waits for one peer. 0: 16 MiB.
	QueueBytes int
	Handler    Handler
	Log        *zap.Logger
	Now        func() time.Time // Unix time, for epochs and clock skew; nil: time.Now

	carry              func(remote.Config) (carrier, error) // nil: remote.Start; tests break networks here
	minProto, maxProto int                                  // of the messages; 0: view's. Tests are of other versions
}

// carrier is what the cluster needs of a [remote.Remote].
type carrier interface {
	Send(address string, body []byte)
	Addr() string
	Advertised() string
	Close(ctx context.Context) error
}

// Peer is another member while it is up.
type Peer struct {
	Slot                        uint16
	Name                        string
	Instance                    uint64
	NodesAddr, APIAddr, Version string
}

// Handler is called from one goroutine and must not block: while it does, this member is
// silent and will be taken for dead. It may call any method of the Cluster but Close. Up
// comes before anything else of its slot, Down after everything.
type Handler interface {
	Up(Peer)
	// Down brings back the messages that the peer may not have got, in order; it may have
	// got some of them. What it owned has another owner by then, or none.
	Down(p Peer, why string, unacked [][]byte)
	// Message is ordered for each slot; body is the callee's.
	Message(slot uint16, body []byte)
	// Owner also tells of partitions of this member, which is slot 0. After a peer came up
	// again it is called for everything that the peer owns.
	Owner(partition uint32, slot uint16, epoch uint64, known bool)
	// Conflict says that this member has to end: another one has its name.
	Conflict(err error)
}

// MaxMessageBytes is the longest message that Send takes.
const MaxMessageBytes = link.MaxMessageBytes

const (
	// intakePackets and intakeBytes are what the loop takes in one turn, so that beats go
	// out in time however much comes in.
	intakePackets = 256
	intakeBytes   = 4 << 20
	// drainTimeout is how long Close waits for messages that are under way, and again for
	// the others to hear the goodbye.
	drainTimeout = time.Second
)

// Cluster is this member's side of it. Its methods may be called from any goroutine.
type Cluster struct {
	cfg      Config
	log      *zap.Logger
	instance uint64
	begin    time.Time // of Mono
	carrier  carrier

	inbox  inbox
	wake   chan struct{} // a token when the loop has something to do
	dirty  dirtyList
	quit   chan struct{} // closed: the loop ends
	ended  chan struct{} // closed: it has
	closed atomic.Bool

	sources       sync.WaitGroup
	cancelSources context.CancelCauseFunc
	closing       sync.Once
	closeErr      error

	mu       sync.Mutex // guards what follows; taken before a conn's
	view     *view.View
	sessions map[uint64]*conn // by our session
	events   []event          // for the handler, in order
	linkNext int64            // mono: when some link wants its Tick
	viewNext int64            // and when the view does

	slots     atomic.Pointer[[]*conn] // by slot; copied when changed
	instances atomic.Pointer[map[uint64]uint16]
	owners    []atomic.Pointer[ownership]
	complain  complaints
}

// ownership of a partition; nil where it is not known.
type ownership struct {
	slot  uint16
	epoch uint64
}

// Start listens, and joins the cluster. ctx ends the sources; Close ends everything.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	c := &Cluster{
		cfg: cfg, log: cfg.Log, instance: newInstance(), begin: time.Now(),
		wake: make(chan struct{}, 1), quit: make(chan struct{}), ended: make(chan struct{}),
		sessions: map[uint64]*conn{}, owners: make([]atomic.Pointer[ownership], cfg.Partitions),
	}
	c.slots.Store(&[]*conn{nil})
	c.instances.Store(&map[uint64]uint16{c.instance: 0})
	c.complain.log = c.log
	rc := cfg.Remote
	rc.Receive, rc.Connected = c.receive, c.connected
	if rc.Log == nil {
		rc.Log = cfg.Log
	}
	carrier, err := cfg.carry(rc)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	c.carrier = carrier
	c.view, err = view.New(view.Config{
		Cluster: cfg.Cluster, Name: cfg.Name, Version: cfg.Version,
		Instance: c.instance, StartMs: cfg.Now().UnixMilli(), Address: carrier.Advertised(),
		NodesAddr: cfg.NodesAddr, APIAddr: cfg.APIAddr, Partitions: cfg.Partitions,
		BeatMs: cfg.Beat.Milliseconds(), DeadAfterMs: cfg.DeadAfter.Milliseconds(), MaxSkewMs: cfg.MaxSkew.Milliseconds(),
		MinVersion: cfg.minProto, MaxVersion: cfg.maxProto,
	}, (*effects)(c))
	if err != nil {
		return nil, errors.Join(err, carrier.Close(ctx))
	}
	go c.loop()
	c.follow(ctx)
	c.log.Info("cluster: this member is in the cluster", zap.String("cluster", cfg.Cluster), zap.String("name", cfg.Name),
		zap.String("listen", carrier.Addr()), zap.String("advertise", carrier.Advertised()), zap.Bool("tls", cfg.Remote.TLS != nil))
	return c, nil
}

func (cfg *Config) check() error {
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.carry == nil {
		cfg.carry = func(rc remote.Config) (carrier, error) { return remote.Start(rc) }
	}
	switch {
	case cfg.Handler == nil:
		return errors.New("cluster: Config.Handler is nil")
	case cfg.Partitions == 0 || cfg.Partitions > view.MaxPartitions:
		return fmt.Errorf("cluster: %d partitions: want 1 to %d", cfg.Partitions, view.MaxPartitions)
	case cfg.Beat < 0 || cfg.DeadAfter < 0 || cfg.MaxSkew < 0 || cfg.QueueBytes < 0:
		return errors.New("cluster: Beat, DeadAfter, MaxSkew and QueueBytes must not be negative; 0 is the default")
	}
	if t := cfg.Remote.TLS; t != nil && t.Name() != cfg.Name {
		return fmt.Errorf("cluster: this member is called %q, but its certificate is for %q: the others would refuse it; give it a certificate of its name", cfg.Name, t.Name())
	}
	return nil
}

func newInstance() uint64 {
	var b [8]byte
	for {
		_, _ = rand.Read(b[:]) // never fails, by its documentation
		if n := binary.BigEndian.Uint64(b[:]); n != 0 {
			return n
		}
	}
}

// follow runs the sources, until Close or the end of ctx.
func (c *Cluster) follow(ctx context.Context) {
	ctx, c.cancelSources = context.WithCancelCause(ctx)
	for i, s := range c.cfg.Sources {
		if a, ok := s.(discovery.Announcer); ok {
			a.Announce(c.cfg.Name, c.carrier.Advertised())
		}
		key := fmt.Sprintf("%d %s", i, s.Name())
		c.sources.Go(func() {
			err := s.Run(ctx, func(addresses []string) {
				c.do(func(now view.Now) { c.view.Discovered(now, key, addresses) })
			})
			if err != nil && ctx.Err() == nil {
				c.log.Error("cluster: a source of members' addresses has ended", zap.String("source", s.Name()), zap.Error(err))
			}
		})
	}
}

func (c *Cluster) now() view.Now {
	return view.Now{Mono: c.mono(), Wall: c.cfg.Now().UnixMilli()}
}

func (c *Cluster) mono() int64 { return time.Since(c.begin).Milliseconds() + 1 }

// do calls the view, and wakes the loop for what comes of it.
func (c *Cluster) do(f func(now view.Now)) {
	c.mu.Lock()
	f(c.now())
	c.viewNext = 0
	c.mu.Unlock()
	c.wakeUp()
}

func (c *Cluster) wakeUp() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Instance is the number of this process among all that ever had its name.
func (c *Cluster) Instance() uint64 { return c.instance }

// Addr is where this member listens for others, Advertised where they dial it.
func (c *Cluster) Addr() string { return c.carrier.Addr() }

// Advertised is where others dial this member.
func (c *Cluster) Advertised() string { return c.carrier.Advertised() }

// Send queues a message for a peer and takes it over; it never blocks. False: the peer is
// gone, its queue is full, or the message is longer than [MaxMessageBytes]; body is still the
// caller's then.
func (c *Cluster) Send(slot uint16, body []byte) bool {
	if c.closed.Load() {
		return false
	}
	to := c.conn(slot)
	if to == nil || !to.send(c.mono(), body) {
		return false
	}
	if c.dirty.add(to) {
		c.wakeUp()
	}
	return true
}

func (c *Cluster) conn(slot uint16) *conn {
	slots := *c.slots.Load()
	if int(slot) >= len(slots) {
		return nil
	}
	return slots[slot]
}

// SlotOf finds the slot of an instance that is up, or of this member.
func (c *Cluster) SlotOf(instance uint64) (uint16, bool) {
	slot, ok := (*c.instances.Load())[instance]
	return slot, ok
}

// InstanceOf finds the instance in a slot.
func (c *Cluster) InstanceOf(slot uint16) (uint64, bool) {
	if slot == 0 {
		return c.instance, true
	}
	if p := c.conn(slot); p != nil {
		return p.peer.Instance, true
	}
	return 0, false
}

// Claim says that this member's shard of the partition is ready, and returns the number of
// the life that begins. The others hear of it at once, the handler with the loop's next turn.
func (c *Cluster) Claim(partition uint32) (epoch uint64) {
	c.do(func(now view.Now) { epoch = c.view.Claim(now, partition) })
	return epoch
}

// Disclaim says that this member has the partition no longer.
func (c *Cluster) Disclaim(partition uint32) {
	c.do(func(now view.Now) { c.view.Disclaim(now, partition) })
}

// Owner is who owns the partition, as far as is known here; slot 0 is this member. It takes
// no lock.
func (c *Cluster) Owner(partition uint32) (slot uint16, epoch uint64, known bool) {
	if int64(partition) >= int64(len(c.owners)) {
		return 0, 0, false
	}
	if o := c.owners[partition].Load(); o != nil {
		return o.slot, o.epoch, true
	}
	return 0, 0, false
}

// SetState tells the others what this member is doing.
func (c *Cluster) SetState(s State) {
	c.do(func(now view.Now) { c.view.SetState(now, s) })
}

// SetLoad tells the others how many nodes are connected here.
func (c *Cluster) SetLoad(sockets int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.view.SetLoad(sockets)
}
