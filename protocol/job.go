package protocol

// Job is JOB: run this. All byte fields alias the body after decoding.
// On the wire: [job_id, shard, attempt, kind, timeout_ms, priority, args].
type Job struct {
	JobID     []byte
	Shard     uint32 // repeated in everything the node says about the job
	Attempt   uint32 // 1 is the first; SPEC.md says what a node does with one it knows
	Kind      []byte
	TimeoutMs uint32 // from arrival; the node gives up, and says so, after it. 0: none
	Priority  uint8  // 0 to MaxPriority, higher first
	Args      []byte // one encoded msgpack value, at most MaxPayloadBytes
}

// Type implements [Message].
func (*Job) Type() Type { return TypeJob }

func (m *Job) encode(e *Encoder) {
	e.array(7)
	e.text("job_id", m.JobID, MaxJobIDBytes)
	e.uint("shard", uint64(m.Shard), 1<<32-1)
	e.uint("attempt", uint64(m.Attempt), MaxAttempts)
	e.text("kind", m.Kind, MaxKindBytes)
	e.uint("timeout_ms", uint64(m.TimeoutMs), MaxTimeoutMs)
	e.uint("priority", uint64(m.Priority), MaxPriority)
	e.payload("args", m.Args)
}

func (m *Job) decode(d *Decoder) {
	m.JobID = d.text("job_id", true, MaxJobIDBytes)
	m.Shard = uint32(d.uint("shard", true, 1<<32-1))
	m.Attempt = uint32(d.uint("attempt", true, MaxAttempts))
	m.Kind = d.text("kind", true, MaxKindBytes)
	m.TimeoutMs = uint32(d.uint("timeout_ms", true, MaxTimeoutMs))
	m.Priority = uint8(d.uint("priority", false, MaxPriority))
	m.Args = d.payload("args")
}

// Accepted is ACCEPTED: the node has the job and has not finished it yet.
// On the wire: [job_id, shard, attempt].
type Accepted struct {
	JobID   []byte // aliases the body after decoding
	Shard   uint32
	Attempt uint32
}

// Type implements [Message].
func (*Accepted) Type() Type { return TypeAccepted }

func (m *Accepted) encode(e *Encoder) {
	e.array(3)
	e.text("job_id", m.JobID, MaxJobIDBytes)
	e.uint("shard", uint64(m.Shard), 1<<32-1)
	e.uint("attempt", uint64(m.Attempt), MaxAttempts)
}

func (m *Accepted) decode(d *Decoder) {
	m.JobID = d.text("job_id", true, MaxJobIDBytes)
	m.Shard = uint32(d.uint("shard", true, 1<<32-1))
	m.Attempt = uint32(d.uint("attempt", true, MaxAttempts))
}

// Progress is PROGRESS: what a running job has to say before its result. It is
// passed on to whoever follows the job and kept nowhere.
// On the wire: [job_id, shard, attempt, data].
type Progress struct {
	JobID   []byte // aliases the body after decoding
	Shard   uint32
	Attempt uint32
	Data    []byte // one encoded msgpack value; aliases the body after decoding
}

// Type implements [Message].
func (*Progress) Type() Type { return TypeProgress }

func (m *Progress) encode(e *Encoder) {
	e.array(4)
	e.text("job_id", m.JobID, MaxJobIDBytes)
	e.uint("shard", uint64(m.Shard), 1<<32-1)
	e.uint("attempt", uint64(m.Attempt), MaxAttempts)
	e.payload("data", m.Data)
}

func (m *Progress) decode(d *Decoder) {
	m.JobID = d.text("job_id", true, MaxJobIDBytes)
	m.Shard = uint32(d.uint("shard", true, 1<<32-1))
	m.Attempt = uint32(d.uint("attempt", true, MaxAttempts))
	m.Data = d.payload("data")
}
