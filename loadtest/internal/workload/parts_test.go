//go:build linux

package workload

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/loadtest/internal/stamp"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

type nodeAddr = netip.AddrPort

func oneNode(t testing.TB, node string, size int) *template {
	t.Helper()
	tm, err := newTemplate("0123456789ab", form{target: record.Target{Node: node}, size: size, ttl: DefaultTTL})
	require.NoError(t, err)
	return tm
}

func TestTemplateIsWhatTheCodecWouldWrite(t *testing.T) {
	for _, size := range []int{MinSize, 128, 255, 256, 70_000, MaxSize} {
		tm := oneNode(t, "sim-000000", size)
		v := bytes.Clone(tm.value)
		tm.fill(v, 0xabcdef, 0x123456789a, 987654321)
		copy(tm.node(v), "sim-000042")
		require.Equal(t, "sim-000042", string(tm.key(v)))
		j, err := record.ParseJob("", v)
		require.NoError(t, err)
		require.Equal(t, "0123456789ab-abcdef-123456789a", j.ID)
		require.Equal(t, "sim-000042", j.Target.Node)
		require.Equal(t, "echo", j.Kind)
		again, err := record.AppendJob(nil, &record.Job{ID: j.ID, Kind: j.Kind, Target: j.Target, Args: j.Args, TTL: DefaultTTL})
		require.NoError(t, err)
		require.Equal(t, again, v)

		slot, seq, ok := parseID(tm.run, j.ID)
		require.True(t, ok)
		require.EqualValues(t, 0xabcdef, slot)
		require.EqualValues(t, 0x123456789a, seq)
		got, ok := patterns{}.stamps(j.Args, seq)
		require.True(t, ok)
		require.Equal(t, stamps{sentNs: 987654321}, got)

		_, ok = patterns{}.stamps(j.Args, seq+1)
		require.False(t, ok, "the output of another job")
		_, ok = patterns{}.stamps(j.Args[:len(j.Args)-1], seq)
		require.False(t, ok, "cut short")

		id, args, err := tm.copied(v)
		require.NoError(t, err)
		require.Equal(t, j.ID, id)
		require.Equal(t, []byte(j.Args), args)
		_, _, err = tm.copied(v[1:])
		require.Error(t, err)

		before := stamp.Now()
		Stamp(j.Args)
		got, ok = patterns{}.stamps(j.Args, seq)
		require.True(t, ok, "the stamp is no part of what is compared")
		require.EqualValues(t, 987654321, got.sentNs)
		require.True(t, got.receivedNs >= before && got.receivedNs <= stamp.Now())
	}
	for _, bad := range []string{"", "0123456789ab", "0123456789ab-abcdef-12345678zz", "1123456789ab-abcdef-123456789a", "0123456789ab-abcdef-123456789a0"} {
		_, _, ok := parseID("0123456789ab", bad)
		require.False(t, ok, bad)
	}
}

func TestStrideVisitsEveryNode(t *testing.T) {
	for _, n := range []int{1, 2, 7919, 15_838, 2000} {
		s, at, seen := stride(n), 0, map[int]bool{}
		for range n {
			seen[at] = true
			at = (at + s) % n
		}
		require.Len(t, seen, n)
	}
}

func TestASlotIsFreeAfterBothAckAndOutcome(t *testing.T) {
	for name, steps := range map[string]func(p *slots, s *slot){
		"ack first":                       func(p *slots, s *slot) { p.acked(s, false); p.ended(0, 7) },
		"outcome first":                   func(p *slots, s *slot) { p.ended(0, 7); p.acked(s, false) },
		"failed":                          func(p *slots, s *slot) { p.acked(s, true) },
		"failed, but its outcome came":    func(p *slots, s *slot) { p.ended(0, 7); p.acked(s, true) },
		"failed, and its outcome is late": func(p *slots, s *slot) { p.acked(s, true); p.ended(0, 7) },
		"outcome twice":                   func(p *slots, s *slot) { p.acked(s, false); p.ended(0, 7); p.ended(0, 7) },
		"outcome of another":              func(p *slots, s *slot) { p.ended(0, 6); p.ended(9, 7); p.acked(s, false); p.ended(0, 7) },
	} {
		p, st := newSlots(1), &Stream{limit: 5, freed: make(chan struct{}, 1)}
		got := p.take(st, nil, 5)
		require.Len(t, got, 1, name)
		p.begin(got[0], 7, 99, 1)
		require.Empty(t, p.take(st, nil, 5), name)
		steps(p, got[0])
		require.Len(t, st.freed, 1, name)
		require.Equal(t, got, p.take(st, nil, 5), name)
		require.Empty(t, p.take(st, nil, 5), name)
	}
	p, st := newSlots(1), &Stream{limit: 1, freed: make(chan struct{}, 1)}
	s := p.take(st, nil, 1)[0]
	p.begin(s, 7, 99, 3)
	sent, open := p.acked(s, false)
	require.EqualValues(t, 99, sent)
	require.Equal(t, 3, open)
	for range 2 {
		p.ended(0, 7)
		require.Empty(t, p.take(st, nil, 1), "an outcome is still due")
	}
	p.ended(0, 7)
	require.Len(t, p.take(st, nil, 1), 1)
}

// Streams share the slots, each up to its own window.
func TestAStreamHasItsWindow(t *testing.T) {
	p := newSlots(5)
	a, b := &Stream{limit: 3, freed: make(chan struct{}, 1)}, &Stream{limit: 9, freed: make(chan struct{}, 1)}
	got := p.take(a, nil, 9)
	require.Len(t, got, 3)
	require.Len(t, p.take(b, nil, 9), 2)
	p.giveBack(got[0])
	require.Len(t, a.freed, 1)
	require.Empty(t, b.freed)
	require.Len(t, p.take(b, nil, 9), 1)
	require.Empty(t, p.take(a, nil, 9))
}

func TestPercentiles(t *testing.T) {
	tm := oneNode(t, "n", MinSize)
	y := newTally(tm.run, 1000)
	var w record.ResultWriter
	value := bytes.Clone(tm.value)
	outcome := func(seq, sent, received, now int64) {
		tm.fill(value, 0, seq, sent)
		binary.BigEndian.PutUint64(value[tm.argsAt+16:], uint64(received))
		v, err := w.Append(nil, record.Msgpack, &record.Result{Job: string(appendID(nil, tm.run, 0, seq)), Output: value[tm.headAt : tm.argsAt+MinSize]})
		require.NoError(t, err)
		_, _, first := y.record("", v, now)
		require.True(t, first)
	}
	outcome(0, 999, 0, int64(time.Hour)) // of the warm-up, by a node that does not stamp
	require.Equal(t, y.warm.whole, y.measured().whole, "there is nothing else yet")
	y.acked(999, 10_999)
	for i := int64(1); i <= 1000; i++ {
		// Far numbers: the bitmap has gaps.
		outcome(i*70_000, 5000, 5000+i*200_000, 5000+i*1_000_000)
		y.acked(5000, 5000+i*30_000)
	}
	m := y.measured()
	for h, msec := range map[*hdrhistogram.Histogram]float64{m.whole: 1, m.deliver: 0.2, m.commit: 0.8, m.append: 0.03} {
		require.EqualValues(t, 1000, h.TotalCount())
		require.InEpsilon(t, msec*500_000, h.ValueAtPercentile(50), 0.002)
		require.InEpsilon(t, msec*990_000, h.ValueAtPercentile(99), 0.002)
		require.InEpsilon(t, msec*999_000, h.ValueAtPercentile(99.9), 0.002)
	}
	require.EqualValues(t, 1, y.warm.whole.TotalCount())
	require.Zero(t, y.warm.deliver.TotalCount()+y.warm.commit.TotalCount())
	require.EqualValues(t, 1, y.warm.append.TotalCount())
	require.EqualValues(t, 1001, y.counts().Outcomes)
	_, _, first := y.record("", []byte("{"), 0)
	require.False(t, first)
	require.EqualValues(t, 1, y.counts().Unreadable)
	require.Equal(t, map[string]int64{"ok": 1001}, y.counts().ByOutcome)
}

func BenchmarkTally(b *testing.B) {
	tm := oneNode(b, "sim-000000", 128)
	y := newTally(tm.run, 0)
	var w record.ResultWriter
	v, _ := w.Append(nil, record.Msgpack, &record.Result{
		Job: string(appendID(nil, tm.run, 0, 0)), Node: "sim-000000", Outcome: protocol.OutcomeOK, Attempt: 1, Kind: "echo",
		Output: appendBin(nil, tm.value[tm.argsAt:tm.argsAt+128]), JobMs: 1.7e12, TimeMs: 1.7e12, Member: "m1", Offset: 1e6,
	})
	b.ReportAllocs()
	for b.Loop() {
		y.record("", v, 1)
	}
}

func BenchmarkFill(b *testing.B) {
	tm := oneNode(b, "sim-000000", 128)
	value := bytes.Clone(tm.value)
	b.ReportAllocs()
	for b.Loop() {
		tm.fill(value, 1, 2, 3)
	}
}

func TestPaceInTime(t *testing.T) {
	for name, p := range map[string]Pace{
		"constant":        {Rate: 100},
		"rising":          {Rate: 100, RateTo: 900, Over: 10 * time.Second},
		"from nothing":    {RateTo: 500, Over: 10 * time.Second},
		"falling":         {Rate: 500, RateTo: 10, Over: 10 * time.Second},
		"constant, bound": {Rate: 100, RateTo: 100, Over: 10 * time.Second},
	} {
		// The two are each other's inverse, and go on behind the change.
		last := time.Duration(-1)
		for n := int64(0); n < 8000; n += 7 {
			at, ok := p.due(n)
			require.True(t, ok, name)
			require.Greater(t, at, last, name)
			last = at
			require.LessOrEqual(t, p.expected(at-time.Millisecond), n+1, "%s: job %d", name, n)
			require.Greater(t, p.expected(at+time.Millisecond), n, "%s: job %d", name, n)
		}
	}
	p := Pace{Rate: 100, RateTo: 900, Over: 10 * time.Second}
	require.EqualValues(t, 5001, p.expected(10*time.Second))
	require.EqualValues(t, 5001+900, p.expected(11*time.Second))
	p = Pace{Rate: 100, Over: 10 * time.Second}
	require.EqualValues(t, 501, p.expected(time.Hour))
	_, ok := p.due(501)
	require.False(t, ok, "the rate has come to nothing")
}

func TestListsFitIntoRecords(t *testing.T) {
	for _, tc := range []struct{ nodes, id, jobs, each int }{
		{50, 10, 1, 50}, {10_000, 10, 1, 10_000}, {10_001, 10, 2, 10_000}, {1_000_000, 11, 100, 10_000}, {10_000, 128, 2, 5471},
	} {
		p := Pace{Nodes: tc.nodes}
		jobs, each := p.lists(tc.id)
		require.Equal(t, [2]int{tc.jobs, tc.each}, [2]int{jobs, each}, "%+v", tc)
	}
}

func TestTheLowestOpenAssignmentIsKnown(t *testing.T) {
	y := newTally("0123456789ab", 0)
	rng := rand.New(rand.NewPCG(1, 2))
	const n = 2*pageJobs + 100
	seen := make([]bool, n)
	low := int64(0)
	for _, i := range rng.Perm(n) {
		y.mu.Lock()
		require.False(t, y.mark(int64(i)))
		require.True(t, y.mark(int64(i)))
		y.mu.Unlock()
		seen[i] = true
		for low < n && seen[low] {
			low++
		}
		require.Equal(t, low, y.until())
	}
	require.EqualValues(t, n, low)
}

func TestJobsOfManyAreTalliedByIndex(t *testing.T) {
	tm, err := newTemplate("0123456789ab", form{target: record.Target{Nodes: []string{"a", "b", "c"}}, size: 64, ttl: DefaultTTL})
	require.NoError(t, err)
	require.Equal(t, 3, tm.targets())
	y := newTally(tm.run, 0)
	y.watch()
	y.win.others = func(node string) bool { return node == "b" }
	value := bytes.Clone(tm.value)
	tm.fill(value, 5, 100, 1000)
	require.Equal(t, "0123456789ab-000005-0000000064", string(tm.key(value)))
	var w record.ResultWriter
	outcome := func(index uint32, node string) bool {
		v, err := w.Append(nil, record.Msgpack, &record.Result{
			Job: string(tm.key(value)), Index: index, Node: node, Output: value[tm.headAt : tm.argsAt+64],
		})
		require.NoError(t, err)
		slot, seq, first := y.record("", v, 5_001_000)
		if first {
			require.EqualValues(t, 5, slot)
			require.EqualValues(t, 100, seq, "of the job")
		}
		return first
	}
	require.False(t, outcome(1, "b"), "one of which nothing is known has one target")
	require.EqualValues(t, 1, y.counts().Unreadable)
	y.widen(100, 3)
	require.True(t, outcome(1, "b"))
	require.False(t, outcome(1, "b"))
	require.True(t, outcome(0, "a"))
	require.True(t, outcome(2, "c"))
	require.False(t, outcome(3, "d"))
	c := y.counts()
	require.Equal(t, [4]int64{3, 1, 0, 2}, [4]int64{c.Outcomes, c.Duplicates, c.Corrupt, c.Unreadable})
	require.Contains(t, c.LastError, "target 3 of job")
	l := y.look()
	require.EqualValues(t, 3, l.Whole.TotalCount())
	require.EqualValues(t, 1, l.Others.TotalCount())
	require.InEpsilon(t, 5000, l.Whole.Max(), 0.002)
	require.Zero(t, y.look().Whole.TotalCount())
	require.Zero(t, y.look().Whole.TotalCount())
}
