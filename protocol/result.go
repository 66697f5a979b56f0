package protocol

import "fmt"

// Outcome is the terminal state of an assignment.
type Outcome uint8

// The outcomes. A node says the first five in RESULT; the others are the server's.
const (
	OutcomeOK        Outcome = 0 // ran, and its check holds
	OutcomeFailed    Outcome = 1 // ran, and its check does not hold
	OutcomeRefused   Outcome = 2 // the node cannot or may not run it
	OutcomeTimeout   Outcome = 3 // no result within the attempt's timeout
	OutcomeCancelled Outcome = 4 // cancelled before it ended
	OutcomeLost      Outcome = 5 // the node went away and attempts are used up
	OutcomeExpired   Outcome = 6 // the deadline passed before delivery
	OutcomeUnmatched Outcome = 7 // no node fitted the selector
	OutcomeInvalid   Outcome = 8 // the record cannot be understood
)

// maxNodeOutcome is the highest outcome that a node may say.
const maxNodeOutcome = OutcomeCancelled

var outcomeNames = [...]string{"ok", "failed", "refused", "timeout", "cancelled", "lost", "expired", "unmatched", "invalid"}

// String returns the word used in records and everywhere people look.
func (o Outcome) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return fmt.Sprintf("outcome %d", uint8(o))
}

// Outcomes returns all of them, in the order of their numbers.
func Outcomes() []Outcome {
	out := make([]Outcome, len(outcomeNames))
	for i := range out {
		out[i] = Outcome(i)
	}
	return out
}

// Result is RESULT: a job has ended on the node. All byte fields alias the body
// after decoding.
// On the wire: [job_id, shard, attempt, outcome, duration_us, error, output].
type Result struct {
	JobID      []byte
	Shard      uint32
	Attempt    uint32
	Outcome    Outcome // one of the first five
	DurationUs uint64  // from start to end on the node
	Error      []byte  // why, when the outcome is not ok; UTF-8; cut to MaxErrorBytes on encoding
	Output     []byte  // one encoded msgpack value, at most MaxPayloadBytes
}

// Type implements [Message].
func (*Result) Type() Type { return TypeResult }

func (m *Result) encode(e *Encoder) {
	e.array(7)
	e.text("job_id", m.JobID, MaxJobIDBytes)
	e.uint("shard", uint64(m.Shard), 1<<32-1)
	e.uint("attempt", uint64(m.Attempt), MaxAttempts)
	e.uint("outcome", uint64(m.Outcome), uint64(maxNodeOutcome))
	e.uint("duration_us", m.DurationUs, 1<<64-1)
	e.text("error", clip(m.Error, MaxErrorBytes), MaxErrorBytes)
	e.payload("output", m.Output)
}

func (m *Result) decode(d *Decoder) {
	m.JobID = d.text("job_id", true, MaxJobIDBytes)
	m.Shard = uint32(d.uint("shard", true, 1<<32-1))
	m.Attempt = uint32(d.uint("attempt", true, MaxAttempts))
	m.Outcome = Outcome(d.uint("outcome", true, uint64(maxNodeOutcome)))
	m.DurationUs = d.uint("duration_us", false, 1<<64-1)
	m.Error = d.text("error", false, MaxErrorBytes)
	m.Output = d.payload("output")
}

// Ack names one attempt whose result is recorded: the node may forget it.
type Ack struct {
	JobID   []byte // aliases the body after decoding
	Attempt uint32
}

// ResultAck is RESULT_ACK.
// On the wire: [[[job_id, attempt], ...]].
type ResultAck struct{ Acks []Ack }

// Type implements [Message].
func (*ResultAck) Type() Type { return TypeResultAck }

func (m *ResultAck) encode(e *Encoder) {
	if len(m.Acks) > MaxAcks {
		e.fail("acks has %d entries; at most %d are allowed", len(m.Acks), MaxAcks)
		return
	}
	e.array(1)
	e.array(len(m.Acks))
	for i := range m.Acks {
		e.array(2)
		e.text("job_id", m.Acks[i].JobID, MaxJobIDBytes)
		e.uint("attempt", uint64(m.Acks[i].Attempt), MaxAttempts)
	}
}

// decode reuses the slice of Acks.
func (m *ResultAck) decode(d *Decoder) {
	m.Acks = m.Acks[:0]
	d.list("acks", MaxAcks, func() {
		m.Acks = append(m.Acks, Ack{
			JobID:   d.text("job_id", true, MaxJobIDBytes),
			Attempt: uint32(d.uint("attempt", true, MaxAttempts)),
		})
	})
}

// Cancel is CANCEL: stop the job; its RESULT, usually cancelled, is still due.
// On the wire: [job_id, attempt, reason].
type Cancel struct {
	JobID   []byte // aliases the body after decoding
	Attempt uint32
	Reason  string
}

// Type implements [Message].
func (*Cancel) Type() Type { return TypeCancel }

func (m *Cancel) encode(e *Encoder) {
	e.array(3)
	e.text("job_id", m.JobID, MaxJobIDBytes)
	e.uint("attempt", uint64(m.Attempt), MaxAttempts)
	e.note(m.Reason, MaxTextBytes)
}

func (m *Cancel) decode(d *Decoder) {
	m.JobID = d.text("job_id", true, MaxJobIDBytes)
	m.Attempt = uint32(d.uint("attempt", true, MaxAttempts))
	m.Reason = d.str("reason", false, MaxTextBytes)
}
