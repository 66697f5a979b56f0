package shard

import (
	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol/record"
)

// Stream names a topic that shards write to.
type Stream uint8

// The streams.
const (
	Results  Stream = iota // outcomes, by the key
	Dead                   // records that were refused, by their own key
	State                  // the shard's state, to its own partition; a nil Value deletes the key
	Progress               // low watermarks, by the key
)

// Write is one record of a [Batch].
type Write struct {
	Stream   Stream
	Key      []byte
	Value    []byte
	Encoding record.Encoding // of Results and Progress
	Record   *actors.Record  // of Dead, instead of Key and Value
	Reason   string          // of Dead

	a *assignment // of Results
}

// Batch is what a shard wants committed in one transaction: its outcomes, the changes
// of its state, and how far it has read. It belongs to the committer until that gives
// it back with [Committed]; there is at most one of a shard at a time.
type Batch struct {
	Shard    uint32
	Epoch    uint64 // of the shard's life
	Next     int64  // the offset from which jobs are read after a restart; -1: as before
	Writes   []Write
	Outcomes int // of the writes, those of Results

	bytes    int // of the writes that are not of State
	position position
}

// The messages between a shard and who reads and writes Kafka for it.
type (
	// Restore brings records of the state topic, in order, to a shard that rebuilds
	// itself. The receiver owns the byte slices.
	Restore struct {
		Epoch   uint64
		Records []StateRecord
	}
	// StateRecord is one record of the state topic. A nil Value is a deletion.
	StateRecord struct{ Key, Value []byte }
	// Restored ends the rebuilding: records of the jobs topic follow, from Next on.
	Restored struct {
		Epoch uint64
		Next  int64 // -1: nothing was ever committed
	}
	// Again ends the shard's life and begins another: it is not known whether what the
	// shard had committed last is in Kafka.
	Again struct{}
	// Cut asks for what is to be committed. The answer is nil when there is nothing,
	// when the batch before was not given back, and while the shard rebuilds itself.
	Cut struct{ Reply chan<- *Batch }
	// Committed gives a batch back: Kafka has it.
	Committed struct{ Batch *Batch }
)

// Ledger hears from a shard that it has something to commit. It never blocks.
type Ledger interface {
	// Dirty tells that a [Cut] would have something, and how many outcomes came in this
	// step.
	Dirty(shard uint32, outcomes int)
}
