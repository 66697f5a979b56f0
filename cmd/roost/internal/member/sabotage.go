//go:build roost_sabotage

package member

import (
	"context"
	"os"
	"time"

	"github.com/roost-server/roost/transport/kafka"
)

// sabotage breaks the committer on purpose, as SABOTAGE says, so that a test can
// see that the checker of the chaos run finds it. No other build has it.
func sabotage(c *committer, group string) {
	switch os.Getenv("SABOTAGE") {
	case "offsets-first":
		c.tx = offsetsFirst{c.tx}
	case "no-fencing":
		unfenced := kafka.UnfencedGroup(group)
		c.group = func() *kafka.GroupMetadata { return unfenced }
		c.source = &lasting{ownership: c.source, last: map[uint32]uint64{}}
	}
}

// offsetsFirst commits the offsets before the outcomes, as a consumer does that takes a
// job for done when it was sent.
type offsetsFirst struct{ transactor }

// Commit implements transactor.
func (o offsetsFirst) Commit(ctx context.Context, tx *kafka.Transaction) error {
	offsets, rest := *tx, *tx
	offsets.Messages, rest.Offsets, rest.Group = nil, nil, nil
	if err := o.transactor.Commit(ctx, &offsets); err != nil {
		return err
	}
	time.Sleep(100 * time.Millisecond)
	if len(rest.Messages) == 0 {
		return nil
	}
	return o.transactor.Commit(ctx, &rest)
}

// lasting takes every partition that was ours once for ours.
type lasting struct {
	ownership
	last map[uint32]uint64 // of the committer's goroutine
}

// Epoch implements ownership.
func (l *lasting) Epoch(p uint32) uint64 {
	if e := l.ownership.Epoch(p); e != 0 {
		l.last[p] = e
	}
	return l.last[p]
}
