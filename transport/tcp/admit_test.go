package tcp

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/protocol"
)

func TestCeiling(t *testing.T) {
	cfg := testConfig()
	cfg.MaxConns = 10
	cfg.RetryAfter = 10 * time.Second
	s := start(t, cfg, &node{})
	var in []*client
	for range 10 {
		in = append(in, join(t, s))
	}
	for range 10 {
		c := dial(t, s)
		c.write(c.frames([]byte(protocol.Preface), hello())) // unread input must not hide the CLOSE
		m := c.wantClose(protocol.ReasonOverloaded)
		require.GreaterOrEqual(t, m.RetryAfterMs, uint32(5_000))
		require.Less(t, m.RetryAfterMs, uint32(15_000))
	}
	st := s.Stats()
	require.Equal(t, 10, st.Open)
	require.Equal(t, uint64(10), st.Refused)
	require.Equal(t, uint64(10), st.RefusedFull)
	require.Equal(t, uint64(10), st.Closed[protocol.ReasonOverloaded])
	for i, c := range in {
		c.ping(uint64(i))
	}
	require.NoError(t, in[0].c.Close())
	eventually(t, "a slot is free", func() bool { return s.Stats().Open == 9 })
	join(t, s).ping(1)
}

func TestRefusalsDoNotHoldFiles(t *testing.T) {
	cfg := testConfig()
	cfg.MaxConns = 1
	cfg.CloseLinger = time.Minute
	s := start(t, cfg, &node{})
	join(t, s)
	for range s.limits.refused + 20 {
		dial(t, s) // never closes, never reads
	}
	eventually(t, "all are refused", func() bool { return s.Stats().Refused == uint64(s.limits.refused+20) })
	eventually(t, "only so many are kept", func() bool { return s.Stats().Lingering <= s.limits.refused })
	// Stop waits for admitted connections only.
}

func TestHandshakeCeilingAndRate(t *testing.T) {
	cfg := testConfig()
	cfg.MaxHandshakes = 3
	s := start(t, cfg, &node{})
	var waiting []*client
	for range 3 {
		waiting = append(waiting, dial(t, s))
	}
	eventually(t, "they are there", func() bool { return s.Stats().Handshaking == 3 })
	dial(t, s).wantClose(protocol.ReasonOverloaded)
	c := waiting[0]
	c.write(c.frames([]byte(protocol.Preface), hello()))
	c.want(&protocol.Welcome{})
	eventually(t, "one less", func() bool { return s.Stats().Handshaking == 2 })
	join(t, s).ping(1)

	cfg = testConfig()
	cfg.AcceptRate = 1
	slow := start(t, cfg, &node{})
	join(t, slow)
	dial(t, slow).wantClose(protocol.ReasonOverloaded)
	for s, want := range map[*Server]Stats{s: {RefusedHandshakes: 1}, slow: {RefusedRate: 1}} {
		st := s.Stats()
		require.Equal(t, uint64(1), st.Refused)
		require.Equal(t, want.RefusedHandshakes, st.RefusedHandshakes)
		require.Equal(t, want.RefusedRate, st.RefusedRate)
	}
}

// A storm is refused early, told when to come back, and leaves who is there alone.
func TestStorm(t *testing.T) {
	cfg := testConfig()
	cfg.AcceptRate, cfg.RetryAfter = 20, 10*time.Second
	s := start(t, cfg, &node{})
	in := join(t, s)
	const storm, strands = 400, 4
	var wg sync.WaitGroup
	var refused, admitted atomic.Int64
	for range strands {
		wg.Go(func() {
			for range storm / strands {
				c := dial(t, s)
				c.write(c.frames([]byte(protocol.Preface), hello()))
				typ, body, err := c.read()
				switch {
				case !assert.NoError(t, err):
				case typ == protocol.TypeWelcome:
					admitted.Add(1)
				default:
					var m protocol.Close
					assert.NoError(t, c.dec.Decode(body, &m))
					assert.Equal(t, protocol.ReasonOverloaded, m.Reason)
					assert.GreaterOrEqual(t, m.RetryAfterMs, uint32(5_000))
					refused.Add(1)
				}
				assert.NoError(t, c.c.Close())
			}
		})
	}
	for i := range uint64(50) {
		in.ping(i)
	}
	wg.Wait()
	st := s.Stats()
	require.Equal(t, int64(storm), refused.Load()+admitted.Load())
	require.Equal(t, uint64(refused.Load()), st.RefusedRate)
	require.Positive(t, st.RefusedRate)
	in.ping(99)
}

func TestRefuse(t *testing.T) {
	cfg := testConfig()
	cfg.RetryAfter = 10 * time.Second
	s := start(t, cfg, &node{})
	c, half := join(t, s), dial(t, s)
	half.write([]byte(protocol.Preface))
	s.Refuse(true)
	refused := func(c *client, b []byte) protocol.Close {
		c.write(b)
		return c.wantClose(protocol.ReasonNotReady)
	}
	m := refused(half, half.frames(nil, hello())) // was connected before
	require.GreaterOrEqual(t, m.RetryAfterMs, uint32(5_000))
	require.Less(t, m.RetryAfterMs, uint32(15_000))
	require.Empty(t, m.Addresses)
	late := dial(t, s)
	refused(late, late.frames([]byte(protocol.Preface), hello()))
	stranger := dial(t, s)
	stranger.write([]byte("GET / HTTP/1.1\r\n\r\n"))
	stranger.wantClose(protocol.ReasonBadPreface)
	c.ping(1)
	s.Refuse(false)
	join(t, s).ping(1)
	st := s.Stats()
	require.Equal(t, uint64(2), st.Refused)
	require.Equal(t, uint64(2), st.RefusedDrain)
	eventually(t, "they are gone", func() bool { return s.Stats().Open == 2 })
}

func TestRefuseNamesOthers(t *testing.T) {
	s := start(t, testConfig(), &node{})
	all := make([]string, protocol.MaxAddresses+4)
	for i := range all {
		all[i] = fmt.Sprintf("m%d.example.net:7400", i)
	}
	s.RefuseWith(&Refusal{Reason: protocol.ReasonDrain, Message: "upgrade",
		Addresses: append(all[:len(all):len(all)], "", strings.Repeat("x", protocol.MaxAddressBytes+1))})
	first := map[string]bool{}
	for len(first) < len(all) { // each loop counts for itself
		c := dial(t, s)
		c.write(c.frames([]byte(protocol.Preface), hello()))
		m := c.wantClose(protocol.ReasonDrain)
		require.Equal(t, "upgrade", m.Message)
		require.Zero(t, m.RetryAfterMs)
		require.Len(t, m.Addresses, protocol.MaxAddresses)
		require.Subset(t, all, m.Addresses)
		first[m.Addresses[0]] = true
	}
	s.RefuseWith(nil)
	join(t, s).ping(1)
}
