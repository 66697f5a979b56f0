package shard

import (
	"unsafe"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// state is where an assignment is on its way.
type state uint8

const (
	choosing state = iota // no node yet
	waiting               // for the node to register, or for another try
	queued                // at the session, for the node's credit
	sent                  // on the node, as far as is known
	detached              // was on the node when its session ended
	ending                // has its outcome, which is being recorded
	recorded
)

// assignment is one job on one node.
type assignment struct {
	job         *job
	node        string
	timer       timer
	token       Token
	incarnation uint64 // of the session that has it
	overMs      int64  // when the time of the attempt that was sent is over
	gate        uint32
	index       uint32 // among the job's assignments
	attempt     uint32
	ackAttempt  uint32
	state       state
	cause       protocol.Outcome // why the attempt before ended
	outcome     protocol.Outcome // from ending on
	parked      bool             // in Core.away
	ack         bool             // the node waits for RESULT_ACK
	resumes     uint8            // how often a node was given new time for a run
}

// job is one record until all of its outcomes are recorded.
type job struct {
	rec         record.Job
	assignments []assignment
	single      [1]assignment // backs assignments of the most usual job
	byNode      map[string]int32
	open        int // assignments whose outcome is not recorded
	seq         uint64
	offset      int64
	timestampMs int64
	deadlineMs  int64
	timer       timer // not-before, or the choice of nodes
	choice      *choice
	bytes       int // of memory, about; see Core.charge
	kept        int // bytes of the results kept for queries
}

const (
	// assignmentBytes is what an assignment takes, jobBytes what a job takes besides
	// its record and assignments, the maps' share included.
	assignmentBytes = int(unsafe.Sizeof(assignment{}))
	jobBytes        = int(unsafe.Sizeof(job{})) + 128

	// keptBytes is how much of a pending job's results is kept for queries.
	keptBytes = 1 << 20
)

// indexFrom is the number of assignments from which on a job keeps an index.
const indexFrom = 16

func (c *Core) newJob(rec record.Job, r *actors.Record, seq uint64) *job {
	j := &job{rec: rec, seq: seq, offset: r.Offset, timestampMs: r.TimestampMs, deadlineMs: rec.DeadlineMs}
	if j.deadlineMs == 0 {
		j.deadlineMs = r.TimestampMs + rec.TTL.Milliseconds()
	}
	j.deadlineMs = min(j.deadlineMs, c.nowMs+record.MaxTTL.Milliseconds())
	j.timer = timer{index: -1, j: j}
	n := rec.Target.Size()
	if n == 1 {
		j.assignments = j.single[:]
	} else {
		j.assignments = make([]assignment, n)
	}
	j.open = n
	for i := range j.assignments {
		a := &j.assignments[i]
		a.job, a.index, a.timer = j, uint32(i), timer{index: -1, a: a}
		a.cause = protocol.OutcomeExpired
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

func (j *job) setNode(a *assignment, node string) {
	a.node, a.state = node, waiting
	if len(j.assignments) >= indexFrom {
		if j.byNode == nil {
			j.byNode = make(map[string]int32, len(j.assignments))
		}
		j.byNode[node] = int32(a.index)
	}
}

// find returns the job's assignment on a node, or nil.
func (j *job) find(node string) *assignment {
	if j.byNode != nil {
		if i, ok := j.byNode[node]; ok {
			return &j.assignments[i]
		}
		return nil
	}
	for i := range j.assignments {
		if j.assignments[i].node == node && node != "" {
			return &j.assignments[i]
		}
	}
	return nil
}

func (j *job) summary(partition uint32) *Summary {
	s := &Summary{
		ID: j.rec.ID, Kind: j.rec.Kind, Tenant: j.rec.Tenant, State: StateWaiting, Targets: len(j.assignments),
		SubmittedMs: j.timestampMs, Partition: int32(partition), Offset: j.offset,
	}
	if len(j.assignments) == 1 {
		s.Results = s.one[:0]
	}
	for i := range j.assignments {
		a := &j.assignments[i]
		if a.state >= queued {
			s.State = StateRunning
		}
		if a.state != recorded {
			continue
		}
		s.Outcomes[a.outcome]++
		if a.token.Value != nil {
			s.Results = append(s.Results, a.token.Value)
		}
	}
	if j.open == 0 {
		s.State = StateDone
	}
	return s
}
