package directory

import (
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// modelNode is a node as the model knows it.
type modelNode struct {
	loc      Location
	stamp    int   // of its last turn at the end of the queue
	untilMs  int64 // of its silence
	silenced bool
}

// model is a directory that looks at every node for every question.
type model struct {
	nodes map[string]*modelNode
	stamp int
}

func (m *model) queue(n *modelNode) {
	m.stamp++
	n.stamp = m.stamp
}

func (m *model) register(gate uint32, r *actors.Registration) (older *Location, current bool) {
	n := m.nodes[r.Node]
	loc := Location{Node: r.Node, Gate: gate, Incarnation: r.Incarnation, Profile: r.Profile}
	if n == nil {
		n = &modelNode{loc: loc}
		m.nodes[r.Node] = n
		m.queue(n)
		return nil, true
	}
	if n.loc.Incarnation > r.Incarnation {
		return nil, false
	}
	if n.loc.Incarnation < r.Incarnation || n.loc.Gate != gate {
		if n.loc.Gate != gate {
			was := n.loc
			older = &was
		}
		m.wake(n)
	}
	changed := !equal(n.loc.Profile, r.Profile)
	n.loc = loc
	if changed && !n.silenced {
		m.queue(n)
	}
	return older, true
}

func (m *model) wake(n *modelNode) {
	if n.silenced {
		n.silenced, n.untilMs = false, 0
		m.queue(n)
	}
}

func (m *model) wakeDue(nowMs int64) {
	var due []*modelNode
	for _, n := range m.nodes {
		if n.silenced && n.untilMs <= nowMs {
			due = append(due, n)
		}
	}
	slices.SortFunc(due, func(x, y *modelNode) int {
		if x.untilMs != y.untilMs {
			return int(x.untilMs - y.untilMs)
		}
		return x.stamp - y.stamp
	})
	for _, n := range due {
		m.wake(n)
	}
}

// match is the selection's definition: of the nodes that are left always the one whose
// ASN has given the fewest, whose town there has given the fewest, and that waits the longest.
func (m *model) match(q *Query, nowMs int64) Found {
	m.wakeDue(nowMs)
	var f Found
	var left []*modelNode
	for _, n := range m.nodes {
		if passed := m.stages(n, q, &f.Funnel); passed == Stages {
			left = append(left, n)
		}
	}
	type town struct {
		asn  uint32
		city string
	}
	nets, towns := map[uint32]int{}, map[town]int{}
	rank := func(n *modelNode) [2]int {
		p := n.loc.Profile
		return [2]int{towns[town{p.ASN, p.City}], n.stamp}
	}
	for len(left) > 0 && len(f.Nodes) < q.Count {
		turn := map[uint32]*modelNode{} // of each ASN
		for _, n := range left {
			x, y := turn[n.loc.Profile.ASN], rank(n)
			if x == nil || slices.Compare(y[:], ranked(rank(x))) < 0 {
				turn[n.loc.Profile.ASN] = n
			}
		}
		var best *modelNode
		for asn, n := range turn {
			if best == nil || slices.Compare([]int{nets[asn], n.stamp}, []int{nets[best.loc.Profile.ASN], best.stamp}) < 0 {
				best = n
			}
		}
		nets[best.loc.Profile.ASN]++
		towns[town{best.loc.Profile.ASN, best.loc.Profile.City}]++
		left = slices.DeleteFunc(left, func(n *modelNode) bool { return n == best })
		f.Nodes = append(f.Nodes, best.loc)
	}
	for i := range f.Nodes {
		m.queue(m.nodes[f.Nodes[i].Node])
	}
	return f
}

func ranked(r [2]int) []int { return r[:] }

// stages counts a node in the funnel, and returns the first stage that it does not pass.
func (m *model) stages(n *modelNode, q *Query, f *Funnel) Stage {
	sel, p := q.Selector, n.loc.Profile
	if sel == nil {
		sel = new(record.Selector)
	}
	pass := [Stages]bool{
		Connected: true,
		Kind:      q.Kind == "" || p.Offers(q.Kind),
		Country:   sel.Country == "" || sel.Country == p.Country,
		City:      sel.City == "" || sel.City == p.City,
		ASN:       sel.ASN == 0 || sel.ASN == p.ASN,
		Platform:  sel.Platform == "" || sel.Platform == p.Platform,
		Tags:      (&record.Selector{Tags: sel.Tags}).Matches(&p.Attributes),
		Answering: !n.silenced,
		Unused:    q.Exclude == nil || !q.Exclude(n.loc.Node),
	}
	for s := range Stages {
		if !pass[s] {
			return s
		}
		f[s]++
	}
	return Stages
}

func (m *model) page(f *Filter, after string, limit int) (page []Location, total int) {
	for _, n := range m.nodes {
		var funnel Funnel
		q := Query{Selector: f.Selector, Kind: f.Kind}
		if m.stages(n, &q, &funnel) >= Answering && strings.HasPrefix(n.loc.Node, f.Prefix) {
			total++
			if n.loc.Node > after {
				page = append(page, n.loc)
			}
		}
	}
	slices.SortFunc(page, func(x, y Location) int { return strings.Compare(x.Node, y.Node) })
	return page[:min(len(page), max(0, limit))], total
}

var (
	drawText  = rapid.SampledFrom([]string{"", "a", "b", "c"})
	drawASN   = rapid.Uint32Range(0, 3)
	drawNode  = rapid.Map(rapid.IntRange(0, 40), func(i int) string { return fmt.Sprint("n", i) })
	drawTags  = rapid.SliceOfN(rapid.SampledFrom([]string{"t1", "t2", "t3", "t4"}), 0, 3) // twice the same, too
	drawKinds = rapid.SliceOfN(rapid.SampledFrom([]string{"ping", "http", "dns"}), 0, 3)
)

var drawGate = rapid.Map(rapid.IntRange(0, 5), func(i int) uint32 { return actors.GateOf(uint16(i/2), uint32(i%2)) })

func drawProfile(t *rapid.T) *actors.Profile {
	return &actors.Profile{
		Agent: rapid.SampledFrom([]string{"v1", "v2"}).Draw(t, "agent"),
		Attributes: protocol.Attributes{
			Country: drawText.Draw(t, "country"), City: drawText.Draw(t, "city"), ASN: drawASN.Draw(t, "asn"),
			Platform: drawText.Draw(t, "platform"), Tags: drawTags.Draw(t, "tags"), Kinds: drawKinds.Draw(t, "kinds"),
		},
	}
}

// drawSelector draws few filters, so that often more than a handful of nodes fit.
func drawSelector(t *rapid.T) *record.Selector {
	s := new(record.Selector)
	for range rapid.IntRange(0, 3).Draw(t, "filters") {
		switch rapid.IntRange(0, 5).Draw(t, "filter") {
		case 0:
			s.Country = drawText.Draw(t, "country")
		case 1:
			s.City = drawText.Draw(t, "city")
		case 2:
			s.ASN = drawASN.Draw(t, "asn")
		case 3:
			s.Platform = drawText.Draw(t, "platform")
		case 4:
			s.Tags = append(s.Tags, rapid.SampledFrom([]string{"t1", "t2", "t3", "t4", "t9"}).Draw(t, "tag"))
		case 5:
			return nil
		}
	}
	return s
}

var drawKind = rapid.SampledFrom([]string{"", "ping", "http", "nobody's"})

// world is a directory, its model and the time.
type world struct {
	*rapid.T
	d     *Directory
	m     model
	nowMs int64
}

func TestDirectoryIsLikeALinearScan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{T: t, nowMs: 1, d: New(), m: model{nodes: map[string]*modelNode{}}}
		if rapid.Bool().Draw(t, "hashes collide") {
			w.d.sum = func(_ maphash.Seed, b []byte) uint64 { return uint64(len(b) % 3) }
		}
		t.Repeat(map[string]func(*rapid.T){
			"register": w.register,
			"storm":    w.storm,
			"depart":   w.depart,
			"gone":     w.gone,
			"silent":   w.silent,
			"answered": w.answered,
			"match":    w.match,
			"page":     w.page,
			"long":     w.long,
			"":         w.check,
		})
	})
}

func (w *world) register(t *rapid.T) { w.registerOne(t, drawProfile(t)) }

// storm registers many nodes with few profiles.
func (w *world) storm(t *rapid.T) {
	profiles := []*actors.Profile{drawProfile(t)}
	for range rapid.IntRange(0, 3).Draw(t, "more of the class") {
		p := *profiles[0]
		p.Tags = drawTags.Draw(t, "tags")
		profiles = append(profiles, &p)
	}
	for range rapid.IntRange(1, 15).Draw(t, "nodes") {
		shared := *rapid.SampledFrom(profiles).Draw(t, "profile") // equal, at another address
		w.registerOne(t, &shared)
	}
}

func (w *world) registerOne(t *rapid.T, p *actors.Profile) {
	r := &actors.Registration{Node: drawNode.Draw(t, "node"), Incarnation: rapid.Uint64Range(1, 5).Draw(t, "incarnation"), Profile: p}
	gate := drawGate.Draw(t, "gate")
	older, current := w.d.Register(gate, r)
	wantOlder, wantCurrent := w.m.register(gate, r)
	require.Equal(t, wantOlder, older)
	require.Equal(t, wantCurrent, current)
}

func (w *world) depart(t *rapid.T) {
	node, incarnation := drawNode.Draw(t, "node"), rapid.Uint64Range(1, 6).Draw(t, "incarnation")
	n := w.m.nodes[node]
	if rapid.Bool().Draw(t, "from a gate") {
		gate := drawGate.Draw(t, "gate")
		w.d.DepartFrom(gate, node, incarnation)
		if n != nil && n.loc.Gate != gate {
			return
		}
	} else {
		w.d.Depart(node, incarnation)
	}
	if n != nil && n.loc.Incarnation <= incarnation {
		delete(w.m.nodes, node)
	}
}

// gone takes all nodes of a member.
func (w *world) gone(t *rapid.T) {
	slot := uint16(rapid.IntRange(0, 3).Draw(t, "slot"))
	w.d.DepartMember(slot)
	for id, n := range w.m.nodes {
		if actors.SlotOf(n.loc.Gate) == slot {
			delete(w.m.nodes, id)
		}
	}
}

func (w *world) silent(t *rapid.T) {
	for range rapid.IntRange(1, 15).Draw(t, "nodes") {
		node, until := drawNode.Draw(t, "node"), w.nowMs+rapid.Int64Range(0, 100).Draw(t, "for")
		w.d.Silent(node, until)
		if n := w.m.nodes[node]; n != nil {
			n.silenced, n.untilMs = true, max(n.untilMs, until)
		}
	}
}

func (w *world) answered(t *rapid.T) {
	node := drawNode.Draw(t, "node")
	w.d.Answered(node)
	if n := w.m.nodes[node]; n != nil {
		w.m.wake(n)
	}
}

func (w *world) match(t *rapid.T) {
	w.nowMs += rapid.Int64Range(0, 10).Draw(t, "pause")
	q := &Query{Selector: drawSelector(t), Kind: drawKind.Draw(t, "kind"), Count: rapid.IntRange(0, 12).Draw(t, "count")}
	if rapid.Bool().Draw(t, "excludes") {
		used := rapid.SliceOfN(drawNode, 0, 20).Draw(t, "used")
		q.Exclude = func(node string) bool { return slices.Contains(used, node) }
	}
	got, want := w.d.Match(q, w.nowMs), w.m.match(q, w.nowMs)
	if len(got.Nodes) < q.Count {
		require.Equal(t, want.Funnel, got.Funnel)
	} else {
		require.Equal(t, want.Funnel[:Unused], got.Funnel[:Unused])
		require.GreaterOrEqual(t, got.Funnel[Unused], want.Funnel[Unused])
		require.LessOrEqual(t, got.Funnel[Unused], want.Funnel[Answering])
	}
	require.Equal(t, want.Nodes, got.Nodes)
	requireFair(t, got.Nodes, w.candidates(q))
}

// candidates are all nodes that fit a query now.
func (w *world) candidates(q *Query) []Location {
	var all []Location
	for _, n := range w.m.nodes {
		if w.m.stages(n, q, new(Funnel)) == Stages {
			all = append(all, n.loc)
		}
	}
	return all
}

func (w *world) page(t *rapid.T) {
	f := &Filter{Selector: drawSelector(t), Kind: drawKind.Draw(t, "kind"), Prefix: rapid.SampledFrom([]string{"", "n", "n1", "x"}).Draw(t, "prefix")}
	after := rapid.OneOf(rapid.Just(""), drawNode).Draw(t, "after")
	limit := rapid.IntRange(-1, 10).Draw(t, "limit")
	got, total := w.d.Page(f, after, limit)
	want, wantTotal := w.m.page(f, after, limit)
	require.Equal(t, wantTotal, total)
	require.Equal(t, len(want), len(got))
	for i := range want {
		require.Equal(t, want[i], got[i])
	}
}

// long lets so much time pass without a search that the index is given up.
func (w *world) long(t *rapid.T) {
	w.d.Forget(w.nowMs)
	w.nowMs += indexForMs + 1
	w.d.Forget(w.nowMs)
	require.False(t, w.d.indexed)
}

func (w *world) check(t *rapid.T) {
	require.Equal(t, len(w.m.nodes), w.d.Len())
	seen := map[string]Location{}
	for loc := range w.d.All {
		seen[loc.Node] = loc
	}
	require.Len(t, seen, len(w.m.nodes))
	for id, n := range w.m.nodes {
		got, ok := w.d.Find(id)
		require.True(t, ok)
		require.Equal(t, n.loc, got)
		require.Equal(t, n.loc, seen[id])
	}
	requireSound(t, w.d)
}

// requireSound checks what the directory's parts say of one another.
func requireSound(t require.TestingT, d *Directory) {
	groups, memberships := 0, 0
	for level := range levels {
		for hash, first := range d.groups[level] {
			for g := first; g != nil; g = g.chain {
				require.Equal(t, hash, g.hash)
				requireQueue(t, d, g, level)
				groups++
				memberships += len(g.in)
				for _, m := range g.in {
					require.Same(t, g, m.posting.groups[m.at])
				}
				for i, v := range g.variants {
					require.Same(t, g, v.class)
					require.Equal(t, i, int(v.at))
				}
			}
		}
	}
	listed := len(d.all.groups)
	for k, p := range d.postings {
		require.Equal(t, k, p.key)
		require.NotEmpty(t, p.groups, "kept though nobody has it")
		listed += len(p.groups)
		sum := 0
		for _, g := range p.groups {
			sum += int(g.nodes)
		}
		require.Equal(t, sum, p.nodes)
	}
	require.Equal(t, memberships, listed)
	if d.indexed {
		require.Equal(t, d.Len(), d.all.nodes)
		require.Empty(t, d.far)
	} else {
		require.Zero(t, memberships)
	}
	held := map[*actors.Profile]int{}
	d.nodes.each(func(n *node) bool { held[n.profile]++; return true })
	for _, f := range d.far {
		require.Positive(t, f.nodes)
		require.LessOrEqual(t, f.nodes, held[f.profile], "of another node")
	}
	for i, s := range d.silences {
		require.Equal(t, i+1, int(d.nodes.at(s.node).silent))
		require.GreaterOrEqual(t, s.untilMs, d.silences[max(0, (i-1)/2)].untilMs)
	}
}

func requireQueue(t require.TestingT, d *Directory, g *group, level int) {
	length, last, stamp := uint32(0), uint32(0), uint64(0)
	for h := g.head; h != 0; h = d.nodes.at(h).links[level].next {
		n := d.nodes.at(h)
		require.Equal(t, last, n.links[level].prev)
		require.Greater(t, n.stamp, stamp)
		require.Zero(t, n.silent)
		length, last, stamp = length+1, h, n.stamp
	}
	require.Equal(t, last, g.tail)
	require.Equal(t, g.nodes-g.silent, length)
	require.NotZero(t, g.nodes)
	if g.head != 0 {
		require.Equal(t, d.nodes.at(g.head).stamp, g.oldest)
	}
}
