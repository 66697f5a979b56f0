package shard

import (
	"slices"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol/record"
)

// Location says where a node's session is.
type Location struct {
	Node        string
	Gate        uint32
	Incarnation uint64
	Profile     *actors.Profile
}

// place is a Location without the node, which is the map's key.
type place struct {
	profile     *actors.Profile
	incarnation uint64
	gate        uint32
}

// directory holds the connected nodes that hash to this shard, and which other
// shards wait to hear of one that is not connected.
type directory struct {
	nodes   map[string]place
	waiting map[string]awaiting
	sweepMs int64 // when waiting is looked through for what is over
}

// awaiting is who waits for a node, and until when.
type awaiting struct {
	shards  []uint32
	untilMs int64
}

// sweepEveryMs is the pause between two looks for shards that wait no more.
const sweepEveryMs = 10_000

func newDirectory() directory {
	return directory{nodes: map[string]place{}, waiting: map[string]awaiting{}}
}

// register notes a session. It returns the older session that it replaces, if any,
// and reports false when a newer one is known already.
func (d *directory) register(gate uint32, r *actors.Registration) (older *Location, current bool) {
	p, known := d.nodes[r.Node]
	if known && p.incarnation > r.Incarnation {
		return nil, false
	}
	d.nodes[r.Node] = place{profile: r.Profile, incarnation: r.Incarnation, gate: gate}
	if known && p.incarnation < r.Incarnation && p.gate != gate {
		return &Location{Node: r.Node, Gate: p.gate, Incarnation: p.incarnation, Profile: p.profile}, true
	}
	return nil, true
}

// depart forgets a session, unless a newer one has taken its place.
func (d *directory) depart(node string, incarnation uint64) {
	if p, ok := d.nodes[node]; ok && p.incarnation <= incarnation {
		delete(d.nodes, node)
	}
}

func (d *directory) find(node string) (Location, bool) {
	p, ok := d.nodes[node]
	return Location{Node: node, Gate: p.gate, Incarnation: p.incarnation, Profile: p.profile}, ok
}

// await notes that a shard wants to hear when the node registers, until a time: by
// then it has asked again, or waits no more.
func (d *directory) await(node string, shard uint32, untilMs int64) {
	w := d.waiting[node]
	if !slices.Contains(w.shards, shard) {
		w.shards = append(w.shards, shard)
	}
	w.untilMs = max(w.untilMs, untilMs)
	d.waiting[node] = w
}

// awaited returns, once, the shards that wait for the node.
func (d *directory) awaited(node string) []uint32 {
	w, ok := d.waiting[node]
	if ok {
		delete(d.waiting, node)
	}
	return w.shards
}

// forget drops who waits no more, now and then.
func (d *directory) forget(nowMs int64) {
	if nowMs < d.sweepMs || len(d.waiting) == 0 {
		return
	}
	d.sweepMs = nowMs + sweepEveryMs
	for node, w := range d.waiting {
		if w.untilMs <= nowMs {
			delete(d.waiting, node)
		}
	}
}

// match returns up to count nodes that fit the selector and offer the kind, spread
// over autonomous systems and cities. Go's random map order rotates the choice.
func (d *directory) match(s *record.Selector, kind string, count int) []Location {
	var found []Location
	for node, p := range d.nodes {
		if p.profile.Offers(kind) && s.Matches(&p.profile.Attributes) {
			found = append(found, Location{Node: node, Gate: p.gate, Incarnation: p.incarnation, Profile: p.profile})
		}
	}
	return spread(found, count)
}

// spread chooses count of the candidates, going round the (ASN, city) groups so that
// no network or town is taken twice before every other was taken once. The order
// within a group is kept.
func spread(candidates []Location, count int) []Location {
	if len(candidates) <= count {
		return candidates
	}
	type group struct {
		asn  uint32
		city string
	}
	groups := map[group][]Location{}
	var order []group
	for _, c := range candidates {
		g := group{c.Profile.ASN, c.Profile.City}
		if groups[g] == nil {
			order = append(order, g)
		}
		groups[g] = append(groups[g], c)
	}
	chosen := make([]Location, 0, count)
	for round := 0; len(chosen) < count; round++ {
		for _, g := range order {
			if members := groups[g]; round < len(members) && len(chosen) < count {
				chosen = append(chosen, members[round])
			}
		}
	}
	return chosen
}
