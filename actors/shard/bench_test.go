package shard

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// stepJobs is the size of a batch in the benchmark.
const stepJobs = 64

// shardStep is what jobs cost their shard: record, delivery, result, outcome recorded,
// acknowledged; a batch of them at a time.
func shardStep(t testing.TB) func() {
	cfg := DefaultConfig()
	cfg.Partitions, cfg.Member = 1, "member-1"
	eff := &Effects{}
	c := NewCore(cfg, func() []uint32 { return nil })
	c.Restored(t0, -1, eff)
	reg := actors.NewFromGate(1)
	values := make([][]byte, stepJobs)
	for i := range values {
		node := fmt.Sprint("node-", i)
		reg.Registrations = append(reg.Registrations, actors.Registration{Node: node, Incarnation: 1, Profile: profileOf("http")})
		j := record.Job{ID: fmt.Sprintf("job-%06d", i), Kind: "http", Target: record.Target{Node: node}, Args: []byte{0x81, 0xa3, 'u', 'r', 'l', 0xa1, 'x'}}
		var err error
		values[i], err = record.AppendJob(nil, &j)
		require.NoError(t, err)
	}
	c.FromGate(t0, reg, eff)
	eff.Reset()
	offset, now := int64(0), t0
	records := make([]actors.Record, stepJobs)
	ids := make([][]byte, stepJobs)
	batch := new(Batch)
	return func() {
		now++
		for i := range records { // another id each time, in a record of its own
			v := append([]byte(nil), values[i]...)
			ids[i] = fmt.Appendf(ids[i][:0], "job-%06d", offset%1_000_000)
			copyID(v, ids[i])
			records[i] = actors.Record{Offset: offset, TimestampMs: now, Value: v}
			offset++
		}
		c.Records(now, records, eff)
		require.Len(t, eff.Deliveries, stepJobs)
		up := actors.NewFromGate(1)
		for i := range eff.Deliveries {
			d := &eff.Deliveries[i].Delivery
			up.Results = append(up.Results, actors.Result{Node: d.Node, JobID: up.Keep(ids[i]), Attempt: d.Attempt,
				Outcome: protocol.OutcomeOK, DurationUs: 1000, Output: up.Keep(values[0][:1])})
		}
		eff.Reset()
		c.FromGate(now, up, eff)
		up.Release()
		eff.Reset()
		require.True(t, c.Cut(now, batch))
		c.Committed(now, batch, eff)
		require.Len(t, eff.Acks, stepJobs)
		eff.Reset()
	}
}

// t0 is the beginning of time.
const t0 = int64(1_700_000_000_000)

func profileOf(kinds ...string) *actors.Profile {
	return &actors.Profile{Attributes: protocol.Attributes{Kinds: kinds}}
}

func BenchmarkShardStep(b *testing.B) {
	step := shardStep(b)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		step()
		n += stepJobs
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/job")
}

// copyID writes another job id of the same length into an encoded job.
func copyID(value, id []byte) {
	for i := range value {
		if i+len(id) <= len(value) && string(value[i:i+4]) == "job-" {
			copy(value[i:], id)
			return
		}
	}
}
