package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/bits"
)

// Kind says what a packet is.
type Kind uint8

// The kinds of packets.
const (
	// KindLoose packets belong to no link: they are lost, late or twice as the transport
	// pleases. Hellos and beats travel so.
	KindLoose Kind = 1
	// KindLink packets belong to a pair of links.
	KindLink Kind = 2
)

// Flags of a packet.
const (
	flagAnswer = 1 << iota // an answer is wanted at once
	flagGap                // something came that does not follow on Ack: it is to be sent again from there
)

// The sizes of a packet: its kind, the header's length, the flags; the instances; the
// links; number, acknowledgement, limit. Then the messages, each after its length as a
// uvarint. A later version may lengthen the header; this one skips what it does not know.
const (
	headerBytes = 3 + 2*8 + 2*4 + 3*8

	// MaxPacketBytes is the most that a packet takes.
	MaxPacketBytes = 1 << 20
	// MaxMessageBytes is the longest message: alone in a packet it has to fit.
	MaxMessageBytes = MaxPacketBytes - headerBytes - 3
	// MessageOverheadBytes is what a message counts beyond its length, in queues and in
	// limits, on both sides: so many tiny ones cannot take more memory than was allowed.
	MessageOverheadBytes = 64
)

// ErrMalformed is wrapped by errors of [Packet.Parse].
var ErrMalformed = errors.New("link: malformed packet")

// Packet is what travels at once between two members. Its messages lie in the bytes that
// were parsed.
type Packet struct {
	Kind     Kind
	From, To uint64 // instances; To is 0 in a loose packet to a peer not known yet

	fromLink, toLink uint32 // numbers of links; toLink is 0 while not known
	seq              uint64 // of the first message; 0 in loose packets
	ack              uint64 // the last message that came in order
	limit            uint64 // total of bytes that the sender takes
	flags            uint8
	count            int
	bodies           []byte
}

// Parse reads a packet, all of it, and keeps b. It allocates nothing.
func (p *Packet) Parse(b []byte) error {
	*p = Packet{}
	if len(b) < headerBytes || len(b) > MaxPacketBytes {
		return fmt.Errorf("%w: %d bytes, allowed are %d to %d", ErrMalformed, len(b), headerBytes, MaxPacketBytes)
	}
	header := int(b[1])
	if header < headerBytes || header > len(b) {
		return fmt.Errorf("%w: header of %d bytes in a packet of %d; at least %d belong to it", ErrMalformed, header, len(b), headerBytes)
	}
	if k := Kind(b[0]); k != KindLoose && k != KindLink {
		return fmt.Errorf("%w: unknown kind %d", ErrMalformed, k)
	}
	le := binary.LittleEndian
	q := Packet{
		Kind: Kind(b[0]), flags: b[2],
		From: le.Uint64(b[3:]), To: le.Uint64(b[11:]),
		fromLink: le.Uint32(b[19:]), toLink: le.Uint32(b[23:]),
		seq: le.Uint64(b[27:]), ack: le.Uint64(b[35:]), limit: le.Uint64(b[43:]),
		bodies: b[header:],
	}
	for rest := q.bodies; len(rest) > 0; q.count++ {
		n, used := binary.Uvarint(rest)
		if used <= 0 || n > uint64(len(rest)-used) {
			return fmt.Errorf("%w: message %d is longer than what is left of the packet, %d bytes", ErrMalformed, q.count+1, len(rest))
		}
		rest = rest[used+int(n):]
	}
	if q.Kind == KindLink && (q.fromLink == 0 || q.count > 0 && q.seq == 0) {
		return fmt.Errorf("%w: a link's packet without its link's number or its messages' number", ErrMalformed)
	}
	if q.From == 0 {
		return fmt.Errorf("%w: it does not say which instance it is from", ErrMalformed)
	}
	*p = q
	return nil
}

// Len says how many messages the packet has.
func (p *Packet) Len() int { return p.count }

// Bodies yields the packet's messages in order. They lie in what was parsed.
func (p *Packet) Bodies() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for rest := p.bodies; len(rest) > 0; {
			n, used := binary.Uvarint(rest)
			end := used + int(n)
			if !yield(rest[used:end:end]) {
				return
			}
			rest = rest[end:]
		}
	}
}

// appendHeader appends all that comes before the messages.
func (p *Packet) appendHeader(dst []byte) []byte {
	le := binary.LittleEndian
	dst = append(dst, byte(p.Kind), headerBytes, p.flags)
	dst = le.AppendUint64(dst, p.From)
	dst = le.AppendUint64(dst, p.To)
	dst = le.AppendUint32(dst, p.fromLink)
	dst = le.AppendUint32(dst, p.toLink)
	dst = le.AppendUint64(dst, p.seq)
	dst = le.AppendUint64(dst, p.ack)
	return le.AppendUint64(dst, p.limit)
}

func appendBody(dst, body []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(body))), body...)
}

// bodyBytes is what a message takes in a packet.
func bodyBytes(n int) int { return n + (bits.Len(uint(n)|1)+6)/7 }

// AppendLoose appends a packet with one message that belongs to no link, from one
// instance to another (0 when it is not known). The message is at most
// [MaxMessageBytes] long.
func AppendLoose(dst []byte, from, to uint64, body []byte) []byte {
	return appendBody((&Packet{Kind: KindLoose, From: from, To: to}).appendHeader(dst), body)
}
