package view

import (
	"cmp"
	"slices"
)

// claim says that its maker's shard of the partition is ready, in this life.
type claim struct {
	partition uint32
	epoch     uint64
}

// owner is who owns a partition, as far as is known here.
type owner struct {
	epoch uint64
	slot  uint16
	known bool
}

// placement is who owns what.
type placement struct {
	owners  []owner
	highest []uint64 // epoch ever seen, by partition
	own     []claim  // sorted by partition
	version uint64   // of own; from 1 on, so that "none" is news as well
}

func newPlacement(partitions uint32) placement {
	return placement{owners: make([]owner, partitions), highest: make([]uint64, partitions), version: 1}
}

func find(claims []claim, partition uint32) (int, bool) {
	return slices.BinarySearchFunc(claims, partition, func(c claim, p uint32) int { return cmp.Compare(c.partition, p) })
}

// Claim says that this member's shard of the partition is ready, and returns the number of
// the life that begins: higher than any that was seen for the partition, and than that of
// any owner before unless its clock was ahead. 0 when there is no such partition.
func (v *View) Claim(now Now, partition uint32) (epoch uint64) {
	v.advance(now)
	if partition >= v.cfg.Partitions {
		return 0
	}
	pl := &v.place
	epoch = max(uint64(max(now.Wall, 1)), pl.highest[partition]+1)
	if i, found := find(pl.own, partition); found {
		pl.own[i].epoch = epoch
	} else {
		pl.own = slices.Insert(pl.own, i, claim{partition, epoch})
	}
	pl.version++
	v.reconsider(partition)
	v.hurry(now)
	return epoch
}

// Disclaim says that this member has the shard no longer.
func (v *View) Disclaim(now Now, partition uint32) {
	v.advance(now)
	pl := &v.place
	i, found := find(pl.own, partition)
	if !found {
		return
	}
	pl.own = slices.Delete(pl.own, i, i+1)
	pl.version++
	v.reconsider(partition)
	v.hurry(now)
}

// Owner is who owns the partition, as far as is known here.
func (v *View) Owner(partition uint32) (slot uint16, epoch uint64, known bool) {
	if partition >= v.cfg.Partitions {
		return 0, 0, false
	}
	o := v.place.owners[partition]
	return o.slot, o.epoch, o.known
}

// reconsider finds the owner of a partition among the claims of those that are up: the
// highest epoch, and among equals the lowest instance, so that all come to the same.
func (v *View) reconsider(partition uint32) {
	pl := &v.place
	best, instance := owner{}, uint64(0)
	if i, found := find(pl.own, partition); found {
		best, instance = owner{epoch: pl.own[i].epoch, known: true}, v.cfg.Instance
	}
	for _, p := range v.up {
		if i, found := find(p.claims, partition); found {
			if e := p.claims[i].epoch; e > best.epoch || e == best.epoch && p.instance < instance {
				best, instance = owner{epoch: e, slot: p.slot, known: true}, p.instance
			}
		}
	}
	pl.highest[partition] = max(pl.highest[partition], best.epoch)
	if best != pl.owners[partition] {
		pl.owners[partition] = best
		v.out.Owner(partition, best.slot, best.epoch, best.known)
	}
}

// takeClaims replaces what a peer claims; both lists are sorted.
func (v *View) takeClaims(p *peer, claims []claim) {
	before := p.claims
	p.claims = slices.Clone(claims)
	i, j := 0, 0
	for i < len(before) || j < len(claims) {
		switch {
		case j == len(claims) || i < len(before) && before[i].partition < claims[j].partition:
			v.reconsider(before[i].partition)
			i++
		case i == len(before) || claims[j].partition < before[i].partition:
			v.see(claims[j])
			j++
		default:
			if before[i] != claims[j] {
				v.see(claims[j])
			}
			i++
			j++
		}
	}
}

func (v *View) see(c claim) {
	v.place.highest[c.partition] = max(v.place.highest[c.partition], c.epoch)
	v.reconsider(c.partition)
}
