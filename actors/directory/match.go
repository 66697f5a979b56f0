package directory

import (
	"slices"
	"sync"

	"github.com/roost-server/roost/protocol/record"
)

// Query asks for nodes.
type Query struct {
	Selector *record.Selector // nil: any node; its own count means nothing here
	Kind     string           // that the nodes offer; empty: any
	Count    int              // how many at most; 0: the funnel alone

	// Exclude, if not nil, leaves out the nodes for which it returns true. It is asked
	// about those that are about to be chosen only, and must not call the directory.
	Exclude func(node string) bool
}

// Found is the answer to a [Query].
type Found struct {
	Nodes  []Location // in the order of choice: each beginning is spread as well
	Funnel Funnel
}

// Match chooses up to q.Count nodes that fit, spread as [Spread] does it, and of those
// that are equal in this the ones that were chosen longest ago. They count as chosen now.
// Fewer are returned only when no others fit.
func (d *Directory) Match(q *Query, nowMs int64) Found {
	d.wakeDue(nowMs)
	d.searchedMs = nowMs
	s := searches.Get().(*search)
	var f Found
	groups, level := d.fitting(s, q.Selector, q.Kind, &f.Funnel)
	for _, g := range groups {
		f.Funnel[Answering] += int(g.nodes - g.silent)
	}
	used := 0
	if count := min(q.Count, f.Funnel[Answering]); count > 0 {
		used = d.pick(s, groups, level, count, q.Exclude)
		f.Nodes = slices.Grow(f.Nodes, len(s.picked))
		for _, h := range s.picked {
			d.unqueue(h)
			d.queue(h)
			f.Nodes = append(f.Nodes, d.nodes.at(h).location())
		}
	}
	f.Funnel[Unused] = f.Funnel[Answering] - used
	s.release()
	return f
}

// search is the scratch of one search.
type search struct {
	filters  []filter
	tags     []*posting // those that not every node has
	classes  []*group
	variants []*group
	nets     []net
	towns    []town
	lanes    []lane
	open     []int32 // the heaps of nets, towns and lanes
	picked   []uint32
}

// searches are shared by all directories, each of which needs one now and then.
var searches = sync.Pool{New: func() any { return new(search) }}

// maxPooled keeps a search over very many groups from pinning its memory in the pool.
const maxPooled = 1 << 17

func (s *search) release() {
	if cap(s.classes)+cap(s.variants)+cap(s.lanes)+cap(s.picked) > maxPooled {
		return
	}
	clear(s.filters)
	clear(s.tags)
	clear(s.classes)
	clear(s.variants)
	s.filters, s.tags, s.classes, s.variants = s.filters[:0], s.tags[:0], s.classes[:0], s.variants[:0]
	s.nets, s.towns, s.lanes, s.open, s.picked = s.nets[:0], s.towns[:0], s.lanes[:0], s.open[:0], s.picked[:0]
	searches.Put(s)
}

// filter is what a search asks of classes, and how many nodes pass it and all before.
type filter struct {
	posting *posting
	stage   Stage
	reached int
}

// fitting returns the groups whose nodes fit, all of one level, and fills in the funnel
// down to the tags. The groups are the search's or a posting's: not to be changed, nor kept.
func (d *Directory) fitting(s *search, sel *record.Selector, kind string, f *Funnel) (groups []*group, level int) {
	d.index()
	if sel == nil {
		sel = &anyNode
	}
	d.narrow(s, kind != "", key{about: Kind, text: kind})
	d.narrow(s, sel.Country != "", key{about: Country, text: sel.Country})
	d.narrow(s, sel.City != "", key{about: City, text: sel.City})
	d.narrow(s, sel.ASN != 0, key{about: ASN, number: sel.ASN})
	d.narrow(s, sel.Platform != "", key{about: Platform, text: sel.Platform})
	classes := d.classes(s)
	f[Connected] = d.Len()
	reached, next := d.Len(), 0
	for stage := Kind; stage <= Platform; stage++ {
		if next < len(s.filters) && s.filters[next].stage == stage {
			reached = s.filters[next].reached
			next++
		}
		f[stage] = reached
	}
	f[Tags] = reached
	for _, tag := range sel.Tags {
		if p := d.posting(key{about: Tags, text: tag}); p.nodes < d.Len() {
			s.tags = append(s.tags, p)
		}
	}
	if len(s.tags) == 0 || reached == 0 {
		return classes, classLevel
	}
	variants := d.tagged(s, classes)
	f[Tags] = 0
	for _, v := range variants {
		f[Tags] += int(v.nodes)
	}
	return variants, variantLevel
}

var anyNode record.Selector

func (d *Directory) posting(k key) *posting {
	if p := d.postings[k]; p != nil {
		return p
	}
	return &nothing
}

// narrow adds a filter to a search, unless it is not given or every node passes it.
func (d *Directory) narrow(s *search, given bool, k key) {
	if !given {
		return
	}
	if p := d.posting(k); p.nodes < d.Len() {
		s.filters = append(s.filters, filter{posting: p, stage: k.about})
	}
}

// classes returns the classes that pass all filters, and counts what each filter leaves.
// To count what is left after two takes a walk over the smaller of them, and this meets all that
// pass the rest.
func (d *Directory) classes(s *search) []*group {
	switch len(s.filters) {
	case 0:
		return d.all.groups
	case 1:
		s.filters[0].reached = s.filters[0].posting.nodes
		return s.filters[0].posting.groups
	}
	first, second := s.filters[0].posting, s.filters[1].posting
	s.filters[0].reached = first.nodes
	walk, other, rest := first.groups, second, s.filters[2:]
	if len(second.groups) < len(walk) {
		walk, other = second.groups, first
	}
	both := 0
	for _, c := range walk {
		if !c.has(other) {
			continue
		}
		both += int(c.nodes)
		if c.pass(rest) {
			s.classes = append(s.classes, c)
		}
	}
	s.filters[1].reached = both
	return s.classes
}

// pass counts a class's nodes in the filters that it passes, up to the first that it does
// not.
func (g *group) pass(filters []filter) bool {
	for i := range filters {
		if !g.has(filters[i].posting) {
			return false
		}
		filters[i].reached += int(g.nodes)
	}
	return true
}

// tagged returns the variants of the classes that have all tags, from whatever is fewer:
// the variants that have the rarest tag, or those of the classes.
func (d *Directory) tagged(s *search, classes []*group) []*group {
	rarest := s.tags[0]
	for _, p := range s.tags[1:] {
		if len(p.groups) < len(rarest.groups) {
			rarest = p
		}
	}
	if fewer(rarest.groups, classes) {
		for _, v := range rarest.groups {
			if v.hasAll(s.tags) && v.class.fits(s.filters) {
				s.variants = append(s.variants, v)
			}
		}
	} else {
		for _, c := range classes {
			for _, v := range c.variants {
				if v.hasAll(s.tags) {
					s.variants = append(s.variants, v)
				}
			}
		}
	}
	return s.variants
}

// fewer reports whether there are no more variants than the classes have.
func fewer(variants, classes []*group) bool {
	left := len(variants)
	for _, c := range classes {
		if left -= len(c.variants); left <= 0 {
			return true
		}
	}
	return false
}

func (g *group) hasAll(tags []*posting) bool {
	for _, p := range tags {
		if !g.has(p) {
			return false
		}
	}
	return true
}

func (g *group) fits(filters []filter) bool {
	for i := range filters {
		if !g.has(filters[i].posting) {
			return false
		}
	}
	return true
}
