package directory

// A choice goes down three levels, by a heap at each: of all nets the one that has given
// the fewest nodes, of its towns the one that has given the fewest, and of that town's lanes the
// one with the node that was chosen longest ago. Between equals the age of the node that
// would come next decides. Only nets and towns that come to the top are looked into.
type (
	// net is an ASN. Its first node in turn has the stamp.
	net struct {
		stamp uint64
		taken int32
		towns int32   // the last one met, which links to the others
		count int32   // of towns
		heap  []int32 // of towns, once opened
	}
	// town is a city of an ASN.
	town struct {
		stamp uint64
		taken int32
		net   int32
		next  int32 // of the net's towns; -1: none
		lanes int32
		count int32
		heap  []int32
	}
	// lane is a group's queue, and how far it is taken.
	lane struct {
		stamp uint64
		node  uint32 // the next one
		next  int32  // of the town's lanes; -1: none
	}
)

// picker is one choice.
type picker struct {
	*search
	d        *Directory
	level    int // of the groups that the lanes are queues of
	exclude  func(node string) bool
	excluded int
}

// pick finds up to count nodes of groups of a level and leaves their handles in s.picked.
// It returns how many were passed over because they are excluded.
func (d *Directory) pick(s *search, groups []*group, level, count int, exclude func(string) bool) (excluded int) {
	d.arrange(s, groups)
	p := picker{search: s, d: d, level: level, exclude: exclude}
	top := s.carve(len(s.nets))
	for i := range s.nets {
		top = append(top, int32(i))
	}
	heapify(top, p.netLess)
	for len(top) > 0 && len(s.picked) < count {
		n := &s.nets[top[0]]
		if n.heap == nil { // it may be the turn of another when its excluded ones are gone
			p.openNet(n)
		} else {
			s.picked = append(s.picked, p.front(n).node)
			n.taken++
			p.advance(n, 1)
		}
		for len(n.heap) > 0 && p.exclude != nil && p.exclude(d.nodes.at(p.front(n).node).id) {
			p.excluded++
			p.advance(n, 0)
		}
		top = settle(top, len(n.heap) == 0, p.netLess)
	}
	return p.excluded
}

// front returns the lane that has the net's next node.
func (p *picker) front(n *net) *lane { return &p.lanes[p.towns[n.heap[0]].heap[0]] }

// advance goes on to the net's next node. The one before counts for its town as often
// as it was taken.
func (p *picker) advance(n *net, taken int32) {
	t := &p.towns[n.heap[0]]
	l := &p.lanes[t.heap[0]]
	if l.node = p.d.nodes.at(l.node).links[p.level].next; l.node != 0 {
		l.stamp = p.d.nodes.at(l.node).stamp
	}
	t.heap = settle(t.heap, l.node == 0, p.laneLess)
	if len(t.heap) > 0 {
		t.stamp = p.lanes[t.heap[0]].stamp
	}
	t.taken += taken
	n.heap = settle(n.heap, len(t.heap) == 0, p.townLess)
	if len(n.heap) == 0 {
		return
	}
	t = &p.towns[n.heap[0]]
	p.openTown(t)
	n.stamp = t.stamp
}

func (p *picker) openNet(n *net) {
	n.heap = p.carve(int(n.count))
	for i := n.towns; i >= 0; i = p.towns[i].next {
		n.heap = append(n.heap, i)
	}
	heapify(n.heap, p.townLess)
	p.openTown(&p.towns[n.heap[0]])
}

// openTown makes a town ready to give nodes, once.
func (p *picker) openTown(t *town) {
	if t.heap != nil {
		return
	}
	t.heap = p.carve(int(t.count))
	for i := t.lanes; i >= 0; i = p.lanes[i].next {
		t.heap = append(t.heap, i)
	}
	heapify(t.heap, p.laneLess)
}

func (p *picker) netLess(a, b int32) bool {
	x, y := &p.nets[a], &p.nets[b]
	return x.taken < y.taken || x.taken == y.taken && x.stamp < y.stamp
}

func (p *picker) townLess(a, b int32) bool {
	x, y := &p.towns[a], &p.towns[b]
	return x.taken < y.taken || x.taken == y.taken && x.stamp < y.stamp
}

func (p *picker) laneLess(a, b int32) bool { return p.lanes[a].stamp < p.lanes[b].stamp }

// arrange sorts the queues of groups by net and town.
func (d *Directory) arrange(s *search, groups []*group) {
	d.searches++
	for _, g := range groups {
		if g.head == 0 {
			continue
		}
		c := g
		if g.class != nil {
			c = g.class
		}
		if c.net.mark != d.searches {
			c.net.mark, c.net.index = d.searches, int32(len(s.nets))
			s.nets = append(s.nets, net{stamp: g.oldest, towns: -1})
		}
		if c.town.mark != d.searches {
			c.town.mark, c.town.index = d.searches, int32(len(s.towns))
			n := &s.nets[c.net.index]
			s.towns = append(s.towns, town{stamp: g.oldest, net: c.net.index, next: n.towns, lanes: -1})
			n.towns = c.town.index
			n.count++
		}
		t := &s.towns[c.town.index]
		n := &s.nets[t.net]
		s.lanes = append(s.lanes, lane{stamp: g.oldest, node: g.head, next: t.lanes})
		t.lanes = int32(len(s.lanes) - 1)
		t.count++
		t.stamp, n.stamp = min(t.stamp, g.oldest), min(n.stamp, g.oldest)
	}
	// Each net, town and lane is in one heap at most: this never grows while they are cut from it.
	if need := len(s.nets) + len(s.towns) + len(s.lanes); cap(s.open) < need {
		s.open = make([]int32, 0, need)
	}
}

// carve cuts an empty heap with room for n out of the scratch.
func (s *search) carve(n int) []int32 {
	start := len(s.open)
	s.open = s.open[:start+n]
	return s.open[start : start : start+n]
}

// settle restores a heap whose first one has changed, or is to go.
func settle(h []int32, gone bool, less func(a, b int32) bool) []int32 {
	if gone {
		last := len(h) - 1
		h[0] = h[last]
		h = h[:last]
	}
	siftDown(h, 0, less)
	return h
}

func heapify(h []int32, less func(a, b int32) bool) {
	for i := len(h)/2 - 1; i >= 0; i-- {
		siftDown(h, i, less)
	}
}

// siftDown moves one down a binary heap until none below it is less.
func siftDown[T any](h []T, i int, less func(a, b T) bool) {
	for {
		child := 2*i + 1
		if child >= len(h) {
			return
		}
		if child+1 < len(h) && less(h[child+1], h[child]) {
			child++
		}
		if !less(h[child], h[i]) {
			return
		}
		h[i], h[child] = h[child], h[i]
		i = child
	}
}
