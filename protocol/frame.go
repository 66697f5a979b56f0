package protocol

import "fmt"

// Version is the protocol's version, carried in HELLO.
const Version = 1

// Preface is what a node sends before its first frame. Its last byte but one is
// the version of the framing itself, which is expected never to change.
const Preface = "ROOST/1\n"

// HeaderBytes is the size of a frame's header: 3 bytes of body length, big endian,
// and 1 byte of type.
const HeaderBytes = 4

// Type tells what a frame's body is. Unknown types are skipped by both sides.
type Type uint8

// The types of version 1. See SPEC.md for who sends them and when.
const (
	TypeHello      Type = 0x01 // node → member
	TypeChallenge  Type = 0x02 // member → node
	TypeProof      Type = 0x03 // node → member
	TypeWelcome    Type = 0x04 // member → node
	TypeJob        Type = 0x10 // member → node
	TypeAccepted   Type = 0x11 // node → member
	TypeProgress   Type = 0x12 // node → member
	TypeResult     Type = 0x13 // node → member
	TypeResultAck  Type = 0x14 // member → node
	TypeCancel     Type = 0x15 // member → node
	TypeCredit     Type = 0x20 // node → member
	TypeAttributes Type = 0x21 // node → member
	TypePing       Type = 0x30 // both
	TypePong       Type = 0x31 // both
	TypeGoAway     Type = 0x40 // member → node
	TypeClose      Type = 0x41 // both
)

var typeNames = map[Type]string{
	TypeHello: "HELLO", TypeChallenge: "CHALLENGE", TypeProof: "PROOF", TypeWelcome: "WELCOME",
	TypeJob: "JOB", TypeAccepted: "ACCEPTED", TypeProgress: "PROGRESS", TypeResult: "RESULT",
	TypeResultAck: "RESULT_ACK", TypeCancel: "CANCEL", TypeCredit: "CREDIT", TypeAttributes: "ATTRIBUTES",
	TypePing: "PING", TypePong: "PONG", TypeGoAway: "GOAWAY", TypeClose: "CLOSE",
}

// String returns the name that SPEC.md uses.
func (t Type) String() string {
	if s, ok := typeNames[t]; ok {
		return s
	}
	return fmt.Sprintf("type 0x%02x", uint8(t))
}

// NextFrame finds the first frame in b. size is its whole length with the header,
// or 0 while b does not hold all of it; body aliases b. A body longer than
// maxBodyBytes is refused from its header alone, so a peer cannot make the reader
// wait for, or hold, more than that. The error is a *[Error] with [ReasonFrameTooLarge].
func NextFrame(b []byte, maxBodyBytes int) (t Type, body []byte, size int, err error) {
	if len(b) < HeaderBytes {
		return 0, nil, 0, nil
	}
	n := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
	t = Type(b[3])
	if n > maxBodyBytes {
		return t, nil, 0, Errorf(ReasonFrameTooLarge, "%v frame of %d bytes; at most %d are allowed here", t, n, maxBodyBytes)
	}
	if len(b) < HeaderBytes+n {
		return t, nil, 0, nil
	}
	return t, b[HeaderBytes : HeaderBytes+n], HeaderBytes + n, nil
}
