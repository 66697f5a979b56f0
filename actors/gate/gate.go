// Package gate is the actor of one event loop: it supervises the sessions whose
// sockets live on that loop, and it is the door through which shards reach them and
// they reach shards. Everything in it runs on the loop's goroutine.
package gate

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/session"
	"github.com/roost-server/roost/protocol"
)

// Conn is what a gate needs of a connection, beyond what its session does.
type Conn interface {
	session.Conn
	// Establish ends the handshake: the connection may now send full frames, and is
	// closed when nothing is heard for idle. It reports whether the connection is there still.
	Establish(idle time.Duration) bool
	// SetContext and Context keep the session with its connection.
	SetContext(any)
	Context() any
}

// Loop is what a gate needs of its event loop.
type Loop interface {
	// Execute runs fn on the loop later; any goroutine may call it. An error means
	// that the loop has ended and fn will not run.
	Execute(fn func()) error
	// Decoder is shared by everything on the loop.
	Decoder() *protocol.Decoder
}

// Shards is the way to shards. Send never blocks, takes over the batch, and reports
// whether the shard is on this member; when it is not, the batch is lost, which
// resending from outboxes makes good.
type Shards interface {
	Send(shard uint32, b *actors.FromGate) bool
}

// Authenticator decides whether a node may open a session. It runs on the event
// loop and must not block. The error's protocol reason is told to the node.
type Authenticator func(h *protocol.Hello) error

// Config is shared by the gates of a member.
type Config struct {
	Member       string // the member's name, told to nodes
	Partitions   uint32 // of the jobs topic
	Heartbeat    time.Duration
	AcceptAfter  time.Duration
	Authenticate Authenticator
	Shards       Shards
	NowMs        func() int64 // Unix time
	Stats        *Stats
	Profiles     *Profiles // nil: each gate has its own
}

// silence is how many heartbeats may be missed before a node counts as gone.
const silence = 2.5

// Stats counts what gates see; all fields may be read from any goroutine.
type Stats struct {
	Sessions    atomic.Int64  // open now
	Opened      atomic.Uint64 // since the start
	Refused     atomic.Uint64 // HELLO answered by CLOSE
	Replaced    atomic.Uint64 // sessions ended by a newer one of the same node
	Results     atomic.Uint64
	Unexpected  atomic.Uint64 // results for a job that was not in flight on the session
	Misrouted   atomic.Uint64 // batches for a shard that is not here
	Deliveries  atomic.Uint64
	Undelivered atomic.Uint64 // deliveries for a node without a session
	Leaving     atomic.Int64  // sessions that were told to leave and are still here
	Drained     atomic.Uint64 // sessions that ended after they were told to leave
	Overstayed  atomic.Uint64 // of these, sessions closed since they did not leave in time

	loops sync.Map // *atomic.Int64 by event loop: its sessions
}

// Loop returns how many sessions an event loop has.
func (s *Stats) Loop(index int) int { return int(s.loop(uint32(index)).Load()) }

func (s *Stats) loop(index uint32) *atomic.Int64 {
	n, _ := s.loops.LoadOrStore(index, new(atomic.Int64))
	return n.(*atomic.Int64)
}

// Gate is the actor.
type Gate struct {
	cfg      *Config
	door     *Door
	index    uint32
	count    *atomic.Int64 // of sessions, for Stats
	sessions map[string]*session.Session
	profiles *Profiles
	shared   *session.Loop      // by the sessions
	acksDue  *time.Timer        // posts to the mailbox when acknowledgements are due; nil until some were
	up       []*actors.FromGate // by shard; nil when empty
	dirty    []uint32
	// announced are the shards that wait to be told of the sessions; nil for none.
	announced []bool
	flushing  bool
	nowMs     int64 // within a batch of a shard: as it came; else 0
	flushFn   func()

	// one of each message, reused
	frame    session.Frame
	deliver  session.Deliver
	withdraw session.Withdraw
	acked    session.Acked
	resume   session.Resume
	closed   session.Closed
	leave    session.Leave
	goAway   protocol.GoAway

	leaving int // sessions that were told to leave
	turn    int // of the addresses that they are told
}

// Door is the event loop's side of the gate: it outlives restarts of the actor.
// Its methods are called on the loop.
type Door struct {
	cfg     *Config
	loop    Loop
	index   uint32
	mailbox *mailbox
	gate    *Gate // the current incarnation
	hello   hello
}

type hello struct {
	conn Conn
	msg  protocol.Hello
	err  error
}

// NewDoor makes the door of an event loop. Props, spawned once, makes its gate.
func NewDoor(cfg *Config, index uint32, loop Loop) *Door {
	return &Door{cfg: cfg, loop: loop, index: index, mailbox: newMailbox(loop.Execute)}
}

// Props returns how to spawn the door's gate.
func (d *Door) Props(strategy actor.SupervisorStrategy) *actor.Props {
	return actor.PropsFromProducer(func() actor.Actor {
		d.gate = newGate(d)
		return d.gate
	},
		actor.WithMailbox(func() actor.Mailbox { return d.mailbox }),
		actor.WithSupervisor(strategy))
}

func newGate(d *Door) *Gate {
	g := &Gate{
		cfg: d.cfg, door: d, index: d.index, count: d.cfg.Stats.loop(d.index),
		sessions: map[string]*session.Session{},
		profiles: d.cfg.Profiles,
		up:       make([]*actors.FromGate, d.cfg.Partitions),
	}
	if g.profiles == nil {
		g.profiles = NewProfiles()
	}
	g.flushFn = g.flush
	g.leave.GoAway = &g.goAway
	return g
}

// Frame takes one frame of a connection; body is valid only during the call. An
// error means: close the connection for that reason.
func (d *Door) Frame(c Conn, t protocol.Type, body []byte) error {
	if s, ok := c.Context().(*session.Session); ok {
		m := &d.gate.frame
		m.Type, m.Body, m.Err = t, body, nil
		s.Post(m)
		m.Body = nil
		return m.Err
	}
	if t != protocol.TypeHello {
		return protocol.Errorf(protocol.ReasonUnexpected, "%v before HELLO", t)
	}
	// What stands when the gate panics.
	d.hello.conn, d.hello.err = c, protocol.Errorf(protocol.ReasonInternal, "the gate failed; it is safe to come back")
	defer func() { d.hello.conn = nil }()
	if err := d.loop.Decoder().Decode(body, &d.hello.msg); err != nil {
		d.cfg.Stats.Refused.Add(1)
		return err
	}
	if !d.mailbox.now(&d.hello) {
		return protocol.Errorf(protocol.ReasonNotReady, "the gate restarts")
	}
	if d.hello.err != nil {
		d.cfg.Stats.Refused.Add(1)
	}
	return d.hello.err
}

// Closed says that an established connection is gone.
func (d *Door) Closed(c Conn) {
	if s, ok := c.Context().(*session.Session); ok {
		c.SetContext(nil)
		d.gate.end(s)
	}
}

// Receive implements actor.Actor.
func (g *Gate) Receive(ctx actor.Context) {
	switch m := ctx.Message().(type) {
	case *actors.ToGate:
		g.take(m)
		m.Release()
	case *hello:
		g.begin(ctx)
		m.err = g.open(m.conn, &m.msg)
	case *actors.Drain:
		g.drain(m)
	case *actors.Announce:
		g.announce(m.Shard)
	case announceDue:
		g.announceAll()
	case acksDue:
		g.sendAcks()
	case *actor.Restarting, *actor.Stopping:
		g.endAll()
		g.flush()
	}
}

// begin is for the first HELLO, which may come before the actor's Started.
func (g *Gate) begin(ctx actor.Context) {
	if g.shared == nil {
		g.shared = session.NewLoop(g, ctx.ActorSystem(), ctx.Self())
	}
}

// open makes a session for a node that said HELLO.
func (g *Gate) open(conn Conn, h *protocol.Hello) error {
	if h.Version < protocol.Version {
		return protocol.Errorf(protocol.ReasonUnsupportedVersion, "the node speaks version %d, this member %d", h.Version, protocol.Version)
	}
	if g.cfg.Authenticate != nil {
		if err := g.cfg.Authenticate(h); err != nil {
			return err
		}
	}
	nowMs := g.cfg.NowMs()
	inc := session.NextIncarnation(nowMs, h.LastIncarnation)
	if old := g.sessions[h.NodeID]; old != nil {
		g.replace(old, false)
	}
	s := session.New(h.NodeID, inc, partition(h.NodeID, g.cfg.Partitions), h.Credit,
		g.profiles.take(&h.Attributes, h.Agent), conn, g.shared)
	g.sessions[h.NodeID] = s
	conn.SetContext(s)
	g.count.Add(1)
	g.cfg.Stats.Sessions.Add(1)
	g.cfg.Stats.Opened.Add(1)
	if !conn.Establish(time.Duration(silence * float64(g.cfg.Heartbeat))) {
		conn.SetContext(nil) // it ended meanwhile, and nobody else will say so
		g.end(s)
		return nil
	}
	if err := conn.Append(&protocol.Welcome{
		Version: protocol.Version, Incarnation: inc, Member: g.cfg.Member,
		HeartbeatMs:   uint32(g.cfg.Heartbeat.Milliseconds()),
		AcceptAfterMs: uint32(g.cfg.AcceptAfter.Milliseconds()),
		MaxBodyBytes:  protocol.MaxBodyBytes, ServerTimeMs: uint64(nowMs),
	}); err != nil {
		return err
	}
	g.register(s)
	g.resumed(s, h)
	return nil
}

// resumed tells shards what the node brings along from an earlier session.
func (g *Gate) resumed(s *session.Session, h *protocol.Hello) {
	if len(h.Running) > 0 {
		g.resume.Running = h.Running
		s.Post(&g.resume)
		g.resume.Running = nil
	}
	tell := func(kind actors.NoticeKind, refs []protocol.Ref) {
		for i := range refs {
			g.Notice(refs[i].Shard, actors.Notice{Kind: kind, Node: s.Node(),
				JobID: refs[i].JobID, Attempt: refs[i].Attempt, Incarnation: s.Incarnation()})
		}
	}
	tell(actors.Running, h.Running)
	tell(actors.Held, h.Held)
}

// contestedFor is how long a node that lost a contest stays away: by then the clocks tell.
const contestedFor = 2 * time.Second

// replace ends the older of two sessions with one node id. When it is only taken for the
// older one, the node may come back.
func (g *Gate) replace(old *session.Session, contested bool) {
	g.cfg.Stats.Replaced.Add(1)
	if contested {
		old.Close(protocol.ReasonContested, "another session of node "+old.Node()+" began at about the same time", contestedFor)
	} else {
		old.Close(protocol.ReasonReplaced, "a newer session of node "+old.Node(), 0)
	}
	g.end(old)
}

// end takes leave of a session whose connection is gone or about to be. It may be
// called twice.
func (g *Gate) end(s *session.Session) {
	if g.sessions[s.Node()] == s {
		delete(g.sessions, s.Node())
	}
	if s.Profile == nil {
		return
	}
	s.Post(&g.closed)
	b := g.batch(s.Home)
	b.Departures = append(b.Departures, actors.Departure{Node: s.Node(), Incarnation: s.Incarnation()})
	g.profiles.drop(s.Profile)
	s.Profile = nil
	if s.Leaving() {
		g.left()
	}
	g.count.Add(-1)
	g.cfg.Stats.Sessions.Add(-1)
	if !s.Stopped() {
		s.End()
	}
}

// endAll ends the sessions with their gate, as protoactor does with children.
func (g *Gate) endAll() {
	if g.acksDue != nil {
		g.acksDue.Stop()
	}
	for _, s := range g.sessions {
		s.End()
	}
}

func (g *Gate) register(s *session.Session) {
	b := g.batch(s.Home)
	b.Registrations = append(b.Registrations, actors.Registration{
		Node: s.Node(), Incarnation: s.Incarnation(), Profile: s.Profile})
}

// take hands a shard's batch to the sessions; acknowledgements first, as they ride with the rest.
func (g *Gate) take(b *actors.ToGate) {
	g.nowMs = g.cfg.NowMs()
	defer func() { g.nowMs = 0 }()
	g.cfg.Stats.Deliveries.Add(uint64(len(b.Deliveries)))
	for i := range b.Acks {
		if s := g.sessions[b.Acks[i].Node]; s != nil {
			g.acked.Ack = &b.Acks[i]
			s.Post(&g.acked)
		}
	}
	for i := range b.Withdrawals {
		if s := g.sessions[b.Withdrawals[i].Node]; s != nil {
			g.withdraw.Withdrawal = &b.Withdrawals[i]
			s.Post(&g.withdraw)
		}
	}
	for i := range b.Deliveries {
		d := &b.Deliveries[i]
		if s := g.sessions[d.Node]; s != nil && !s.Stopped() {
			g.deliver.Delivery = d
			s.Post(&g.deliver)
			continue
		}
		g.cfg.Stats.Undelivered.Add(1)
		g.Notice(d.Shard, actors.Notice{Kind: actors.Undelivered, Node: d.Node, JobID: d.JobID, Attempt: d.Attempt})
	}
	for i := range b.Evictions {
		e := &b.Evictions[i]
		if s := g.sessions[e.Node]; s != nil && s.Incarnation() <= e.Incarnation {
			g.replace(s, e.Contested)
		}
	}
	g.flush()
}

// Result implements session.Uplink.
func (g *Gate) Result(s *session.Session, r *protocol.Result, expected bool) {
	if !expected {
		g.cfg.Stats.Unexpected.Add(1)
	}
	if r.Shard >= g.cfg.Partitions { // no shard can know it: let the node forget it
		g.acked.Ack = &actors.Ack{Node: s.Node(), JobID: string(r.JobID), Attempt: r.Attempt}
		s.Post(&g.acked)
		return
	}
	b := g.batch(r.Shard)
	b.Results = append(b.Results, actors.Result{
		Node: s.Node(), JobID: b.Keep(r.JobID), Attempt: r.Attempt, Outcome: r.Outcome,
		DurationUs: r.DurationUs, Error: b.Keep(r.Error), Output: b.Keep(r.Output),
	})
}

// Progress implements session.Uplink.
func (g *Gate) Progress(s *session.Session, p *protocol.Progress) {
	if p.Shard >= g.cfg.Partitions {
		return
	}
	b := g.batch(p.Shard)
	b.Progress = append(b.Progress, actors.Progress{
		Node: s.Node(), JobID: string(p.JobID), Attempt: p.Attempt, Data: b.Keep(p.Data)})
}

// Notice implements session.Uplink.
func (g *Gate) Notice(shard uint32, n actors.Notice) {
	if shard >= g.cfg.Partitions {
		return
	}
	b := g.batch(shard)
	b.Notices = append(b.Notices, n)
}

// Reregister implements session.Uplink.
func (g *Gate) Reregister(s *session.Session, a *protocol.Attributes) {
	old := s.Profile
	s.Profile = g.profiles.take(a, old.Agent)
	g.profiles.drop(old)
	g.register(s)
}

// Decoder implements session.Uplink.
func (g *Gate) Decoder() *protocol.Decoder { return g.door.loop.Decoder() }

// NowMs implements session.Uplink.
func (g *Gate) NowMs() int64 {
	if g.nowMs != 0 {
		return g.nowMs
	}
	return g.cfg.NowMs()
}

// batch returns what is collected for a shard, and sees to it that it is sent when
// the loop has worked off the reads at hand: the busier the loop, the larger the
// batches.
func (g *Gate) batch(shard uint32) *actors.FromGate {
	b := g.up[shard]
	if b == nil {
		b = actors.NewFromGate(g.index)
		g.up[shard] = b
		g.dirty = append(g.dirty, shard)
		if !g.flushing {
			g.flushing = true
			if g.door.loop.Execute(g.flushFn) != nil {
				g.flushing = false // the loop has ended: nobody waits for these
			}
		}
	}
	return b
}

// flush sends what is collected. Whatever panics on the way, the rest can be flushed
// again: a gate that restarts does.
func (g *Gate) flush() {
	g.flushing = false
	for i := len(g.dirty) - 1; i >= 0; i-- {
		shard := g.dirty[i]
		g.dirty = g.dirty[:i]
		b := g.up[shard]
		g.up[shard] = nil
		g.cfg.Stats.Results.Add(uint64(len(b.Results))) // once: the event loops share the counter
		if !g.cfg.Shards.Send(shard, b) {
			g.cfg.Stats.Misrouted.Add(1)
		}
	}
}
