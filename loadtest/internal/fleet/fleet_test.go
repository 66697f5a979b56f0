//go:build linux

package fleet

import (
	"bytes"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/roost-server/roost/loadtest/internal/membertest"
	"github.com/roost-server/roost/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

func start(t testing.TB, cfg Config, members ...*membertest.Member) *Fleet {
	t.Helper()
	for _, m := range members {
		cfg.Servers = append(cfg.Servers, m.Addr())
	}
	f, err := Start(cfg)
	require.NoError(t, err)
	t.Cleanup(f.Stop)
	return f
}

func settled(t testing.TB, f *Fleet) {
	t.Helper()
	select {
	case <-f.Settled():
	case <-time.After(patience):
		t.Fatalf("not settled: %+v", f.Stats())
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, patience, time.Millisecond, what)
}

func TestNodesConnectAndLeave(t *testing.T) {
	m := membertest.Start(t, &membertest.Member{HeartbeatMs: 30_000})
	f := start(t, Config{Nodes: 200, Seed: 7, Credential: []byte("token"), NodePrefix: "x-", InFlight: 10}, m)
	settled(t, f)
	s := f.Stats()
	require.Equal(t, 200, s.Connected)
	require.Positive(t, s.ConnectTook)
	require.EqualValues(t, 200, s.Sessions)
	require.Zero(t, s.Reconnects(200))

	ids, sets := map[string]bool{}, map[string]bool{}
	for _, h := range m.Hellos() {
		ids[h.NodeID] = true
		sets[fmt.Sprint(h.Attributes)] = true
		require.Equal(t, "token", string(h.Credential))
		require.EqualValues(t, DefaultCredit, h.Credit)
		require.EqualValues(t, protocol.Version, h.Version)
		require.Contains(t, h.Attributes.Kinds, "echo")
	}
	require.Len(t, ids, 200)
	require.True(t, ids["x-000000"] && ids["x-000199"])
	require.Greater(t, len(sets), 100, "attributes vary")

	f.Stop()
	f.Stop() // again is allowed
	eventually(t, "every node says bye", func() bool { return m.Byes() == 200 })
	require.Zero(t, f.Stats().Connected)
}

func TestJobsAreEchoed(t *testing.T) {
	big := append([]byte{0xc6, 0, 4, 0, 0}, bytes.Repeat([]byte{7}, 4<<16)...) // bin32 of 256 KiB
	args := [][]byte{{0xc0}, {0xc4, 2, 8, 9}, big, {0x93, 1, 2, 3}}
	for _, chunk := range []int{0, 1, 3, 4096} {
		t.Run(fmt.Sprintf("in pieces of %d", chunk), func(t *testing.T) {
			var mu sync.Mutex
			var got []string
			var outputs [][]byte
			m := &membertest.Member{HeartbeatMs: 30_000, Chunk: chunk}
			m.OnResult = func(c *membertest.Conn, r *protocol.Result) {
				mu.Lock()
				got = append(got, fmt.Sprintf("%s %d %d %v", r.JobID, r.Shard, r.Attempt, r.Outcome))
				outputs = append(outputs, bytes.Clone(r.Output))
				mu.Unlock()
				c.Ack(r)
			}
			membertest.Start(t, m)
			f := start(t, Config{Nodes: 1}, m)
			settled(t, f)
			var jobs []protocol.Message
			for i, a := range args {
				if chunk == 1 && len(a) > 4096 {
					a = a[len(a)-1:] // a positive fixint: a quarter of a million writes would say no more
					args[i] = a
				}
				jobs = append(jobs, &protocol.Job{
					JobID: fmt.Appendf(nil, "j%d", i), Shard: uint32(i), Attempt: uint32(i + 1), Kind: []byte("echo"), TimeoutMs: 1000, Args: a,
				})
			}
			eventually(t, "session", func() bool { return m.Conn("sim-000000") != nil })
			m.Conn("sim-000000").Send(jobs...)
			eventually(t, "acks", func() bool { return f.Stats().Acks == 4 })
			mu.Lock()
			defer mu.Unlock()
			require.Equal(t, []string{"j0 0 1 ok", "j1 1 2 ok", "j2 2 3 ok", "j3 3 4 ok"}, got)
			require.Equal(t, args, outputs)
			s := f.Stats()
			require.EqualValues(t, 4, s.Jobs)
			require.EqualValues(t, 4, s.Results)
			require.Zero(t, s.Unacked)
			require.Zero(t, s.BadFrames)
		})
	}
}

func TestResultsWithoutAckAreCountedThenForgotten(t *testing.T) {
	m := &membertest.Member{HeartbeatMs: 30_000, OnResult: func(*membertest.Conn, *protocol.Result) {}}
	membertest.Start(t, m)
	f := start(t, Config{Nodes: 1}, m)
	settled(t, f)
	eventually(t, "session", func() bool { return m.Conn("sim-000000") != nil })
	j := &protocol.Job{JobID: []byte("a"), Attempt: 1, Kind: []byte("echo"), TimeoutMs: 1}
	m.Conn("sim-000000").Send(j, j, j)
	eventually(t, "unacked", func() bool { return f.Stats().Unacked == 3 })
	m.Conn("sim-000000").Drop()
	eventually(t, "forgotten", func() bool { s := f.Stats(); return s.Unacked == 0 && s.Forgotten == 3 && s.Dropped == 1 })
}

// The member reads nothing while 64 results of 128 KiB come: far more than the sockets
// hold. What the kernel does not take has to wait in the node, in order.
func TestOutputWaitsForASlowMember(t *testing.T) {
	release := make(chan struct{})
	results := make(chan string, 64)
	m := &membertest.Member{HeartbeatMs: 30_000}
	m.OnResult = func(c *membertest.Conn, r *protocol.Result) {
		<-release
		results <- string(r.JobID)
	}
	membertest.Start(t, m)
	f := start(t, Config{Nodes: 1}, m)
	settled(t, f)
	eventually(t, "session", func() bool { return m.Conn("sim-000000") != nil })
	args := append([]byte{0xc6, 0, 1, 0, 0}, make([]byte, 64<<10)...)
	for i := range 64 {
		m.Conn("sim-000000").Send(&protocol.Job{JobID: fmt.Appendf(nil, "j%d", i), Attempt: 1, Kind: []byte("echo"), TimeoutMs: 1000, Args: args})
	}
	eventually(t, "all answered", func() bool { return f.Stats().Results == 64 })
	close(release)
	for i := range 64 {
		select {
		case id := <-results:
			require.Equal(t, fmt.Sprintf("j%d", i), id)
		case <-time.After(patience):
			t.Fatalf("result %d did not come: %+v", i, f.Stats())
		}
	}
	require.EqualValues(t, 1, f.Stats().Sessions, "the connection lasted")
}

func TestAMemberThatNeverReadsIsGivenUp(t *testing.T) {
	release := make(chan struct{})
	m := &membertest.Member{HeartbeatMs: 30_000, OnResult: func(*membertest.Conn, *protocol.Result) { <-release }}
	membertest.Start(t, m)
	f := start(t, Config{Nodes: 1}, m)
	settled(t, f)
	eventually(t, "session", func() bool { return m.Conn("sim-000000") != nil })
	defer close(release)
	args := append([]byte{0xc6, 0, 4, 0, 0}, make([]byte, 256<<10)...)
	c := m.Conn("sim-000000")
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for range 100 {
			c.Send(&protocol.Job{JobID: []byte("j"), Attempt: 1, Kind: []byte("echo"), TimeoutMs: 1000, Args: args})
		}
	}()
	eventually(t, "given up", func() bool { return f.Stats().SlowServer == 1 })
	<-sent
	require.Contains(t, f.Stats().LastError, "does not read")
}

func TestPingIsAnswered(t *testing.T) {
	nonces := make(chan uint64, 1)
	m := &membertest.Member{HeartbeatMs: 30_000}
	m.OnOther = func(_ *membertest.Conn, typ protocol.Type, body []byte) {
		var p protocol.Pong
		if typ == protocol.TypePong && protocol.NewDecoder().Decode(body, &p) == nil {
			nonces <- p.Nonce
		}
	}
	membertest.Start(t, m)
	f := start(t, Config{Nodes: 1}, m)
	settled(t, f)
	eventually(t, "session", func() bool { return m.Conn("sim-000000") != nil })
	m.Conn("sim-000000").SendRaw([]byte{0, 0, 1, 0x7f, 0xc0}) // a type of a later version
	m.Conn("sim-000000").Send(&protocol.Ping{Nonce: 1 << 60})
	select {
	case n := <-nonces:
		require.EqualValues(t, 1<<60, n)
	case <-time.After(patience):
		t.Fatal("no PONG")
	}
}

func TestHeartbeatsKeepComing(t *testing.T) {
	m := membertest.Start(t, &membertest.Member{HeartbeatMs: 100})
	f := start(t, Config{Nodes: 20}, m)
	settled(t, f)
	for i := range 20 {
		eventually(t, "pings", func() bool { return len(m.Pings(f.cfg.ID(i))) >= 3 })
	}
	eventually(t, "pongs", func() bool { s := f.Stats(); return s.Pongs >= 60 && s.Pings >= s.Pongs })
}

func TestStartRefuses(t *testing.T) {
	ok := Config{Servers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")}, Nodes: 1}
	for name, change := range map[string]func(c *Config){
		"--server":       func(c *Config) { c.Servers = nil },
		"--nodes":        func(c *Config) { c.Nodes = 0 },
		"--node-prefix":  func(c *Config) { c.NodePrefix = "a b" },
		"--credential":   func(c *Config) { c.Credential = make([]byte, protocol.MaxCredentialBytes+1) },
		"--credit":       func(c *Config) { c.Credit = protocol.MaxCredit + 1 },
		"--in-flight":    func(c *Config) { c.InFlight = -1 },
		"--open-timeout": func(c *Config) { c.OpenTimeout = -1 },
	} {
		c := ok
		change(&c)
		_, err := Start(c)
		require.ErrorContains(t, err, name)
	}
}
