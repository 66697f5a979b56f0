package gate

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/session"
	"github.com/roost-server/roost/protocol"
)

// ack has a shard acknowledge jobs of a node.
func (h *harness) ack(node string, jobs ...string) {
	b := actors.NewToGate()
	for _, j := range jobs {
		b.Acks = append(b.Acks, actors.Ack{Node: node, JobID: j, Attempt: 1})
	}
	h.send(b)
}

func TestAcknowledgementsRideWithWhatIsSentNext(t *testing.T) {
	h := newHarness(t, 0, Config{})
	c := h.open("n")
	h.sent(c)
	h.ack("n", "a", "b")
	h.ack("n", "c")
	require.Empty(t, h.sent(c))
	h.deliver("n", "d")
	require.Equal(t, []string{"ACK a#1 b#1 c#1", "JOB d#1 ping"}, h.sent(c))

	h.ack("n", "x")
	require.NoError(t, h.frame(c, &protocol.Ping{Nonce: 7}))
	require.Equal(t, []string{"ACK x#1", "PONG 7"}, h.sent(c))

	h.ack("n", "p")
	require.NoError(t, h.frame(c, &protocol.Credit{}))
	require.Equal(t, []string{"ACK p#1"}, h.sent(c), "a node that takes no more jobs")
	h.ack("n", "q")
	require.Equal(t, []string{"ACK q#1"}, h.sent(c))
	require.NoError(t, h.frame(c, &protocol.Credit{Credit: 9}))

	h.ack("n", "y")
	require.Equal(t, 1, h.drain(actors.Drain{Sockets: 1}))
	require.Equal(t, "ACK y#1", h.sent(c)[0], "a node that is told to leave")
	h.ack("n", "yy")
	require.Equal(t, []string{"ACK yy#1"}, h.sent(c), "and may wait for it")

	c = h.open("m")
	h.sent(c)
	h.ack("m", "z")
	h.settle()
	require.NoError(t, h.frame(c, &protocol.Close{Reason: protocol.ReasonBye}))
	require.Equal(t, []string{"ACK z#1", "closed silently bye"}, h.sent(c), "a node that leaves")
	h.ack("m", "too late")
	require.Empty(t, h.sent(c))
}

func TestAcknowledgementsDoNotWaitForLong(t *testing.T) {
	h := newHarness(t, 0, Config{})
	first, second, third := h.open("1"), h.open("2"), h.open("3")
	for _, c := range []*testConn{first, second, third} {
		h.sent(c)
	}
	h.ack("1", "a")
	h.settle()
	h.nowMs.Add(session.AckDelayMs / 2)
	h.ack("2", "b")
	h.ack("1", "c")
	h.ack("3", "d")
	h.settle()
	require.NoError(t, h.frame(third, &protocol.Ping{Nonce: 7}))
	require.Equal(t, []string{"ACK d#1", "PONG 7"}, h.sent(third))
	h.nowMs.Add(session.AckDelayMs / 2)
	require.Eventually(t, func() bool { return len(h.peek(first)) > 0 }, 5*time.Second, time.Millisecond)
	require.Equal(t, []string{"ACK a#1 c#1"}, h.sent(first), "with the first one")
	require.Empty(t, h.sent(second))
	h.nowMs.Add(session.AckDelayMs / 2)
	require.Eventually(t, func() bool { return len(h.peek(second)) > 0 }, 5*time.Second, time.Millisecond)
	require.Equal(t, []string{"ACK b#1"}, h.sent(second))
	require.Empty(t, h.sent(third))
}

// peek returns what was sent to a node and not looked at.
func (h *harness) peek(c *testConn) (out []string) {
	h.loop.do(func() { out = c.log })
	return out
}

func TestManyAcknowledgementsDoNotWait(t *testing.T) {
	h := newHarness(t, 0, Config{})
	c := h.open("n")
	h.sent(c)
	var jobs []string
	for i := range 1000 {
		jobs = append(jobs, fmt.Sprintf("%s-%04d", strings.Repeat("x", 31), i))
	}
	h.ack("n", jobs...)
	lines := h.sent(c)
	require.Greater(t, len(lines), 1)
	require.NoError(t, h.frame(c, &protocol.Ping{}))
	lines = append(lines, h.sent(c)...)
	require.Equal(t, "PONG 0", lines[len(lines)-1])
	var acked []string
	for _, l := range lines[:len(lines)-1] {
		require.Less(t, len(l), 2000)
		acked = append(acked, strings.Fields(strings.TrimPrefix(l, "ACK "))...)
	}
	for i := range jobs {
		jobs[i] += "#1"
	}
	require.Equal(t, jobs, acked)
}

func TestAcknowledgementsOfASessionThatEnds(t *testing.T) {
	h := newHarness(t, 0, Config{})
	gone, bad, last := h.open("gone"), h.open("bad"), h.open("last")
	for _, c := range []*testConn{gone, bad, last} {
		h.sent(c)
	}
	h.ack("gone", "a")
	h.ack("bad", "b")
	h.ack("last", "c")
	h.settle()
	h.loop.do(func() { bad.panicOn = "ACK" })
	h.loop.do(func() { gone.end("reset") })
	require.Equal(t, []string{"reset"}, h.sent(gone))
	h.nowMs.Add(session.AckDelayMs)
	h.send(acksDue{})
	require.Equal(t, []string{"ACK c#1"}, h.sent(last), "though the one before it fails")
	require.Equal(t, []string{"CLOSE " + protocol.ReasonInternal.String()}, h.sent(bad))
	h.ack("last", "d")
	h.settle()
	require.NoError(t, h.system.Root.StopFuture(h.pid).Wait())
	require.Equal(t, []string{"ACK d#1", "CLOSE " + protocol.ReasonShutdown.String()}, h.sent(last))
}
