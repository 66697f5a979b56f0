//go:build linux

package workload

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

type nodeAddr = netip.AddrPort

func TestTemplateIsWhatTheCodecWouldWrite(t *testing.T) {
	for _, size := range []int{MinSize, 128, 255, 256, 70_000, MaxSize} {
		tm, err := newTemplate("0123456789ab", "sim-000000", size)
		require.NoError(t, err)
		v := bytes.Clone(tm.value)
		tm.fill(v, 0xabcdef, 0x123456789a, 987654321, "sim-000042")
		j, err := record.ParseJob("", v)
		require.NoError(t, err)
		require.Equal(t, "0123456789ab-abcdef-123456789a", j.ID)
		require.Equal(t, "sim-000042", j.Target.Node)
		require.Equal(t, "echo", j.Kind)
		again, err := record.AppendJob(nil, &record.Job{ID: j.ID, Kind: j.Kind, Target: j.Target, Args: j.Args, TTL: jobTTL})
		require.NoError(t, err)
		require.Equal(t, again, v)

		slot, seq, ok := tm.parseID(j.ID)
		require.True(t, ok)
		require.EqualValues(t, 0xabcdef, slot)
		require.EqualValues(t, 0x123456789a, seq)
		sent, ok := tm.stamp(j.Args, seq)
		require.True(t, ok)
		require.EqualValues(t, 987654321, sent)

		_, ok = tm.stamp(j.Args, seq+1)
		require.False(t, ok, "the output of another job")
		_, ok = tm.stamp(j.Args[:len(j.Args)-1], seq)
		require.False(t, ok && size > 16, "cut short")
	}
	for _, bad := range []string{"", "0123456789ab", "0123456789ab-abcdef-12345678zz", "1123456789ab-abcdef-123456789a", "0123456789ab-abcdef-123456789a0"} {
		tm := template{run: "0123456789ab"}
		_, _, ok := tm.parseID(bad)
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
	tm, err := newTemplate("0123456789ab", "n", 16)
	require.NoError(t, err)
	for name, steps := range map[string]func(p *slots, s *slot){
		"ack first":                       func(p *slots, s *slot) { p.acked(s, false); p.ended(0, 7) },
		"outcome first":                   func(p *slots, s *slot) { p.ended(0, 7); p.acked(s, false) },
		"failed":                          func(p *slots, s *slot) { p.acked(s, true) },
		"failed, but its outcome came":    func(p *slots, s *slot) { p.ended(0, 7); p.acked(s, true) },
		"failed, and its outcome is late": func(p *slots, s *slot) { p.acked(s, true); p.ended(0, 7) },
		"outcome twice":                   func(p *slots, s *slot) { p.acked(s, false); p.ended(0, 7); p.ended(0, 7) },
		"outcome of another":              func(p *slots, s *slot) { p.ended(0, 6); p.ended(9, 7); p.acked(s, false); p.ended(0, 7) },
	} {
		p := newSlots(tm, "t", 1)
		got := p.take(nil, 5)
		require.Len(t, got, 1, name)
		p.begin(got[0], 7)
		require.Empty(t, p.take(nil, 5), name)
		steps(p, got[0])
		require.Len(t, p.freed, 1, name)
		require.Equal(t, got, p.take(nil, 5), name)
		require.Empty(t, p.take(nil, 5), name)
	}
	p := newSlots(tm, "t", 1)
	s := p.take(nil, 1)[0]
	p.begin(s, 7)
	p.acked(s, false)
	require.Empty(t, p.take(nil, 1), "the outcome is still due")
}

func TestPercentiles(t *testing.T) {
	tm, err := newTemplate("0123456789ab", "n", 16)
	require.NoError(t, err)
	y := newTally(tm, 1000)
	var w record.ResultWriter
	value := bytes.Clone(tm.value)
	enter := func(seq, sent, now int64) {
		tm.fill(value, 0, seq, sent, "n")
		out := appendBin(nil, value[tm.argsAt:tm.argsAt+16])
		v, err := w.Append(nil, record.Msgpack, &record.Result{Job: string(tm.appendID(nil, 0, seq)), Output: out})
		require.NoError(t, err)
		_, _, first := y.record("", v, now)
		require.True(t, first)
	}
	enter(0, 999, int64(time.Hour)) // of the warm-up
	for i := int64(1); i <= 1000; i++ {
		enter(i*70_000, 5000, 5000+i*1_000_000) // far numbers: the bitmap has gaps
	}
	require.EqualValues(t, 1000, y.main.TotalCount())
	require.InEpsilon(t, 500_000, y.main.ValueAtPercentile(50), 0.002)
	require.InEpsilon(t, 990_000, y.main.ValueAtPercentile(99), 0.002)
	require.EqualValues(t, 1, y.warm.TotalCount())
	require.EqualValues(t, 1001, y.counts().Outcomes)
	_, _, first := y.record("", []byte("{"), 0)
	require.False(t, first)
	require.EqualValues(t, 1, y.counts().Unreadable)
	require.Equal(t, map[string]int64{"ok": 1001}, y.counts().ByOutcome)
}

func BenchmarkTally(b *testing.B) {
	tm, _ := newTemplate("0123456789ab", "sim-000000", 128)
	y := newTally(tm, 0)
	var w record.ResultWriter
	v, _ := w.Append(nil, record.Msgpack, &record.Result{
		Job: string(tm.appendID(nil, 0, 0)), Node: "sim-000000", Outcome: protocol.OutcomeOK, Attempt: 1, Kind: "echo",
		Output: appendBin(nil, tm.value[tm.argsAt:tm.argsAt+128]), JobMs: 1.7e12, TimeMs: 1.7e12, Member: "m1", Offset: 1e6,
	})
	b.ReportAllocs()
	for b.Loop() {
		y.record("", v, 1)
	}
}

func BenchmarkFill(b *testing.B) {
	tm, _ := newTemplate("0123456789ab", "sim-000000", 128)
	p := newSlots(tm, "t", 1)
	s := p.take(nil, 1)[0]
	b.ReportAllocs()
	for b.Loop() {
		tm.fill(s.value, 1, 2, 3, "sim-000000")
	}
}
