package shard

import (
	"slices"
	"strings"

	"github.com/roost-server/roost/actors"
)

// Bounds of the results that are kept for a job record that may still come. What is
// over them is dropped without acknowledgement: the node keeps it and sends it again.
const (
	earlyResults = 4096
	earlyBytes   = 8 << 20
)

type earlyKey struct{ job, node string }

type earlyResult struct {
	key    earlyKey
	gate   uint32
	dueMs  int64
	result actors.Result // with bytes of its own
}

// early holds results that arrived before their job's record, oldest first.
type early struct {
	byKey map[earlyKey]*earlyResult
	fifo  []*earlyResult
	bytes int
}

func (e *early) empty() bool { return len(e.byKey) == 0 }

// each calls fn for each result, which may take it.
func (e *early) each(fn func(*earlyResult)) {
	for _, er := range e.byKey {
		fn(er)
	}
}

// extend keeps every result until a time: those that came while the shard had nothing
// to take them for.
func (e *early) extend(untilMs int64) {
	for _, er := range e.fifo {
		er.dueMs = untilMs
	}
}

func newEarly() early { return early{byKey: map[earlyKey]*earlyResult{}} }

func (e *early) add(gate uint32, r *actors.Result, dueMs int64) {
	key := earlyKey{job: string(r.JobID), node: r.Node}
	if old := e.byKey[key]; old != nil {
		old.gate = gate
		return
	}
	size := len(r.JobID) + len(r.Error) + len(r.Output)
	if len(e.byKey) >= earlyResults || e.bytes+size > earlyBytes {
		return
	}
	key.node = strings.Clone(key.node) // which may lie in a body that came from another member
	own := *r
	own.Node = key.node
	own.JobID = []byte(key.job)
	own.Error = append([]byte(nil), r.Error...)
	own.Output = append([]byte(nil), r.Output...)
	er := &earlyResult{key: key, gate: gate, dueMs: dueMs, result: own}
	e.byKey[key] = er
	if len(e.fifo) >= 2*earlyResults { // mostly of what was taken, behind one that waits
		e.fifo = slices.DeleteFunc(e.fifo, func(x *earlyResult) bool { return e.byKey[x.key] != x })
	}
	e.fifo = append(e.fifo, er)
	e.bytes += size
}

// take returns and forgets the result of a job on a node, or nil.
func (e *early) take(job, node string) *earlyResult {
	if len(e.byKey) == 0 {
		return nil
	}
	er := e.byKey[earlyKey{job, node}]
	e.forget(er)
	return er
}

// expired returns and forgets the oldest result if it is due, or nil.
func (e *early) expired(nowMs int64) *earlyResult {
	e.trim()
	if len(e.fifo) == 0 || e.fifo[0].dueMs > nowMs {
		return nil
	}
	er := e.fifo[0]
	e.forget(er)
	return er
}

func (e *early) next() (dueMs int64, ok bool) {
	e.trim()
	if len(e.fifo) == 0 {
		return 0, false
	}
	return e.fifo[0].dueMs, true
}

func (e *early) forget(er *earlyResult) {
	if er == nil {
		return
	}
	delete(e.byKey, er.key)
	e.bytes -= len(er.result.JobID) + len(er.result.Error) + len(er.result.Output)
}

// trim drops from the front what take has taken.
func (e *early) trim() {
	for len(e.fifo) > 0 && e.byKey[e.fifo[0].key] != e.fifo[0] {
		e.fifo[0] = nil
		e.fifo = e.fifo[1:]
	}
}
