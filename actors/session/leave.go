package session

import "github.com/roost-server/roost/protocol"

// Leave tells the node to go elsewhere, unless it was told already.
type Leave struct {
	GoAway  *protocol.GoAway
	UntilMs int64 // Unix time; a session that is there still is closed
	Sent    bool  // set by the session
}

// Leaving reports whether the node was told to leave.
func (s *Session) Leaving() bool { return s.leaveBy != 0 }

func (s *Session) leave(m *Leave) {
	if s.leaveBy != 0 || s.core.state&ended != 0 {
		return
	}
	s.sendAcks()
	if s.conn.Append(m.GoAway) != nil {
		return // a connection that takes nothing is about to end
	}
	s.leaveBy = uint32(m.UntilMs/1000 + 1)
	m.Sent = true
}

// overstay closes the session of a node that was told to leave and has not. It is looked
// at when the node says something: one that says nothing is closed for that.
func (s *Session) overstay() {
	if s.loop.up.NowMs()/1000 < int64(s.leaveBy) {
		return
	}
	s.loop.up.Overstayed()
	s.Close(protocol.ReasonDrain, "the node was asked to leave and has not", 0)
}
