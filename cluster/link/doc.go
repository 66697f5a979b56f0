// Package link is a reliable, ordered, bounded stream of messages to one instance of a
// peer, in both directions, over a transport that loses whole packets at will: when it
// is overrun, when its connection breaks, when the peer stands still.
//
// It is pure: no clock, no goroutine, no network. Its owner passes in the time and what
// came, and sends what goes out:
//
//	Send     a message to the peer is queued, or refused when the queue is full
//	Receive  a packet came: its messages are delivered, in order, each once
//	Flush    after a batch of Send and Receive: what can go out now goes out
//	Tick     at NextMs: acknowledgements that wait and resends that are due
//
// # Pairing
//
// A [Link] has a number, which rises with each link that a process makes. The links of
// two peers pair by a handshake of three packets, and a pair is for life: no message of an
// earlier link is ever delivered by a later one. When the peer has ended its link
// (it thought this member down) and begun another, Receive says [ErrReset]: the owner ends
// this one too, with what [Link.Close] gives back, and makes another. Nothing else that
// is lost, late or twice needs the owner.
//
// # Flow
//
// Messages are numbered from 1. A packet says which was the last that came in order, and
// up to which total of bytes its sender will take more ("limit", as QUIC's MAX_DATA: it only
// grows, so packets out of order do no harm). What is not acknowledged in time is sent
// again from the first on (go-back-N), at first little, then more as acknowledgements
// come (slow start, RFC 5681): what is slow rather than lost is not made slower. A receiver
// that sees a gap says so at once. The resend time follows the measured round trip
// (RFC 6298 in spirit; samples by Karn's rule).
//
// A Link is not safe for concurrent use.
package link
