// Package wire is how messages between gates and shards, and between shards, travel
// from one member of a cluster to another.
//
// # Format
//
// A body is a kind byte, then shard, epoch and event loop as varints (as in
// encoding/binary), then records to the end. A record is a tag byte, the length of its
// payload in three bytes, little-endian, and the payload: fields in a fixed order, each a
// varint, eight bytes little-endian for what is random, or a varint length and that many
// bytes. A list in a payload is its count and its elements.
//
// So it can grow: readers skip records whose tag they do not know, and fields after those
// that they know; fields that are missing at the end are zero. Kind and tags are
// never given a new meaning.
//
//	kind      tag  payload
//	ToGate    1    withdrawal: node, job, attempt, reason
//	          2    delivery: node, job, kind, arguments, attempt, timeout (ms), priority
//	          3    delivery of the same job as the one before, to another node: node, attempt
//	          4    acknowledgement: node, job, attempt
//	          5    eviction: node, incarnation, contested (0 or 1)
//	FromGate  1    result: node, job, attempt, outcome, duration (µs), error, output
//	          2    progress: node, job, attempt, data
//	          3    notice: kind, node, job, attempt, incarnation
//	          4    profile, numbered from 1 on in its body: country, city, ASN, platform, agent, tags, kinds
//	          5    registration: node, incarnation, number of its profile or 0
//	          6    departure: node, incarnation
//	Shard     4    profile, as above
//	          7    location: node, member's instance (8 bytes), event loop, incarnation, number of its profile or 0
//	          8    Locate: from, node, wait (ms)
//	          9    Located; its location is the record before
//	          10   Rebuilt: shard
//	          11   Silent: node, until (Unix ms)
//	          12   Answered: node
//	          13   Select: from, job, round, kind, count, country, city, ASN, platform, tags, excluded nodes
//	          14   Candidates: job, round, more (0 or 1), funnel; their locations are the records before
//
// # Size
//
// Batches are split into bodies of at most [MaxBodyBytes], in an order in which a receiver
// that takes one after the other does the same as with the whole. What one record may hold
// is bounded by the protocol of the nodes, and fits.
//
// # Trust
//
// Members trust each other, but nothing that one sends makes another panic, or reserve more
// than a small multiple of what was sent.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The kinds of bodies between members: their first bytes.
const (
	KindRPC      byte = 1 // cluster/rpc's
	KindToGate   byte = 2 // a shard's batch for a gate
	KindFromGate byte = 3 // a gate's batch for a shard
	KindShard    byte = 4 // what shards say to each other
	KindReturned byte = 6 // a KindFromGate body behind this byte, sent back by a member that does not have that life of the shard
)

// MaxBodyBytes is the most that a body has: half of what the members' transport takes, as
// several bodies share a packet.
const MaxBodyBytes = 512 << 10

// Header says which life of which shard a body is about.
type Header struct {
	Kind  byte
	Shard uint32
	Epoch uint64
	Loop  uint32 // the gate's event loop on its member; 0 in KindShard
}

// maxLoop is the highest event loop: gates' numbers have 16 bits for it.
const maxLoop = 1<<16 - 1

// ErrMalformed is wrapped by the errors of all that cannot be read.
var ErrMalformed = errors.New("malformed message between members")

// Head reads a body's header alone.
func Head(body []byte) (Header, error) {
	h, _, err := head(body)
	return h, err
}

func head(body []byte) (h Header, records []byte, err error) {
	if len(body) == 0 {
		return h, nil, fmt.Errorf("%w: no kind", ErrMalformed)
	}
	h.Kind = body[0]
	if h.Kind < KindToGate || h.Kind > KindShard {
		return h, nil, fmt.Errorf("%w: kind %d is not one of gates and shards", ErrMalformed, h.Kind)
	}
	f := fields{b: body[1:]}
	h.Shard = uint32(f.uint(1<<32 - 1))
	h.Epoch = f.uint(1<<64 - 1)
	more := len(f.b) > 0 // all of the header is there, always
	h.Loop = uint32(f.uint(maxLoop))
	if f.bad || !more {
		return h, nil, fmt.Errorf("%w: the header of a body of kind %d", ErrMalformed, h.Kind)
	}
	return h, f.b, nil
}

func (h *Header) append(dst []byte) []byte {
	dst = append(dst, h.Kind)
	dst = binary.AppendUvarint(dst, uint64(h.Shard))
	dst = binary.AppendUvarint(dst, h.Epoch)
	return binary.AppendUvarint(dst, uint64(h.Loop))
}

// The tags of records.
const (
	tagWithdrawal byte = 1
	tagDelivery   byte = 2
	tagAgain      byte = 3
	tagAck        byte = 4
	tagEviction   byte = 5

	tagResult       byte = 1
	tagProgress     byte = 2
	tagNotice       byte = 3
	tagProfile      byte = 4
	tagRegistration byte = 5
	tagDeparture    byte = 6

	tagLocation   byte = 7
	tagLocate     byte = 8
	tagLocated    byte = 9
	tagRebuilt    byte = 10
	tagSilent     byte = 11
	tagAnswered   byte = 12
	tagSelect     byte = 13
	tagCandidates byte = 14
)
