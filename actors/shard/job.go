package shard

import (
	"time"
	"unsafe"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// state is where an assignment is on its way.
type state uint8

const (
	choosing state = iota // no node yet
	waiting               // for the node to register, for the end of a pause, or for another try
	queued                // at the session, for the node's credit
	sent                  // on the node, as far as is known
	detached              // was on the node when its session ended
	ending                // has its outcome, which Kafka does not have yet
	recorded
	jobAlarm // no assignment at all: the job's own timer
)

// assignment is one job on one node. There may be millions that wait, so every byte
// counts here and in job.
type assignment struct {
	job         *job
	node        string
	prev, next  *assignment // among those that wait for the node; the first one's prev is the last
	incarnation uint64      // of the session that has it
	overMs      int64       // when the time of the attempt that was sent, or of the search for a node, is over
	slot        int32       // in Core.timers
	gate        uint32
	index       uint32 // among the job's assignments
	attempt     uint8  // deliveries that were made
	ackAttempt  uint8
	asks        uint8 // how often the node's home shard was asked for it
	state       state
	cause       protocol.Outcome // why the attempt before ended
	outcome     protocol.Outcome // from ending on
	resumes     uint8            // how often a node was given new time for a run
	flags       assignmentFlags
}

// assignmentFlags are what an assignment is or is not.
type assignmentFlags uint8

const (
	parked assignmentFlags = 1 << iota // waits in Core.away or Core.afar
	afar                               // its node's home is another shard
	ackDue                             // the node waits for RESULT_ACK
	over                               // attempt has ended, the next one was not delivered
	again                              // attempt+1 was under way in the shard's life before
)

func (a *assignment) is(f assignmentFlags) bool { return a.flags&f != 0 }

func (a *assignment) mark(f assignmentFlags, on bool) {
	if on {
		a.flags |= f
	} else {
		a.flags &^= f
	}
}

// job is one record until all of its outcomes are committed.
type job struct {
	raw              []byte // the record as msgpack; the strings here and the arguments lie in it
	id, kind, tenant string
	prev, next       *job   // by offset
	extra            *extra // what most jobs do not need
	offset           int64
	timestampMs      int64
	deadlineMs       int64
	argsAt, argsLen  uint32
	timeoutMs        uint32
	backoffMs        uint32
	open             int32 // assignments whose outcome is not committed
	left             int32 // assignments without outcome
	sent             int32 // assignments on their node
	attempts         uint8
	priority         uint8
	encoding         record.Encoding
	flags            jobFlags
	single           [1]assignment
}

// jobFlags are what a job is or is not.
type jobFlags uint8

const (
	put      jobFlags = 1 << iota // the state topic has it, as of the last cut
	dirty                         // in books.dirty: the state topic has to be told
	urgent                        // with the next batch
	launched                      // its time has come
)

// extra is what jobs need that have other targets than one node, or a time before
// which they do not start.
type extra struct {
	assignments []assignment // instead of job.single
	byNode      map[string]int32
	alarm       assignment // the job's own timer: its start, or its search's next step
	notBeforeMs int64
	selector    *record.Selector
	search      search
	tried       map[int32][]string  // nodes whose attempt failed, by the index of a selector's assignment
	why         map[int32]string    // what the last of them failed of, if this life of the shard saw it
	used        map[string]struct{} // all of tried
	results     [][]byte            // for queries, as committed
	kept        int                 // their bytes
	chunks      []chunkState        // of a job with many assignments
	bytes       int32               // of memory besides results, about
}

const (
	// assignmentBytes is what an assignment takes, jobBytes what a job takes besides
	// its record and further assignments, its share of maps and timers included.
	assignmentBytes = int(unsafe.Sizeof(assignment{}))
	jobBytes        = int(unsafe.Sizeof(job{})) + 128
	extraBytes      = int(unsafe.Sizeof(extra{}))

	// triedBytes is about what it takes to remember that a node was tried and failed, and
	// maxWhyBytes how much of the reason is kept until another node is found.
	triedBytes  = 256
	maxWhyBytes = 256

	// keptBytes is how much of a pending job's results is kept for queries.
	keptBytes = 1 << 20
)

// indexFrom is the number of assignments from which on a job keeps an index.
const indexFrom = 16

// newJob makes a job of a record; rec's strings and arguments lie in raw.
func newJob(rec *record.Job, raw []byte, offset, timestampMs int64) *job {
	j := &job{
		raw: raw, id: rec.ID, kind: rec.Kind, tenant: rec.Tenant, offset: offset, timestampMs: timestampMs,
		timeoutMs: uint32(rec.Timeout.Milliseconds()), backoffMs: uint32(max(0, rec.Backoff).Milliseconds()),
		attempts: uint8(rec.Attempts), priority: rec.Priority, encoding: rec.Encoding,
	}
	if len(rec.Args) > 0 {
		j.argsAt, j.argsLen = uint32(uintptr(unsafe.Pointer(&rec.Args[0]))-uintptr(unsafe.Pointer(&raw[0]))), uint32(len(rec.Args))
	}
	n := rec.Target.Size()
	j.open, j.left = int32(n), int32(n)
	if n > 1 || rec.Target.Node == "" || rec.NotBeforeMs > 0 {
		j.extra = &extra{notBeforeMs: rec.NotBeforeMs, selector: rec.Target.Select}
		j.extra.alarm = assignment{job: j, state: jobAlarm}
		j.extra.bytes = int32(extraBytes)
	}
	if n > 1 {
		j.extra.assignments = make([]assignment, n)
		j.extra.chunks = make([]chunkState, (n+chunkSize-1)/chunkSize)
		j.extra.bytes += int32(n * assignmentBytes)
	}
	all := j.all()
	for i := range all {
		a := &all[i]
		a.job, a.index, a.cause = j, uint32(i), protocol.OutcomeExpired
		switch {
		case rec.Target.Select != nil:
		case rec.Target.Node != "":
			j.setNode(a, rec.Target.Node)
		default:
			j.setNode(a, rec.Target.Nodes[i])
		}
	}
	return j
}

// deadline returns when a job that came at timestampMs expires.
func deadline(rec *record.Job, timestampMs, nowMs int64) int64 {
	d := rec.DeadlineMs
	if d == 0 {
		d = timestampMs + rec.TTL.Milliseconds()
	}
	return min(d, nowMs+record.MaxTTL.Milliseconds())
}

// parse reads a record of the jobs topic. raw is it as msgpack: the value itself, or
// bytes of its own.
func parse(r *actors.Record) (rec record.Job, raw []byte, err error) {
	enc, err := record.Detect(r.ContentType, r.Value)
	if err != nil {
		return rec, nil, err
	}
	raw = r.Value
	if enc == record.JSON {
		if raw, err = record.FromJSON(raw); err != nil {
			return rec, nil, err
		}
		raw = append(make([]byte, 0, len(raw)), raw...) // its JSON was longer
	}
	rec, err = record.ParseJob(record.ContentMsgpack, raw)
	rec.Encoding = enc
	return rec, raw, err
}

func (j *job) is(f jobFlags) bool { return j.flags&f != 0 }

// all returns the job's assignments.
func (j *job) all() []assignment {
	if j.extra != nil && j.extra.assignments != nil {
		return j.extra.assignments
	}
	return j.single[:]
}

// args returns the arguments for the node; nobody changes them.
func (j *job) args() []byte {
	if j.argsLen == 0 {
		return nil
	}
	return j.raw[j.argsAt : j.argsAt+j.argsLen : j.argsAt+j.argsLen]
}

// selector returns what the job's nodes have to fit, or nil when it names them.
func (j *job) selector() *record.Selector {
	if j.extra == nil {
		return nil
	}
	return j.extra.selector
}

// notBeforeMs returns when the job may start.
func (j *job) notBeforeMs() int64 {
	if j.extra == nil {
		return 0
	}
	return j.extra.notBeforeMs
}

// bytes returns the job's memory, about.
func (j *job) bytes() int {
	n := jobBytes + len(j.raw)
	if j.extra != nil {
		n += int(j.extra.bytes) + j.extra.kept
	}
	return n
}

// pause returns how long the next attempt of an assignment waits after the one before
// has ended.
func (j *job) pause(a *assignment, mostMs int64) int64 {
	p := record.Pause(time.Duration(j.backoffMs)*time.Millisecond, uint32(a.attempt)+1)
	return min(p.Milliseconds(), mostMs)
}

func (j *job) setNode(a *assignment, node string) {
	a.node, a.state = node, waiting
	if e := j.extra; e != nil && len(e.assignments) >= indexFrom {
		if e.byNode == nil {
			e.byNode = make(map[string]int32, len(e.assignments))
		}
		e.byNode[node] = int32(a.index)
	}
}

// unsetNode takes a selector's assignment off its node, to find another.
func (j *job) unsetNode(a *assignment) {
	if j.extra.byNode != nil {
		delete(j.extra.byNode, a.node)
	}
	a.node, a.state = "", choosing
}

// find returns the job's assignment on a node, or nil.
func (j *job) find(node string) *assignment {
	if node == "" {
		return nil
	}
	all := j.all()
	if j.extra != nil && j.extra.byNode != nil {
		if i, ok := j.extra.byNode[node]; ok {
			return &all[i]
		}
		return nil
	}
	for i := range all {
		if all[i].node == node {
			return &all[i]
		}
	}
	return nil
}

// try notes that an attempt on the assignment's node failed: the next is for another.
func (e *extra) try(a *assignment) {
	if e.tried == nil {
		e.tried, e.used = map[int32][]string{}, map[string]struct{}{}
	}
	i := int32(a.index)
	e.tried[i] = append(e.tried[i], a.node)
	e.used[a.node] = struct{}{}
	e.bytes += triedBytes
}

// hasTried reports whether an attempt on a node failed before.
func (j *job) hasTried(node string) bool {
	if j.extra == nil {
		return false
	}
	_, ok := j.extra.used[node]
	return ok
}

// state tells how far the job is, for queries.
func (j *job) state() string {
	if j.open == 0 {
		return StateDone
	}
	all := j.all()
	for i := range all {
		if all[i].state >= queued {
			return StateRunning
		}
	}
	return StateWaiting
}
