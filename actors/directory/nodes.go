package directory

import "github.com/roost-server/roost/actors"

// A node is in two groups: its variant and, at the level above, its class.
const (
	variantLevel = iota
	classLevel
	levels
)

// node is one connected node. Its size is the directory's cost: keep it at 72 bytes.
type node struct {
	id          string
	incarnation uint64
	stamp       uint64          // larger than those of all nodes chosen before
	profile     *actors.Profile // nil: the record is free
	variant     *group          // nil without an index
	links       [levels]link    // in the queues of its variant and class, unless silent
	gate        uint32
	silent      uint32 // 1 + its place in Directory.silences; 0 when it is not silent
}

// link holds a node's neighbours in a queue: handles, 0 for none.
type link struct{ prev, next uint32 }

func (n *node) location() Location {
	return Location{Node: n.id, Gate: n.gate, Incarnation: n.incarnation, Profile: n.profile}
}

// chunkNodes is how many records are allocated at once: 8 KiB, a size class of Go's
// allocator, and little for a shard with few nodes. Records never move, so that growing does
// not copy them.
const chunkNodes = 8 << 10 / 72

// nodes gives out records, named by handles: position + 1.
type nodes struct {
	chunks []*[chunkNodes]node
	used   uint32 // records given out so far, free ones included
	vacant uint32 // a free record, which links to the next; 0: none
}

func (s *nodes) at(h uint32) *node {
	i := h - 1
	return &s.chunks[i/chunkNodes][i%chunkNodes]
}

// take returns the handle of a record that is to be filled.
func (s *nodes) take() uint32 {
	if h := s.vacant; h != 0 {
		s.vacant = s.at(h).links[0].next
		return h
	}
	if s.used%chunkNodes == 0 {
		s.chunks = append(s.chunks, new([chunkNodes]node))
	}
	s.used++
	return s.used
}

func (s *nodes) free(h uint32) {
	*s.at(h) = node{}
	s.at(h).links[0].next = s.vacant
	s.vacant = h
}

func (s *nodes) each(yield func(*node) bool) {
	for h := uint32(1); h <= s.used; h++ {
		if n := s.at(h); n.profile != nil && !yield(n) {
			return
		}
	}
}

// push puts a node at the end of a group's queue, by its stamp the newest.
func (d *Directory) push(g *group, level int, h uint32) {
	n := d.nodes.at(h)
	n.links[level] = link{prev: g.tail}
	if g.tail == 0 {
		g.head, g.oldest = h, n.stamp
	} else {
		d.nodes.at(g.tail).links[level].next = h
	}
	g.tail = h
}

// unlink takes a node out of a group's queue.
func (d *Directory) unlink(g *group, level int, h uint32) {
	l := d.nodes.at(h).links[level]
	if l.next == 0 {
		g.tail = l.prev
	} else {
		d.nodes.at(l.next).links[level].prev = l.prev
	}
	if l.prev != 0 {
		d.nodes.at(l.prev).links[level].next = l.next
		return
	}
	g.head = l.next
	if g.head != 0 {
		g.oldest = d.nodes.at(g.head).stamp
	}
}

// queue puts a node that is in no queue at the end of those of its groups.
func (d *Directory) queue(h uint32) {
	d.seq++
	d.nodes.at(h).stamp = d.seq
	d.lineUp(h)
}

// lineUp is queue for a node that has the newest stamp of all that are in queues.
func (d *Directory) lineUp(h uint32) {
	if v := d.nodes.at(h).variant; v != nil {
		d.push(v, variantLevel, h)
		d.push(v.class, classLevel, h)
	}
}

// unqueue takes a node out of the queues of its groups.
func (d *Directory) unqueue(h uint32) {
	if v := d.nodes.at(h).variant; v != nil {
		d.unlink(v, variantLevel, h)
		d.unlink(v.class, classLevel, h)
	}
}
