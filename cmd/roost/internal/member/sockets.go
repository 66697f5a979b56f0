package member

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"go.uber.org/zap"

	"github.com/roost-server/roost/actors/gate"
	"github.com/roost-server/roost/actors/supervisor"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/transport/tcp"
)

// sockets gives each event loop a gate.
type sockets struct {
	cfg  *gate.Config
	tree *supervisor.Tree
	log  *zap.Logger

	mu    sync.Mutex
	loops []*tcp.Loop
}

// caughtUp waits until every event loop has done what it was given before.
func (s *sockets) caughtUp(ctx context.Context) error {
	s.mu.Lock()
	loops := slices.Clone(s.loops)
	s.mu.Unlock()
	for _, l := range loops {
		done := make(chan struct{})
		if l.Execute(func() { close(done) }) != nil {
			continue // it has ended
		}
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// LoopStarted implements tcp.Handler.
func (s *sockets) LoopStarted(l *tcp.Loop) tcp.LoopHandler {
	door := gate.NewDoor(s.cfg, uint32(l.Index()), l)
	if err := s.tree.AddGate(uint32(l.Index()), door); errors.Is(err, supervisor.ErrStopped) {
		return nil // the member ends: the connection is refused
	} else if err != nil {
		panic(fmt.Errorf("add the gate of event loop %d: %w", l.Index(), err)) // the connection is refused
	}
	s.mu.Lock()
	s.loops = append(s.loops, l)
	s.mu.Unlock()
	return &loopDoor{door: door, log: s.log}
}

// loopDoor is a gate's door as the transport sees it.
type loopDoor struct {
	door *gate.Door
	log  *zap.Logger
}

// Frame implements tcp.LoopHandler.
func (d *loopDoor) Frame(c *tcp.Conn, t protocol.Type, body []byte) error {
	return d.door.Frame(c, t, body)
}

// Closed implements tcp.LoopHandler.
func (d *loopDoor) Closed(c *tcp.Conn, reason protocol.Reason, err error) {
	if ce := d.log.Check(zap.DebugLevel, "session closed"); ce != nil {
		ce.Write(zap.Stringer("reason", reason), zap.Error(err))
	}
	d.door.Closed(c)
}

var (
	_ gate.Conn = (*tcp.Conn)(nil)
	_ gate.Loop = (*tcp.Loop)(nil)
)
