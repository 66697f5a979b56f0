package shard

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// newCore returns a core that has its state: none.
func newCore(cfg Config) (*Core, *Effects) {
	if cfg.Partitions == 0 {
		cfg.Partitions = 1
	}
	c := NewCore(cfg, func() []uint32 { return []uint32{0} })
	eff := new(Effects)
	c.Restored(t0, -1, eff)
	eff.Reset()
	return c, eff
}

// value returns a job's record.
func value(t testing.TB, j record.Job) []byte {
	if j.Kind == "" && !j.Cancel {
		j.Kind = "ping"
	}
	v, err := record.AppendJob(nil, &j)
	require.NoError(t, err)
	return v
}

func TestQueriesTakeAnyLimit(t *testing.T) {
	c, eff := newCore(DefaultConfig())
	for i, id := range []string{"a", "b", "c"} {
		v := value(t, record.Job{ID: id, Tenant: "t" + id, Target: record.Target{Node: "n" + id}, Priority: 3, Attempts: 2})
		c.Records(t0, []actors.Record{{Offset: int64(i), TimestampMs: t0 + int64(i), Value: v}}, eff)
	}
	b := actors.NewFromGate(1)
	for _, n := range []string{"na", "nb"} {
		b.Registrations = append(b.Registrations, actors.Registration{Node: n, Incarnation: 1, Profile: profileOf("ping")})
	}
	b.Results = append(b.Results, actors.Result{Node: "na", JobID: []byte("a"), Outcome: protocol.OutcomeOK})
	c.FromGate(t0, b, eff)
	var batch Batch
	require.True(t, c.Cut(t0, &batch))
	c.Committed(t0, &batch, eff)

	ids := func(q QueryJobs) (out []string) {
		for _, s := range c.Jobs(&q) {
			out = append(out, s.ID+" "+s.State)
		}
		return out
	}
	require.Equal(t, []string{"c waiting", "b running", "a done"}, ids(QueryJobs{Limit: 10}))
	require.Equal(t, []string{"c waiting", "b running"}, ids(QueryJobs{Limit: 2}))
	require.Empty(t, ids(QueryJobs{}))
	require.Empty(t, ids(QueryJobs{Limit: -1}))
	require.Equal(t, []string{"a done"}, ids(QueryJobs{Limit: 5, State: StateDone}))
	require.Equal(t, []string{"b running"}, ids(QueryJobs{Limit: 5, State: StateRunning}))
	require.Equal(t, []string{"c waiting"}, ids(QueryJobs{Limit: 1, State: StateWaiting}))
	require.Equal(t, []string{"a done"}, ids(QueryJobs{Limit: 5, Node: "na"}))
	require.Equal(t, []string{"c waiting"}, ids(QueryJobs{Limit: 5, Tenant: "tc"}))

	page := c.Nodes(&QueryNodes{Limit: 1})
	require.Equal(t, 2, page.Total)
	require.Equal(t, "na", page.Nodes[0].Node)
	page = c.Nodes(&QueryNodes{Limit: 5, After: "na"})
	require.Len(t, page.Nodes, 1)
	require.Equal(t, "nb", page.Nodes[0].Node)
	require.Empty(t, c.Nodes(&QueryNodes{Limit: -1}).Nodes)
	require.Empty(t, c.Nodes(&QueryNodes{Limit: 5, Kind: "http"}).Nodes)
	require.Equal(t, Status{Pending: 2, Next: 1, Read: 3, Nodes: 2, OnNodes: 1, Watermark: 1, WatermarkMs: t0 + 1, Stats: c.Stats()}, c.Status())
}

func TestAJobInDetail(t *testing.T) {
	c, eff := newCore(DefaultConfig())
	job := record.Job{ID: "a", Tenant: "t", Target: record.Target{Nodes: []string{"n1", "n2", "n3"}}, NotBeforeMs: t0 + 5, Priority: 3, Attempts: 2}
	c.Records(t0, []actors.Record{{Offset: 7, TimestampMs: t0, Value: value(t, job)}}, eff)
	b := actors.NewFromGate(1)
	b.Registrations = append(b.Registrations, actors.Registration{Node: "n1", Incarnation: 1, Profile: profileOf("ping")})
	b.Results = append(b.Results, actors.Result{Node: "n2", JobID: []byte("a"), Attempt: 1, Outcome: protocol.OutcomeFailed})
	c.FromGate(t0, b, eff)
	c.Tick(t0+5, eff)
	var batch Batch
	require.True(t, c.Cut(t0, &batch))
	c.Committed(t0, &batch, eff)
	a := c.Query("a")
	require.False(t, a.Ended)
	s := a.Summary
	require.Equal(t, []Assignment{{Node: "n1", State: StateRunning, Attempt: 1}, {Node: "n2", State: StateDone, Attempt: 1, Outcome: protocol.OutcomeFailed},
		{Node: "n3", State: StateWaiting}}, s.Assignments)
	require.Equal(t, t0+record.DefaultTTL.Milliseconds(), s.DeadlineMs)
	require.Equal(t, []any{t0 + 5, uint32(2), uint8(3), int64(7), 3, false}, []any{s.NotBeforeMs, s.Attempts, s.Priority, s.Offset, s.Targets, s.Truncated})
	require.Len(t, s.Results, 1)
	require.Equal(t, uint16(1), s.Outcomes[protocol.OutcomeFailed])

	var nodes []string
	for i := range MaxAssignments + 1 {
		nodes = append(nodes, fmt.Sprint("n", i))
	}
	c.Records(t0, []actors.Record{{Offset: 8, Value: value(t, record.Job{ID: "huge", Target: record.Target{Nodes: nodes}, TTL: record.MaxTTL})}}, eff)
	s = c.Query("huge").Summary
	require.Len(t, s.Assignments, MaxAssignments)
	require.True(t, s.Truncated)
}

// TestAnEndedJobIsKnownToHaveEnded has so many jobs end that only ids are remembered of
// the first, and then not even these.
func TestAnEndedJobIsKnownToHaveEnded(t *testing.T) {
	c, eff := newCore(DefaultConfig())
	end := func(i int) {
		v := value(t, record.Job{ID: fmt.Sprint("j", i), Target: record.Target{Node: "n"}, DeadlineMs: 1})
		c.Records(t0, []actors.Record{{Offset: int64(i), Value: v}}, eff)
		var batch Batch
		require.True(t, c.Cut(t0, &batch))
		c.Committed(t0, &batch, eff)
		eff.Reset()
	}
	for i := range recentJobs + 1 {
		end(i)
	}
	require.Equal(t, JobAnswer{Ended: true}, c.Query("j0"))
	require.NotNil(t, c.Query("j1").Summary)
	require.Equal(t, JobAnswer{}, c.Query("other"))
	for i := recentJobs + 1; i < endedMost+1; i++ {
		end(i)
	}
	require.Equal(t, JobAnswer{}, c.Query("j0"))
	require.Equal(t, JobAnswer{Ended: true}, c.Query("j1"))
	require.Zero(t, c.Pending())
}
