//go:build !race

package shard

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol/record"
)

// waitingJob is a job with 128 bytes of arguments for a node that is away.
func waitingJob(t testing.TB, i int) []byte {
	j := record.Job{ID: fmt.Sprintf("job-%09d", i), Kind: "http", Target: record.Target{Node: fmt.Sprintf("node-%09d", i)},
		Args: append([]byte{0xc4, 126}, make([]byte, 126)...)}
	v, err := record.AppendJob(nil, &j)
	require.NoError(t, err)
	return bytes.Clone(v)
}

func liveHeap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// memoryJobs is how many jobs the memory is measured with, and memoryBytes what one may
// take of the live heap, its record, maps and timers included.
const (
	memoryJobs  = 200_000
	memoryBytes = 600
)

// TestAWaitingJobTakesLittleMemory measures jobs that were taken, and the same ones after
// a crash.
func TestAWaitingJobTakesLittleMemory(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Partitions, cfg.Member = 1, "m"
	before := liveHeap()
	c, _ := waitingCore(t, cfg, memoryJobs, nil)
	require.Equal(t, memoryJobs, c.Pending())
	taken := (liveHeap() - before) / memoryJobs
	runtime.KeepAlive(c)
	t.Logf("taken from the jobs topic: %d bytes a job", taken)
	require.LessOrEqual(t, taken, memoryBytes)

	var topic []StateRecord
	_, next := waitingCore(t, cfg, memoryJobs, &topic)
	var flat []byte // what is read from, in one piece
	ends := make([]int, 0, len(topic))
	for i, r := range topic {
		flat = append(flat, r.Value...)
		ends = append(ends, len(flat))
		topic[i].Value = nil
	}
	before = liveHeap()
	c = NewCore(cfg, func() []uint32 { return nil })
	start := 0
	for i, end := range ends {
		require.NoError(t, c.Restore(StateRecord{Key: topic[i].Key, Value: bytes.Clone(flat[start:end])}))
		start = end
	}
	var eff Effects
	c.Restored(t0, next, &eff)
	require.Equal(t, memoryJobs, c.Pending())
	restored := (liveHeap() - before) / memoryJobs
	runtime.KeepAlive(c)
	runtime.KeepAlive(flat)
	runtime.KeepAlive(topic)
	t.Logf("restored from the state topic: %d bytes a job", restored)
	require.LessOrEqual(t, restored, memoryBytes)
}

// waitingCore returns a core with jobs for nodes that are away, all of them committed; what it
// has for the state topic goes to topic, if not nil.
func waitingCore(t testing.TB, cfg Config, jobs int, topic *[]StateRecord) (c *Core, next int64) {
	c, eff := newCore(cfg)
	const each = 1000
	for i := 0; i < jobs; i += each {
		now := t0 + int64(i)
		records := make([]actors.Record, each)
		for k := range records {
			records[k] = actors.Record{Offset: int64(i + k), TimestampMs: now, Value: waitingJob(t, i+k), Key: []byte("a key of its own")}
		}
		c.Records(now, records, eff)
		eff.Reset()
		for _, at := range []int64{now, now + cfg.YoungMs} {
			var b Batch
			if (at == now || i+each >= jobs) && c.Cut(at, &b) {
				next = b.Next
				for _, w := range b.Writes {
					if topic != nil && w.Stream == State && w.Key[0] != keyHead {
						*topic = append(*topic, StateRecord{Key: bytes.Clone(w.Key), Value: bytes.Clone(w.Value)})
					}
				}
				c.Committed(at, &b, eff)
				eff.Reset()
			}
		}
	}
	return c, next
}

// BenchmarkRestore reads a million jobs that wait for their nodes.
func BenchmarkRestore(b *testing.B) {
	const jobs = 1_000_000
	cfg := DefaultConfig()
	cfg.Partitions, cfg.Member = 1, "m"
	var topic []StateRecord
	_, next := waitingCore(b, cfg, jobs, &topic)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(topic), func(i, k int) { topic[i], topic[k] = topic[k], topic[i] })
	b.ReportAllocs()
	for b.Loop() {
		c := NewCore(cfg, func() []uint32 { return nil })
		for _, r := range topic {
			require.NoError(b, c.Restore(r))
		}
		read := b.Elapsed()
		var eff Effects
		c.Restored(t0, next, &eff)
		require.Equal(b, jobs, c.Pending())
		b.ReportMetric((b.Elapsed() - read).Seconds(), "s-restored/op")
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*jobs), "ns/job")
}
