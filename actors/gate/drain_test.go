package gate

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
)

// drain sends a Drain and returns how many sessions it told.
func (h *harness) drain(m actors.Drain) int {
	done := make(chan int, 1)
	m.Done = done
	h.send(&m)
	return <-done
}

func TestDrainTellsEachNodeOnce(t *testing.T) {
	h := newHarness(t, 0, Config{})
	require.Zero(t, h.drain(actors.Drain{Sockets: 5}))
	var all []*testConn
	for i := range 10 {
		c := h.open(fmt.Sprint("n", i))
		h.sent(c)
		all = append(all, c)
	}
	told := func() (n int, lines []string) {
		for _, c := range all {
			for _, l := range h.sent(c) {
				require.True(t, strings.HasPrefix(l, "GOAWAY "), l)
				lines = append(lines, l)
				n++
			}
		}
		return n, lines
	}
	require.Zero(t, h.drain(actors.Drain{Sockets: 0}))
	require.Equal(t, 4, h.drain(actors.Drain{Sockets: 4, JitterMs: 500, Message: "upgrade", Addresses: []string{"a:1", "b:1"}}))
	n, lines := told()
	require.Equal(t, 4, n)
	require.ElementsMatch(t, []string{"GOAWAY drain 500 upgrade a:1,b:1", "GOAWAY drain 500 upgrade a:1,b:1",
		"GOAWAY drain 500 upgrade b:1,a:1", "GOAWAY drain 500 upgrade b:1,a:1"}, lines, "spread over the addresses")
	require.Equal(t, int64(4), h.stats.Leaving.Load())

	long := strings.Repeat("x", protocol.MaxAddressBytes+1)
	require.Equal(t, 6, h.drain(actors.Drain{Sockets: 100, Reason: protocol.ReasonShutdown, Addresses: []string{long}}))
	n, lines = told()
	require.Equal(t, 6, n)
	require.Equal(t, "GOAWAY shutdown 0", lines[0])
	require.Zero(t, h.drain(actors.Drain{Sockets: 100}))
	n, _ = told()
	require.Zero(t, n)

	h.loop.do(func() { all[0].CloseSilently(protocol.ReasonBye) })
	h.settle()
	require.Equal(t, int64(9), h.stats.Leaving.Load())
	require.Equal(t, uint64(1), h.stats.Drained.Load())
	h.open("n0") // came back: it is told like any other
	require.Equal(t, 1, h.drain(actors.Drain{Sockets: 100}))
	h.open("n0") // and replaced while it was leaving
	require.Equal(t, int64(9), h.stats.Leaving.Load())
	require.Equal(t, uint64(2), h.stats.Drained.Load())
	require.Zero(t, h.stats.Overstayed.Load())
}

// What a leaving node has, and gets until it leaves, is its to finish.
func TestALeavingNodeGoesOnWorking(t *testing.T) {
	h := newHarness(t, 0, Config{})
	c := h.open("n")
	h.deliver("n", "a", "b")
	h.sent(c)
	h.told()
	require.Equal(t, 1, h.drain(actors.Drain{Sockets: 1, JitterMs: 1000}))
	require.NoError(t, h.frame(c, resultOf("a")))
	require.Equal(t, []string{"GOAWAY drain 1000", "JOB b#1 ping"}, h.sent(c))
	require.Equal(t, []string{"shard 0: result a#1 of n: ok \xa1x", "shard 0: sent b#1 of n"}, h.told())
	h.loop.do(func() { require.NoError(t, h.raw(c, protocol.TypeClose, []byte{0x91, 0xcd, 0x03, 0xeb})) })
	require.Equal(t, []string{"shard 0: lost b#1 of n", "shard 0: depart n"}, h.told())
}

func TestANodeThatDoesNotLeaveIsClosed(t *testing.T) {
	h := newHarness(t, 0, Config{})
	stays, other := h.open("stays"), h.open("other")
	h.sent(stays)
	h.sent(other)
	require.Equal(t, 2, h.drain(actors.Drain{Sockets: 2, JitterMs: 3000}))
	h.sent(stays)
	h.sent(other)
	ping := func(c *testConn) []string {
		require.NoError(t, h.frame(c, &protocol.Ping{Nonce: 7}))
		return h.sent(c)
	}
	h.nowMs.Add(2*3000 + leaveGraceMs)
	require.Equal(t, []string{"PONG 7"}, ping(stays), "not before")
	h.nowMs.Add(2000)
	require.Equal(t, []string{"PONG 7", "CLOSE drain"}, ping(stays))
	require.NoError(t, h.frame(other, resultOf("late"))) // any frame will do; it counts first
	require.Equal(t, []string{"CLOSE drain"}, h.sent(other))
	require.Contains(t, h.told(), "shard 0: result late#1 of other: ok \xa1x")
	require.Zero(t, h.stats.Leaving.Load())
	require.Equal(t, uint64(2), h.stats.Drained.Load())
	require.Equal(t, uint64(2), h.stats.Overstayed.Load())
	require.Zero(t, h.stats.Sessions.Load())
}

func TestDrainPassesOverSocketsThatEnd(t *testing.T) {
	h := newHarness(t, 0, Config{})
	c := h.open("ends")
	h.loop.do(func() { c.closed = true })
	require.Zero(t, h.drain(actors.Drain{Sockets: 5}))
	require.Zero(t, h.stats.Leaving.Load())
	h.send(&actors.Drain{Sockets: 1, Done: make(chan int)}) // nobody listens: not waited for
	h.send(&actors.Drain{Sockets: 1})
	h.settle()
}
