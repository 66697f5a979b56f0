//go:build linux

package fleet

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/loadtest/internal/membertest"
	"github.com/roost-server/roost/loadtest/internal/nodes"
	"github.com/roost-server/roost/loadtest/internal/stamp"
	"github.com/roost-server/roost/protocol"
)

func newGroup(t testing.TB, spec nodes.Spec, m *membertest.Member) nodes.Group {
	t.Helper()
	if spec.Servers == nil {
		spec.Servers = []netip.AddrPort{m.Addr()}
	}
	g, err := NewGroup(spec)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, g.Stop()) })
	return g
}

var background = context.Background()

func TestRampConnectsSoManyAtItsRate(t *testing.T) {
	m := membertest.Start(t, &membertest.Member{HeartbeatMs: 30_000})
	g := newGroup(t, nodes.Spec{Nodes: 300, First: 100, Of: 1000, Seed: 3}, m)
	require.Zero(t, g.Stats().Dials, "nobody asked for any")
	require.NoError(t, g.Ramp(background, 50, 0))
	eventually(t, "50", func() bool { return g.Stats().Connected == 50 && g.Stats().ConnectTook > 0 })

	began := time.Now()
	require.NoError(t, g.Ramp(background, 150, 200))
	require.Zero(t, g.Stats().ConnectTook, "of all that were asked for")
	eventually(t, "150", func() bool { return g.Stats().Connected == 150 })
	require.GreaterOrEqual(t, time.Since(began), 450*time.Millisecond, "100 at 200 a second")
	require.EqualValues(t, 150, g.Stats().Dials)

	require.NoError(t, g.Ramp(background, 20, 0), "fewer than there are: nothing happens")
	require.NoError(t, g.Ramp(background, 300, 0))
	eventually(t, "all", func() bool { return g.Stats().Connected == 300 })
	ids := map[string]bool{}
	for _, h := range m.Hellos() {
		ids[h.NodeID] = true
	}
	require.Len(t, ids, 300)
	require.True(t, ids["sim-000100"] && ids["sim-000399"], "numbers begin at First")
	require.ErrorContains(t, g.Ramp(background, 301, 0), "allowed are 0 to 300")
}

func TestCutHitsTheFractionThatTheSeedSays(t *testing.T) {
	m := membertest.Start(t, &membertest.Member{HeartbeatMs: 30_000})
	spec := nodes.Spec{Nodes: 200, Seed: 5, NodePrefix: "sim-"}
	g := newGroup(t, spec, m)
	require.NoError(t, g.Ramp(background, 200, 0))
	eventually(t, "all", func() bool { return g.Stats().Connected == 200 })

	want := map[string]int{}
	for i := range 200 {
		want[spec.ID(i)] = 1
		if nodes.Hit(5, 1, i, 0.3) {
			want[spec.ID(i)] = 2
		}
	}
	hit, err := g.Cut(background, 0.3)
	require.NoError(t, err)
	require.True(t, hit > 30 && hit < 90, "%d", hit)
	s := g.Stats()
	require.EqualValues(t, hit, s.Cut)
	require.Equal(t, 200-hit, s.Connected)
	require.Zero(t, s.Dropped, "it was the test's own will")
	eventually(t, "back", func() bool { return g.Stats().Connected == 200 })
	got := map[string]int{}
	for _, h := range m.Hellos() {
		got[h.NodeID]++
	}
	require.Equal(t, want, got)

	hit, err = g.Cut(background, 1)
	require.NoError(t, err)
	require.Equal(t, 200, hit)
	eventually(t, "all back", func() bool { return g.Stats().Connected == 200 })
	_, err = g.Cut(background, 1.5)
	require.ErrorContains(t, err, "allowed are 0 to 1")
}

// A socket that is cut is reset: the server sees no orderly end.
func TestCutIsAReset(t *testing.T) {
	m := membertest.Start(t, &membertest.Member{HeartbeatMs: 30_000})
	g := newGroup(t, nodes.Spec{Nodes: 1}, m)
	require.NoError(t, g.Ramp(background, 1, 0))
	eventually(t, "session", func() bool { return m.Conn("sim-000000") != nil })
	first := m.Conn("sim-000000")
	_, err := g.Cut(background, 1)
	require.NoError(t, err)
	eventually(t, "end", func() bool { return first.Err() != nil })
	require.ErrorContains(t, first.Err(), "reset")
	require.Zero(t, m.Byes())
}

func TestChurnGoesOnUntilItIsEnded(t *testing.T) {
	m := membertest.Start(t, &membertest.Member{HeartbeatMs: 30_000})
	g := newGroup(t, nodes.Spec{Nodes: 50, Seed: 1}, m)
	require.NoError(t, g.Ramp(background, 50, 0))
	eventually(t, "all", func() bool { return g.Stats().Connected == 50 })
	began := time.Now()
	require.NoError(t, g.Churn(background, 100))
	eventually(t, "cut", func() bool { return g.Stats().Cut >= 40 })
	require.NoError(t, g.Churn(background, 0))
	took := time.Since(began)
	cut := g.Stats().Cut
	require.LessOrEqual(t, float64(cut), 100*took.Seconds()+1)
	eventually(t, "all back", func() bool { return g.Stats().Connected == 50 })
	require.Equal(t, cut, g.Stats().Cut)
	require.ErrorContains(t, g.Churn(background, -1), "0 or more")
}

// Nodes that are slow get nothing off their socket, also after they reconnected, and go
// on when they may.
func TestSlowNodesReadNothing(t *testing.T) {
	var results atomic.Int64
	m := &membertest.Member{HeartbeatMs: 30_000}
	m.OnResult = func(c *membertest.Conn, r *protocol.Result) { results.Add(1); c.Ack(r) }
	membertest.Start(t, m)
	spec := nodes.Spec{Nodes: 40, Seed: 9, NodePrefix: "sim-"}
	g := newGroup(t, spec, m)
	require.NoError(t, g.Ramp(background, 40, 0))
	require.NoError(t, g.Slow(background, 0.5))
	eventually(t, "all", func() bool { return g.Stats().Connected == 40 })
	slow := 0
	for i := range 40 {
		if nodes.Hit(9, nodes.OfSlow, i, 0.5) {
			slow++
		}
	}
	send := func() {
		for i := range 40 {
			eventually(t, "session", func() bool { return m.Conn(spec.ID(i)) != nil })
			m.Conn(spec.ID(i)).Send(&protocol.Job{JobID: []byte("j"), Attempt: 1, Kind: []byte("echo"), TimeoutMs: 1000})
		}
	}
	send()
	eventually(t, "the others answer", func() bool { return results.Load() == int64(40-slow) && g.Stats().Acks == uint64(40-slow) })
	require.EqualValues(t, 40-slow, g.Stats().Jobs)
	require.NoError(t, g.Slow(background, 0))
	eventually(t, "all answer", func() bool { return results.Load() == 40 })
	require.ErrorContains(t, g.Slow(background, 2), "allowed are 0 to 1")
}

func TestJobsRunForAsLongAsTheySay(t *testing.T) {
	type seen struct {
		after time.Duration
		r     protocol.Result
	}
	var mu sync.Mutex
	got := map[string]seen{}
	var began time.Time
	var accepted []string
	m := &membertest.Member{HeartbeatMs: 30_000, AcceptAfterMs: 100}
	m.OnResult = func(c *membertest.Conn, r *protocol.Result) {
		mu.Lock()
		got[string(r.JobID)] = seen{time.Since(began), protocol.Result{Outcome: r.Outcome, DurationUs: r.DurationUs}}
		mu.Unlock()
		c.Ack(r)
	}
	m.OnOther = func(_ *membertest.Conn, typ protocol.Type, body []byte) {
		var a protocol.Accepted
		if typ == protocol.TypeAccepted && protocol.NewDecoder().Decode(body, &a) == nil {
			mu.Lock()
			accepted = append(accepted, string(a.JobID))
			mu.Unlock()
		}
	}
	membertest.Start(t, m)
	g := newGroup(t, nodes.Spec{Nodes: 1, RunFor: 60 * time.Millisecond}, m)
	require.NoError(t, g.Ramp(background, 1, 0))
	eventually(t, "session", func() bool { return m.Conn("sim-000000") != nil })
	job := func(id string, runFor time.Duration, timeoutMs uint32) protocol.Message {
		args := append([]byte{0xc4, stamp.Bytes}, make([]byte, stamp.Bytes)...)
		stamp.Put(args[2:], 1, 2, runFor)
		return &protocol.Job{JobID: []byte(id), Attempt: 1, Kind: []byte("echo"), TimeoutMs: timeoutMs, Args: args}
	}
	mu.Lock()
	began = time.Now()
	mu.Unlock()
	m.Conn("sim-000000").Send(job("long", 300*time.Millisecond, 10_000), job("own", 0, 10_000), job("late", time.Minute, 150))
	eventually(t, "all", func() bool { mu.Lock(); defer mu.Unlock(); return len(got) == 3 })
	eventually(t, "acks", func() bool { return g.Stats().Acks == 3 })
	mu.Lock()
	defer mu.Unlock()
	require.GreaterOrEqual(t, got["own"].after, 59*time.Millisecond)
	require.GreaterOrEqual(t, got["late"].after, 149*time.Millisecond)
	require.GreaterOrEqual(t, got["long"].after, 299*time.Millisecond)
	require.EqualValues(t, 300_000, got["long"].r.DurationUs)
	require.Equal(t, protocol.OutcomeOK, got["own"].r.Outcome)
	require.Equal(t, protocol.OutcomeTimeout, got["late"].r.Outcome)
	require.ElementsMatch(t, []string{"long", "late"}, accepted, "those that take longer than the server waits")
}

func TestWhatRunsEndsWithItsConnection(t *testing.T) {
	m := &membertest.Member{HeartbeatMs: 30_000}
	var results atomic.Int64
	m.OnResult = func(*membertest.Conn, *protocol.Result) { results.Add(1) }
	membertest.Start(t, m)
	g := newGroup(t, nodes.Spec{Nodes: 1, RunFor: 200 * time.Millisecond}, m)
	require.NoError(t, g.Ramp(background, 1, 0))
	eventually(t, "session", func() bool { return m.Conn("sim-000000") != nil })
	m.Conn("sim-000000").Send(&protocol.Job{JobID: []byte("a"), Attempt: 1, Kind: []byte("echo")})
	eventually(t, "it runs", func() bool { return g.Stats().Jobs == 1 })
	_, err := g.Cut(background, 1)
	require.NoError(t, err)
	eventually(t, "back", func() bool { c := m.Conn("sim-000000"); return len(m.Hellos()) == 2 && c != nil })
	m.Conn("sim-000000").Send(&protocol.Job{JobID: []byte("b"), Attempt: 1, Kind: []byte("echo")})
	eventually(t, "the later one", func() bool { return results.Load() == 1 })
	eventually(t, "it is counted", func() bool { return g.Stats().Results > 0 }) // Stats may be some milliseconds old
	require.EqualValues(t, 1, g.Stats().Results)
}

func TestSourcesAreUsedInTurn(t *testing.T) {
	m := membertest.Start(t, &membertest.Member{HeartbeatMs: 30_000})
	from := []netip.Addr{netip.MustParseAddr("127.1.0.1"), netip.MustParseAddr("127.1.0.2")}
	g := newGroup(t, nodes.Spec{Nodes: 10, NodePrefix: "sim-", Sources: from}, m)
	require.NoError(t, g.Ramp(background, 10, 0))
	count := map[string]int{}
	for i := range 10 {
		id := fmt.Sprintf("sim-%06d", i)
		eventually(t, "session", func() bool { return m.Conn(id) != nil })
		count[m.Conn(id).RemoteAddr().Addr().String()]++
	}
	require.Equal(t, map[string]int{"127.1.0.1": 5, "127.1.0.2": 5}, count)

	// Each pair of source and server comes before any comes twice.
	c := Config{Servers: []netip.AddrPort{{}, {}, {}}, Sources: from}
	pairs := map[[2]any]bool{}
	for i := range 6 {
		src, ok := c.source(i)
		require.True(t, ok)
		pairs[[2]any{i % 3, src}] = true
	}
	require.Len(t, pairs, 6)

	_, err := NewGroup(nodes.Spec{Nodes: 1, Servers: []netip.AddrPort{m.Addr()}, Sources: []netip.Addr{netip.IPv6Loopback()}})
	require.ErrorContains(t, err, "--source: ::1 cannot reach 127.0.0.1")
}

func TestAGroupThatHasEndedSaysSo(t *testing.T) {
	m := membertest.Start(t, &membertest.Member{})
	g := newGroup(t, nodes.Spec{Nodes: 1}, m)
	require.NoError(t, g.Stop())
	require.ErrorContains(t, g.Ramp(background, 1, 0), "the nodes have ended")
	ctx, cancel := context.WithCancel(background)
	cancel()
	require.Error(t, newGroup(t, nodes.Spec{Nodes: 1}, m).Ramp(ctx, 1, 0))
}

// maxBytesPerNode is what a node may cost the simulator in its worst moments, everything
// included but the kernel's share.
const maxBytesPerNode = 300

func TestMemoryOfAMillionNodes(t *testing.T) {
	const n = 100_000
	heapBytes := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heapBytes()
	f, err := open(Config{Nodes: n, Servers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")}})
	require.NoError(t, err)
	defer f.closeLoopFiles()
	f.fresh = n
	require.Less(t, heapBytes()-before, int64(n*(NodeBytes+8)+1<<20), "connected")
	for i := range f.nodes {
		f.retry(&f.nodes[i], i, protocol.ReconnectBackoff, 0) // all of them were cut
	}
	require.Len(t, f.later, n)
	require.Less(t, heapBytes()-before, int64(n*maxBytesPerNode), "all wait to come back")
	for len(f.later) > 0 {
		f.later.pop()
	}
	require.Less(t, heapBytes()-before, int64(n*(NodeBytes+8)+1<<20), "and are back")
	runtime.KeepAlive(f)
}
