package remote

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBothWaysInOrder(t *testing.T) {
	a, b := startMember(t, Config{}), startMember(t, Config{})
	const n = 3000
	want := make([]string, n)
	for i := range want {
		want[i] = fmt.Sprintf("%d%s", i, strings.Repeat("x", i))
	}
	want[7] = strings.Repeat("y", MaxBodyBytes)
	want[8] = ""
	for _, way := range []struct{ from, to *member }{{a, b}, {b, a}} {
		sent := 0
		for i, w := range want {
			// A link has credit; here what it would be is what arrived.
			eventually(t, "credit", func() bool { return sent-int(way.to.Stats().ReceivedBytes) < MaxQueueBytes/2 })
			way.from.Send(way.to.Advertised(), []byte(w))
			sent += len(want[i])
		}
		eventually(t, "all", func() bool { return len(way.to.bodies()) == n })
		require.Equal(t, want, way.to.bodies())
		require.NoError(t, way.from.ConnError(way.to.Advertised()))
		s := way.from.Stats()
		require.Equal(t, uint64(sent), s.SentBytes)
		require.Zero(t, s.Dropped)
		require.Equal(t, 1, s.Outbound)
	}
	require.Equal(t, 1, a.Stats().Inbound)
}

func TestTooLongIsDropped(t *testing.T) {
	a, b := startMember(t, Config{}), startMember(t, Config{})
	a.Send(b.Addr(), make([]byte, MaxBodyBytes+1))
	require.Equal(t, uint64(1), a.Stats().Dropped)
	require.Contains(t, a.logged(), "too long")
	keepSending(t, a, b, "next")
}

func TestStartRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for _, c := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"in use", Config{Listen: taken.Addr().String()}, "address already in use; is \"127.0.0.1:"},
		{"no address", Config{Listen: "127.0.0.1:x"}, "--cluster-listen"},
		{"plaintext on all", Config{Listen: ":0"}, "--cluster-listen :0 is reachable from other machines, but members have no certificates"},
		{"plaintext told to others", Config{Listen: "127.0.0.1:0", Advertise: "192.0.2.1:7946"}, "--cluster-advertise 192.0.2.1:7946 is reachable"},
		{"nothing to tell", Config{Listen: "0.0.0.0:0", Insecure: true}, "say with --cluster-advertise"},
		{"tells nothing", Config{Listen: "127.0.0.1:0", Advertise: "0.0.0.0:1", Insecure: true}, "others cannot dial \"0.0.0.0:1\""},
		{"no port", Config{Listen: "127.0.0.1:0", Advertise: "192.0.2.1", Insecure: true}, "HOST:PORT is expected"},
		{"bad port", Config{Listen: "127.0.0.1:0", Advertise: "192.0.2.1:http", Insecure: true}, "port \"http\""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := tryMember(t, c.cfg)
			require.ErrorContains(t, err, c.want)
		})
	}
	_, err = Start(Config{Listen: "127.0.0.1:0"})
	require.ErrorContains(t, err, "nothing receives")

	m := startMember(t, Config{Advertise: "localhost:0"})
	_, port, err := net.SplitHostPort(m.Addr())
	require.NoError(t, err)
	require.Equal(t, "localhost:"+port, m.Advertised())
	keepSending(t, m, m, "to itself, by name")
}

// Nobody listens, then somebody does, then is restarted at the same port: connections come and go by
// themselves, and old messages do not pile up.
func TestComesAndGoes(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := free.Addr().String()
	free.Close()
	var told atomic.Int32
	a := startMember(t, Config{Connected: func(to string) {
		if to == address {
			told.Add(1)
		}
	}})
	a.Send(address, []byte("before anybody listened"))
	eventually(t, "a failure", func() bool { return a.ConnError(address) != nil })
	require.ErrorContains(t, a.ConnError(address), "connection refused")
	require.Contains(t, a.logged(), "no connection to a member")
	for life := range 3 {
		b := startMember(t, Config{Listen: address})
		keepSending(t, a, b, fmt.Sprintf("life %d", life))
		require.NotContains(t, b.bodies(), "before anybody listened")
		b.stop(t)
		eventually(t, "the end is seen", func() bool { return a.Stats().Outbound == 0 })
	}
	require.Equal(t, uint64(3), a.Stats().Connects)
	require.Equal(t, int32(3), told.Load())
	eventually(t, "the address is forgotten", func() bool {
		a.mu.RLock()
		defer a.mu.RUnlock()
		return len(a.peers) == 0
	})
}

// A listener that accepts and says nothing costs an attempt at a time, and Send never waits for it.
func TestNeverAnswers(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer lis.Close()
	conns := make(chan net.Conn, 100)
	go func() {
		for {
			c, err := lis.Accept()
			if err != nil {
				close(conns)
				return
			}
			conns <- c
		}
	}()
	for _, store := range []string{"", "tls"} {
		cfg := Config{}
		if store != "" {
			cfg.TLS = newAuthority(t).member("a")
		}
		a := startMember(t, cfg)
		body := make([]byte, 1000)
		for range 2 {
			for range 10 * MaxQueueBytes / len(body) {
				a.Send(lis.Addr().String(), bytes.Clone(body))
			}
			c := <-conns
			require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
			_, err := io.Copy(io.Discard, c) // until the attempt is given up
			require.NoError(t, err)
			c.Close()
		}
		eventually(t, "the reason", func() bool { return a.ConnError(lis.Addr().String()) != nil })
		require.ErrorContains(t, a.ConnError(lis.Addr().String()), "no answer from a member within")
		require.Positive(t, a.Stats().Dropped)
		require.Len(t, a.logs.FilterMessageSnippet("no connection").All(), 1, "once a minute")
		a.stop(t)
	}
	lis.Close()
	for c := range conns {
		c.Close()
	}
}

// A process that is stopped takes what fits and no more; what it costs here is bounded, and it is
// connected to again when it goes on.
func TestStoppedProcess(t *testing.T) {
	c := startChild(t, "member")
	a := startMember(t, Config{})
	body := bytes.Repeat([]byte("z"), 64<<10)
	eventually(t, "it takes", func() bool {
		a.Send(c.address, bytes.Clone(body))
		return c.received() > 0
	})
	require.NoError(t, c.cmd.Process.Signal(syscall.SIGSTOP))
	before := heap()
	for range 2 {
		for range 256 << 20 / len(body) {
			a.Send(c.address, bytes.Clone(body))
		}
		broken := a.Stats().ConnectFailures
		eventually(t, "attempts fail", func() bool {
			a.Send(c.address, bytes.Clone(body))
			return a.Stats().ConnectFailures > broken
		})
	}
	require.Less(t, heap(), before+4*MaxQueueBytes)
	require.Equal(t, uint64(1), a.Stats().Broken)
	require.Contains(t, a.logged(), "took nothing for too long")

	require.NoError(t, c.cmd.Process.Signal(syscall.SIGCONT))
	connects := a.Stats().Connects
	eventually(t, "connected again", func() bool {
		a.Send(c.address, bytes.Clone(body))
		return a.Stats().Connects > connects
	})
	got := c.received()
	eventually(t, "it takes again", func() bool {
		a.Send(c.address, bytes.Clone(body))
		return c.received() > got
	})
}

func heap() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

func TestDisconnect(t *testing.T) {
	a, b := startMember(t, Config{}), startMember(t, Config{})
	a.Disconnect(b.Addr()) // there is none
	keepSending(t, a, b, "one")
	a.Disconnect(b.Addr())
	eventually(t, "both ends are gone", func() bool { return a.Stats().Outbound == 0 && b.Stats().Inbound == 0 })
	keepSending(t, a, b, "two")
	require.Equal(t, uint64(2), a.Stats().Connects)
	require.Zero(t, a.Stats().Broken)
}

// What was sent just before Close arrives: a member says goodbye.
func TestCloseFlushes(t *testing.T) {
	a, b := startMember(t, Config{}), startMember(t, Config{})
	keepSending(t, a, b, "hello")
	for range 100 {
		a.Send(b.Addr(), make([]byte, 10_000))
	}
	a.Send(b.Addr(), []byte("goodbye"))
	a.stop(t)
	bodies := b.bodies()
	require.Equal(t, "goodbye", bodies[len(bodies)-1])
	a.Send(b.Addr(), []byte("too late"))
	require.Equal(t, uint64(1), a.Stats().Dropped)
}

// Neither a peer that hangs in a handshake, nor one that is dialled in vain, holds Close up.
func TestCloseDoesNotWait(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0") // its backlog accepts
	require.NoError(t, err)
	defer lis.Close()
	long := defaultTuning
	long.connect, long.flush = time.Hour, time.Hour
	r, err := start(Config{Listen: "127.0.0.1:0", Receive: func(Inbound) {}}, long)
	require.NoError(t, err)
	c, err := net.Dial("tcp", r.Addr())
	require.NoError(t, err)
	defer c.Close()
	r.Send(lis.Addr().String(), []byte("x"))
	in, err := lis.Accept()
	require.NoError(t, err)
	defer in.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	require.NoError(t, r.Close(ctx))
	require.NoError(t, r.Close(ctx), "twice")
}

// protoactor's own remote understands what is sent, and is understood.
func TestProtoactorAtTheOtherEnd(t *testing.T) {
	c := startChild(t, "protoactor")
	a := startMember(t, Config{})
	long := strings.Repeat("long", 50_000)
	a.Send(c.address, []byte(a.Addr()+"|hello"))
	a.Send(c.address, []byte(a.Addr()+"|"+long))
	eventually(t, "both come back", func() bool { return len(a.bodies()) == 2 })
	require.Equal(t, []string{"hello", long}, a.bodies())
}
