package actors

import "github.com/roost-server/roost/protocol"

// Drain asks a gate to send some of its nodes elsewhere, by GOAWAY. Nodes that were asked
// already are not asked again. A node that has not left twice the jitter and ten seconds
// later is closed with reason drain. Whoever drains a member turns new nodes away first.
type Drain struct {
	// Sockets is how many sessions are told, at most: the pace is the sender's.
	Sockets int

	// Reason is told to the nodes; 0 means [protocol.ReasonDrain].
	Reason protocol.Reason

	// JitterMs is the time within which nodes leave, each at a moment of its own.
	JitterMs uint32

	// Addresses are host:port where to go; empty: the addresses that nodes know. Each
	// node is told them beginning with another one, so that they spread. The gate keeps
	// the slice for as long as it handles the message.
	Addresses []string

	// Message is for a person, at most [protocol.MaxTextBytes].
	Message string

	// Done, when not nil, gets how many sessions were told. It is never waited for:
	// give it room for one. A gate that ends before it comes to the message says nothing.
	Done chan<- int
}
