// Package stamp is what a load test writes into the args of its jobs: when a job was
// sent, which it is, and when its node had it. The args come back as the job's output,
// so they tell where the time went. Any goroutine may call it; nothing allocates.
package stamp

import (
	"encoding/binary"
	"time"
)

// Bytes is what the stamps take at the start of the args. The args are one msgpack
// binary.
const Bytes = 24

const (
	sentAt     = 0  // when the job was sent, or was due; see Now
	seqAt      = 8  // the job's number
	receivedAt = 16 // before the node had it: how long to run it, with the flag; then when it came
)

// runFlag tells how long to run a job from a time.
const runFlag = 1 << 63

// maxRunFor bounds what a job can ask of a simulated node.
const maxRunFor = time.Hour

// Put writes the stamps of a job that is sent; body is the args without their header.
func Put(body []byte, sentNs, seq int64, runFor time.Duration) {
	binary.BigEndian.PutUint64(body[sentAt:], uint64(sentNs))
	binary.BigEndian.PutUint64(body[seqAt:], uint64(seq))
	v := uint64(0)
	if runFor > 0 {
		v = runFlag | uint64(runFor)
	}
	binary.BigEndian.PutUint64(body[receivedAt:], v)
}

// Receive tells how long a node is to run the job whose args came in a JOB frame, 0
// when they do not say, and notes in them that the job came now when write is true.
// Args of other producers are left alone.
func Receive(args []byte, write bool) (runFor time.Duration) {
	k := Header(args)
	if k == 0 || len(args) < k+Bytes {
		return 0
	}
	at := args[k+receivedAt : k+Bytes]
	if v := binary.BigEndian.Uint64(at); v&runFlag != 0 {
		runFor = min(time.Duration(v&^runFlag), maxRunFor)
	}
	if write {
		binary.BigEndian.PutUint64(at, uint64(Now()))
	}
	return runFor
}

// Of reads the stamps back. receivedNs is 0 when the node did not say. It does not look
// at the header.
func Of(body []byte) (sentNs, seq, receivedNs int64) {
	r := binary.BigEndian.Uint64(body[receivedAt:])
	if r&runFlag != 0 {
		r = 0
	}
	return int64(binary.BigEndian.Uint64(body[sentAt:])), int64(binary.BigEndian.Uint64(body[seqAt:])), int64(r)
}

// Header is the length of a msgpack binary's header; 0: b is something else.
func Header(b []byte) int {
	if len(b) == 0 {
		return 0
	}
	switch b[0] {
	case 0xc4:
		return 2
	case 0xc5:
		return 3
	case 0xc6:
		return 5
	}
	return 0
}
