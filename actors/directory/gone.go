package directory

import "github.com/roost-server/roost/actors"

// DepartFrom forgets a session that has ended at a gate, unless another one has taken its
// place, at this gate or another.
func (d *Directory) DepartFrom(gate uint32, node string, incarnation uint64) {
	if h, ok := d.byID[node]; ok && d.nodes.at(h).gate == gate {
		d.Depart(node, incarnation)
	}
}

// DepartMember forgets all sessions at the gates of a member, by its slot.
func (d *Directory) DepartMember(slot uint16) {
	for h := uint32(1); h <= d.nodes.used; h++ { // none are used any more when the last has left
		if n := d.nodes.at(h); n.profile != nil && actors.SlotOf(n.gate) == slot {
			d.Depart(n.id, n.incarnation)
		}
	}
}
