package roost

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/protocol"
)

// A member that is being drained refuses new sessions and names others.
func TestCloseNamesOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newPipes(t)
		n := startNode(t, Config{Servers: []string{"a:1"}, Dial: d.dial}, func(c *Client) { c.rand = fixed(0.5) })
		p := d.accept()
		expect[*protocol.Hello](p)
		p.send(&protocol.Close{Reason: protocol.ReasonDrain, Message: "upgrade", Addresses: []string{"b:1", "nonsense", "c:1"}})
		e := awaitEvent[Disconnected](n)
		require.Equal(t, protocol.ReasonDrain, e.Reason)
		require.Equal(t, quickTime/2, e.RetryIn)

		p, _ = d.session()
		start := time.Now()
		p.send(&protocol.Close{Reason: protocol.ReasonNotReady, RetryAfterMs: 7000}) // names nobody: c is next
		d.session()
		require.Equal(t, 7*time.Second+retryBase/2, time.Since(start), "retry_after first, then backoff")
		require.Equal(t, []string{"a:1", "b:1", "c:1"}, d.dialled())
	})
}

// Two members that send nodes to each other do not keep them in a circle at full speed.
func TestCloseInACircle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newPipes(t)
		n := startNode(t, Config{Servers: []string{"a:1"}, Dial: d.dial}, func(c *Client) { c.rand = fixed(0.5) })
		var waits []time.Duration
		for i := range quickReturns + 3 {
			p := d.accept()
			expect[*protocol.Hello](p)
			p.send(&protocol.Close{Reason: protocol.ReasonDrain, Addresses: []string{[]string{"b:1", "a:1"}[i%2]}})
			waits = append(waits, awaitEvent[Disconnected](n).RetryIn)
		}
		require.Equal(t, quickTime/2, waits[quickReturns-1])
		require.Equal(t, []time.Duration{retryBase / 2, retryBase, 2 * retryBase}, waits[quickReturns:])
		require.Equal(t, []string{"a:1", "b:1", "a:1", "b:1"}, d.dialled()[:4])
	})
}

func TestRefusalsForGoodAreNotFollowedElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newPipes(t)
		n := startNode(t, Config{Servers: []string{"a:1"}, Dial: d.dial}, nil)
		p := d.accept()
		expect[*protocol.Hello](p)
		p.send(&protocol.Close{Reason: protocol.ReasonUnauthenticated, Addresses: []string{"b:1"}})
		var ce *CloseError
		require.ErrorAs(t, n.wait(), &ce)
		require.Equal(t, []string{"a:1"}, d.dialled())
	})
}
