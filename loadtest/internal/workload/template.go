package workload

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// Limits of Config.Size: the args begin with three numbers of 8 bytes, and have to fit
// a payload with their msgpack header.
const (
	MinSize   = argsStamp
	MaxSize   = protocol.MaxPayloadBytes - 5
	argsStamp = 24

	sentAt     = 0  // when the job was sent, or was due; see clock
	seqAt      = 8  // the job's number
	receivedAt = 16 // when the node received it; 0 until then
)

// began is the zero of clock.
var began = time.Now()

// clock is the one clock of all stamps of this process, in nanoseconds; it never
// goes back.
func clock() int64 { return int64(time.Since(began)) }

// Stamp notes in a job's args, as they came in a JOB frame, that a node has received
// the job now. A node that calls it before it returns the args as its output tells so
// how long the job was on its way. Args of other producers are left alone.
func Stamp(args []byte) {
	if k := binHeader(args); k > 0 && len(args) >= k+argsStamp {
		binary.BigEndian.PutUint64(args[k+receivedAt:], uint64(clock()))
	}
}

// binHeader is the length of a msgpack binary's header; 0: b is something else.
func binHeader(b []byte) int {
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

// jobTTL is how long an abandoned job may stay in the server under test.
const jobTTL = 10 * time.Minute

// template is a job record encoded once; a job of the run differs from it only in
// fixed places of fixed length.
type template struct {
	run    string // identifies the run: the start of each job id
	value  []byte
	idAt   int
	nodeAt int
	argsAt int // of the bytes themselves
	headAt int // of their msgpack header
	size   int
}

// newTemplate encodes the first job through package record and finds the places that
// change. All node ids of a run have the length of node.
func newTemplate(run, node string, size int, ttl time.Duration) (*template, error) {
	t := &template{run: run, size: size}
	id := string(t.appendID(nil, 0, 0))
	args := make([]byte, size)
	for i := argsStamp; i < size; i++ {
		args[i] = byte(i)
	}
	bin := appendBin(nil, args)
	j := record.Job{
		ID: id, Kind: "echo", Target: record.Target{Node: node}, Args: bin, TTL: ttl,
	}
	check := j // Validate fills in defaults, which records leave to the server
	if err := check.Validate(); err != nil {
		return nil, fmt.Errorf("the job of this load is not valid: %w", err)
	}
	var err error
	if t.value, err = record.AppendJob(nil, &j); err != nil {
		return nil, err
	}
	t.idAt = bytes.Index(t.value, []byte(id))
	t.nodeAt = t.idAt + len(id) + bytes.Index(t.value[t.idAt+len(id):], []byte(node))
	t.argsAt = t.nodeAt + len(node) + bytes.Index(t.value[t.nodeAt+len(node):], args)
	t.headAt = t.argsAt - (len(bin) - size)
	return t, nil
}

// fill writes one job into value, which has the length of t.value and began as a copy
// of it. sentNs is the time that latency counts from.
func (t *template) fill(value []byte, slot int32, seq, sentNs int64, node string) {
	t.appendID(value[t.idAt:t.idAt], slot, seq)
	copy(value[t.nodeAt:], node)
	binary.BigEndian.PutUint64(value[t.argsAt+sentAt:], uint64(sentNs))
	binary.BigEndian.PutUint64(value[t.argsAt+seqAt:], uint64(seq))
}

// appendID appends "run-slot-seq", in hexadecimal of fixed width.
func (t *template) appendID(dst []byte, slot int32, seq int64) []byte {
	dst = append(append(dst, t.run...), '-')
	dst = appendHex(dst, uint64(slot), 6)
	return appendHex(append(dst, '-'), uint64(seq), 10)
}

func appendHex(dst []byte, v uint64, digits int) []byte {
	const hex = "0123456789abcdef"
	for i := digits - 1; i >= 0; i-- {
		dst = append(dst, hex[v>>(4*i)&15])
	}
	return dst
}

// parseID is the inverse of appendID; ok is false for ids of other runs and producers.
func (t *template) parseID(id string) (slot int32, seq int64, ok bool) {
	rest, ok := strings.CutPrefix(id, t.run)
	if !ok || len(rest) != 18 || rest[0] != '-' || rest[7] != '-' {
		return 0, 0, false
	}
	a, err1 := strconv.ParseUint(rest[1:7], 16, 31)
	b, err2 := strconv.ParseUint(rest[8:], 16, 63)
	return int32(a), int64(b), err1 == nil && err2 == nil
}

// stamps are what a job's output tells of its way.
type stamps struct {
	sentNs     int64
	receivedNs int64 // 0: the node did not say
}

// stamps checks that output is the args of job seq, and returns when it was where.
func (t *template) stamps(output []byte, seq int64) (s stamps, ok bool) {
	k := len(output) - t.size
	if k < 2 || k != binHeader(output) {
		return s, false
	}
	args := output[k:]
	if binary.BigEndian.Uint64(args[seqAt:]) != uint64(seq) ||
		!bytes.Equal(args[argsStamp:], t.value[t.argsAt+argsStamp:t.argsAt+t.size]) {
		return s, false
	}
	s.sentNs = int64(binary.BigEndian.Uint64(args[sentAt:]))
	s.receivedNs = int64(binary.BigEndian.Uint64(args[receivedAt:]))
	return s, true
}

// copied is what a relay passed on: the job record itself. It returns the job's id and
// args, with their header.
func (t *template) copied(value []byte) (id string, args []byte, err error) {
	if len(value) != len(t.value) {
		return "", nil, fmt.Errorf("%d bytes; the records of this load have %d", len(value), len(t.value))
	}
	return string(value[t.idAt : t.idAt+idBytes(t.run)]), value[t.headAt : t.argsAt+t.size], nil
}

// idBytes is the length of what appendID appends.
func idBytes(run string) int { return len(run) + 1 + 6 + 1 + 10 }

// appendBin appends b as a msgpack binary.
func appendBin(dst, b []byte) []byte {
	switch n := len(b); {
	case n < 1<<8:
		dst = append(dst, 0xc4, byte(n))
	case n < 1<<16:
		dst = append(dst, 0xc5, byte(n>>8), byte(n))
	default:
		dst = append(dst, 0xc6, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	return append(dst, b...)
}
