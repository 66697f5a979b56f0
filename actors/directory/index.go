package directory

import (
	"slices"

	"github.com/roost-server/roost/actors"
)

// Jobs that name their nodes need no index, and a fleet as diverse as it is large has
// about as many groups in each shard as nodes: some 450 bytes a node. So groups and
// postings are made by the first search, at the cost of registering all nodes once more, and
// given up when there was none for indexForMs. The order of nodes is in their stamps, which are
// kept in any case.

// indexForMs is how long an index is kept after the last search.
const indexForMs = 10 * 60 * 1000

// index makes the index, unless there is one.
func (d *Directory) index() {
	if d.indexed {
		return
	}
	d.indexed, d.far = true, nil
	order := make([]uint32, 0, len(d.byID))
	for h := uint32(1); h <= d.nodes.used; h++ {
		n := d.nodes.at(h)
		if n.profile == nil {
			continue
		}
		d.attach(n, d.variant(n.profile))
		if n.silent == 0 {
			order = append(order, h)
		}
	}
	slices.SortFunc(order, func(a, b uint32) int {
		if d.nodes.at(a).stamp < d.nodes.at(b).stamp { // no two are equal
			return -1
		}
		return 1
	})
	for _, h := range order {
		d.lineUp(h)
	}
}

// unindex gives up an index that is not used.
func (d *Directory) unindex(nowMs int64) {
	switch {
	case !d.indexed:
	case d.searchedMs == 0: // by Page, which knows no time
		d.searchedMs = nowMs
	case nowMs-d.searchedMs > indexForMs:
		d.dropIndex()
	}
}

func (d *Directory) dropIndex() {
	if !d.indexed {
		return
	}
	d.indexed, d.searchedMs = false, 0
	d.groups = [levels]map[uint64]*group{{}, {}}
	d.postings, d.all = map[key]*posting{}, posting{}
	for h := uint32(1); h <= d.nodes.used; h++ {
		if n := d.nodes.at(h); n.profile != nil {
			n.variant, n.links = nil, [levels]link{}
		}
	}
}

// farProfile is the profile of nodes at other members. Nodes at this one share theirs already,
// by their gates; what other members send is a copy for each batch.
type farProfile struct {
	profile *actors.Profile
	nodes   int
}

// hold returns the profile to keep for a node at a gate.
func (d *Directory) hold(gate uint32, p *actors.Profile) *actors.Profile {
	if actors.SlotOf(gate) == 0 {
		return p
	}
	h := d.hash(p, variantLevel)
	f := d.far[h]
	switch {
	case f == nil:
		if d.far == nil {
			d.far = map[uint64]*farProfile{}
		}
		d.far[h] = &farProfile{profile: p, nodes: 1}
		return p
	case !equal(f.profile, p): // one of two with the same hash is not shared
		return p
	}
	f.nodes++
	return f.profile
}

// letGo gives back what hold returned.
func (d *Directory) letGo(p *actors.Profile) {
	if len(d.far) == 0 {
		return
	}
	h := d.hash(p, variantLevel)
	if f := d.far[h]; f != nil && f.profile == p {
		if f.nodes--; f.nodes == 0 {
			delete(d.far, h)
		}
	}
}
