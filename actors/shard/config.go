package shard

import "github.com/roost-server/roost/protocol"

// Config is what a shard's core goes by.
type Config struct {
	Partition  uint32
	Partitions uint32
	Member     string // written into results
	// Owner is the transactional id of the member's producer: whoever takes over the
	// partition may have to fence it.
	Owner string

	// GraceMs is how long past an attempt's timeout the shard still waits for the
	// result: the node says timeout itself, so this covers the way there and back.
	GraceMs int64
	// RetryMs is the pause before a delivery is tried again that a busy session or a
	// missing one turned away, and the least time between two rounds of one selector's
	// search.
	RetryMs int64
	// MaxBackoffMs caps the pause before an attempt, which doubles with each.
	MaxBackoffMs int64
	// SelectMs is how long the other shards may take to name candidates; ChooseMs how
	// long a selector that finds too few nodes keeps looking.
	SelectMs, ChooseMs int64
	// SilentMs is how long a node that did not answer is left out of selections.
	SilentMs int64
	// LocateMs is how long the shard waits for another to say where a node is before it
	// asks again, at first; the wait doubles up to MaxLocateMs. Questions and answers are
	// lost when a shard restarts or moves, and then it says so itself (see Rebuilt).
	LocateMs, MaxLocateMs int64
	// ContestMs is how close the beginnings of two sessions of one node on different members
	// may be for their clocks not to tell which of them is newer: what the members'
	// clocks may differ, and session.MaxAheadMs.
	ContestMs int64
	// EarlyMs is how long a result whose job is not known is kept for a job record
	// that may still come: after a restart nodes are faster than Kafka.
	EarlyMs int64

	// MaxJobBytes is the largest job record, as msgpack, that is taken: it has to fit into
	// a record of the state topic, with some more, whoever produced it.
	MaxJobBytes int
	// MaxPending is the number of jobs without all their outcomes committed, and
	// MaxPendingBytes their memory, above which the shard asks to be fed no more.
	MaxPending      int
	MaxPendingBytes int
	// MaxUncommitted and MaxUncommittedBytes bound in the same way the outcomes that
	// Kafka does not have yet: while it is away they pile up.
	MaxUncommitted      int
	MaxUncommittedBytes int
	// MaxFresh bounds the jobs that the next batch may have to write to the state topic,
	// and so the size of a transaction.
	MaxFresh int

	// YoungMs is the age under which a job at the end of what was read is not written
	// to the state topic: after a crash it is read again.
	YoungMs int64
	// ProgressMs is the least time between two records of the low watermark.
	ProgressMs int64
}

// DefaultConfig returns the values that fit a network of nodes around the world.
func DefaultConfig() Config {
	return Config{
		GraceMs: 2_000, RetryMs: 500, MaxBackoffMs: 300_000, SelectMs: 250, ChooseMs: 5_000, SilentMs: 60_000,
		LocateMs: 10_000, MaxLocateMs: 320_000, ContestMs: 8_000, EarlyMs: 30_000,
		MaxJobBytes: 960_000,
		MaxPending:  1_000_000, MaxPendingBytes: 512 << 20, MaxUncommitted: 100_000, MaxUncommittedBytes: 64 << 20, MaxFresh: 32_768,
		YoungMs: 1_000, ProgressMs: 500,
	}
}

// Stats counts what a core did in its life. It is read through the actor.
type Stats struct {
	Jobs       uint64 // records taken
	Duplicates uint64 // records whose job id was taken before
	Invalid    uint64
	Cancels    uint64 // cancel records that ended something
	Overdue    uint64 // cancel records for a job that had ended
	Outcomes   [protocol.OutcomeInvalid + 1]uint64
	Deliveries uint64
	Retries    uint64 // of the deliveries, those after the first of an assignment
	Unknown    uint64 // results for a job that is not known
	Late       uint64 // results for an assignment that had its outcome already, or for an attempt that was given up
}
