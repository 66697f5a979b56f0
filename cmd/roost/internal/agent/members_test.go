package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/gate"
	"github.com/roost-server/roost/cmd/roost/internal/probe"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/transport/tcp"
)

// patience bounds every wait.
const patience = 20 * time.Second

// testMember is the nodes' side of a member: real sockets, gates and sessions. The shard
// is the test: it notes what gates say and delivers what it is told to.
type testMember struct {
	t      *testing.T
	server *tcp.Server
	system *actor.ActorSystem
	cfg    *gate.Config
	stats  gate.Stats

	mu      sync.Mutex
	gates   []*actor.PID
	log     []string
	results map[string]protocol.Outcome
	from    string // the address of the node that said something last
}

func startMember(t *testing.T, name string, change ...func(*tcp.Config)) *testMember {
	m := &testMember{t: t, results: map[string]protocol.Outcome{}, system: actor.NewActorSystem(
		actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return slog.New(slog.DiscardHandler) }))}
	m.cfg = &gate.Config{Member: name, Partitions: 1, Heartbeat: 5 * time.Second, AcceptAfter: time.Minute,
		Shards: m, Stats: &m.stats, NowMs: func() int64 { return time.Now().UnixMilli() }}
	cfg := tcp.DefaultConfig()
	cfg.Listen, cfg.MaxConns, cfg.Tick, cfg.CloseLinger = "127.0.0.1:0", 100, 10*time.Millisecond, time.Second
	for _, fn := range change {
		fn(&cfg)
	}
	var err error
	m.server, err = tcp.Start(context.Background(), cfg, m, zap.NewNop())
	require.NoError(t, err)
	t.Cleanup(func() { m.stop(patience) })
	return m
}

// stop ends the member; with no time, as a kill does: sockets are cut without a word.
func (m *testMember) stop(within time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	_ = m.server.Stop(ctx, protocol.ReasonShutdown, "the test is over")
	m.mu.Lock()
	gates := m.gates
	m.gates = nil
	m.mu.Unlock()
	for _, pid := range gates {
		require.NoError(m.t, m.system.Root.StopFuture(pid).Wait())
	}
	if gates != nil {
		m.system.Shutdown()
	}
}

func (m *testMember) addr() string { return m.server.Addr().String() }

// LoopStarted implements tcp.Handler.
func (m *testMember) LoopStarted(l *tcp.Loop) tcp.LoopHandler {
	m.mu.Lock()
	defer m.mu.Unlock()
	door := gate.NewDoor(m.cfg, uint32(len(m.gates)), l)
	stop := actor.NewOneForOneStrategy(0, 0, func(any) actor.Directive { return actor.StopDirective })
	m.gates = append(m.gates, m.system.Root.Spawn(door.Props(stop)))
	return memberDoor{m, door}
}

type memberDoor struct {
	m    *testMember
	door *gate.Door
}

// Frame implements tcp.LoopHandler.
func (d memberDoor) Frame(c *tcp.Conn, t protocol.Type, body []byte) error {
	d.m.mu.Lock()
	d.m.from = c.RemoteAddr()
	d.m.mu.Unlock()
	return d.door.Frame(c, t, body)
}

// Closed implements tcp.LoopHandler.
func (d memberDoor) Closed(c *tcp.Conn, _ protocol.Reason, _ error) { d.door.Closed(c) }

// Send implements gate.Shards.
func (m *testMember) Send(_ uint32, b *actors.FromGate) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range b.Results {
		r := &b.Results[i]
		m.results[string(r.JobID)] = r.Outcome
	}
	for i := range b.Notices {
		switch n := &b.Notices[i]; n.Kind {
		case actors.Running:
			m.log = append(m.log, "running "+n.JobID)
		case actors.Held:
			m.log = append(m.log, "held "+n.JobID)
		case actors.Lost:
			m.log = append(m.log, "lost "+n.JobID)
		}
	}
	b.Release()
	return true
}

// tell sends a message to all gates, as the router does.
func (m *testMember) tell(make func() any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, pid := range m.gates {
		m.system.Root.Send(pid, make())
	}
}

func (m *testMember) deliver(node, job string, args probe.HTTPArgs) {
	b, err := msgpack.Marshal(&args)
	require.NoError(m.t, err)
	m.tell(func() any {
		batch := actors.NewToGate()
		batch.Deliveries = append(batch.Deliveries, actors.Delivery{Node: node, JobID: job, Kind: "http", Attempt: 1, Args: b, TimeoutMs: 60_000})
		return batch
	})
}

func (m *testMember) ack(node string, jobs ...string) {
	m.tell(func() any {
		batch := actors.NewToGate()
		for _, j := range jobs {
			batch.Acks = append(batch.Acks, actors.Ack{Node: node, JobID: j, Attempt: 1})
		}
		return batch
	})
}

// drain sends every node to others, and returns how many were told.
func (m *testMember) drain(to ...string) int {
	m.server.RefuseWith(&tcp.Refusal{Reason: protocol.ReasonDrain, Addresses: to})
	m.mu.Lock()
	defer m.mu.Unlock()
	told, done := 0, make(chan int, 1)
	for _, pid := range m.gates {
		m.system.Root.Send(pid, &actors.Drain{Sockets: 100, JitterMs: 200, Addresses: to, Done: done})
		told += <-done
	}
	return told
}

func (m *testMember) eventually(what string, ok func() bool) {
	m.t.Helper()
	require.Eventually(m.t, func() bool { m.mu.Lock(); defer m.mu.Unlock(); return ok() }, patience, 5*time.Millisecond, what)
}

func (m *testMember) connected(n int64) {
	m.t.Helper()
	require.Eventually(m.t, func() bool { return m.stats.Sessions.Load() == n }, patience, 5*time.Millisecond, "%d sessions", n)
}

// runAgent runs a node as `roost node` does, and returns its log.
func runAgent(t *testing.T, cfg Config) *observer.ObservedLogs {
	core, logs := observer.New(zap.InfoLevel)
	cfg.NodeID, cfg.AllowPrivate, cfg.Version = "n", true, "test"
	a, err := New(cfg, zap.New(core))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		require.NoError(t, a.Close())
	})
	return logs
}

func TestAMemberIsDrainedOfItsNodes(t *testing.T) {
	from, to := startMember(t, "from"), startMember(t, "to")
	release := make(chan struct{})
	var asked atomic.Int32
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/long" {
			asked.Add(1)
			<-release
		}
		fmt.Fprint(w, "fine")
	}))
	t.Cleanup(target.Close)
	logs := runAgent(t, Config{Servers: []string{from.addr()}})
	from.connected(1)
	from.deliver("n", "long", probe.HTTPArgs{URL: target.URL + "/long"})
	from.deliver("n", "quick", probe.HTTPArgs{URL: target.URL})
	from.eventually("the quick one's result", func() bool { return from.results["quick"] == protocol.OutcomeOK && len(from.results) == 1 })
	require.Eventually(t, func() bool { return asked.Load() == 1 }, patience, time.Millisecond)

	require.Equal(t, 1, from.drain(to.addr()))
	to.connected(1)
	to.eventually("it brings along what it has", func() bool { return len(to.log) == 2 })
	require.Equal(t, []string{"running long", "held quick"}, to.log)
	to.eventually("what was not acknowledged comes again", func() bool { return to.results["quick"] == protocol.OutcomeOK && len(to.results) == 1 })
	close(release)
	to.eventually("the long one's result", func() bool { return len(to.results) == 2 })
	require.Equal(t, protocol.OutcomeOK, to.results["long"])
	require.EqualValues(t, 1, asked.Load(), "it ran once, over two members")
	to.ack("n", "quick", "long")

	from.eventually("the old member knows that it left with the job", func() bool { return len(from.log) == 1 && from.log[0] == "lost long" })
	require.Zero(t, from.stats.Sessions.Load())
	require.Zero(t, from.stats.Leaving.Load())
	require.Equal(t, uint64(1), from.stats.Drained.Load())
	require.Zero(t, from.stats.Overstayed.Load())
	require.Len(t, logs.FilterMessage("asked to leave").All(), 1)
}

// A node that only knows the member that is being drained is sent on at its HELLO.
func TestADrainedMemberSendsNewNodesOn(t *testing.T) {
	from, to := startMember(t, "from"), startMember(t, "to")
	require.Zero(t, from.drain(to.addr()))
	logs := runAgent(t, Config{Servers: []string{from.addr()}})
	to.connected(1)
	require.Zero(t, from.stats.Opened.Load())
	require.Equal(t, uint64(1), from.server.Stats().RefusedDrain)
	gone := logs.FilterMessage("disconnected").All()
	require.Len(t, gone, 1)
	require.Equal(t, "drain", gone[0].ContextMap()["reason"])
}

func TestANodeGoesOnAtTheOtherMember(t *testing.T) {
	a, b := startMember(t, "a"), startMember(t, "b")
	logs := runAgent(t, Config{Servers: []string{a.addr(), b.addr()}})
	require.Eventually(t, func() bool { return a.stats.Sessions.Load()+b.stats.Sessions.Load() == 1 }, patience, time.Millisecond)
	dead, alive := a, b
	if b.stats.Sessions.Load() == 1 {
		dead, alive = b, a
	}
	dead.stop(0)
	alive.connected(1)

	// The dead one is tried in turn, and costs no more than a backoff.
	require.Equal(t, 1, alive.drain())
	alive.connected(0)
	alive.server.RefuseWith(nil)
	alive.connected(1)
	var tries int
	for _, e := range logs.FilterMessage("disconnected").All() {
		f := e.ContextMap()
		if _, failed := f["error"]; failed && f["address"] == dead.addr() {
			require.LessOrEqual(t, f["retry_in"], 2*time.Second, "a few backoffs at most")
			tries++
		}
	}
	require.Positive(t, tries)
}
