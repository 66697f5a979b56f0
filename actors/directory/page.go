package directory

import (
	"slices"
	"strings"

	"github.com/roost-server/roost/protocol/record"
)

// Filter says which nodes a [Directory.Page] lists.
type Filter struct {
	Selector *record.Selector // nil: any
	Kind     string           // that they offer; empty: any
	Prefix   string           // of their ids
}

// Page returns, in the order of their ids, the first limit nodes that pass the filter and have an
// id greater than after, and how many pass it in all. Silent nodes are listed as well.
// It looks at all nodes that fit selector and kind, but sorts no more than it returns.
func (d *Directory) Page(f *Filter, after string, limit int) (page []Location, total int) {
	s := searches.Get().(*search)
	defer s.release()
	var funnel Funnel
	groups, level := d.fitting(s, f.Selector, f.Kind, &funnel)
	if total = funnel[Tags]; total == 0 || limit <= 0 && f.Prefix == "" {
		return nil, total
	}
	top := smallest{d: d, picked: s.picked, limit: max(0, limit), after: after}
	d.each(groups, level, total, func(h uint32, n *node) {
		if f.Prefix == "" {
			top.offer(h, n.id)
		} else if strings.HasPrefix(n.id, f.Prefix) {
			top.total++
			top.offer(h, n.id)
		}
	})
	if f.Prefix != "" {
		total = top.total
	}
	s.picked = top.picked
	slices.SortFunc(s.picked, func(x, y uint32) int { return strings.Compare(d.nodes.at(x).id, d.nodes.at(y).id) })
	for _, h := range s.picked {
		page = append(page, d.nodes.at(h).location())
	}
	return page, total
}

// smallest collects the nodes with the smallest ids in a heap, the greatest on top.
type smallest struct {
	d      *Directory
	picked []uint32
	limit  int
	total  int
	after  string
}

func (s *smallest) offer(h uint32, id string) {
	switch {
	case s.limit == 0 || id <= s.after:
	case len(s.picked) < s.limit:
		if s.picked = append(s.picked, h); len(s.picked) == s.limit {
			for i := s.limit/2 - 1; i >= 0; i-- {
				siftDown(s.picked, i, s.greater)
			}
		}
	case id < s.d.nodes.at(s.picked[0]).id:
		s.picked[0] = h
		siftDown(s.picked, 0, s.greater)
	}
}

func (s *smallest) greater(a, b uint32) bool { return s.d.nodes.at(a).id > s.d.nodes.at(b).id }

// each visits the nodes of groups of a level, count in all. Most of the nodes are met
// faster in the order of memory; few, along their queues, and among the silent.
func (d *Directory) each(groups []*group, level, count int, visit func(h uint32, n *node)) {
	d.searches++
	for _, g := range groups {
		g.mark = d.searches
	}
	member := func(n *node) bool {
		g := n.variant
		if g != nil && level == classLevel {
			g = g.class
		}
		return g != nil && g.mark == d.searches
	}
	if count > d.Len()/8 {
		for h := uint32(1); h <= d.nodes.used; h++ {
			if n := d.nodes.at(h); member(n) {
				visit(h, n)
			}
		}
		return
	}
	for _, g := range groups {
		for h := g.head; h != 0; {
			n := d.nodes.at(h)
			visit(h, n)
			h = n.links[level].next
		}
	}
	for _, x := range d.silences {
		if n := d.nodes.at(x.node); member(n) {
			visit(x.node, n)
		}
	}
}
