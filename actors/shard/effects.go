package shard

import (
	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/directory"
	"github.com/roost-server/roost/protocol/record"
)

// Effects is what a step of the core wants done. The actor owns and reuses it; byte
// slices in it live as long as the event that caused it.
type Effects struct {
	Deliveries  []GateDelivery
	Withdrawals []GateWithdrawal
	Acks        []GateAck
	Evictions   []GateEviction
	Asks        []Ask
	Events      []Event
	Outcomes    int  // assignments that got their outcome
	Dirty       bool // there is something to be committed
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

// Reset empties the effects for the next step.
func (e *Effects) Reset() {
	clear(e.Deliveries)
	clear(e.Asks)
	clear(e.Events)
	e.Deliveries, e.Withdrawals, e.Acks = e.Deliveries[:0], e.Withdrawals[:0], e.Acks[:0]
	e.Evictions, e.Asks, e.Events = e.Evictions[:0], e.Asks[:0], e.Events[:0]
	e.Outcomes, e.Dirty = 0, false
}

// Location says where a node's session is.
type Location = directory.Location

// The messages between shards.
type (
	// Locate asks a node's home shard where the node is. It is answered by Located,
	// now or, within three times WaitMs, as soon as the node registers. The asker asks
	// again after WaitMs.
	Locate struct {
		From   uint32
		Node   string
		WaitMs int64
	}
	// Located is the answer to Locate. Unknown says that the member that has the node is not
	// known to this one, or not any more: the location has but the node, and is to be asked
	// for again.
	Located struct {
		Location Location
		Unknown  bool
	}
	// Rebuilt tells the other shards that one has begun a new life: what they asked it
	// before is forgotten.
	Rebuilt struct{ Shard uint32 }
	// Silent tells a node's home shard that the node did not answer an attempt: it is
	// left out of selections until then, or until it answers something.
	Silent struct {
		Node    string
		UntilMs int64
	}
	// Answered ends that.
	Answered struct{ Node string }
	// Select asks a shard for nodes that fit; answered at once by Candidates.
	Select struct {
		From     uint32
		JobID    string
		Round    uint32
		Selector *record.Selector
		Kind     string
		Count    int
		Exclude  []string // nodes of the shard that the job has, or had
	}
	// Candidates is the answer to Select, or a part of it when More follow.
	Candidates struct {
		JobID  string
		Round  uint32
		Nodes  []Location
		Funnel directory.Funnel // of the whole answer, with its last part
		More   bool
	}
)
