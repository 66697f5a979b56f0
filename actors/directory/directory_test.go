package directory

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol/record"
)

func TestTheNewestSessionIsKept(t *testing.T) {
	d := New()
	reg := func(incarnation uint64) *actors.Registration {
		return &actors.Registration{Node: "n", Incarnation: incarnation, Profile: at("n", 1, "Perth").Profile}
	}
	older, current := d.Register(1, reg(5))
	require.Nil(t, older)
	require.True(t, current)
	older, current = d.Register(1, reg(6))
	require.Nil(t, older, "the gate has replaced it itself")
	require.True(t, current)
	older, current = d.Register(2, reg(8))
	require.Equal(t, &Location{Node: "n", Gate: 1, Incarnation: 6, Profile: reg(6).Profile}, older)
	require.True(t, current)
	_, current = d.Register(1, reg(7))
	require.False(t, current, "stale")
	d.Depart("n", 7)
	loc, ok := d.Find("n")
	require.True(t, ok, "an older session's end is nothing to the newer")
	require.Equal(t, uint32(2), loc.Gate)
	older, current = d.Register(2, reg(8))
	require.Nil(t, older, "announced again, or with a new profile")
	require.True(t, current)
	d.Depart("n", 8)
	_, ok = d.Find("n")
	require.False(t, ok)
	d.Depart("n", 9)
	require.Zero(t, d.Len())
}

func TestEqualProfilesAreHeldOnce(t *testing.T) {
	d := New()
	d.index()
	first, second := at("a", 1, "Perth"), at("b", 1, "Perth")
	require.NotSame(t, first.Profile, second.Profile)
	d.Register(1, &actors.Registration{Node: "a", Incarnation: 1, Profile: first.Profile})
	d.Register(2, &actors.Registration{Node: "b", Incarnation: 1, Profile: second.Profile})
	a, _ := d.Find("a")
	b, _ := d.Find("b")
	require.Same(t, a.Profile, b.Profile)
	require.Len(t, d.groups[variantLevel], 1)
	d.Depart("a", 1)
	d.Depart("b", 1)
	require.Empty(t, d.groups[variantLevel])
	require.Empty(t, d.groups[classLevel])
	require.Empty(t, d.postings)
}

func TestEqualProfilesOfOtherMembersAreHeldOnce(t *testing.T) {
	d := New()
	gate := actors.GateOf(3, 0)
	for _, node := range []string{"a", "b", "c"} {
		d.Register(gate, &actors.Registration{Node: node, Incarnation: 1, Profile: at(node, 1, "Perth").Profile})
	}
	a, _ := d.Find("a")
	b, _ := d.Find("b")
	require.Same(t, a.Profile, b.Profile)
	d.Register(gate, &actors.Registration{Node: "b", Incarnation: 1, Profile: at("b", 1, "Sydney").Profile})
	require.Len(t, d.far, 2)
	require.Len(t, d.Match(&Query{Count: 9}, 1).Nodes, 3)
	require.Empty(t, d.far)
	d.Forget(1 + indexForMs)
	require.True(t, d.indexed)
	d.Forget(2 + indexForMs)
	require.False(t, d.indexed)
	require.Empty(t, d.groups[variantLevel])
	requireSound(t, d)
	for _, node := range []string{"a", "b", "c"} {
		d.Depart(node, 1)
	}
	require.Zero(t, d.Len())
}

func TestMemoryIsGivenBackWhenAllHaveLeft(t *testing.T) {
	d := fleet(chunkNodes+1, profileNumber)
	require.Len(t, d.nodes.chunks, 2)
	for i := range chunkNodes + 1 {
		d.Depart(fmt.Sprintf("node-%07d", i), 1)
	}
	require.Empty(t, d.nodes.chunks)
	require.Empty(t, d.Match(&Query{Count: 1}, 0).Nodes)
	requireSound(t, d)
}

func TestANodeMayHaveNoProfile(t *testing.T) {
	d := New()
	d.Register(1, &actors.Registration{Node: "n", Incarnation: 1})
	loc, ok := d.Find("n")
	require.True(t, ok)
	require.Equal(t, &actors.Profile{}, loc.Profile)
	require.Len(t, d.Match(&Query{Count: 1}, 0).Nodes, 1)
	require.Empty(t, d.Match(&Query{Count: 1, Kind: "http"}, 0).Nodes)
}

func TestAllEndsWhenToldTo(t *testing.T) {
	d := New()
	for _, id := range []string{"a", "b", "c"} {
		d.Register(1, &actors.Registration{Node: id, Incarnation: 1})
	}
	seen := 0
	for range d.All {
		if seen++; seen == 2 {
			break
		}
	}
	require.Equal(t, 2, seen)
}

func TestAwaitIsAnsweredOnce(t *testing.T) {
	d := New()
	d.Await("n", 3, 100)
	d.Await("n", 5, 50)
	d.Await("n", 3, 70)
	require.Equal(t, []uint32{3, 5}, d.Awaited("n"))
	require.Empty(t, d.Awaited("n"))
	require.Empty(t, d.Awaited("other"))
}

func TestForgetDropsWhoWaitsNoMore(t *testing.T) {
	d := New()
	d.Await("early", 1, 100)
	d.Await("late", 1, 100+sweepEveryMs)
	d.Forget(99)
	require.Len(t, d.waiting, 2)
	d.Forget(100)
	require.Len(t, d.waiting, 2, "not at every call")
	d.Forget(99 + sweepEveryMs)
	require.NotContains(t, d.waiting, "early")
	require.Equal(t, []uint32{1}, d.Awaited("late"))
}

func TestASilentNodeIsLeftOut(t *testing.T) {
	d := New()
	register := func(id string, incarnation uint64) {
		d.Register(1, &actors.Registration{Node: id, Incarnation: incarnation, Profile: at(id, 1, "Perth").Profile})
	}
	register("a", 1)
	register("b", 1)
	match := func(nowMs int64) (ids []string, answering int) {
		f := d.Match(&Query{Count: 2}, nowMs)
		for _, l := range f.Nodes {
			ids = append(ids, l.Node)
		}
		return ids, f.Funnel[Answering]
	}
	expect := func(nowMs int64, want ...string) {
		t.Helper()
		ids, answering := match(nowMs)
		require.ElementsMatch(t, want, ids)
		require.Equal(t, len(want), answering)
	}
	d.Silent("nobody", 100)
	d.Silent("a", 100)
	d.Silent("a", 90)
	expect(99, "b")
	_, connected := d.Find("a")
	require.True(t, connected)
	expect(100, "a", "b")

	d.Silent("a", 200)
	register("a", 1)
	expect(150, "b")
	d.Answered("a")
	d.Answered("a")
	d.Answered("nobody")
	expect(150, "a", "b")

	d.Silent("a", 200)
	register("a", 2)
	expect(150, "a", "b")

	d.Silent("a", 200)
	d.Depart("a", 2)
	expect(150, "b")
	expect(300, "b")
	register("a", 3)
	expect(150, "a", "b")
}

func TestAPageOfFewListsTheSilentAsWell(t *testing.T) {
	const nodes, few = 400, 20
	d := fleet(nodes, func(i int) *actors.Profile { return at("", uint32(i%few), "Perth").Profile })
	var want []string
	for i := 7; i < nodes; i += few {
		want = append(want, fmt.Sprintf("node-%07d", i))
		if i%3 == 0 {
			d.Silent(want[len(want)-1], 100)
		}
		d.Silent(fmt.Sprintf("node-%07d", i+1), 100)
	}
	for _, f := range []*Filter{{Selector: &record.Selector{ASN: 7}}, {Selector: &record.Selector{ASN: 7}, Kind: "http", Prefix: "node-"}} {
		var ids []string
		page, total := d.Page(f, "", nodes)
		for i := range page {
			ids = append(ids, page[i].Node)
		}
		require.Equal(t, want, ids)
		require.Equal(t, nodes/few, total)
		page, total = d.Page(f, want[4], 3)
		require.Equal(t, nodes/few, total)
		require.Equal(t, want[5:8], []string{page[0].Node, page[1].Node, page[2].Node})
	}
}
