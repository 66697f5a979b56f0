package tcp

import (
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-server/roost/protocol"
)

func TestHandshakePingClose(t *testing.T) {
	n := &node{}
	s := start(t, testConfig(), n)
	c := join(t, s)
	for i := range uint64(100) {
		c.ping(i)
	}
	local := c.c.LocalAddr().String()
	c.send(&protocol.Close{Reason: protocol.ReasonBye})
	c.wantEnd()
	eventually(t, "Closed", func() bool { return len(n.closed()) == 1 })
	e := n.closed()[0]
	require.Equal(t, protocol.ReasonBye, e.reason)
	require.NoError(t, e.err)
	require.Equal(t, local, e.addr)

	st := s.Stats()
	require.Equal(t, uint64(1), st.Accepted)
	require.Equal(t, uint64(102), st.FramesIn)
	require.Equal(t, uint64(101), st.FramesOut)
	require.Equal(t, map[protocol.Reason]uint64{protocol.ReasonBye: 1}, st.Closed)
	require.Equal(t, 1000, st.MaxConns)
}

func TestStrangers(t *testing.T) {
	n := &node{}
	s := start(t, testConfig(), n)
	preface := protocol.Preface
	const overHello = protocol.MaxHelloBodyBytes + 1
	huge := "\xdd\xff\xff\xff\xff" // an array of 4 G elements
	for name, c := range map[string]struct {
		send   string
		reason protocol.Reason
	}{
		"http":                  {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", protocol.ReasonBadPreface},
		"one wrong byte":        {"X", protocol.ReasonBadPreface},
		"garbage":               {strings.Repeat("\x00\xff", 40_000), protocol.ReasonBadPreface},
		"oversized header":      {preface + "\xff\xff\xff\x01", protocol.ReasonFrameTooLarge},
		"over the hello limit":  {preface + string([]byte{overHello >> 16, overHello >> 8 & 0xff, overHello & 0xff, 1}), protocol.ReasonFrameTooLarge},
		"a claim of msgpack":    {preface + "\x00\x00\x05\x01" + huge, protocol.ReasonMalformed},
		"not a message":         {preface + "\x00\x00\x01\x01\xc1", protocol.ReasonMalformed},
		"unexpected":            {preface + "\x00\x00\x00\x77", protocol.ReasonUnexpected},
		"much behind a mistake": {preface + "\x00\x00\x00\x77" + strings.Repeat("x", 300_000), protocol.ReasonUnexpected},
	} {
		t.Run(name, func(t *testing.T) {
			cl := dial(t, s)
			cl.write([]byte(c.send))
			m := cl.wantClose(c.reason)
			require.NotEmpty(t, m.Message)
		})
	}
	require.Empty(t, n.closed(), "none was established")
	require.Zero(t, s.Stats().Panics)
}

func TestBodyLimitRisesWithEstablish(t *testing.T) {
	s := start(t, testConfig(), &node{})
	c := join(t, s)
	c.send(result(400 << 10))
	c.ping(1)
	c.write([]byte{0xff, 0xff, 0xff, 7})
	c.wantClose(protocol.ReasonFrameTooLarge)

	// HELLO and a frame over its limit in one write.
	c = dial(t, s)
	c.write(c.frames([]byte(protocol.Preface), hello(), result(100<<10), &protocol.Ping{Nonce: 5}))
	c.want(&protocol.Welcome{})
	c.want(&protocol.Pong{})
}

func TestFrameSplitAtEveryByte(t *testing.T) {
	s := start(t, testConfig(), &node{})
	c := dial(t, s)
	b := c.frames([]byte(protocol.Preface), hello())
	for i := range b {
		c.write(b[i : i+1])
	}
	c.want(&protocol.Welcome{})
	b = c.frames(nil, &protocol.Ping{Nonce: 1 << 40})
	for cut := 1; cut < len(b); cut++ {
		c.write(b[:cut])
		reads := s.Stats().Reads
		eventually(t, "the first part is read", func() bool { return s.Stats().Reads >= reads })
		c.write(b[cut:])
		c.want(&protocol.Pong{})
	}
}

func TestTimeouts(t *testing.T) {
	cfg := testConfig()
	cfg.HelloTimeout = 300 * time.Millisecond
	cfg.FrameTimeout = 500 * time.Millisecond
	n := &node{idle: 700 * time.Millisecond}
	s := start(t, cfg, n)

	// dribble sends one byte at a time until the server has had enough.
	dribble := func(c *client, b []byte) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			pace := time.NewTicker(10 * time.Millisecond)
			defer pace.Stop()
			for i := 0; ; i++ {
				if _, err := c.c.Write(b[i%len(b) : i%len(b)+1]); err != nil {
					return
				}
				<-pace.C
			}
		}()
		t.Cleanup(func() { _ = c.c.Close(); <-done })
	}

	t.Run("silence before HELLO", func(t *testing.T) {
		dial(t, s).wantClose(protocol.ReasonHelloTimeout)
	})
	t.Run("truncated HELLO", func(t *testing.T) {
		c := dial(t, s)
		b := c.frames([]byte(protocol.Preface), hello())
		c.write(b[:len(b)-1])
		c.wantClose(protocol.ReasonHelloTimeout)
	})
	t.Run("a byte at a time before HELLO", func(t *testing.T) {
		c := dial(t, s)
		dribble(c, append([]byte(protocol.Preface+"\x00\x70\x00\x01"), make([]byte, 0x7000)...))
		c.wantClose(protocol.ReasonHelloTimeout)
	})
	t.Run("silence after HELLO", func(t *testing.T) {
		join(t, s).wantClose(protocol.ReasonHeartbeatTimeout)
	})
	t.Run("a frame that does not end", func(t *testing.T) {
		c := join(t, s)
		dribble(c, []byte{0, 100, 0, 0x13, 5, 5, 5})
		m := c.wantClose(protocol.ReasonHeartbeatTimeout)
		require.Contains(t, m.Message, "frame")
	})
	t.Run("frames that end keep it open", func(t *testing.T) {
		c := join(t, s)
		b := c.frames(nil, &protocol.Ping{Nonce: 1})
		begun := time.Now()
		pace := time.NewTicker(20 * time.Millisecond)
		defer pace.Stop()
		// Cut in the middle each time: there is always a partial frame, never the same.
		c.write(b[:3])
		for time.Since(begun) < 2*n.idle {
			c.write(append(b[3:len(b):len(b)], b[:3]...))
			c.want(&protocol.Pong{})
			<-pace.C
		}
	})
	eventually(t, "Closed", func() bool { return len(n.closed()) == 3 })
}

func TestHandlerPanicEndsOneConnection(t *testing.T) {
	n := &node{onFrame: func(c *Conn, typ protocol.Type, _ []byte) (bool, error) {
		switch typ {
		case protocol.TypeProgress:
			var m map[string]int
			m["x"]++
		case protocol.TypeAccepted:
			return true, io.ErrUnexpectedEOF
		}
		return false, nil
	}}
	cfg := testConfig()
	cfg.Loops = 1
	s := start(t, cfg, n)
	bad, good := join(t, s), join(t, s)
	bad.send(&protocol.Ping{Nonce: 7}, &protocol.Progress{JobID: []byte("j")}, &protocol.Ping{Nonce: 8})
	bad.want(&protocol.Pong{})
	bad.wantClose(protocol.ReasonInternal)
	good.ping(1)
	require.Equal(t, uint64(1), s.Stats().Panics)

	bad = join(t, s)
	bad.send(&protocol.Accepted{JobID: []byte("j")})
	require.Equal(t, "internal error", bad.wantClose(protocol.ReasonInternal).Message, "others' errors stay in the log")
	good.ping(2)
	eventually(t, "Closed", func() bool { return len(n.closed()) == 2 })
	require.ErrorIs(t, n.closed()[1].err, io.ErrUnexpectedEOF)
}

// faulty panics in LoopStarted once, and in every Closed.
type faulty struct {
	node
	started int
}

func (f *faulty) LoopStarted(l *Loop) LoopHandler {
	if f.started++; f.started == 1 {
		panic("first start")
	}
	return &faultyLoop{nodeLoop{node: &f.node}}
}

type faultyLoop struct{ nodeLoop }

func (f *faultyLoop) Closed(c *Conn, r protocol.Reason, err error) {
	f.nodeLoop.Closed(c, r, err)
	panic("closed")
}

func TestPanicsElsewhere(t *testing.T) {
	cfg := testConfig()
	cfg.Loops = 1
	f := &faulty{}
	s := start(t, cfg, f)
	dial(t, s).wantClose(protocol.ReasonInternal)
	one, two := join(t, s), join(t, s)
	require.NoError(t, one.c.Close())
	eventually(t, "Closed", func() bool { return len(f.closed()) == 1 })
	l := f.conn(0).Loop()
	require.NoError(t, l.Execute(func() { panic("task") }))
	on(t, l, func() {})
	two.ping(1)
	require.Equal(t, uint64(3), s.Stats().Panics)
}

// A fault in this package itself costs the connection, not the process.
func TestOwnPanic(t *testing.T) {
	cfg := testConfig()
	cfg.Loops = 1
	n := &node{}
	s := start(t, cfg, n)
	bad, good := join(t, s), join(t, s)
	l := n.conn(0).Loop()
	encoder := l.encoder
	on(t, l, func() { l.encoder = nil })
	bad.send(&protocol.Ping{}) // fails in the handler, and again when CLOSE is encoded
	bad.wantEnd()
	on(t, l, func() { l.encoder = encoder })
	good.ping(1)
	require.Equal(t, uint64(2), s.Stats().Panics)
	eventually(t, "Closed", func() bool { return len(n.closed()) == 1 })
	require.Equal(t, protocol.ReasonInternal, n.closed()[0].reason)
}

// Nodes are not ended for a time in which the loop itself was not there.
func TestStallIsNotSilence(t *testing.T) {
	cfg := testConfig()
	cfg.Loops = 1
	n := &node{idle: time.Second}
	s := start(t, cfg, n)
	all := []*client{join(t, s), join(t, s), join(t, s)}
	on(t, n.conn(0).Loop(), func() { <-time.After(n.idle * 3 / 2) })
	on(t, n.conn(0).Loop(), func() {}) // a tick that was waiting has passed
	for _, c := range all {
		c.ping(1)
	}
	for _, c := range all { // and silence is still silence
		c.wantClose(protocol.ReasonHeartbeatTimeout)
	}
}

func TestPeerEnds(t *testing.T) {
	n := &node{}
	s := start(t, testConfig(), n)
	half := join(t, s)
	half.send(&protocol.Ping{Nonce: 3})
	require.NoError(t, half.c.CloseWrite())
	half.want(&protocol.Pong{}) // what came before the end is answered
	half.wantEnd()
	eventually(t, "Closed", func() bool { return len(n.closed()) == 1 })
	require.Equal(t, protocol.ReasonBye, n.closed()[0].reason)
	require.ErrorIs(t, n.closed()[0].err, io.EOF)

	reset := join(t, s)
	require.NoError(t, reset.c.SetLinger(0))
	require.NoError(t, reset.c.Close())
	eventually(t, "Closed", func() bool { return len(n.closed()) == 2 })
	require.Equal(t, protocol.ReasonBye, n.closed()[1].reason)
	require.Error(t, n.closed()[1].err)

	// What is left of a connection that ended does nothing.
	c := n.conn(0)
	on(t, c.Loop(), func() {
		assert.ErrorIs(t, c.Append(&protocol.Ping{}), ErrClosed)
		c.Close(protocol.ReasonDrain, "", 0)
		c.CloseSilently(protocol.ReasonDrain)
		assert.False(t, c.Establish(time.Second))
		assert.False(t, c.Established())
		assert.Empty(t, c.RemoteAddr())
		assert.Zero(t, c.Outbound())
		c.SetContext(1)
		assert.Equal(t, 1, c.Context())
	})
	require.Len(t, n.closed(), 2)
}

func TestWhyClosed(t *testing.T) {
	s := &Server{}
	for _, c := range []struct {
		err    error
		reason protocol.Reason
	}{
		{nil, protocol.ReasonInternal},
		{os.NewSyscallError("read", io.EOF), protocol.ReasonBye},
		{os.NewSyscallError("read", unix.ECONNRESET), protocol.ReasonBye},
		{os.NewSyscallError("write", unix.EPIPE), protocol.ReasonBye},
		{os.NewSyscallError("read", unix.ETIMEDOUT), protocol.ReasonHeartbeatTimeout},
		{os.NewSyscallError("read", unix.EHOSTUNREACH), protocol.ReasonHeartbeatTimeout},
	} {
		reason, err := s.whyClosed(c.err)
		require.Equal(t, c.reason, reason, c.err)
		require.Error(t, err)
	}
	s.no.Store(&refusal{reason: protocol.ReasonShutdown})
	s.stopping.Store(true)
	reason, err := s.whyClosed(nil)
	require.Equal(t, protocol.ReasonShutdown, reason)
	require.NoError(t, err)
}

// Peers choose the numbers of their CLOSE; that must not make the counts grow.
func TestReasonsOfPeers(t *testing.T) {
	s := start(t, testConfig(), &node{})
	for _, r := range []protocol.Reason{1003, 3031, 3032, 65535, 0} {
		c := join(t, s)
		c.send(&protocol.Close{Reason: r})
		c.wantEnd()
	}
	eventually(t, "all are counted", func() bool { return s.Stats().Open == 0 })
	require.Equal(t, map[protocol.Reason]uint64{1003: 1, 3031: 1, 0: 3}, s.Stats().Closed)
}

func TestLoopsAndTheirClock(t *testing.T) {
	n := &node{}
	s := start(t, testConfig(), n)
	for s.Stats().Loops < 2 { // the kernel spreads connections by their ports
		join(t, s)
	}
	seen := map[int]bool{}
	n.mu.Lock()
	loops := append([]*Loop(nil), n.loops...)
	n.mu.Unlock()
	for _, l := range loops {
		seen[l.Index()] = true
		var first, second int64
		on(t, l, func() { first = l.NowMs() })
		require.InDelta(t, time.Now().UnixMilli(), first, 5000)
		eventually(t, "time goes on", func() bool {
			on(t, l, func() { second = l.NowMs() })
			return second > first
		})
	}
	require.Equal(t, map[int]bool{0: true, 1: true}, seen)
}
