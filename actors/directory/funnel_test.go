package directory

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

func TestCauseNamesTheFirstFilterThatLeftTooFew(t *testing.T) {
	nz := &record.Selector{Country: "NZ"}
	full := &record.Selector{Country: "NZ", City: "Palmerston North", ASN: 9500, Platform: "linux/arm64", Tags: []string{"home", "ipv6 only"}}
	for _, c := range []struct {
		funnel          Funnel
		sel             *record.Selector
		kind            string
		missing, wanted int
		want            string
	}{
		{Funnel{120, 40, 2, 2, 2, 2, 2, 2, 0}, nz, "http", 3, 5,
			`3 of 5 nodes missing: of 120 connected nodes 40 offer kind "http", but only 2 of these have country=NZ`},
		{Funnel{120, 40, 1, 1, 1, 1, 1, 1, 0}, nz, "http", 4, 5,
			`4 of 5 nodes missing: of 120 connected nodes 40 offer kind "http", but only 1 of these has country=NZ`},
		{Funnel{120, 40, 0, 0, 0, 0, 0, 0, 0}, nz, "http", 5, 5,
			`5 of 5 nodes missing: of 120 connected nodes 40 offer kind "http", but none of these has country=NZ`},
		{Funnel{120, 2, 1, 1, 1, 1, 1, 1, 1}, nz, "http", 3, 5,
			`3 of 5 nodes missing: of 120 connected nodes only 2 offer kind "http"`},
		{Funnel{120, 0, 0, 0, 0, 0, 0, 0, 0}, nz, "http", 5, 5,
			`5 of 5 nodes missing: of 120 connected nodes none offers kind "http"`},
		{Funnel{}, nz, "http", 5, 5, `5 of 5 nodes missing: no node is connected`},
		{Funnel{1, 1, 1, 1, 1, 1, 1, 1, 0}, nz, "http", 4, 5, `4 of 5 nodes missing: only 1 node is connected`},
		{Funnel{4, 1, 1, 1, 1, 1, 1, 1, 0}, nz, "http", 4, 5, `4 of 5 nodes missing: only 4 nodes are connected`},
		{Funnel{9, 9, 9, 9, 9, 9, 9, 3, 0}, nil, "", 2, 5,
			`2 of 5 nodes missing: of 9 connected nodes only 3 answered when last asked`},
		{Funnel{9, 9, 8, 8, 8, 8, 8, 0, 0}, nz, "", 5, 5,
			`5 of 5 nodes missing: of 9 connected nodes 8 have country=NZ, but none of these answered when last asked`},
		{Funnel{9, 8, 7, 7, 7, 7, 7, 6, 1}, nz, "dns", 2, 5,
			`2 of 5 nodes missing: of 9 connected nodes 8 offer kind "dns", 7 of these have country=NZ, but only 1 of these is not used by this job already`},
		{Funnel{9, 8, 7, 7, 7, 7, 7, 6, 0}, nz, "dns", 2, 5,
			`2 of 5 nodes missing: of 9 connected nodes 8 offer kind "dns", 7 of these have country=NZ, but all are used by this job already`},
		{Funnel{9, 9, 9, 9, 9, 9, 9, 9, 8}, nil, "", 1, 5,
			`1 of 5 nodes missing: 8 of 9 connected nodes fit, but they were found too late`},
		{Funnel{99, 50, 40, 30, 20, 10, 1, 1, 0}, full, "http", 1, 2,
			`1 of 2 nodes missing: of 99 connected nodes 50 offer kind "http", 40 of these have country=NZ, ` +
				`30 of these have city="Palmerston North", 20 of these have asn=9500, 10 of these have platform=linux/arm64, ` +
				`but only 1 of these has tag=home tag="ipv6 only"`},
	} {
		require.Equal(t, c.want, c.funnel.Cause(c.sel, c.kind, c.missing, c.wanted))
	}
}

// TestACauseFitsAResult: whatever a selector may hold.
func TestACauseFitsAResult(t *testing.T) {
	for _, text := range []string{"x", "\xff", "日", "\"", " "} {
		fill := func(n int) string { return strings.Repeat(text, n/len(text)) }
		sel := &record.Selector{Country: fill(3), City: fill(protocol.MaxTextBytes), ASN: 1<<32 - 1, Platform: fill(protocol.MaxTextBytes)}
		for range protocol.MaxTags {
			sel.Tags = append(sel.Tags, fill(protocol.MaxTagBytes))
		}
		f := Funnel{1e9, 1e9, 1e9, 1e9, 1e9, 1e9, 1e9, 1e9, 0}
		cause := f.Cause(sel, fill(protocol.MaxKindBytes), 1, record.MaxTargets)
		require.LessOrEqual(t, len(cause), protocol.MaxErrorBytes)
		require.True(t, strings.HasSuffix(cause, "but all are used by this job already"), cause)
		require.Contains(t, cause, "and 24 more tags")
		require.Equal(t, strings.ToValidUTF8(cause, ""), cause)
	}
}

func TestTheFunnelsOfShardsAddUp(t *testing.T) {
	one, two := New(), New()
	register := func(d *Directory, id, country string, kinds ...string) {
		d.Register(1, &actors.Registration{Node: id, Incarnation: 1, Profile: &actors.Profile{Attributes: protocol.Attributes{Country: country, Kinds: kinds}}})
	}
	register(one, "a", "NZ", "http")
	register(one, "b", "AU", "http")
	register(two, "c", "NZ", "dns")
	register(two, "d", "NZ", "http", "dns")
	sel := &record.Selector{Country: "NZ"}
	q := &Query{Selector: sel, Kind: "http", Count: 3, Exclude: func(n string) bool { return n == "a" }}
	f := one.Match(q, 0)
	f.Funnel.Add(two.Match(q, 0).Funnel)
	require.Equal(t, Funnel{4, 3, 2, 2, 2, 2, 2, 2, 1}, f.Funnel)
	require.Equal(t, `2 of 3 nodes missing: of 4 connected nodes 3 offer kind "http", but only 2 of these have country=NZ`,
		f.Funnel.Cause(sel, "http", 2, 3))
}
