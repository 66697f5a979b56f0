//go:build linux

package fleet

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-server/roost/loadtest/internal/membertest"
	"github.com/roost-server/roost/protocol"
)

func TestNodesComeBackAsTheReasonSays(t *testing.T) {
	for _, tc := range []struct {
		close   protocol.Close
		atLeast time.Duration
		dead    bool
	}{
		{close: protocol.Close{Reason: protocol.ReasonShutdown}},
		{close: protocol.Close{Reason: 1999}},
		{close: protocol.Close{Reason: protocol.ReasonOverloaded}, atLeast: backoffMinMs / 2 * time.Millisecond},
		{close: protocol.Close{Reason: protocol.ReasonNotReady, RetryAfterMs: 900}, atLeast: 900 * time.Millisecond},
		{close: protocol.Close{Reason: 9999}, atLeast: backoffMinMs / 2 * time.Millisecond},
		{close: protocol.Close{Reason: protocol.ReasonUnauthenticated, Message: "unknown token"}, dead: true},
		{close: protocol.Close{Reason: protocol.ReasonReplaced, RetryAfterMs: 1}, dead: true},
	} {
		t.Run(fmt.Sprint(tc.close), func(t *testing.T) {
			t.Parallel()
			var refused atomic.Pointer[time.Time]
			var back atomic.Int64
			m := &membertest.Member{HeartbeatMs: 30_000}
			m.OnHello = func(*protocol.Hello) *protocol.Close {
				now := time.Now()
				if refused.CompareAndSwap(nil, &now) {
					return &tc.close
				}
				back.Store(int64(time.Since(*refused.Load())))
				return nil
			}
			membertest.Start(t, m)
			f := start(t, Config{Nodes: 1}, m)
			settled(t, f)
			s := f.Stats()
			require.EqualValues(t, 1, s.Closes[tc.close.Reason])
			require.Contains(t, s.LastError, fmt.Sprintf("(%d) %s", tc.close.Reason, tc.close.Message))
			if tc.dead {
				require.Equal(t, 1, s.Dead)
				require.Zero(t, s.Connected)
				require.EqualValues(t, 1, s.Dials)
				return
			}
			require.Equal(t, 1, s.Connected)
			require.EqualValues(t, 2, s.Dials)
			require.GreaterOrEqual(t, time.Duration(back.Load()), tc.atLeast)
		})
	}
}

func TestGoAwayLeadsToTheAddressItNames(t *testing.T) {
	a := membertest.Start(t, &membertest.Member{HeartbeatMs: 30_000})
	b := membertest.Start(t, &membertest.Member{HeartbeatMs: 30_000})
	f := start(t, Config{Nodes: 10}, a)
	settled(t, f)
	for i := range 10 {
		id := f.cfg.ID(i)
		eventually(t, "session", func() bool { return a.Conn(id) != nil })
		a.Conn(id).Send(&protocol.GoAway{Reason: protocol.ReasonDrain, JitterMs: 20, Addresses: []string{b.Addr().String()}})
	}
	eventually(t, "all moved", func() bool { return len(b.Hellos()) == 10 && f.Stats().Connected == 10 })
	eventually(t, "all said bye", func() bool { return a.Byes() == 10 })
	eventually(t, "all counted", func() bool { s := f.Stats(); return s.GoAways == 10 && s.Reconnects(10) == 10 })
	require.Zero(t, f.Stats().Dropped)
}

func TestLostConnectionsComeBack(t *testing.T) {
	m := membertest.Start(t, &membertest.Member{HeartbeatMs: 30_000})
	f := start(t, Config{Nodes: 10}, m)
	settled(t, f)
	for i := range 10 {
		id := f.cfg.ID(i)
		eventually(t, "session", func() bool { return m.Conn(id) != nil })
		m.Conn(id).Drop()
	}
	eventually(t, "all back", func() bool { s := f.Stats(); return s.Sessions == 20 && s.Connected == 10 })
	require.EqualValues(t, 10, f.Stats().Dropped)
}

func TestBadFramesEndTheConnection(t *testing.T) {
	raw := map[string][]byte{
		"oversized":     {0xff, 0xff, 0xff, byte(protocol.TypeJob)},
		"not msgpack":   {0, 0, 1, byte(protocol.TypeJob), 0xc1},
		"no fields":     {0, 0, 1, byte(protocol.TypeJob), 0x90},
		"bad ack":       {0, 0, 1, byte(protocol.TypeResultAck), 0x01},
		"bad ping":      {0, 0, 2, byte(protocol.TypePing), 0x91, 0xa0},
		"bad goaway":    {0, 0, 1, byte(protocol.TypeGoAway), 0x90},
		"bad close":     {0, 0, 1, byte(protocol.TypeClose), 0x90},
		"second welcom": {0, 0, 5, byte(protocol.TypeWelcome), 0x94, 1, 2, 0xa0, 3},
	}
	for name, b := range raw {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			said := make(chan protocol.Reason, 1)
			m := &membertest.Member{HeartbeatMs: 30_000}
			m.OnOther = func(_ *membertest.Conn, typ protocol.Type, body []byte) {
				var c protocol.Close
				if typ == protocol.TypeClose && protocol.NewDecoder().Decode(body, &c) == nil {
					select {
					case said <- c.Reason:
					default: // the bye at the end
					}
				}
			}
			membertest.Start(t, m)
			f := start(t, Config{Nodes: 1}, m)
			settled(t, f)
			eventually(t, "session", func() bool { return m.Conn("sim-000000") != nil })
			m.Conn("sim-000000").SendRaw(b)
			select {
			case r := <-said:
				require.Equal(t, protocol.ReconnectNever, r.Policy())
			case <-time.After(patience):
				t.Fatal("no CLOSE")
			}
			eventually(t, "back", func() bool { s := f.Stats(); return s.BadFrames == 1 && s.Sessions == 2 })
		})
	}
}

func TestChallengeIsExplained(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		b, _ := protocol.NewEncoder().Append(nil, &protocol.Challenge{Method: "hmac-sha256", Nonce: []byte("n")})
		_, _ = c.Write(b)
		_, _ = c.Read(make([]byte, 1<<16))
		_ = c.Close()
	}()
	f := start(t, Config{Nodes: 1, Servers: []netip.AddrPort{ln.Addr().(*net.TCPAddr).AddrPort()}})
	settled(t, f)
	require.Equal(t, 1, f.Stats().Dead)
	require.Contains(t, f.Stats().LastError, "PROOF")
}

func TestASilentMemberIsGivenUp(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // accepts by the backlog, never speaks
	require.NoError(t, err)
	defer ln.Close()
	f := start(t, Config{Nodes: 2, OpenTimeout: 50 * time.Millisecond, Servers: []netip.AddrPort{ln.Addr().(*net.TCPAddr).AddrPort()}})
	eventually(t, "timeouts", func() bool { return f.Stats().OpenTimeouts >= 4 })
	require.Contains(t, f.Stats().LastError, "no WELCOME")
}

func TestNoMemberAtAll(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := ln.Addr().(*net.TCPAddr).AddrPort()
	require.NoError(t, ln.Close())
	f := start(t, Config{Nodes: 1, Servers: []netip.AddrPort{addr}})
	eventually(t, "refused", func() bool { return f.Stats().DialErrors >= 2 })
	require.Contains(t, f.Stats().LastError, "refused")
}

func TestOpeningIsBounded(t *testing.T) {
	var open, most atomic.Int64
	gate := make(chan struct{})
	release := sync.OnceFunc(func() { close(gate) })
	defer release()
	m := &membertest.Member{HeartbeatMs: 30_000}
	m.OnHello = func(*protocol.Hello) *protocol.Close {
		n := open.Add(1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		<-gate
		open.Add(-1)
		return nil
	}
	membertest.Start(t, m)
	f := start(t, Config{Nodes: 40, InFlight: 7}, m)
	eventually(t, "seven wait", func() bool { return open.Load() == 7 })
	eventually(t, "seven dialled", func() bool { return f.Stats().Dials == 7 })
	release()
	settled(t, f)
	require.LessOrEqual(t, most.Load(), int64(7))
}

func TestSourceAddressesSpread(t *testing.T) {
	c := Config{Servers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:7400")}, Nodes: 3 * portsPerSource}
	count := map[netip.Addr]int{}
	for i := range c.Nodes {
		a, ok := c.source(i)
		require.True(t, ok)
		require.True(t, a.IsLoopback())
		count[a]++
	}
	require.Len(t, count, 3)
	for a, n := range count {
		require.Equal(t, portsPerSource, n, a)
	}
	c.Nodes = portsPerSource
	_, ok := c.source(0)
	require.False(t, ok, "the kernel chooses while ports suffice")
	c.Nodes, c.Servers = 3*portsPerSource, []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:7400")}
	_, ok = c.source(0)
	require.False(t, ok, "only loopback has addresses to choose from")
}

func TestConnectFromAChosenSource(t *testing.T) {
	m := membertest.Start(t, &membertest.Member{HeartbeatMs: 30_000})
	f := &Fleet{cfg: Config{Servers: []netip.AddrPort{m.Addr()}, Nodes: portsPerSource + 1}, nodes: make([]node, 1), addrs: []netip.AddrPort{m.Addr()}, enc: protocol.NewEncoder()}
	require.NoError(t, f.cfg.Validate())
	var err error
	f.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	require.NoError(t, err)
	defer unix.Close(f.ep)
	f.nodes[0].fd = -1
	f.connect(&f.nodes[0], 0)
	require.Empty(t, f.st.LastError)
	sa, err := unix.Getsockname(int(f.nodes[0].fd))
	require.NoError(t, err)
	require.Equal(t, [4]byte{127, 64, 0, 1}, sa.(*unix.SockaddrInet4).Addr)
	f.drop(&f.nodes[0])
}

func TestExplain(t *testing.T) {
	require.Contains(t, explain("socket", unix.EMFILE), "ulimit -n")
	require.Contains(t, explain("connect", unix.EADDRNOTAVAIL), "ip_local_port_range")
	require.Equal(t, "connect: connection refused", explain("connect", unix.ECONNREFUSED))
}
