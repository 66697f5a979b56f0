package workload

import (
	"bytes"
	"fmt"
	"time"

	"github.com/roost-server/roost/loadtest/internal/stamp"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// Limits of Config.Size: the args begin with the stamps, and have to fit a payload with
// their msgpack header.
const (
	MinSize = stamp.Bytes
	MaxSize = protocol.MaxPayloadBytes - 5
)

// DefaultTTL is how long an abandoned job may stay in the server under test.
const DefaultTTL = 10 * time.Minute

// Stamp notes in a job's args, as they came in a JOB frame, that a node has received
// the job now. A node that calls it before it returns the args as its output tells so
// how long the job was on its way. Args of other producers are left alone.
func Stamp(args []byte) { stamp.Receive(args, true) }

// form is what the jobs of a template have in common.
type form struct {
	target   record.Target // a node stands for any of an id as long
	size     int
	ttl      time.Duration
	attempts uint32
	runFor   time.Duration
}

// template is a job record encoded once; a job of the run differs from it only in
// fixed places of fixed length.
type template struct {
	run    string // identifies the run: the start of each job id
	form   form
	value  []byte
	idAt   int
	nodeAt int // 0: the job is not for one node
	argsAt int // of the bytes themselves
	headAt int // of their msgpack header
}

// newTemplate encodes the first job through package record and finds the places that
// change.
func newTemplate(run string, f form) (*template, error) {
	t := &template{run: run, form: f}
	id := string(appendID(nil, run, 0, 0))
	args := pattern(f.size)
	bin := appendBin(nil, args)
	j := record.Job{
		ID: id, Kind: "echo", Target: f.target, Args: bin, TTL: f.ttl, Attempts: f.attempts,
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
	at := t.idAt + len(id)
	if node := f.target.Node; node != "" {
		t.nodeAt = at + bytes.Index(t.value[at:], []byte(node))
		at = t.nodeAt + len(node)
	}
	t.argsAt = at + bytes.Index(t.value[at:], args)
	t.headAt = t.argsAt - (len(bin) - f.size)
	return t, nil
}

// targets is how many assignments a job has.
func (t *template) targets() int { return t.form.target.Size() }

// fill writes one job into value, which has the length of t.value and began as a copy
// of it. sentNs is the time that latency counts from. The node is left as it is.
func (t *template) fill(value []byte, slot int32, seq, sentNs int64) {
	appendID(value[t.idAt:t.idAt], t.run, slot, seq)
	stamp.Put(value[t.argsAt:], sentNs, seq, t.form.runFor)
}

// node is where the id of the node lies in value, as long as it is.
func (t *template) node(value []byte) []byte {
	return value[t.nodeAt : t.nodeAt+len(t.form.target.Node)]
}

// key is the Kafka key of the job in value.
func (t *template) key(value []byte) []byte {
	if t.nodeAt > 0 {
		return t.node(value)
	}
	return value[t.idAt : t.idAt+idBytes(t.run)]
}

// pattern is the args of a job before they are stamped. It tells their length in every
// byte, so that what was cut short or mixed up is noticed.
func pattern(size int) []byte {
	b := make([]byte, size)
	for i := stamp.Bytes; i < size; i++ {
		b[i] = byte(i + size)
	}
	return b
}

// patterns checks outputs. It belongs to one goroutine.
type patterns map[int][]byte

// stamps are what a job's output tells of its way.
type stamps struct {
	sentNs     int64
	receivedNs int64 // 0: the node did not say
}

// stamps checks that output is the args of job seq, and returns when it was where.
func (p patterns) stamps(output []byte, seq int64) (s stamps, ok bool) {
	k := stamp.Header(output)
	if k == 0 || len(output) < k+MinSize || len(output)-k > MaxSize {
		return s, false
	}
	args := output[k:]
	want := p[len(args)]
	if want == nil {
		want = pattern(len(args))
		if len(p) < maxPatterns {
			p[len(args)] = want
		}
	}
	sent, number, received := stamp.Of(args)
	if number != seq || !bytes.Equal(args[stamp.Bytes:], want[stamp.Bytes:]) {
		return s, false
	}
	return stamps{sent, received}, true
}

// maxPatterns bounds what outputs of any length make it remember.
const maxPatterns = 64

// copied is what a relay passed on: the job record itself. It returns the job's id and
// args, with their header.
func (t *template) copied(value []byte) (id string, args []byte, err error) {
	if len(value) != len(t.value) {
		return "", nil, fmt.Errorf("%d bytes; the records of this load have %d", len(value), len(t.value))
	}
	return string(value[t.idAt : t.idAt+idBytes(t.run)]), value[t.headAt : t.argsAt+t.form.size], nil
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
