package tcp

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-server/roost/protocol"
)

func TestOneReadOneWrite(t *testing.T) {
	s := start(t, testConfig(), &node{})
	c := join(t, s)
	before := s.Stats()
	const pings = 500
	var b []byte
	for i := range uint64(pings) {
		b = c.frames(b, &protocol.Ping{Nonce: i})
	}
	c.write(b)
	for i := range uint64(pings) {
		var m protocol.Pong
		c.want(&m)
		require.Equal(t, i, m.Nonce)
	}
	after := s.Stats()
	require.Equal(t, uint64(pings), after.FramesIn-before.FramesIn)
	require.Equal(t, uint64(pings), after.FramesOut-before.FramesOut)
	require.Equal(t, after.Reads-before.Reads, after.Writes-before.Writes)
	require.Less(t, after.Writes-before.Writes, uint64(20), "the kernel may cut the stream, not we")
	require.Equal(t, uint64(len(b)), after.BytesOut-before.BytesOut)
}

func TestExecuteFromManyGoroutines(t *testing.T) {
	n := &node{}
	cfg := testConfig()
	cfg.Loops = 1
	s := start(t, cfg, n)
	c := join(t, s)
	conn := n.conn(0)
	const givers, each = 8, 500
	var wg sync.WaitGroup
	for g := range givers {
		wg.Go(func() {
			for i := range each {
				if err := conn.Loop().Execute(func() {
					_ = conn.Append(&protocol.Ping{Nonce: uint64(g*each + i)})
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	next := make([]uint64, givers)
	for range givers * each {
		var m protocol.Ping
		c.want(&m)
		g := m.Nonce / each
		require.Equal(t, next[g], m.Nonce%each, "in the order in which they were given")
		next[g]++
	}
	wg.Wait()
	require.Less(t, s.Stats().Writes, uint64(givers*each), "runs of functions share a write")
}

// A loop that is given work without end still reads its sockets.
func TestExecuteDoesNotStarveSockets(t *testing.T) {
	n := &node{}
	cfg := testConfig()
	cfg.Loops = 1
	s := start(t, cfg, n)
	c := join(t, s)
	l := n.conn(0).Loop()
	var mu sync.Mutex
	over := false
	var again func()
	again = func() {
		mu.Lock()
		defer mu.Unlock()
		if !over {
			_ = l.Execute(again)
		}
	}
	for range 10 {
		require.NoError(t, l.Execute(again))
	}
	for i := range uint64(20) {
		c.ping(i)
	}
	mu.Lock()
	over = true
	mu.Unlock()
}

func TestCloseDeliversWhatIsPending(t *testing.T) {
	n := &node{}
	s := start(t, testConfig(), n)
	c := join(t, s)
	conn := n.conn(0)
	on(t, conn.Loop(), func() {
		assert.NoError(t, conn.Append(&protocol.Ping{Nonce: 1}))
		assert.NoError(t, conn.Append(result(300<<10)))
		conn.Close(protocol.ReasonDrain, "go elsewhere", 3*time.Second)
		assert.ErrorIs(t, conn.Append(&protocol.Ping{Nonce: 2}), ErrClosed)
		conn.Close(protocol.ReasonInternal, "too late", 0)
		assert.Empty(t, n.closed(), "never from within Close")
	})
	c.want(&protocol.Ping{})
	c.want(&protocol.Result{})
	m := c.wantClose(protocol.ReasonDrain)
	require.Equal(t, protocol.Close{Reason: protocol.ReasonDrain, Message: "go elsewhere", RetryAfterMs: 3000}, m)
	require.NoError(t, c.c.Close())
	eventually(t, "the socket is gone", func() bool { return s.Stats().Open == 0 })
	require.Len(t, n.closed(), 1)
	require.Equal(t, protocol.ReasonDrain, n.closed()[0].reason)
	require.Equal(t, c.c.LocalAddr().String(), n.closed()[0].addr)
}

func TestAppendError(t *testing.T) {
	n := &node{}
	s := start(t, testConfig(), n)
	c := join(t, s)
	conn := n.conn(0)
	on(t, conn.Loop(), func() {
		assert.Error(t, conn.Append(&protocol.Cancel{JobID: make([]byte, 1000)}))
		assert.Zero(t, conn.Outbound())
		assert.NoError(t, conn.Append(&protocol.Ping{Nonce: 9}))
		assert.Error(t, conn.Append(&protocol.Cancel{JobID: make([]byte, 1000)}))
		assert.Equal(t, len(c.frames(nil, &protocol.Ping{Nonce: 9})), conn.Outbound())
	})
	c.want(&protocol.Ping{})
	c.ping(1)
}

// A node that does not take its CLOSE is cut after CloseLinger.
func TestLingerEnds(t *testing.T) {
	cfg := testConfig()
	cfg.CloseLinger = 50 * time.Millisecond
	n := &node{}
	s := start(t, cfg, n)
	join(t, s)
	conn := n.conn(0)
	on(t, conn.Loop(), func() { conn.Close(protocol.ReasonDrain, "", 0) })
	eventually(t, "cut", func() bool { return s.Stats().Open == 0 })
}

func TestSlowReader(t *testing.T) {
	n := &node{}
	cfg := testConfig()
	cfg.Loops = 1
	cfg.CloseLinger = 300 * time.Millisecond
	s := start(t, cfg, n)
	good := join(t, s)

	raw := dial(t, s)
	require.NoError(t, raw.c.SetReadBuffer(4096))
	raw.write(raw.frames([]byte(protocol.Preface), hello()))
	raw.want(&protocol.Welcome{})
	conn := n.conn(1)

	payload := result(100 << 10)
	most, sent := 0, 0
	for open := true; open; {
		on(t, conn.Loop(), func() {
			if err := conn.Append(payload); err != nil {
				assert.ErrorIs(t, err, ErrClosed)
				open = false
			}
			sent++
		})
		on(t, conn.Loop(), func() { most = max(most, conn.Outbound()) })
		require.Less(t, sent, 1000, "the kernel takes some megabytes, not this")
	}
	require.Less(t, most, cfg.OutboundMaxBytes+200<<10)
	require.Equal(t, uint64(1), s.Stats().Closed[protocol.ReasonSlowReader])
	good.ping(1)
	eventually(t, "cut while it still does not read", func() bool { return s.Stats().Open == 1 })
	require.Equal(t, uint64(1), s.Stats().Cut)
	on(t, conn.Loop(), func() { assert.Zero(t, conn.Outbound()) })
	require.Equal(t, protocol.ReasonSlowReader, n.closed()[0].reason)
}

// One task may give a connection far more than the limit: what is held stays near it.
func TestLargeBatchIsBounded(t *testing.T) {
	n := &node{}
	s := start(t, testConfig(), n)
	c := dial(t, s)
	require.NoError(t, c.c.SetReadBuffer(4096))
	c.write(c.frames([]byte(protocol.Preface), hello()))
	c.want(&protocol.Welcome{})
	conn := n.conn(0)
	payload := result(100 << 10)
	most := 0
	on(t, conn.Loop(), func() {
		for range 1000 {
			if conn.Append(payload) != nil {
				return
			}
			most = max(most, conn.Outbound())
		}
		assert.Fail(t, "it is never closed")
	})
	require.Less(t, most, DefaultConfig().OutboundMaxBytes+earlyFlushBytes+200<<10)
}

// Round trips on a real socket allocate nothing on either end.
func TestRoundTripAllocatesNothing(t *testing.T) {
	n := &node{}
	cfg := testConfig()
	cfg.Tick = time.Second
	s := start(t, cfg, n)
	c := join(t, s)
	fd := rawFD(t, c)
	b := c.frames(nil, &protocol.Ping{Nonce: 1}, &protocol.Ping{Nonce: 2})
	in := make([]byte, len(b))
	trip := func(cut int) {
		// Two frames, the second one cut.
		require.NoError(t, rawWrite(fd, b[:cut]))
		require.NoError(t, rawRead(fd, in[:len(b)/2]))
		require.NoError(t, rawWrite(fd, b[cut:]))
		require.NoError(t, rawRead(fd, in[len(b)/2:]))
	}
	for range 100 {
		trip(len(b) - 2)
	}
	const trips = 2000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range trips {
		trip(len(b) - 2)
	}
	runtime.ReadMemStats(&after)
	perTrip := float64(after.Mallocs-before.Mallocs) / trips
	if !raceEnabled { // whose own allocations are counted too
		require.Less(t, perTrip, 0.2, "ticks allocate a little; frames do not")
	}
}

func rawFD(t testing.TB, c *client) int {
	t.Helper()
	f, err := c.c.File() // a blocking duplicate
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	fd := int(f.Fd())
	require.NoError(t, unix.SetNonblock(fd, false))
	return fd
}

func rawWrite(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err != nil && err != unix.EINTR {
			return err
		}
		b = b[max(n, 0):]
	}
	return nil
}

func rawRead(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Read(fd, b)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case n == 0:
			return fmt.Errorf("the stream ended, %d bytes are missing", len(b))
		}
		b = b[n:]
	}
	return nil
}
