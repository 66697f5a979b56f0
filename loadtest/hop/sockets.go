//go:build linux

package main

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/gate"
	"github.com/roost-server/roost/actors/shard"
	"github.com/roost-server/roost/actors/supervisor"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/transport/tcp"
)

// sockets gives each event loop a gate.
type sockets struct {
	cfg  *gate.Config
	tree *supervisor.Tree
}

// LoopStarted implements tcp.Handler.
func (s *sockets) LoopStarted(l *tcp.Loop) tcp.LoopHandler {
	door := gate.NewDoor(s.cfg, uint32(l.Index()), l)
	if err := s.tree.AddGate(uint32(l.Index()), door); err != nil {
		panic(fmt.Errorf("add the gate of event loop %d: %w", l.Index(), err)) // the connection is refused
	}
	return loopDoor{door}
}

// loopDoor is a gate's door as the transport sees it.
type loopDoor struct{ door *gate.Door }

// Frame implements tcp.LoopHandler.
func (d loopDoor) Frame(c *tcp.Conn, t protocol.Type, body []byte) error {
	return d.door.Frame(c, t, body)
}

// Closed implements tcp.LoopHandler.
func (d loopDoor) Closed(c *tcp.Conn, _ protocol.Reason, _ error) { d.door.Closed(c) }

// mute is a shard's way to the gates without the acknowledgement of results.
type mute struct{ shard.Gates }

// Send implements shard.Gates.
func (m mute) Send(to uint32, b *actors.ToGate) {
	b.Acks = b.Acks[:0]
	if len(b.Deliveries)+len(b.Withdrawals)+len(b.Evictions) == 0 {
		b.Release()
		return
	}
	m.Gates.Send(to, b)
}

// How the memory of a fleet's arrival is given back, in steps of settleTick: roost serve
// does the same.
const (
	settleTick  = time.Second
	settleCalm  = 2
	settleLeast = 1000
)

// settle collects once the number of sessions has settled after a large change.
func (h *hop) settle(ctx context.Context) {
	tick := time.NewTicker(settleTick)
	defer tick.Stop()
	var collected, before int64
	calm := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := h.stats.Sessions.Load()
		if now != before {
			before, calm = now, 0
			continue
		}
		if calm++; calm >= settleCalm && (now-collected > settleLeast || collected-now > settleLeast) {
			collected = now
			debug.FreeOSMemory()
		}
	}
}
