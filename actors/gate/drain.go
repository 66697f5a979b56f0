package gate

import (
	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
)

// A node that was told to leave goes on as usual until it does: what runs is finished or
// goes on over the reconnect, and what is delivered meanwhile is sent, since a job that the
// node has when it leaves is in its next HELLO. So there is no state of leaving beyond the
// time by which the session has to be gone.

// leaveGraceMs is how much longer than twice the jitter a node may take to leave.
const leaveGraceMs = 10_000

// drain tells nodes to leave, in the order of the map: any will do.
func (g *Gate) drain(m *actors.Drain) {
	told := 0
	if m.Sockets > 0 && g.leaving < len(g.sessions) {
		g.leave.UntilMs = g.cfg.NowMs() + 2*int64(m.JitterMs) + leaveGraceMs
		g.goAway = protocol.GoAway{Reason: m.Reason, JitterMs: m.JitterMs, Message: m.Message}
		if m.Reason == 0 {
			g.goAway.Reason = protocol.ReasonDrain
		}
		for _, s := range g.sessions {
			if s.Leaving() || s.Stopped() {
				continue
			}
			g.turn++
			g.goAway.Addresses = rotated(g.goAway.Addresses[:0], m.Addresses, g.turn)
			g.leave.Sent = false
			s.Post(&g.leave)
			if !g.leave.Sent {
				continue
			}
			g.leaving++
			g.cfg.Stats.Leaving.Add(1)
			if told++; told == m.Sockets {
				break
			}
		}
	}
	if m.Done != nil {
		select {
		case m.Done <- told:
		default:
		}
	}
}

// left counts a session that ended after it was told to leave.
func (g *Gate) left() {
	g.leaving = max(0, g.leaving-1) // it may have been told by the gate before a restart
	g.cfg.Stats.Leaving.Add(-1)
	g.cfg.Stats.Drained.Add(1)
}

// Overstayed implements session.Uplink.
func (g *Gate) Overstayed() { g.cfg.Stats.Overstayed.Add(1) }

// rotated appends the addresses that may be told, beginning with the one whose turn it is.
func rotated(dst, addresses []string, turn int) []string {
	for i := 0; i < len(addresses) && len(dst) < protocol.MaxAddresses; i++ {
		if a := addresses[(turn+i)%len(addresses)]; len(a) <= protocol.MaxAddressBytes {
			dst = append(dst, a)
		}
	}
	return dst
}
