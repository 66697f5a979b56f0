package directory

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
)

// requireFair checks that each beginning of what was chosen is spread: over ASNs, and
// within each over its cities.
func requireFair(t require.TestingT, chosen, candidates []Location) {
	byASN := func(l Location) string { return fmt.Sprint(l.Profile.ASN) }
	byTown := func(l Location) string { return fmt.Sprint(l.Profile.ASN, l.Profile.City) }
	nets := sizes(candidates, byASN)
	towns := map[string]map[string]int{}
	for _, c := range candidates {
		towns[byASN(c)] = sizes(candidates, func(l Location) string {
			if byASN(l) == byASN(c) {
				return byTown(l)
			}
			return ""
		})
	}
	for i := range chosen {
		part := chosen[:i+1]
		requireEven(t, sizes(part, byASN), nets)
		of := byASN(chosen[i])
		within := sizes(part, func(l Location) string {
			if byASN(l) == of {
				return byTown(l)
			}
			return ""
		})
		requireEven(t, within, towns[of])
	}
}

// requireEven checks that no one has given two more than another that has one left.
func requireEven(t require.TestingT, taken, available map[string]int) {
	most := 0
	for _, n := range taken {
		most = max(most, n)
	}
	for who, has := range available {
		require.LessOrEqual(t, taken[who], has)
		if taken[who] < has {
			require.GreaterOrEqual(t, taken[who], most-1, "%s has given %d of %d, another %d", who, taken[who], has, most)
		}
	}
}

// sizes counts by a name; what has none is not counted.
func sizes(list []Location, name func(Location) string) map[string]int {
	out := map[string]int{}
	for _, l := range list {
		if n := name(l); n != "" {
			out[n]++
		}
	}
	return out
}

func at(node string, asn uint32, city string) Location {
	return Location{Node: node, Profile: &actors.Profile{Attributes: protocol.Attributes{ASN: asn, City: city, Kinds: []string{"http"}}}}
}

func TestSpread(t *testing.T) {
	list := []Location{
		at("a1", 1, "Perth"), at("a2", 1, "Perth"), at("a3", 1, "Sydney"), at("a4", 1, "Perth"),
		at("b1", 2, "Perth"), at("b2", 2, "Perth"),
		at("c1", 0, ""),
	}
	names := func(count int) (out []string) {
		for _, l := range Spread(list, count) {
			out = append(out, l.Node)
		}
		return out
	}
	require.Empty(t, names(0))
	require.Empty(t, names(-1))
	require.Equal(t, []string{"a1"}, names(1))
	require.Equal(t, []string{"a1", "b1", "c1"}, names(3))
	require.Equal(t, []string{"a1", "b1", "c1", "a3", "b2"}, names(5), "the other city of the ASN first")
	require.Equal(t, []string{"a1", "b1", "c1", "a3", "b2", "a2"}, names(6))
	require.Len(t, names(7), 7)
	require.Equal(t, list, Spread(list, 8))
}

func TestSpreadIsFair(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := make([]Location, rapid.IntRange(0, 60).Draw(t, "candidates"))
		for i := range list {
			list[i] = at(fmt.Sprint(i), drawASN.Draw(t, "asn"), drawText.Draw(t, "city"))
		}
		count := rapid.IntRange(0, 60).Draw(t, "count")
		before := slices.Clone(list)
		chosen := Spread(list, count)
		require.Equal(t, before, list, "the candidates are left as they are")
		require.Len(t, chosen, min(count, len(list)))
		seen := map[string]bool{}
		for _, c := range chosen {
			require.False(t, seen[c.Node], "twice")
			seen[c.Node] = true
		}
		if count < len(list) {
			requireFair(t, chosen, list)
		}
	})
}
