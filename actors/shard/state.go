package shard

import (
	"encoding/binary"

	"github.com/roost-server/roost/protocol/record"
)

// The records of the state topic. All values begin with the version; numbers are
// varints as encoding/binary has them, text is its length and its bytes.
//
//	key                    value after the version
//	h                      head: jobs, xor of their ids' hashes (8 bytes), partitions, next (signed),
//	                       progress, newest timestamp (signed), owner
//	j ID                   job: flags, offset, timestamp (signed), deadline (signed),
//	                       its assignment when it has one, and to the end the record as msgpack
//	c CHUNK(2 bytes) ID    assignments CHUNK*128 and on of a job with more than one
//	r SLOT(2 bytes)        ended jobs: number of the first, how many, and of each the id's hash
//	                       (16 bytes) and the offset
//
// An assignment: flags, then what they say is there: attempt and outcome or cause, when
// the next attempt is due, the node, and the nodes that were tried.
const stateVersion = 1

const (
	keyHead  = 'h'
	keyJob   = 'j'
	keyChunk = 'c'
	keySlot  = 'r'
)

// chunkSize is how many assignments of a job are written together: few enough that one
// that changes costs little, enough that ten thousand are not as many records.
const chunkSize = 128

// chunkState tells what the state topic has of a chunk.
type chunkState uint8

const (
	chunkDirty chunkState = 1 << iota // it differs from what newJob makes, or from what is there
	chunkPut                          // it is there
)

// The flags of a job.
const (
	jobJSON    = 1 << iota // its record was JSON
	jobChunked             // its assignments are in chunks
)

// The flags of an assignment; without the first three it has no attempt.
const (
	hasEnded = 1 << iota
	isLive   // the attempt is on the node, as far as is known
	isOver   // the attempt has ended, another one is to be made
	hasNode
	hasTried
)

func appendJobKey(b []byte, id string) []byte { return append(append(b, keyJob), id...) }

func appendChunkKey(b []byte, id string, chunk int) []byte {
	return append(binary.BigEndian.AppendUint16(append(b, keyChunk), uint16(chunk)), id...)
}

func appendSlotKey(b []byte, slot int) []byte {
	return binary.BigEndian.AppendUint16(append(b, keySlot), uint16(slot))
}

// head is what a shard notes of its whole state.
type head struct {
	jobs       uint64
	sum        uint64
	partitions uint32
	next       int64
	progress   int64
	newestMs   int64
	owner      string
}

func appendHead(b []byte, h *head) []byte {
	b = binary.AppendUvarint(append(b, stateVersion), h.jobs)
	b = binary.LittleEndian.AppendUint64(b, h.sum)
	b = binary.AppendUvarint(b, uint64(h.partitions))
	b = binary.AppendVarint(b, h.next)
	b = binary.AppendUvarint(b, uint64(h.progress))
	b = binary.AppendVarint(b, h.newestMs)
	return appendText(b, h.owner)
}

func appendSlot(b []byte, first uint64, jobs []endedJob) []byte {
	b = binary.AppendUvarint(append(b, stateVersion), first)
	b = binary.AppendUvarint(b, uint64(len(jobs)))
	for i := range jobs {
		b = binary.LittleEndian.AppendUint64(b, jobs[i].hash.lo)
		b = binary.LittleEndian.AppendUint64(b, jobs[i].hash.hi)
		b = binary.AppendUvarint(b, uint64(jobs[i].offset))
	}
	return b
}

func (c *Core) appendJob(b []byte, j *job) []byte {
	flags := byte(0)
	if j.encoding == record.JSON {
		flags |= jobJSON
	}
	chunked := j.extra != nil && j.extra.chunks != nil
	if chunked {
		flags |= jobChunked
	}
	b = binary.AppendUvarint(append(b, stateVersion, flags), uint64(j.offset))
	b = binary.AppendVarint(b, j.timestampMs)
	b = binary.AppendVarint(b, j.deadlineMs)
	if !chunked {
		b = c.appendAssignment(b, &j.single[0])
	}
	return append(b, j.raw...)
}

func (c *Core) appendChunk(b []byte, j *job, chunk int) []byte {
	b = append(b, stateVersion)
	all := j.all()[chunk*chunkSize:]
	for i := range all[:min(len(all), chunkSize)] {
		b = c.appendAssignment(b, &all[i])
	}
	return b
}

func (c *Core) appendAssignment(b []byte, a *assignment) []byte {
	flags, attempt, what := byte(0), a.attempt, a.cause
	switch {
	case a.state >= ending:
		flags, what = hasEnded, a.outcome
	case a.is(again):
		flags = isLive
		attempt++
	case a.state == sent || a.state == detached:
		flags = isLive
	case a.state == queued: // it never was on the node
		if attempt--; attempt > 0 {
			flags = isOver
		}
	case attempt > 0:
		flags = isOver
	}
	var tried []string
	if sel := a.job.selector(); sel != nil {
		if a.node != "" {
			flags |= hasNode
		}
		if tried = a.job.extra.tried[int32(a.index)]; tried != nil {
			flags |= hasTried
			tried = tried[max(0, len(tried)-maxTried):]
		}
	}
	if b = append(b, flags); flags&(hasEnded|isLive|isOver) != 0 {
		b = append(b, attempt, byte(what))
	}
	if flags&isOver != 0 {
		due := int64(0)
		if a.is(over) && !a.is(parked) {
			due = c.timers.at(a)
		}
		b = binary.AppendUvarint(b, uint64(max(0, due)))
	}
	if flags&hasNode != 0 {
		b = appendText(b, a.node)
	}
	if flags&hasTried != 0 {
		b = binary.AppendUvarint(b, uint64(len(tried)))
		for _, node := range tried {
			b = appendText(b, node)
		}
	}
	return b
}

// maxTried is how many of the nodes that were tried for an assignment survive a restart:
// a chunk has to fit a record.
const maxTried = 32

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
