//go:build linux

package workload

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

type nodeAddr = netip.AddrPort

func TestTemplateIsWhatTheCodecWouldWrite(t *testing.T) {
	for _, size := range []int{MinSize, 128, 255, 256, 70_000, MaxSize} {
		tm, err := newTemplate("0123456789ab", "sim-000000", size, jobTTL)
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
		got, ok := tm.stamps(j.Args, seq)
		require.True(t, ok)
		require.Equal(t, stamps{sentNs: 987654321}, got)

		_, ok = tm.stamps(j.Args, seq+1)
		require.False(t, ok, "the output of another job")
		_, ok = tm.stamps(j.Args[:len(j.Args)-1], seq)
		require.False(t, ok, "cut short")

		id, args, err := tm.copied(v)
		require.NoError(t, err)
		require.Equal(t, j.ID, id)
		require.Equal(t, []byte(j.Args), args)
		_, _, err = tm.copied(v[1:])
		require.Error(t, err)

		before := clock()
		Stamp(j.Args)
		got, ok = tm.stamps(j.Args, seq)
		require.True(t, ok, "the stamp is no part of what is compared")
		require.EqualValues(t, 987654321, got.sentNs)
		require.True(t, got.receivedNs >= before && got.receivedNs <= clock())
	}
	for _, bad := range []string{"", "0123456789ab", "0123456789ab-abcdef-12345678zz", "1123456789ab-abcdef-123456789a", "0123456789ab-abcdef-123456789a0"} {
		tm := template{run: "0123456789ab"}
		_, _, ok := tm.parseID(bad)
		require.False(t, ok, bad)
	}
}

func TestStampLeavesOthersArgsAlone(t *testing.T) {
	for _, args := range [][]byte{nil, {}, {0xc4}, {0xc0}, {0xc4, 23, 22: 0}, {0x80, 100: 1}, {0xdb, 0, 0, 0, 100, 200: 1}} {
		was := bytes.Clone(args)
		Stamp(args)
		require.Equal(t, was, args)
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
	tm, err := newTemplate("0123456789ab", "n", MinSize, jobTTL)
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
		p.begin(got[0], 7, 99)
		require.Empty(t, p.take(nil, 5), name)
		steps(p, got[0])
		require.Len(t, p.freed, 1, name)
		require.Equal(t, got, p.take(nil, 5), name)
		require.Empty(t, p.take(nil, 5), name)
	}
	p := newSlots(tm, "t", 1)
	s := p.take(nil, 1)[0]
	p.begin(s, 7, 99)
	require.EqualValues(t, 99, p.acked(s, false))
	require.Empty(t, p.take(nil, 1), "the outcome is still due")
}

func TestPercentiles(t *testing.T) {
	tm, err := newTemplate("0123456789ab", "n", MinSize, jobTTL)
	require.NoError(t, err)
	y := newTally(tm, 1000)
	var w record.ResultWriter
	value := bytes.Clone(tm.value)
	outcome := func(seq, sent, received, now int64) {
		tm.fill(value, 0, seq, sent, "n")
		binary.BigEndian.PutUint64(value[tm.argsAt+receivedAt:], uint64(received))
		v, err := w.Append(nil, record.Msgpack, &record.Result{Job: string(tm.appendID(nil, 0, seq)), Output: value[tm.headAt : tm.argsAt+MinSize]})
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
	tm, _ := newTemplate("0123456789ab", "sim-000000", 128, jobTTL)
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
	tm, _ := newTemplate("0123456789ab", "sim-000000", 128, jobTTL)
	p := newSlots(tm, "t", 1)
	s := p.take(nil, 1)[0]
	b.ReportAllocs()
	for b.Loop() {
		tm.fill(s.value, 1, 2, 3, "sim-000000")
	}
}
