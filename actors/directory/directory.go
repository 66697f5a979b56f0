package directory

import (
	"hash/maphash"

	"github.com/roost-server/roost/actors"
)

// Location says where a node's session is.
type Location struct {
	Node        string
	Gate        uint32
	Incarnation uint64
	Profile     *actors.Profile // shared by all nodes with an equal one; never nil, never changed
}

// Directory holds the connected nodes of one shard, and which shards wait to hear of one
// that is not connected. Make it with [New].
type Directory struct {
	byID  map[string]uint32 // handles of nodes
	nodes nodes
	seq   uint64 // the last stamp given: when a node was chosen, counted in choices

	indexed    bool // else there are no groups and postings
	searchedMs int64
	far        map[uint64]*farProfile // without an index

	groups   [levels]map[uint64]*group // by hash of what their nodes have in common
	postings map[key]*posting
	all      posting // of all classes
	seed     maphash.Seed
	sum      func(maphash.Seed, []byte) uint64
	text     []byte // scratch of hash
	searches uint64 // numbers them, for the marks that they leave

	silences []silence // a heap: the first to end on top

	waiting map[string]awaiting
	sweepMs int64 // when waiting is looked through for what is over
}

// New returns an empty directory.
func New() *Directory {
	return &Directory{
		byID:     map[string]uint32{},
		groups:   [levels]map[uint64]*group{{}, {}},
		postings: map[key]*posting{},
		seed:     maphash.MakeSeed(),
		sum:      maphash.Bytes,
		waiting:  map[string]awaiting{},
	}
}

// noProfile stands for a profile that a registration does not have.
var noProfile = new(actors.Profile)

// Register notes a session. It returns the older session on another gate that it
// replaces, if any, and reports false when a newer one is known already. Of two with one
// incarnation, which members whose clocks agree may give, the last one counts as newer. The node and
// the profile are kept as they are. A new session of a silent node ends its silence:
// by connecting it has answered.
func (d *Directory) Register(gate uint32, r *actors.Registration) (older *Location, current bool) {
	profile := r.Profile
	if profile == nil {
		profile = noProfile
	}
	h, known := d.byID[r.Node]
	if !known {
		h = d.nodes.take()
		*d.nodes.at(h) = node{id: r.Node, incarnation: r.Incarnation, gate: gate}
		d.byID[r.Node] = h
		d.enter(h, profile)
		return nil, true
	}
	n := d.nodes.at(h)
	if n.incarnation > r.Incarnation {
		return nil, false
	}
	if n.incarnation < r.Incarnation || n.gate != gate {
		if n.gate != gate {
			loc := n.location()
			older = &loc
		}
		d.wake(h)
	}
	n.incarnation, n.gate = r.Incarnation, gate
	if n.profile != profile && !equal(n.profile, profile) {
		d.leave(h)
		d.enter(h, profile)
	}
	return older, true
}

// Depart forgets a session, unless a newer one has taken its place.
func (d *Directory) Depart(node string, incarnation uint64) {
	h, ok := d.byID[node]
	if !ok || d.nodes.at(h).incarnation > incarnation {
		return
	}
	d.leave(h)
	if i := d.nodes.at(h).silent; i > 0 {
		d.removeSilence(int(i - 1))
	}
	delete(d.byID, node)
	d.nodes.free(h)
	if len(d.byID) == 0 && d.nodes.used > chunkNodes { // neither maps nor nodes shrink otherwise
		d.byID, d.nodes, d.far = map[string]uint32{}, nodes{}, nil
		d.dropIndex()
	}
}

// Find returns the session of a connected node.
func (d *Directory) Find(node string) (Location, bool) {
	h, ok := d.byID[node]
	if !ok {
		return Location{}, false
	}
	return d.nodes.at(h).location(), true
}

// Len returns how many nodes are connected.
func (d *Directory) Len() int { return len(d.byID) }

// All calls yield for every connected node, in no order that means anything, until it
// returns false; yield must not change the directory. It may be ranged over.
func (d *Directory) All(yield func(Location) bool) {
	d.nodes.each(func(n *node) bool { return yield(n.location()) })
}
