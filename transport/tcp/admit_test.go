package tcp

import (
	"testing"
	"time"

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
}

func TestRefuse(t *testing.T) {
	s := start(t, testConfig(), &node{})
	c := join(t, s)
	s.Refuse(true)
	dial(t, s).wantClose(protocol.ReasonNotReady)
	c.ping(1)
	s.Refuse(false)
	join(t, s).ping(1)
}
