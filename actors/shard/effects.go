package shard

import (
	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol/record"
)

// Effects is what a step of the core wants done. The actor owns and reuses it; byte
// slices in it live as long as the event that caused it.
type Effects struct {
	Deliveries  []GateDelivery
	Withdrawals []GateWithdrawal
	Acks        []GateAck
	Evictions   []GateEviction
	Outcomes    []Outcome
	Dead        []Dead
	Asks        []Ask
	Events      []Event
	Commit      int64 // the offset to commit, -1 for none
}

type (
	// GateDelivery is a delivery and the gate to send it to.
	GateDelivery struct {
		Gate     uint32
		Delivery actors.Delivery
	}
	// GateWithdrawal is a withdrawal and the gate to send it to.
	GateWithdrawal struct {
		Gate       uint32
		Withdrawal actors.Withdrawal
	}
	// GateAck is an acknowledgement and the gate to send it to.
	GateAck struct {
		Gate uint32
		Ack  actors.Ack
	}
	// GateEviction is an eviction and the gate to send it to.
	GateEviction struct {
		Gate     uint32
		Eviction actors.Eviction
	}
	// Outcome is to be recorded in the results topic; then Recorded is called with
	// the token.
	Outcome struct {
		Result   record.Result
		Encoding record.Encoding
		Token    *Token
	}
	// Dead is a record that cannot be understood, for the dead topic.
	Dead struct {
		Record actors.Record
		Reason string
		Token  *Token
	}
	// Ask is a message for another shard.
	Ask struct {
		Shard   uint32
		Message any
	}
	// Event is something that followers of a job want to hear.
	Event struct {
		JobID    string
		Value    []byte           // a result as recorded, or nil
		Progress *actors.Progress // or nil
		Done     bool             // the job has ended
	}
)

// Token names what is to be recorded until Kafka has it. Value is the record as the
// actor encoded it, kept for queries.
type Token struct {
	Value []byte
	Shard uint32      // to which Recorded goes
	a     *assignment // nil for a dead record
	seq   uint64      // of a dead record
	owner *Core
}

// Reset empties the effects for the next step.
func (e *Effects) Reset() {
	clear(e.Deliveries)
	clear(e.Outcomes)
	clear(e.Dead)
	clear(e.Asks)
	clear(e.Events)
	e.Deliveries, e.Withdrawals, e.Acks = e.Deliveries[:0], e.Withdrawals[:0], e.Acks[:0]
	e.Evictions, e.Outcomes, e.Dead = e.Evictions[:0], e.Outcomes[:0], e.Dead[:0]
	e.Asks, e.Events = e.Asks[:0], e.Events[:0]
	e.Commit = -1
}

// The messages between shards.
type (
	// Locate asks a node's home shard where the node is. It is answered by Located,
	// now or as soon as the node registers.
	Locate struct {
		From uint32
		Node string
	}
	// Located is the answer to Locate.
	Located struct{ Location Location }
	// Select asks a shard for nodes that fit; answered at once by Candidates.
	Select struct {
		From     uint32
		JobID    string
		Round    uint32
		Selector *record.Selector
		Kind     string
		Count    int
	}
	// Candidates is the answer to Select.
	Candidates struct {
		JobID string
		Round uint32
		Nodes []Location
	}
)
