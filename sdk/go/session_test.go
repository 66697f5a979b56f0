package roost

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/protocol"
)

// welcomed opens a session with changes to quietWelcome.
func welcomed(p *peer, change func(w *protocol.Welcome)) {
	expect[*protocol.Hello](p)
	w := quietWelcome
	change(&w)
	p.send(&w)
}

func TestPingWhenIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newPipes(t)
		startNode(t, Config{Servers: []string{"a:1"}, Dial: d.dial}, func(c *Client) { c.rand = fixed(0.25) })
		p := d.accept()
		welcomed(p, func(w *protocol.Welcome) { w.HeartbeatMs = 1000 })
		start := time.Now()
		for i := range 20 {
			ping := expect[*protocol.Ping](p)
			require.EqualValues(t, i+1, ping.Nonce)
			p.send(&protocol.Pong{Nonce: ping.Nonce})
		}
		require.Equal(t, 19*time.Second+250*time.Millisecond, time.Since(start), "the first after a random part")
	})
}

func TestSilenceIsADeadConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newPipes(t)
		n := startNode(t, Config{Servers: []string{"a:1"}, Dial: d.dial}, func(c *Client) { c.rand = fixed(0.9) })
		p := d.accept()
		welcomed(p, func(w *protocol.Welcome) { w.HeartbeatMs = 1000 })
		start := time.Now()
		require.ErrorContains(t, awaitEvent[Disconnected](n).Err, "nothing heard for 2.5s")
		require.Equal(t, 2500*time.Millisecond, time.Since(start))
		expect[*protocol.Ping](p)
		expect[*protocol.Ping](p)
		p.gone()
		d.session()
	})
}

func TestNoHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newPipes(t)
		startNode(t, Config{Servers: []string{"a:1"}, Dial: d.dial}, func(c *Client) { c.Handle("k", echo) })
		p := d.accept()
		welcomed(p, func(w *protocol.Welcome) { w.HeartbeatMs = 0 })
		time.Sleep(24 * time.Hour)
		p.job("j", 1, "k", nil)
		p.result("j", 1, protocol.OutcomeOK) // and no PING before it
	})
}

// A node that sends all the time still has to hear something: it asks for a PONG.
func TestPingWhileSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newPipes(t)
		n := startNode(t, Config{Servers: []string{"a:1"}, Dial: d.dial}, func(c *Client) {
			c.Handle("talk", func(ctx context.Context, j Job) (Result, error) {
				for range 50 {
					time.Sleep(200 * time.Millisecond)
					if err := j.Progress(ctx, 1); err != nil {
						return Result{}, err
					}
				}
				return OK(nil), nil
			})
		})
		p := d.accept()
		welcomed(p, func(w *protocol.Welcome) { w.HeartbeatMs = 1000 })
		p.job("j", 1, "talk", nil)
		pings := 0
		for {
			switch m := p.next().(type) {
			case *protocol.Ping:
				pings++
				p.send(&protocol.Pong{Nonce: m.Nonce})
			case *protocol.Result:
				require.Equal(t, protocol.OutcomeOK, m.Outcome, string(m.Error))
				require.GreaterOrEqual(t, pings, 5)
				require.LessOrEqual(t, pings, 11)
				require.EqualValues(t, 1, n.Stats().Sessions)
				return
			}
		}
	})
}

func TestAcceptedAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, h := newPipes(t), newCounted()
		startNode(t, Config{Servers: []string{"a:1"}, Dial: d.dial, Concurrency: 1}, func(c *Client) {
			c.Handle("k", h.handle)
			c.Handle("echo", echo)
		})
		p := d.accept()
		welcomed(p, func(w *protocol.Welcome) { w.AcceptAfterMs = 2000 })
		p.job("quick", 1, "echo", nil)
		p.result("quick", 1, protocol.OutcomeOK)
		start := time.Now()
		p.job("slow", 1, "k", nil)
		p.job("queued", 1, "echo", nil)
		first, second := expect[*protocol.Accepted](p), expect[*protocol.Accepted](p)
		require.Equal(t, 2*time.Second, time.Since(start))
		require.ElementsMatch(t, []string{"slow", "queued"}, []string{string(first.JobID), string(second.JobID)})
		require.EqualValues(t, 3, first.Shard)
		h.let <- OK(nil)
		p.result("slow", 1, protocol.OutcomeOK)
		p.result("queued", 1, protocol.OutcomeOK)
	})
}

func TestUnknownFramesAndFieldsAreSkipped(t *testing.T) {
	m := newMember(t)
	startNode(t, Config{Servers: []string{m.addr()}}, func(c *Client) { c.Handle("k", echo) })
	p := m.accept()
	expect[*protocol.Hello](p)
	p.write([]byte{0, 0, 1, 0x7f, 0xc0}) // before WELCOME
	w := quietWelcome
	p.send(&w)
	p.write([]byte{0, 0, 1, 0x7e, 0xc1})                // no msgpack at all
	p.write([]byte{0, 0, 4, 0x30, 0x93, 9, 0xc0, 0x05}) // PING with two fields of the future
	require.EqualValues(t, 9, expect[*protocol.Pong](p).Nonce)
	p.send(&protocol.Pong{Nonce: 1})
	p.job("j", 1, "k", 1)
	p.result("j", 1, protocol.OutcomeOK)
}

func TestGarbageFromAMember(t *testing.T) {
	for name, tc := range map[string]struct {
		bytes  []byte
		reason protocol.Reason
	}{
		"malformed job":    {[]byte{0, 0, 2, 0x10, 0x91, 0xc1}, protocol.ReasonMalformed},
		"huge frame":       {[]byte{0xff, 0xff, 0xff, 0x10}, protocol.ReasonFrameTooLarge},
		"http":             {[]byte("HTTP/1.1 400 Bad Request\r\n\r\n"), protocol.ReasonFrameTooLarge},
		"a second WELCOME": {[]byte{0, 0, 1, 0x04, 0x90}, protocol.ReasonUnexpected},
		"malformed CLOSE":  {[]byte{0, 0, 1, 0x41, 0x90}, protocol.ReasonMalformed},
		"malformed GOAWAY": {[]byte{0, 0, 1, 0x40, 0xa0}, protocol.ReasonMalformed},
		"2 GB in a job":    {[]byte{0, 0, 6, 0x10, 0x97, 0xc6, 0x7f, 0xff, 0xff, 0xff}, protocol.ReasonMalformed},
		"malformed acks":   {[]byte{0, 0, 3, 0x14, 0x91, 0x91, 0x01}, protocol.ReasonMalformed},
		"malformed cancel": {[]byte{0, 0, 1, 0x15, 0x90}, protocol.ReasonMalformed},
		"malformed ping":   {[]byte{0, 0, 1, 0x30, 0x01}, protocol.ReasonMalformed},
		"a node's message": {[]byte{0, 0, 1, 0x13, 0x90}, protocol.ReasonUnexpected},
		"a late CHALLENGE": {[]byte{0, 0, 1, 0x02, 0x90}, protocol.ReasonUnexpected},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMember(t)
			n := startNode(t, Config{Servers: []string{m.addr()}}, nil)
			p, _ := m.session()
			p.write(tc.bytes)
			require.Equal(t, tc.reason, expect[*protocol.Close](p).Reason)
			d := awaitEvent[Disconnected](n)
			require.Error(t, d.Err)
			require.Zero(t, d.Reason)
			m.session() // and comes back
		})
	}
}

// A member that closes without a word, half-closes, or resets: the node comes back.
func TestLostConnections(t *testing.T) {
	for name, end := range map[string]func(c *net.TCPConn){
		"closed":      func(c *net.TCPConn) { c.Close() },
		"half-closed": func(c *net.TCPConn) { c.CloseWrite() },
		"reset":       func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMember(t)
			n := startNode(t, Config{Servers: []string{m.addr()}}, nil)
			p, _ := m.session()
			awaitEvent[Connected](n)
			end(p.conn.(*net.TCPConn))
			d := awaitEvent[Disconnected](n)
			require.Error(t, d.Err)
			require.LessOrEqual(t, d.RetryIn, retryBase)
			m.session()
		})
	}
}

// A member that stops reading: the node stops reading too, and gives up in the end,
// however many answers it owes.
func TestMemberThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		box := NewMemoryOutbox(0, 0)
		large := Entry{JobID: "large", Shard: 3, Attempt: 1, Output: append([]byte{0xc6, 0, 6, 0, 0}, make([]byte, 6<<16)...)}
		require.NoError(t, box.Put(large))
		dials := 0
		n := startNode(t, Config{
			Servers: []string{"a:1"}, Outbox: box, WriteTimeout: 5 * time.Second,
			Dial: func(context.Context, string, string) (net.Conn, error) {
				if dials++; dials > 1 {
					return nil, errTest
				}
				return a, nil
			},
		}, func(c *Client) { c.Handle("k", echo) })
		head := make([]byte, len(protocol.Preface)+protocol.HeaderBytes)
		mustRead(t, b, head)
		mustRead(t, b, make([]byte, int(head[9])<<8|int(head[10])))
		enc := protocol.NewEncoder()
		w := quietWelcome
		frames, err := enc.Append(nil, &w)
		require.NoError(t, err)
		ask := newJob(t, "large", 1, "k", nil)
		for range 1000 {
			frames, err = enc.Append(frames, ask)
			require.NoError(t, err)
		}
		_ = b.SetWriteDeadline(time.Now().Add(time.Minute))
		_, _ = b.Write(frames)
		d := awaitEvent[Disconnected](n)
		require.ErrorContains(t, d.Err, "write:")
		require.Less(t, n.Stats().Jobs, uint64(10), "asked 1000 times for 400 kB")
		b.Close()
	})
}

func mustRead(t *testing.T, c net.Conn, b []byte) {
	t.Helper()
	for len(b) > 0 {
		n, err := c.Read(b)
		require.NoError(t, err)
		b = b[n:]
	}
}

func TestResultOverTheMembersLimit(t *testing.T) {
	m := newMember(t)
	startNode(t, Config{Servers: []string{m.addr()}}, func(c *Client) {
		c.Handle("k", func(context.Context, Job) (Result, error) { return OK(strings.Repeat("x", 2000)), nil })
	})
	p := m.accept()
	welcomed(p, func(w *protocol.Welcome) { w.MaxBodyBytes = 1000 })
	p.job("j", 1, "k", nil)
	require.Contains(t, string(p.result("j", 1, protocol.OutcomeFailed).Error), "takes at most 1000")
}

func TestFrameReaderGrowsWithWhatCame(t *testing.T) {
	big := make([]byte, protocol.HeaderBytes+300<<10)
	n := len(big) - protocol.HeaderBytes
	big[0], big[1], big[2], big[3] = byte(n>>16), byte(n>>8), byte(n), 0x10
	src := bytes.NewReader(append(append([]byte(nil), big...), 0, 0, 0, 0x30))
	r := newFrameReader(src)
	for {
		_, body, size, err := r.buffered(protocol.MaxBodyBytes)
		require.NoError(t, err)
		if size > 0 {
			require.Len(t, body, n)
			break
		}
		require.NoError(t, r.fill())
		require.LessOrEqual(t, len(r.buf), max(2*r.end, firstReadBytes)+firstReadBytes)
	}
	for {
		typ, _, size, err := r.buffered(protocol.MaxBodyBytes)
		require.NoError(t, err)
		if size > 0 {
			require.Equal(t, protocol.TypePing, typ)
			break
		}
		require.NoError(t, r.fill())
	}
	require.Error(t, r.fill())
	require.Len(t, r.buf, firstReadBytes, "shrunk again")
}

// TestUnacknowledgedResultIsSentAgain has a member that does not say that it recorded a
// result: it gets the result again after a minute, though the connection stays, until it
// says so.
func TestUnacknowledgedResultIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newPipes(t)
		n := startNode(t, Config{Servers: []string{"a:1"}, Dial: d.dial}, func(c *Client) {
			c.rand = fixed(0.5)
			c.Handle("k", echo)
		})
		p := d.accept()
		welcomed(p, func(w *protocol.Welcome) { w.HeartbeatMs = 30_000 })
		p.job("j", 1, "k", nil)
		p.result("j", 1, protocol.OutcomeOK)
		start, again := time.Now(), 0
		for again < 2 {
			switch m := p.next().(type) {
			case *protocol.Ping:
				p.send(&protocol.Pong{Nonce: m.Nonce})
			case *protocol.Result:
				again++
			}
		}
		require.InDelta(t, 150, time.Since(start).Seconds(), 31, "twice a minute, and the next heartbeat")
		p.ack("j", 1)
		for range 10 {
			p.send(&protocol.Pong{Nonce: expect[*protocol.Ping](p).Nonce})
		}
		require.Zero(t, n.Stats().Held)
		require.EqualValues(t, 1, n.Stats().Sessions)
	})
}
