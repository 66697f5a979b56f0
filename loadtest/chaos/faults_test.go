//go:build linux

package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPlan(t *testing.T) {
	t.Parallel()
	cards := 0
	for _, f := range faults {
		cards += f.cards
	}
	a, b, c := makePlan(1, 10*cards), makePlan(1, 10*cards), makePlan(2, 10*cards)
	require.Equal(t, names(a), names(b))
	require.NotEqual(t, names(a), names(c))
	require.Equal(t, names(a)[:cards], names(makePlan(1, cards)), "a longer plan begins like a short one")
	counts := map[string]int{}
	for i := range a {
		require.Equal(t, a[i].seed, b[i].seed)
		require.Equal(t, a[i].pause, b[i].pause)
		counts[a[i].sort.name]++
	}
	for _, f := range faults {
		require.Equal(t, 10*f.cards, counts[f.name])
	}
}

func TestPlanOfSomeSorts(t *testing.T) {
	t.Parallel()
	only := []string{"member killed", "broker killed"}
	require.Subset(t, only, names(makePlan(1, 9, only...)))
}

func names(p []plan) (list []string) {
	for i := range p {
		list = append(list, p[i].sort.name)
	}
	return list
}

func TestTracker(t *testing.T) {
	t.Parallel()
	tr := newTracker()
	tr.submitted("a", 2)
	tr.submitted("a", 2) // its duplicate
	tr.outcome("b", 0, "ok")
	acked, outcomes, open := tr.counts()
	require.Equal(t, []int{2, 1, 2}, []int{acked, outcomes, open})
	tr.submitted("b", 1) // the answer came after the outcome
	tr.outcome("a", 1, "ok")
	tr.outcome("a", 1, "ok")
	require.Equal(t, []string{"a"}, tr.some(5))
	tr.outcome("a", 0, "lost")
	acked, outcomes, open = tr.counts()
	require.Equal(t, []int{3, 3, 0}, []int{acked, outcomes, open})
	require.Empty(t, tr.some(5))
}
