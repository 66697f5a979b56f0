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

// Limits of Config.Size: the args carry the send time and the job's number, and have
// to fit a payload with their msgpack header.
const (
	MinSize   = argsStamp
	MaxSize   = protocol.MaxPayloadBytes - 5
	argsStamp = 16
)

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
	size   int
}

// newTemplate encodes the first job through package record and finds the places that
// change. All node ids of a run have the length of node.
func newTemplate(run, node string, size int) (*template, error) {
	t := &template{run: run, size: size}
	id := string(t.appendID(nil, 0, 0))
	args := make([]byte, size)
	for i := argsStamp; i < size; i++ {
		args[i] = byte(i)
	}
	j := record.Job{
		ID: id, Kind: "echo", Target: record.Target{Node: node}, Args: appendBin(nil, args), TTL: jobTTL,
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
	return t, nil
}

// fill writes one job into value, which has the length of t.value and began as a copy
// of it. sentNs is the time that latency counts from.
func (t *template) fill(value []byte, slot int32, seq, sentNs int64, node string) {
	t.appendID(value[t.idAt:t.idAt], slot, seq)
	copy(value[t.nodeAt:], node)
	binary.BigEndian.PutUint64(value[t.argsAt:], uint64(sentNs))
	binary.BigEndian.PutUint64(value[t.argsAt+8:], uint64(seq))
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

// stamp checks that output is the args of job seq, and returns when it was sent.
func (t *template) stamp(output []byte, seq int64) (sentNs int64, ok bool) {
	k := len(output) - t.size
	if k < 2 || k > 5 || binary.BigEndian.Uint64(output[k+8:]) != uint64(seq) ||
		!bytes.Equal(output[k+argsStamp:], t.value[t.argsAt+argsStamp:t.argsAt+t.size]) {
		return 0, false
	}
	return int64(binary.BigEndian.Uint64(output[k:])), true
}

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
