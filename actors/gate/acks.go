package gate

import (
	"time"

	"github.com/roost-server/roost/actors/session"
)

// acksDue is what a gate sends itself when acknowledgements have waited long enough.
type acksDue struct{}

// AcksHeld implements session.Uplink.
func (g *Gate) AcksHeld() { g.sendAcksIn(session.AckDelayMs) }

func (g *Gate) sendAcksIn(ms int64) {
	after := time.Duration(ms) * time.Millisecond
	if g.acksDue == nil {
		g.acksDue = time.AfterFunc(after, func() { g.door.mailbox.PostUserMessage(acksDue{}) })
		return
	}
	g.acksDue.Reset(after)
}

func (g *Gate) sendAcks() {
	nowMs := g.cfg.NowMs()
	if next := g.shared.SendAcks(nowMs); next != 0 {
		g.sendAcksIn(next - nowMs)
	}
}
