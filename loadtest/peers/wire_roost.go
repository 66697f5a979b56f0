//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/roost-server/roost/loadtest/internal/fleet"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// roost is Roost's protocol for nodes and, for the dispatcher, the frames of loadtest/hop.
type roost struct {
	enc        *protocol.Encoder
	dec        *protocol.Decoder
	partitions int32
	template   []byte // a job record, in which id, node and body are replaced
	idAt       int
	nodeAt     int
	bodyAt     int
	jobs       uint64
	task       protocol.Job
	res        protocol.Result
}

const (
	roostID   = "peers-0000000000000000"
	roostNode = "node-0000000"
	idDigits  = 16
)

// newRoost prepares jobs whose args are bodies of bodyBytes.
func newRoost(partitions, bodyBytes int) (*roost, error) {
	r := &roost{enc: protocol.NewEncoder(), dec: protocol.NewDecoder(), partitions: int32(partitions)}
	if bodyBytes > 255 {
		return nil, fmt.Errorf("a body of %d bytes; at most 255 are allowed", bodyBytes)
	}
	body := bytes.Repeat([]byte{0xee}, bodyBytes)
	var err error
	r.template, err = record.AppendJob(nil, &record.Job{ID: roostID, Kind: "echo", Target: record.Target{Node: roostNode},
		Args: append([]byte{0xc4, byte(bodyBytes)}, body...)})
	if err != nil {
		return nil, err
	}
	r.idAt, r.nodeAt = bytes.Index(r.template, []byte(roostID)), bytes.Index(r.template, []byte(roostNode))
	r.bodyAt = bytes.Index(r.template, body)
	return r, nil
}

// nodeID appends a node's id; all have one length.
func nodeID(dst []byte, node int) []byte {
	at := len(dst)
	dst = append(dst, roostNode...)
	for i := len(dst) - 1; node > 0 && i >= at; i-- {
		dst[i] = '0' + byte(node%10)
		node /= 10
	}
	return dst
}

func (r *roost) hello(dst []byte, node int) []byte {
	out, err := r.enc.Append(append(dst, protocol.Preface...), &protocol.Hello{
		Version: protocol.Version, NodeID: string(nodeID(nil, node)), Credit: 64, Agent: "roost-peers",
		Attributes: fleet.Attributes(1, node),
	})
	if err != nil {
		panic(err) // the limits are known
	}
	return out
}

func (r *roost) greet(dst []byte) []byte { return dst }

func (r *roost) pong(dst []byte) []byte { return dst } // see next

func (r *roost) answer(dst, body []byte) []byte {
	r.res = protocol.Result{JobID: r.task.JobID, Shard: r.task.Shard, Attempt: r.task.Attempt, DurationUs: 1, Output: r.task.Args}
	out, err := r.enc.Append(dst, &r.res)
	if err != nil {
		panic(err) // what was received within the limits fits them again
	}
	return out
}

func (r *roost) job(dst []byte, node int, body []byte) []byte {
	r.jobs++
	t := r.template
	for i, v := r.idAt+len(roostID)-1, r.jobs; i >= r.idAt+len(roostID)-idDigits; i, v = i-1, v>>4 {
		t[i] = "0123456789abcdef"[v&15]
	}
	id := nodeID(t[r.nodeAt:r.nodeAt], node)
	copy(t[r.bodyAt:], body)
	dst = binary.BigEndian.AppendUint32(dst, uint32(6+len(id)+len(t)))
	dst = binary.BigEndian.AppendUint32(dst, uint32(record.Partition(id, r.partitions)))
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(id)))
	return append(append(dst, id...), t...)
}

func (r *roost) next(b []byte, dispatcher bool) (frame, error) {
	if dispatcher {
		return r.nextRecord(b)
	}
	t, body, size, err := protocol.NextFrame(b, protocol.MaxBodyBytes)
	f := frame{size: size}
	if err != nil || size == 0 {
		return f, err
	}
	switch t {
	case protocol.TypeWelcome:
		f.kind = ready
	case protocol.TypeJob:
		if err := r.dec.Decode(body, &r.task); err != nil {
			return f, err
		}
		f.kind, f.body = jobIn, r.task.Args
	case protocol.TypeClose:
		var m protocol.Close
		if err := r.dec.Decode(body, &m); err != nil {
			return f, err
		}
		return f, fmt.Errorf("CLOSE: %v: %s", m.Reason, m.Message)
	}
	return f, nil
}

// nextRecord reads a result record.
func (r *roost) nextRecord(b []byte) (f frame, err error) {
	if len(b) < 4 {
		return f, nil
	}
	size := 4 + int(binary.BigEndian.Uint32(b))
	if size > maxFrame {
		return f, fmt.Errorf("a result of %d bytes", size)
	}
	if len(b) < size {
		return f, nil
	}
	res, err := record.ParseResult(record.ContentMsgpack, b[4:size])
	switch {
	case err != nil:
		return f, err
	case res.Outcome != protocol.OutcomeOK:
		return f, fmt.Errorf("job %s: %v: %s", res.Job, res.Outcome, res.Error)
	case len(res.Output) < 2:
		return f, fmt.Errorf("job %s: no output", res.Job)
	}
	return frame{size: size, kind: result, body: res.Output[2:]}, nil
}
