package gate

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/session"
	"github.com/roost-server/roost/protocol"
)

func (h *harness) incarnation(c *testConn) (inc uint64) {
	h.loop.do(func() { inc = c.ctx.(*session.Session).Incarnation() })
	return inc
}

// A node that comes from a member whose clock is ahead would else lose to its older session.
func TestANodeFromAMemberWhoseClockIsAhead(t *testing.T) {
	h := newHarness(t, 0, Config{})
	first := h.incarnation(h.open("other"))
	hello := helloOf("n")
	hello.LastIncarnation = first + 2000<<22 // two seconds
	c := h.conn()
	require.NoError(t, h.frame(c, hello))
	require.Equal(t, hello.LastIncarnation+1, h.incarnation(c))

	liar := helloOf("liar")
	liar.LastIncarnation = 1<<64 - 1
	c = h.conn()
	require.NoError(t, h.frame(c, liar))
	require.Equal(t, hello.LastIncarnation+2, h.incarnation(c))
}

func TestAContestedSessionMayComeBack(t *testing.T) {
	h := newHarness(t, 0, Config{})
	c := h.open("n")
	h.sent(c)
	b := actors.NewToGate()
	b.Evictions = append(b.Evictions, actors.Eviction{Node: "n", Incarnation: h.incarnation(c), Contested: true})
	h.send(b)
	require.Equal(t, []string{"CLOSE " + protocol.ReasonContested.String()}, h.sent(c))
	require.Equal(t, protocol.ReconnectBackoff, protocol.ReasonContested.Policy())
}

// Shards that move together are told together, each of what concerns it.
func TestManyAnnouncementsAtOnce(t *testing.T) {
	h := newHarness(t, 0, Config{Partitions: 4})
	var want []string
	c := h.open("n")
	home := partition("n", 4)
	b := actors.NewToGate()
	for shard := range uint32(4) {
		b.Deliveries = append(b.Deliveries, actors.Delivery{Node: "n", JobID: fmt.Sprint("j", shard), Kind: "ping", Shard: shard, Attempt: 1, Args: []byte{0xc0}})
	}
	credit := &protocol.Credit{Credit: 4}
	require.NoError(t, h.frame(c, credit))
	h.send(b)
	h.told()
	h.loop.do(func() {
		for _, shard := range []uint32{0, 2, 3, 2, 99} {
			h.send(&actors.Announce{Shard: shard})
		}
	})
	for _, shard := range []uint32{0, 2, 3} {
		want = append(want, fmt.Sprintf("shard %d: running j%d#1 of n", shard, shard))
		if shard == home {
			want = append(want, fmt.Sprintf("shard %d: register n ping", shard))
		}
	}
	require.ElementsMatch(t, want, h.told())
	h.send(&actors.Announce{Shard: 1})
	require.Contains(t, h.told(), "shard 1: running j1#1 of n", "and again")
}
