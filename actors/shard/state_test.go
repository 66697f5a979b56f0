package shard

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// TestEndedRingAgainstModel compares the ring with a list, over restarts.
func TestEndedRingAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var e ended
		var all []endedJob // in order
		topic := map[int][]byte{}
		saved := 0
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0, 1:
				for range rapid.SampledFrom([]int{1, 5, slotSize, 1000, 7000}).Draw(t, "ended") {
					h := hashID(fmt.Sprint("job", len(all)))
					e.add(h, int64(len(all)))
					all = append(all, endedJob{h, int64(len(all))})
				}
			case 2:
				e.unsaved(func(slot int, first uint64, jobs []endedJob) { topic[slot] = appendSlot(nil, first, jobs) })
				saved = len(all)
				e.unsaved(func(int, uint64, []endedJob) { t.Fatal("saved twice") })
			default:
				var slots []slot
				for n, value := range topic {
					s, err := decodeSlot(value)
					require.NoError(t, err)
					require.Equal(t, n, int(s.first%endedMost)/slotSize)
					slots = append(slots, s)
				}
				slices.SortFunc(slots, func(x, y slot) int { return compare(x.first, y.first) })
				e, all = ended{}, all[:saved]
				for _, s := range slots {
					e.restore(s.first, s.jobs)
				}
			}
			require.Equal(t, uint64(len(all)), e.next)
			for i, x := range all {
				offset, ok := e.find(x.hash)
				switch {
				case i >= len(all)-endedAtLeast:
					require.True(t, ok, "%d of %d", i, len(all))
					require.Equal(t, x.offset, offset)
				case i < len(all)-endedMost:
					require.False(t, ok, "%d of %d", i, len(all))
				}
			}
		}
	})
}

// someCore has jobs of all kinds in all states, committed.
func someCore(t testing.TB) (*Core, *kafka) {
	c, eff := newCore(DefaultConfig())
	var nodes []string
	for i := range 300 {
		nodes = append(nodes, fmt.Sprint("n", i))
	}
	jobs := []record.Job{
		{ID: "single", Target: record.Target{Node: "n1"}},
		{ID: "json", Target: record.Target{Node: "n2"}, Encoding: record.JSON, Args: []byte{0x81, 0xa1, 'k', 7}, Tenant: "t", Priority: 4},
		{ID: "list", Target: record.Target{Nodes: nodes}, Attempts: 2},
		{ID: "select", Target: record.Target{Select: &record.Selector{Country: "AU", Count: 200}}},
		{ID: "one", Target: record.Target{Select: &record.Selector{Tags: []string{"x"}}}},
		{ID: "later", Target: record.Target{Node: "n3"}, NotBeforeMs: t0 + 1e6},
		{ID: "ended", Target: record.Target{Node: "n4"}, DeadlineMs: 1},
	}
	for i, j := range jobs {
		c.Records(t0, []actors.Record{{Offset: int64(i), TimestampMs: t0 + int64(i), Value: value(t, j)}}, eff)
	}
	b := actors.NewFromGate(1)
	for _, n := range nodes[:150] {
		b.Registrations = append(b.Registrations, actors.Registration{Node: n, Incarnation: 1, Profile: profileOf("ping")})
	}
	c.FromGate(t0, b, eff)
	found := &Candidates{JobID: "select", Round: 1}
	for _, n := range nodes[100:290] {
		found.Nodes = append(found.Nodes, Location{Node: n, Gate: 1, Profile: profileOf("ping")})
	}
	c.Candidates(t0, found, eff)
	c.Candidates(t0, &Candidates{JobID: "one", Round: 1, Nodes: found.Nodes[:1]}, eff)
	b = actors.NewFromGate(1)
	for i, o := range []protocol.Outcome{protocol.OutcomeOK, protocol.OutcomeFailed, protocol.OutcomeTimeout, protocol.OutcomeRefused} {
		for _, job := range []string{"list", "select"} {
			b.Results = append(b.Results, actors.Result{Node: nodes[120+i], JobID: []byte(job), Attempt: 1, Outcome: o})
		}
	}
	c.FromGate(t0, b, eff)
	k := newKafka()
	for now := t0 + 500; now < t0+4000; now += 1000 {
		c.Tick(now, eff)
		var batch Batch
		if c.Cut(now, &batch) {
			k.commit(&batch)
			c.Committed(now, &batch, eff)
		}
	}
	return c, k
}

// outline is what must survive of a core.
func outline(c *Core) map[string]any {
	out := map[string]any{}
	for id, j := range c.pending.byID {
		line := []any{j.id, j.kind, j.tenant, j.offset, j.timestampMs, j.deadlineMs, j.timeoutMs, j.backoffMs, j.attempts, j.priority,
			j.encoding, j.open, j.left, string(j.args()), j.notBeforeMs()}
		if s := j.selector(); s != nil {
			line = append(line, *s)
		}
		all := j.all()
		for i := range all {
			a := &all[i]
			attempt := a.attempt
			if a.is(again) {
				attempt++
			}
			if attempt == 1 && a.state < ending && !a.is(over) && j.selector() == nil {
				attempt = 0 // the first delivery may be made again
			}
			line = append(line, a.node, attempt, a.outcome, a.state >= ending)
			if j.extra != nil {
				line = append(line, j.extra.tried[int32(i)])
			}
		}
		out[id] = line
	}
	return out
}

// TestAStateWithoutAHeadIsCutOff checks that offsets without state are not taken for a
// partition of which nothing was ever written.
func TestAStateWithoutAHeadIsCutOff(t *testing.T) {
	for next, missing := range map[int64]int{-1: 0, 0: 0, 7: 1} {
		c := NewCore(DefaultConfig(), func() []uint32 { return nil })
		c.Restored(t0, next, &Effects{})
		require.Equal(t, missing, c.Status().Missing, "next %d", next)
	}
}

func TestWhatSurvives(t *testing.T) {
	c, k := someCore(t)
	want := outline(c)
	require.Len(t, want, 6)
	for range 3 { // what is restored and written again is the same again
		again := NewCore(c.cfg, c.shards)
		for _, r := range k.log {
			require.NoError(t, again.Restore(r))
		}
		var eff Effects
		again.Restored(t0+4000, k.next, &eff)
		require.Equal(t, want, outline(again))
		require.Zero(t, again.Status().Missing)
		require.Equal(t, 6, again.Status().Restored)
		b := &again.books
		k.log = []StateRecord{{Key: []byte{keyHead}, Value: appendHead(nil, &head{jobs: b.jobs, sum: b.sum, partitions: 1, next: k.next})}}
		for _, j := range again.pending.byID {
			k.log = append(k.log, StateRecord{Key: appendJobKey(nil, j.id), Value: again.appendJob(nil, j)})
			if j.extra != nil {
				for i := range j.extra.chunks {
					k.log = append(k.log, StateRecord{Key: appendChunkKey(nil, j.id, i), Value: again.appendChunk(nil, j, i)})
				}
			}
		}
	}
}

func TestOwner(t *testing.T) {
	rec := StateRecord{Key: []byte{keyHead}, Value: appendHead(nil, &head{jobs: 3, sum: math.MaxUint64, next: -1, newestMs: -5, progress: 9, owner: "group-member"})}
	owner, ok := Owner(&rec)
	require.True(t, ok)
	require.Equal(t, "group-member", owner)
	for _, other := range []StateRecord{{}, {Key: rec.Key}, {Key: []byte("jx"), Value: rec.Value}, {Key: rec.Key, Value: rec.Value[:4]}, {Key: rec.Key, Value: []byte{9}}} {
		_, ok := Owner(&other)
		require.False(t, ok)
	}
}

// TestAStateThatCannotBeRead is refused, with what to do about it.
func TestAStateThatCannotBeRead(t *testing.T) {
	_, k := someCore(t)
	for key, value := range k.state {
		c := NewCore(DefaultConfig(), func() []uint32 { return nil })
		newer := append([]byte{stateVersion + 1}, value[1:]...)
		err := c.Restore(StateRecord{Key: []byte(key), Value: newer})
		require.ErrorContains(t, err, "newer version of Roost", "%q", key)
		for n := range len(value) {
			err := c.Restore(StateRecord{Key: []byte(key), Value: value[:n]})
			if n == 0 || key[0] == keyChunk && err == nil {
				continue // a deletion; a chunk that ends between two assignments
			}
			require.Error(t, err, "%q, %d of %d bytes", key, n, len(value))
		}
		if key[0] != keyChunk {
			require.ErrorContains(t, c.Restore(StateRecord{Key: []byte(key), Value: append(bytes.Clone(value), 0)}), "damaged", "%q", key)
		}
		require.NoError(t, c.Restore(StateRecord{Key: []byte(key)}))
		require.NoError(t, c.Restore(StateRecord{Key: []byte(key), Value: value}))
	}
	c := NewCore(DefaultConfig(), func() []uint32 { return nil })
	require.Error(t, c.Restore(StateRecord{Value: []byte{1}}))
	require.Error(t, c.Restore(StateRecord{Key: []byte("x"), Value: []byte{1}}), "of a kind that is not known")
	require.Error(t, c.Restore(StateRecord{Key: []byte("hh"), Value: k.state["h"]}))
	require.NoError(t, c.Restore(StateRecord{Key: []byte("x")}))
	require.ErrorContains(t, c.Restore(StateRecord{Key: []byte("jother"), Value: k.state["jsingle"]}), "damaged")
}

// FuzzRestore gives a core any state records: it never panics, and goes on from what
// it took as from any other state.
func FuzzRestore(f *testing.F) {
	_, k := someCore(f)
	for key, value := range k.state {
		f.Add([]byte(key), value, []byte("jsingle"), k.state["jsingle"])
	}
	f.Add([]byte("clist"), []byte{1, 2, 3}, []byte("h"), []byte{1})
	f.Fuzz(func(t *testing.T, key1, value1, key2, value2 []byte) {
		cfg := DefaultConfig()
		cfg.Partitions = 2
		c := NewCore(cfg, func() []uint32 { return []uint32{0} })
		for _, r := range []StateRecord{{key1, value1}, {key2, value2}} {
			_ = c.Restore(r)
		}
		var eff Effects
		c.Restored(t0, 5, &eff)
		runDry(t, c, t0)
		require.Zero(t, c.Pending())
	})
}

// runDry lets everything happen that is due, and Kafka take all; it returns the offset
// committed last.
func runDry(t testing.TB, c *Core, now int64) int64 {
	var eff Effects
	next := int64(-1)
	for range 200_000 {
		eff.Reset()
		var b Batch
		if c.Cut(now, &b) {
			next = b.Next
			c.Committed(now, &b, &eff)
		}
		due, ok := c.Next()
		if !ok {
			return next
		}
		now = max(now+60_000, due) // in large steps: a job may wait for a month
		c.Tick(now, &eff)
	}
	t.Fatal("there is no end")
	return next
}

// FuzzRecords gives a core values of any kind: it never panics, and each record ends
// in exactly one of: a dead record, or a job with all of its outcomes.
func FuzzRecords(f *testing.F) {
	for _, j := range []record.Job{
		{ID: "a", Target: record.Target{Node: "n"}},
		{ID: "b", Target: record.Target{Nodes: []string{"n", "m"}}, DeadlineMs: 1 << 60, Attempts: 3},
		{ID: "c", Target: record.Target{Select: &record.Selector{Count: 3}}, NotBeforeMs: 1 << 61},
		{ID: "d", Cancel: true},
	} {
		if j.Cancel {
			v, err := record.AppendJob(nil, &j)
			require.NoError(f, err)
			f.Add(v, "", int64(t0))
			continue
		}
		f.Add(value(f, j), "", int64(t0))
	}
	f.Add([]byte(`{"id":"a","kind":"ping","target":{"node":"n"},"args":[1,{"a":null}]}`), "application/json", int64(-1))
	f.Add([]byte("{"), "text/plain", int64(1<<63-1))
	f.Fuzz(func(t *testing.T, value []byte, contentType string, timestamp int64) {
		cfg := DefaultConfig()
		cfg.Partitions = 3
		c, eff := newCore(cfg)
		k := newKafka()
		c.Records(t0, []actors.Record{{Offset: 5, Value: value, ContentType: contentType, TimestampMs: timestamp},
			{Offset: 6, Value: value, ContentType: contentType, TimestampMs: timestamp}}, eff)
		var b Batch
		if c.Cut(t0+cfg.YoungMs, &b) { // crashed and restored
			k.commit(&b)
			c = NewCore(cfg, c.shards)
			for _, r := range k.records() {
				require.NoError(t, c.Restore(r))
			}
			c.Restored(t0, k.next, eff)
			require.Zero(t, c.Status().Missing)
		}
		require.Contains(t, []int64{-1, 7}, runDry(t, c, t0))
		require.Zero(t, c.Pending())
		require.Equal(t, int64(7), c.nextOffset)
	})
}
