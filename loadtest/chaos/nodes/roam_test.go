package nodes

import (
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/protocol"
)

// TestRoam has a node with one session be sent to another member by GOAWAY, with the job
// that it runs and the result that it holds.
func TestRoam(t *testing.T) {
	a, b := newMember(t), newMember(t)
	dir := t.TempDir()
	cfg := Config{Prefix: "n-", Count: 1, Seed: 1, One: true, Calm: true, Members: []string{a.ln.Addr().String()},
		Runs: filepath.Join(dir, "runs"), Sessions: filepath.Join(dir, "sessions")}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	in, stop := io.Pipe()
	go func() { done <- Run(ctx, cfg, in, io.Discard) }()
	t.Cleanup(func() {
		stop.Close()
		require.NoError(t, <-done)
		cancel()
	})
	s := a.accept()
	s.job("held", 1, Echo, Args{})
	s.result("held")
	s.job("runs", 1, Echo, Args{Ms: 3_600_000})
	s.send(&protocol.GoAway{Reason: protocol.ReasonDrain, JitterMs: 1, Addresses: []string{b.ln.Addr().String()}})
	bye := protocol.Close{}
	require.Equal(t, protocol.TypeClose, s.read(&bye))
	require.Equal(t, protocol.ReasonBye, bye.Reason)

	s = b.accept()
	require.Len(t, s.hello.Running, 1)
	require.Len(t, s.hello.Held, 1)
	s.result("held")
	s.send(&protocol.Close{Reason: protocol.ReasonShutdown})
	s.conn.Close()
	a.accept() // what was advised is done, and it knows no other

	text, err := os.ReadFile(cfg.Sessions)
	require.NoError(t, err)
	var changes []string
	for line := range strings.Lines(string(text)) {
		c, ok := ParseChange(line)
		require.True(t, ok, line)
		require.Equal(t, "n-0000", c.Node)
		require.WithinDuration(t, time.Now(), c.At, time.Minute)
		changes = append(changes, map[bool]string{true: "up", false: "down"}[c.Up])
	}
	require.Equal(t, []string{"up", "down", "up", "down"}, changes[:4])
}

// TestWay holds the pauses against chapter 8.3 of protocol/SPEC.md.
func TestWay(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	most := func(n int, draw func() time.Duration) (m time.Duration) {
		for range n {
			m = max(m, draw())
		}
		return m
	}
	after := func(backoffs int) func() time.Duration {
		return func() time.Duration {
			w := newWay([]string{"x"}, 0)
			w.backoffs = backoffs
			return w.pause(rng, protocol.ReconnectBackoff, 0)
		}
	}
	require.InDelta(t, 500, most(1000, after(0)).Milliseconds(), 20)
	require.InDelta(t, 4000, most(1000, after(3)).Milliseconds(), 200)
	require.InDelta(t, 60_000, most(1000, after(50)).Milliseconds(), 2000)

	w := newWay([]string{"x", "y", "z"}, 4)
	for range nowsInARow {
		require.LessOrEqual(t, w.pause(rng, protocol.ReconnectNow, time.Second), nowJitter)
	}
	require.Zero(t, w.backoffs)
	w.pause(rng, protocol.ReconnectNow, time.Second)
	require.Equal(t, 1, w.backoffs, "it came back five times, and nothing held")
	w.closed(&protocol.Close{RetryAfterMs: 70_000, Addresses: []string{"q"}})
	require.GreaterOrEqual(t, w.pause(rng, protocol.ReconnectBackoff, heldAfter), 70*time.Second)
	require.Equal(t, 1, w.backoffs, "a session had held")
	require.Equal(t, []string{"q", "y", "z", "x"}, []string{w.next(), w.next(), w.next(), w.next()})
}
