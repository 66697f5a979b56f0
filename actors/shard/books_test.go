package shard

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// feedJobs takes jobs, each for a node of its own that is away.
func feedJobs(t testing.TB, c *Core, eff *Effects, now int64, from, n int, change func(*record.Job)) {
	records := make([]actors.Record, n)
	for i := range records {
		j := record.Job{ID: fmt.Sprint("j", from+i), Target: record.Target{Node: fmt.Sprint("n", from+i)}}
		if change != nil {
			change(&j)
		}
		records[i] = actors.Record{Offset: int64(from + i), TimestampMs: now, Value: value(t, j)}
	}
	c.Records(now, records, eff)
}

// settled commits what there is, and returns the batches' writes by stream.
func settled(t testing.TB, c *Core, now int64) (writes [Progress + 1]int) {
	var eff Effects
	for {
		var b Batch
		if !c.Cut(now, &b) {
			return writes
		}
		for i := range b.Writes {
			writes[b.Writes[i].Stream]++
		}
		c.Committed(now, &b, &eff)
	}
}

// TestJobsThatWaitCostNothing checks that nothing is due for jobs that wait for their
// nodes until their deadline, and that a batch has only what changed.
func TestJobsThatWaitCostNothing(t *testing.T) {
	cfg := DefaultConfig()
	c, eff := newCore(cfg)
	const jobs = 100_000
	feedJobs(t, c, eff, t0, 0, jobs, nil)
	due, ok := c.Next()
	require.True(t, ok)
	require.Equal(t, t0+cfg.YoungMs, due)
	eff.Reset()
	c.Tick(due, eff)
	require.True(t, eff.Dirty)
	writes := settled(t, c, due)
	require.Equal(t, jobs+1, writes[State])
	due, ok = c.Next()
	require.True(t, ok)
	require.Equal(t, t0+record.DefaultTTL.Milliseconds(), due, "nothing before the deadline")

	b := actors.NewFromGate(1)
	b.Results = append(b.Results, actors.Result{Node: "n777", JobID: []byte("j777"), Outcome: protocol.OutcomeOK})
	c.FromGate(t0+2000, b, eff)
	writes = settled(t, c, t0+2000)
	require.Equal(t, [...]int{Results: 1, Dead: 0, State: 3, Progress: 0}, writes, "its deletion, its id, and the head")
	none := new(Batch)
	require.Zero(t, testing.AllocsPerRun(10, func() {
		c.Tick(t0+3000, eff)
		require.False(t, c.Cut(t0+3000, none))
	}))
	// The newest ten are found without a look at all.
	q := &QueryJobs{Limit: 10}
	require.Len(t, c.Jobs(q), 10)
	require.Less(t, testing.AllocsPerRun(10, func() { c.Jobs(q) }), 40.0)
	require.Empty(t, c.Jobs(&QueryJobs{Limit: 10, State: StateRunning}))
}

// TestForeignNodesAreAskedForMoreAndMoreSeldom counts the questions of a day.
func TestForeignNodesAreAskedForMoreAndMoreSeldom(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Partition, cfg.Partitions = 0, 2
	c, eff := newCore(cfg)
	feedJobs(t, c, eff, t0, 0, 1000, func(j *record.Job) { j.TTL = record.MaxTTL })
	foreign := len(c.afar.byNode)
	require.Greater(t, foreign, 400)
	asks := len(eff.Asks)
	require.Equal(t, foreign, asks)
	settled(t, c, t0+cfg.YoungMs)
	end := t0 + 86_400_000
	for now, ok := c.Next(); ok && now < end; now, ok = c.Next() {
		eff.Reset()
		c.Tick(now, eff)
		asks += len(eff.Asks)
		settled(t, c, now)
	}
	require.Less(t, asks, foreign*280)
	require.Greater(t, asks, foreign*200)
}

// TestManyOutcomesAtATimeWaitForKafka has everything expire while Kafka takes nothing.
func TestManyOutcomesAtATimeWaitForKafka(t *testing.T) {
	cfg := DefaultConfig()
	cfg.MaxUncommitted = 100
	c, eff := newCore(cfg)
	feedJobs(t, c, eff, t0, 0, 1000, func(j *record.Job) { j.DeadlineMs = t0 + 1 })
	settled(t, c, t0+1)
	c.Tick(t0+2, eff)
	require.Equal(t, 50, c.Status().Uncommitted)
	_, ok := c.Next()
	require.False(t, ok, "a tick would do nothing")
	for range 19 {
		var b Batch
		require.True(t, c.Cut(t0+2, &b))
		require.LessOrEqual(t, b.Outcomes, 50)
		c.Committed(t0+2, &b, eff)
		due, ok := c.Next()
		require.True(t, ok)
		require.LessOrEqual(t, due, t0+2)
		c.Tick(t0+2, eff)
	}
	settled(t, c, t0+2)
	require.Zero(t, c.Pending())
}

// TestRestoredJobsThatExpiredWaitForKafka is the same after a restart.
func TestRestoredJobsThatExpiredWaitForKafka(t *testing.T) {
	cfg := DefaultConfig()
	cfg.MaxUncommitted = 100
	c, eff := newCore(cfg)
	k := newKafka()
	feedJobs(t, c, eff, t0, 0, 300, func(j *record.Job) {
		j.DeadlineMs = t0 + 5000
		switch len(j.ID) % 3 {
		case 0:
			j.Target = record.Target{Nodes: []string{"a", "b"}}
		case 1:
			j.Target = record.Target{Select: &record.Selector{}}
		}
	})
	var b Batch
	require.True(t, c.Cut(t0+2000, &b))
	k.commit(&b)
	c = NewCore(cfg, c.shards)
	for _, r := range k.records() {
		require.NoError(t, c.Restore(r))
	}
	c.Restored(t0+9000, k.next, eff)
	require.Zero(t, c.Status().Uncommitted)
	c.Tick(t0+9000, eff)
	require.InDelta(t, 50, c.Status().Uncommitted, 2)
	runDry(t, c, t0+9000)
	require.Zero(t, c.Pending())
}

// TestABatchIsBounded checks the feed's pause, and that attempts which end together are
// written bit by bit, but for those of jobs with an outcome.
func TestABatchIsBounded(t *testing.T) {
	cfg := DefaultConfig()
	cfg.MaxFresh = 100
	c, eff := newCore(cfg)
	feedJobs(t, c, eff, t0, 0, 99, nil)
	require.False(t, c.Overfull())
	feedJobs(t, c, eff, t0, 99, 1, nil)
	require.True(t, c.Overfull())
	settled(t, c, t0+cfg.YoungMs)
	require.True(t, c.Hungry())

	c, eff = newCore(DefaultConfig())
	const jobs = 2 * maxDirty
	reg := actors.NewFromGate(1)
	for i := range jobs {
		reg.Registrations = append(reg.Registrations, actors.Registration{Node: fmt.Sprint("n", i), Incarnation: 1, Profile: profileOf("ping")})
	}
	c.FromGate(t0, reg, eff)
	feedJobs(t, c, eff, t0, 0, jobs-1, func(j *record.Job) { j.Timeout = 1e9 })
	feedJobs(t, c, eff, t0, jobs-1, 1, func(j *record.Job) { j.Target = record.Target{Nodes: []string{"n0", "n1"}} })
	settled(t, c, t0+1000)
	c.Tick(t0+3500, eff)
	up := actors.NewFromGate(1)
	up.Results = append(up.Results, actors.Result{Node: "n0", JobID: []byte(fmt.Sprint("j", jobs-1)), Outcome: protocol.OutcomeOK})
	c.FromGate(t0+3500, up, eff)
	var b Batch
	require.True(t, c.Cut(t0+3500, &b))
	n, chunk := 0, false
	for i := range b.Writes {
		if w := &b.Writes[i]; w.Stream == State && w.Key[0] != keyHead {
			n++
			chunk = chunk || w.Key[0] == keyChunk
		}
	}
	require.Equal(t, maxDirty+1, n)
	require.True(t, chunk, "the outcome's assignment")
	eff.Reset()
	c.Committed(t0+3500, &b, eff)
	require.True(t, eff.Dirty)
	require.True(t, c.Cut(t0+3500, &b))
	require.Len(t, b.Writes, jobs-1-maxDirty+1)
}

// TestTheClockMayBeSetBack checks that what waits for time does not wait for the hour
// to come again.
func TestTheClockMayBeSetBack(t *testing.T) {
	c, eff := newCore(DefaultConfig())
	feedJobs(t, c, eff, t0, 0, 1, func(j *record.Job) { j.DeadlineMs = 1 })
	require.Equal(t, 1, settled(t, c, t0)[Progress])
	feedJobs(t, c, eff, t0, 1, 1, nil)
	earlier := t0 - 3_600_000
	eff.Reset()
	c.Tick(earlier, eff)
	require.True(t, eff.Dirty)
	feedJobs(t, c, eff, earlier, 2, 1, func(j *record.Job) { j.DeadlineMs = 1 })
	b := actors.NewFromGate(1)
	b.Results = append(b.Results, actors.Result{Node: "n1", JobID: []byte("j1"), Outcome: protocol.OutcomeOK})
	c.FromGate(earlier, b, eff)
	require.Equal(t, [...]int{Results: 2, Dead: 0, State: 2, Progress: 1}, settled(t, c, earlier))
	require.Equal(t, int64(3), c.Status().Watermark)
}
