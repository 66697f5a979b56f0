package directory

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// fleet registers nodes with a profile by number.
func fleet(nodes int, profile func(i int) *actors.Profile) *Directory {
	d := New()
	for i := range nodes {
		d.Register(uint32(i%4), &actors.Registration{Node: fmt.Sprintf("node-%07d", i), Incarnation: 1, Profile: profile(i)})
	}
	return d
}

func TestChoosingOneByOneGoesRoundAllThatFit(t *testing.T) {
	d := fleet(100, func(i int) *actors.Profile { // ASNs of very different sizes
		return &actors.Profile{Attributes: protocol.Attributes{Country: "AU", ASN: uint32(i * i / 1000), City: fmt.Sprint(i % 3), Tags: []string{fmt.Sprint(i % 2)}}}
	})
	for _, sel := range []*record.Selector{nil, {Country: "AU"}, {Tags: []string{"1"}}, {ASN: 9}, {City: "2", Tags: []string{"0"}}} {
		var first []string
		total := d.Match(&Query{Selector: sel}, 0).Funnel[Answering]
		for round := range 3 {
			var ids []string
			seen := map[string]bool{}
			for range total {
				f := d.Match(&Query{Selector: sel, Count: 1}, 0)
				require.Len(t, f.Nodes, 1)
				require.False(t, seen[f.Nodes[0].Node], "again before all others")
				seen[f.Nodes[0].Node] = true
				ids = append(ids, f.Nodes[0].Node)
			}
			if round == 0 {
				first = ids
			}
			require.Equal(t, first, ids)
		}
	}
}

func TestChoosingManyGoesRoundAllThatFit(t *testing.T) {
	const nodes, count = 60, 7
	d := fleet(nodes, func(i int) *actors.Profile { // 12 ASNs of 5: the spread lets each come equally often
		return &actors.Profile{Attributes: protocol.Attributes{ASN: uint32(1 + i%12)}}
	})
	times := map[string]int{}
	for range nodes {
		for _, l := range d.Match(&Query{Count: count}, 0).Nodes {
			times[l.Node]++
		}
		least, most := nodes, 0
		for i := range nodes {
			n := times[fmt.Sprintf("node-%07d", i)]
			least, most = min(least, n), max(most, n)
		}
		require.LessOrEqual(t, most-least, 1)
	}
}

// TestOneNodeIsChosenAgainOnlyAfterTheOthers: whatever is asked for in between.
func TestOneNodeIsChosenAgainOnlyAfterTheOthers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := make([]Location, rapid.IntRange(1, 20).Draw(t, "nodes"))
		d := New()
		for i := range nodes {
			nodes[i] = Location{Node: fmt.Sprint("n", i), Profile: drawProfile(t), Incarnation: 1}
			d.Register(0, &actors.Registration{Node: nodes[i].Node, Incarnation: 1, Profile: nodes[i].Profile})
		}
		chosen := map[string]int{} // when
		for turn := range 60 {
			q := &Query{Selector: drawSelector(t), Kind: drawKind.Draw(t, "kind"), Count: 1}
			sel := q.Selector
			if sel == nil {
				sel = new(record.Selector)
			}
			for _, l := range d.Match(q, 0).Nodes {
				for i := range nodes {
					p := nodes[i].Profile
					if sel.Matches(&p.Attributes) && (q.Kind == "" || p.Offers(q.Kind)) {
						require.LessOrEqual(t, chosen[l.Node], chosen[nodes[i].Node], "%s before %s", l.Node, nodes[i].Node)
					}
				}
				chosen[l.Node] = turn + 1
			}
		}
	})
}

func TestANodeThatReconnectsIsNotPreferred(t *testing.T) {
	d := fleet(10, func(int) *actors.Profile { return at("", 1, "Perth").Profile })
	times := map[string]int{}
	for i := range 90 {
		d.Depart("node-0000003", uint64(i+1))
		d.Register(1, &actors.Registration{Node: "node-0000003", Incarnation: uint64(i + 2), Profile: at("", 1, "Perth").Profile})
		times[d.Match(&Query{Count: 1}, 0).Nodes[0].Node]++
	}
	require.Len(t, times, 9)
	for id, n := range times {
		require.Equal(t, 10, n, id)
	}
}

// TestAMatchLooksAtFewNodes: what it looks at one by one it asks Exclude about.
func TestAMatchLooksAtFewNodes(t *testing.T) {
	const nodes, nets, count = 50_000, 50, 10
	d := fleet(nodes, func(i int) *actors.Profile {
		return &actors.Profile{Attributes: protocol.Attributes{ASN: uint32(i % nets), City: fmt.Sprint(i % 200), Kinds: []string{"http"}}}
	})
	asked := map[string]int{}
	var last string
	for range 100 {
		clear(asked)
		f := d.Match(&Query{Kind: "http", Count: count, Exclude: func(n string) bool { asked[n]++; return n == last }}, 0)
		require.Len(t, f.Nodes, count)
		require.Equal(t, nodes, f.Funnel[Answering])
		require.LessOrEqual(t, len(asked), 2*count+1)
		for _, times := range asked {
			require.Equal(t, 1, times)
		}
		last = f.Nodes[0].Node
	}
}
