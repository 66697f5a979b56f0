package shard

import (
	"bytes"
	"fmt"
	"sort"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

func TestTimersComeInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var h timers
		all := make([]timer, 20)
		due := map[*timer]int64{}
		for i := range all {
			all[i].index = -1
		}
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			x := &all[rapid.IntRange(0, len(all)-1).Draw(t, "timer")]
			if rapid.IntRange(0, 3).Draw(t, "op") == 0 {
				h.stop(x)
				delete(due, x)
				require.Negative(t, x.index)
				continue
			}
			due[x] = rapid.Int64Range(0, 50).Draw(t, "due")
			h.set(x, due[x])
		}
		now := rapid.Int64Range(0, 60).Draw(t, "now")
		last := int64(-1)
		for x := h.due(now); x != nil; x = h.due(now) {
			require.Equal(t, due[x], x.dueMs)
			require.GreaterOrEqual(t, x.dueMs, last)
			require.LessOrEqual(t, x.dueMs, now)
			last = x.dueMs
			delete(due, x)
		}
		require.Len(t, h, len(due))
		for _, d := range due {
			require.Greater(t, d, now)
		}
	})
}

func TestDirectoryKeepsTheNewestSession(t *testing.T) {
	d := newDirectory()
	reg := func(inc uint64) *actors.Registration {
		return &actors.Registration{Node: "n", Incarnation: inc, Profile: profileOf("ping")}
	}
	older, current := d.register(1, reg(5))
	require.Nil(t, older)
	require.True(t, current)
	older, current = d.register(1, reg(6))
	require.Nil(t, older, "the gate has replaced it itself")
	require.True(t, current)
	older, current = d.register(2, reg(8))
	require.Equal(t, &Location{Node: "n", Gate: 1, Incarnation: 6, Profile: older.Profile}, older)
	require.True(t, current)
	_, current = d.register(1, reg(7))
	require.False(t, current, "stale")
	d.depart("n", 7)
	loc, ok := d.find("n")
	require.True(t, ok, "an older session's end is nothing to the newer")
	require.Equal(t, uint32(2), loc.Gate)
	older, current = d.register(2, reg(8))
	require.Nil(t, older, "announced again, or with a new profile")
	require.True(t, current)
	d.depart("n", 8)
	_, ok = d.find("n")
	require.False(t, ok)
	d.depart("n", 9)
}

func TestDirectoryForgetsWhoWaitsNoMore(t *testing.T) {
	d := newDirectory()
	d.await("a", 1, 100)
	d.await("a", 2, 200)
	d.await("a", 2, 150)
	d.await("b", 1, 100)
	d.forget(150)
	require.Len(t, d.waiting, 1)
	require.Equal(t, []uint32{1, 2}, d.awaited("a"))
	require.Empty(t, d.awaited("a"), "told once")
	require.Empty(t, d.waiting)
	d.await("c", 1, 160)
	d.forget(160)
	require.Len(t, d.waiting, 1, "it looks only now and then")
	d.forget(150 + sweepEveryMs)
	require.Empty(t, d.waiting)
}

func TestSpreadGoesRoundNetworksAndCities(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []Location
		sizes := map[string]int{}
		for i := range rapid.IntRange(0, 40).Draw(t, "nodes") {
			p := &actors.Profile{Attributes: protocol.Attributes{ASN: uint32(rapid.IntRange(1, 3).Draw(t, "asn")),
				City: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "city")}}
			all = append(all, Location{Node: fmt.Sprint(i), Profile: p})
			sizes[fmt.Sprint(p.ASN, p.City)]++
		}
		count := rapid.IntRange(0, 45).Draw(t, "count")
		chosen := spread(all, count)
		require.Len(t, chosen, min(count, len(all)))
		seen, taken, most := map[string]bool{}, map[string]int{}, 0
		for _, l := range chosen {
			require.False(t, seen[l.Node], "twice")
			seen[l.Node] = true
			g := fmt.Sprint(l.Profile.ASN, l.Profile.City)
			taken[g]++
			most = max(most, taken[g])
		}
		for g, size := range sizes {
			require.GreaterOrEqual(t, taken[g], min(size, most-1), "%s of %v", g, taken)
		}
	})
}

func TestMatchFiltersAndSpreads(t *testing.T) {
	d := newDirectory()
	add := func(node, country string, asn uint32, kinds ...string) {
		d.register(1, &actors.Registration{Node: node, Incarnation: 1, Profile: &actors.Profile{
			Attributes: protocol.Attributes{Country: country, ASN: asn, Kinds: kinds}}})
	}
	for i := range 20 {
		add(fmt.Sprintf("big%d", i), "AU", 1, "ping")
	}
	add("small", "AU", 2, "ping")
	add("elsewhere", "NZ", 3, "ping")
	add("other", "AU", 4, "http")
	for range 20 { // whatever the map's order
		var names []string
		for _, l := range d.match(&record.Selector{Country: "AU"}, "ping", 2) {
			names = append(names, l.Node)
		}
		sort.Strings(names)
		require.Len(t, names, 2)
		require.Equal(t, "small", names[1])
	}
	require.Len(t, d.match(&record.Selector{}, "http", 5), 1)
	require.Empty(t, d.match(&record.Selector{Country: "DE"}, "ping", 5))
}

func TestRecentIsBounded(t *testing.T) {
	r := newRecent()
	for i := range recentJobs + 10 {
		r.add(&Summary{ID: fmt.Sprint(i)})
	}
	require.Len(t, r.byID, recentJobs)
	require.Nil(t, r.byID["9"])
	require.NotNil(t, r.byID["10"])
	want := recentJobs + 9
	r.each(func(s *Summary) bool {
		require.Equal(t, fmt.Sprint(want), s.ID)
		want--
		return want > recentJobs
	})

	// By bytes: jobs with large results push out more than one each.
	for i := range 100 {
		r.add(&Summary{ID: fmt.Sprint("large", i), Results: [][]byte{make([]byte, recentBytes/8)}})
		require.LessOrEqual(t, r.bytes, recentBytes)
	}
	require.Len(t, r.byID, 7)
	sum := 0
	r.each(func(s *Summary) bool { sum += s.size(); return true })
	require.Equal(t, sum, r.bytes)

	// One that is too large for itself keeps its first results, and some others stay.
	huge := &Summary{ID: "huge", Targets: 10_000}
	for range huge.Targets {
		huge.Results = append(huge.Results, make([]byte, 4096))
	}
	r.add(huge)
	require.LessOrEqual(t, r.bytes, recentBytes)
	require.NotEmpty(t, r.byID["huge"].Results)
	require.NotNil(t, r.byID["large99"])

	// An id that came again while it was remembered is not forgotten with its older self.
	r = newRecent()
	r.add(&Summary{ID: "same"})
	r.add(&Summary{ID: "same", Targets: 2})
	for i := range recentJobs - 1 {
		r.add(&Summary{ID: fmt.Sprint(i)})
	}
	require.Equal(t, 2, r.byID["same"].Targets)
}

func TestEarlyIsBoundedAndKeepsItsOwnBytes(t *testing.T) {
	e := newEarly()
	out := []byte("output")
	for i := range earlyResults + 10 {
		e.add(1, &actors.Result{Node: "n", JobID: fmt.Append(nil, i), Output: out}, int64(i))
	}
	require.Len(t, e.byKey, earlyResults)
	out[0] = 'X'
	er := e.take("0", "n")
	require.Equal(t, "output", string(er.result.Output))
	require.Nil(t, e.take("0", "n"), "taken once")
	require.Nil(t, e.take("0", "m"))
	due, ok := e.next()
	require.True(t, ok)
	require.Equal(t, int64(1), due, "what was taken is not due")
	n := 0
	for er := e.expired(100); er != nil; er = e.expired(100) {
		n++
	}
	require.Equal(t, 100, n)
	for er := e.expired(1 << 40); er != nil; er = e.expired(1 << 40) {
		n++
	}
	require.Equal(t, earlyResults-1, n)
	require.Zero(t, e.bytes)
	require.Empty(t, e.byKey)
	_, ok = e.next()
	require.False(t, ok)

	// What was taken does not pile up behind one that waits.
	e.add(1, &actors.Result{Node: "n", JobID: []byte("waits")}, 1)
	for i := range 10 * earlyResults {
		e.add(1, &actors.Result{Node: "n", JobID: fmt.Append(nil, i), Output: out}, 2)
		require.NotNil(t, e.take(fmt.Sprint(i), "n"))
	}
	require.LessOrEqual(t, len(e.fifo), 2*earlyResults+1)
	require.Equal(t, "waits", string(e.expired(1).result.JobID))

	large := bytes.Repeat([]byte{1}, earlyBytes/4+1)
	for i := range 10 {
		e.add(1, &actors.Result{Node: "n", JobID: fmt.Append(nil, i), Output: large}, 1)
	}
	require.Len(t, e.byKey, 3)
	require.LessOrEqual(t, e.bytes, earlyBytes)

	// The same key again after it was taken is another result, with another due time.
	e.take("0", "n")
	e.add(2, &actors.Result{Node: "n", JobID: []byte("0")}, 9)
	require.Equal(t, uint32(2), e.take("0", "n").gate)
}

func TestQueriesTakeAnyLimit(t *testing.T) {
	c := NewCore(DefaultConfig(), func() []uint32 { return nil })
	c.cfg.Partitions = 1
	var eff Effects
	for i, id := range []string{"a", "b", "c"} {
		v, err := record.AppendJob(nil, &record.Job{ID: id, Kind: "ping", Tenant: "t" + id, Target: record.Target{Node: "n" + id}})
		require.NoError(t, err)
		c.Records(t0, []actors.Record{{Offset: int64(i), TimestampMs: t0, Value: v}}, &eff)
	}
	b := actors.NewFromGate(1)
	for _, n := range []string{"na", "nb"} {
		b.Registrations = append(b.Registrations, actors.Registration{Node: n, Incarnation: 1, Profile: profileOf("ping")})
	}
	b.Results = append(b.Results, actors.Result{Node: "na", JobID: []byte("a"), Outcome: protocol.OutcomeOK})
	c.FromGate(t0, b, &eff)
	value, err := new(record.ResultWriter).Append(nil, record.Msgpack, &eff.Outcomes[0].Result)
	require.NoError(t, err)
	eff.Outcomes[0].Token.Value = value
	c.Recorded(t0, eff.Outcomes[0].Token, &eff)

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
	require.Equal(t, Status{Pending: 2, Open: 2, Next: 1, Read: 3, Nodes: 2, OnNodes: 1, Stats: c.Stats()}, c.status(false, 0))
}

// FuzzRecords gives a core values of any kind: it never panics, and each record ends
// in exactly one of: a dead record, a duplicate, or a job with all of its outcomes.
func FuzzRecords(f *testing.F) {
	for _, j := range []record.Job{
		{ID: "a", Kind: "ping", Target: record.Target{Node: "n"}},
		{ID: "b", Kind: "ping", Target: record.Target{Nodes: []string{"n", "m"}}, DeadlineMs: 1 << 60, Attempts: 3},
		{ID: "c", Kind: "ping", Target: record.Target{Select: &record.Selector{Count: 3}}, NotBeforeMs: 1 << 61},
	} {
		v, err := record.AppendJob(nil, &j)
		require.NoError(f, err)
		f.Add(v, "", int64(t0))
	}
	f.Add([]byte(`{"id":"a","kind":"ping","target":{"node":"n"}}`), "application/json", int64(-1))
	f.Add([]byte("{"), "text/plain", int64(1<<63-1))
	f.Fuzz(func(t *testing.T, value []byte, contentType string, timestamp int64) {
		cfg := DefaultConfig()
		cfg.Partitions = 3
		c := NewCore(cfg, func() []uint32 { return []uint32{0, 1} })
		eff := Effects{Commit: -1}
		c.Records(t0, []actors.Record{{Offset: 5, Value: value, ContentType: contentType, TimestampMs: timestamp},
			{Offset: 6, Value: value, ContentType: contentType, TimestampMs: timestamp}}, &eff)
		now, commit := int64(t0), int64(-1)
		for range 200_000 {
			var tokens []*Token
			for _, o := range eff.Outcomes {
				tokens = append(tokens, o.Token)
			}
			for _, d := range eff.Dead {
				tokens = append(tokens, d.Token)
			}
			commit = max(commit, eff.Commit)
			eff.Reset()
			for _, token := range tokens {
				c.Recorded(now, token, &eff)
			}
			commit = max(commit, eff.Commit)
			eff.Reset()
			due, ok := c.Next()
			if !ok {
				break
			}
			now = max(now+60_000, due) // in large steps: a job may wait for a month
			c.Tick(now, &eff)
		}
		require.Equal(t, int64(7), commit)
		require.Zero(t, c.Pending())
	})
}

func TestACoreWithoutPausesDoesNotSpin(t *testing.T) {
	c := NewCore(Config{Partition: 0, Partitions: 2, ChooseMs: 5}, func() []uint32 { return []uint32{0} })
	var eff Effects
	for i, target := range []record.Target{{Nodes: []string{"a", "b", "c"}}, {Select: &record.Selector{Count: 2}}} {
		v, err := record.AppendJob(nil, &record.Job{ID: fmt.Sprint(i), Kind: "ping", Target: target})
		require.NoError(t, err)
		c.Records(t0, []actors.Record{{Offset: int64(i), TimestampMs: t0, Value: v}}, &eff)
	}
	for now := t0; now < t0+20; now++ {
		c.Tick(now, &eff)
	}
	require.Len(t, eff.Outcomes, 2, "unmatched")
}
