//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/loadtest/chaos/checker"
	"github.com/roost-server/roost/loadtest/chaos/nodes"
	"github.com/roost-server/roost/loadtest/internal/suite"
	"github.com/roost-server/roost/protocol/record"
)

func TestHistory(t *testing.T) {
	t0 := time.UnixMilli(1_790_000_000_000)
	at := func(ms int) time.Time { return t0.Add(time.Duration(ms) * time.Millisecond) }
	dir := t.TempDir()
	s := &stage{runner: &runner{}, result: &outcome{}}
	for i, lines := range [][]string{
		{"0 up a m1 ", "1 up b m2 ", "500 down a m1 connection reset", "2500 up a m3 ", "2600 down c m3 EOF"},
		{"100 up c m3 ", "2700 up c m1 ", "9000 up d"}, // the last is cut
	} {
		path := filepath.Join(dir, fmt.Sprint(i))
		f, err := os.Create(path)
		require.NoError(t, err)
		for _, l := range lines {
			var ms int64
			var rest string
			_, err := fmt.Sscanf(l, "%d", &ms)
			require.NoError(t, err)
			rest = l[len(fmt.Sprint(ms)):]
			fmt.Fprintf(f, "%d%s\n", t0.UnixMilli()+ms, rest)
		}
		require.NoError(t, f.Close())
		s.fleets = append(s.fleets, &fleet{stage: s, sessions: path})
	}
	h := s.history()
	require.Len(t, h, 7)
	require.Equal(t, map[string]bool{"a": true}, h.at("m1", at(400)))
	require.Empty(t, h.at("m1", at(600)))
	require.Equal(t, map[string]bool{"c": true}, h.at("m3", at(2400)))

	took, spread := h.returned(map[string]bool{"a": true, "c": true, "lost": true}, at(450))
	require.Equal(t, []time.Duration{2050 * time.Millisecond, 2250 * time.Millisecond}, took)
	require.Equal(t, "m1 1, m3 1", describe(spread))
	require.Equal(t, 3, h.busiest(at(0), at(3000)), "a, b and c within 100 ms")
	require.Equal(t, 2, h.busiest(at(200), at(3000)))

	require.Equal(t, 1, h.ups("m3", at(100), at(3000)), "c began at 100, which is not after")

	e := &event{stage: s, hit: []*member{{Member: suite.NewMember("m1", suite.Host{})}}}
	fell := h.downs(at(0), at(3000), func(c *nodes.Change) bool { return !e.isHit(c.Member) })
	require.Equal(t, "m3: EOF", fell.examples())
}

func TestLoad(t *testing.T) {
	l := newLoad(4)
	job := func(id, node string) {
		l.made(&checker.Submission{What: checker.Job, Class: plain, ID: id, Nodes: []string{node}})
	}
	result := func(id, node, member string) {
		l.written(id)
		l.seen(checker.Seen{Job: id, Node: node, Member: member, Partition: record.Partition(node, 4)})
	}
	begin := time.Now()
	job("j1", "a")
	result("j1", "a", "m1") // ahead of its acknowledgement
	require.Zero(t, l.open())
	l.acked("j1", 1)
	require.Zero(t, l.open())
	job("j2", "a")
	l.acked("j2", 1)
	l.acked("j2", 1) // its second record
	require.Equal(t, 1, l.open())
	require.Equal(t, []string{"j2"}, l.some(5))

	p := record.Partition("a", 4)
	require.Equal(t, map[int32]string{p: "m1"}, l.owners())
	lost := time.Now()
	took, none := l.moved(l.owners(), lost)
	require.Empty(t, took)
	require.Equal(t, 1, none)
	result("j2", "a", "m2")
	result("j2", "a", "m2") // once more: not counted
	took, none = l.moved(map[int32]string{p: "m1"}, lost)
	require.Len(t, took, 1)
	require.Zero(t, none)
	assignments, outcomes := l.counts()
	require.Equal(t, []int{2, 2, 0}, []int{assignments, outcomes, l.open()})

	wrote, committed := l.latencies(begin, time.Now(), func(partition int32, node string) bool { return partition == p && node == "a" })
	require.Len(t, wrote, 2)
	require.Len(t, committed, 2)
	for i := range wrote {
		require.LessOrEqual(t, wrote[i], committed[i])
	}
	require.Positive(t, l.longestPause(begin, time.Now(), func(q int32) bool { return q == p }))
	require.EqualValues(t, 30, quantile([]time.Duration{10, 20, 30}, 0.99))
	require.Zero(t, quantile(nil, 0.99))
}
