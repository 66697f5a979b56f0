package tcp

import (
	"slices"
	"time"

	"github.com/panjf2000/gnet/v2"

	"github.com/roost-server/roost/protocol"
)

// Refusal is what new nodes are told while the server turns them away.
type Refusal struct {
	Reason  protocol.Reason // such as drain, or not ready
	Message string          // for a person, at most [protocol.MaxTextBytes]

	// RetryAfter is when to come back at the earliest. Each node is told a random time
	// from half of it to one and a half; 0 leaves it to the reason's policy.
	RetryAfter time.Duration

	// Addresses are host:port of other members to try first. Each node is told them
	// beginning with another one, at most [protocol.MaxAddresses].
	Addresses []string
}

// Refuse turns new nodes away while on, with CLOSE not ready. See [Server.RefuseWith].
func (s *Server) Refuse(on bool) {
	if !on {
		s.RefuseWith(nil)
		return
	}
	s.RefuseWith(&Refusal{Reason: protocol.ReasonNotReady, Message: "this member takes no new sessions", RetryAfter: s.cfg.RetryAfter})
}

// RefuseWith turns new nodes away, for a member that drains; nil ends that. A node is told
// when its HELLO has come, also when it had connected before: so who only looks whether the
// port is open, as balancers do, hears nothing, and addresses are told to nodes alone.
// Established connections are not touched. After Stop it does nothing. r is copied.
func (s *Server) RefuseWith(r *Refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopping.Load():
	case r == nil:
		s.no.Store(nil)
	default:
		no := &refusal{reason: r.Reason, message: r.Message, retryAfter: r.RetryAfter, cause: refusedDrain}
		for _, a := range r.Addresses {
			if len(a) > 0 && len(a) <= protocol.MaxAddressBytes {
				no.addresses = append(no.addresses, a)
			}
		}
		no.addresses = slices.Clip(no.addresses)
		s.no.Store(no)
	}
}

// refusedFor says why a connection was refused; it numbers counters.
type refusedFor uint8

const (
	refusedFault refusedFor = iota // the loop has no handler
	refusedFull
	refusedHandshakes
	refusedRate
	refusedDrain // or stopped
	refusedPeer  // not a balancer
	refusedCauses
)

// refusal is what a connection is told that is not admitted.
type refusal struct {
	reason     protocol.Reason
	message    string
	retryAfter time.Duration
	addresses  []string // never changed
	cause      refusedFor
}

// turnAway tells a node that said HELLO that it is not wanted.
func (l *Loop) turnAway(c *Conn, no *refusal) {
	l.stats.refused[no.cause].Add(1)
	l.turned++
	l.advice = appendRotated(l.advice[:0], no.addresses, l.turned)
	c.closeWith(&protocol.Close{Reason: no.reason, Message: no.message,
		RetryAfterMs: uint32(spread(no.retryAfter).Milliseconds()), Addresses: l.advice}, nil)
}

// appendRotated appends as many of the addresses as may be told, beginning with the one
// whose turn it is.
func appendRotated(dst, addresses []string, turn int) []string {
	for i := range min(len(addresses), protocol.MaxAddresses) {
		dst = append(dst, addresses[(turn+i)%len(addresses)])
	}
	return dst
}

// admit counts a new connection in, or says why not.
func (s *Server) admit(l *Loop, gc gnet.Conn) *refusal {
	switch {
	case s.stopping.Load():
		return s.no.Load()
	case l.handler == nil:
		return &refusal{reason: protocol.ReasonInternal, message: "internal error", cause: refusedFault}
	case s.cfg.ProxyProtocol && !s.balancer(gc):
		s.warnProxy(gc.RemoteAddr().String(), errStranger)
		return &refusal{reason: protocol.ReasonNotReady, message: "this port takes connections from its balancers only",
			retryAfter: s.cfg.RetryAfter, cause: refusedPeer}
	case !s.accepts.take(l.nowMs):
		return s.overloaded("connections arrive too fast", refusedRate)
	}
	if s.open.Add(1) > int64(s.limits.admitted) {
		s.open.Add(-1)
		return s.overloaded("too many connections", refusedFull)
	}
	if most := int64(s.cfg.MaxHandshakes); s.handshaking.Add(1) > most && most > 0 {
		s.handshaking.Add(-1)
		s.open.Add(-1)
		return s.overloaded("too many handshakes at once", refusedHandshakes)
	}
	return nil
}

func (s *Server) overloaded(message string, cause refusedFor) *refusal {
	return &refusal{reason: protocol.ReasonOverloaded, message: message, retryAfter: s.cfg.RetryAfter, cause: cause}
}
