package shard

import "github.com/roost-server/roost/actors"

// MemberGone takes the news that a member is gone: its sessions have ended, as if their
// gates had said so. Acknowledgements are owed to nobody there; the nodes send their
// results again to where they are next.
func (c *Core) MemberGone(nowMs int64, slot uint16, eff *Effects) {
	c.begin(nowMs, eff)
	c.dir.DepartMember(slot)
	if c.rebuild != nil {
		return // no job is on its way yet
	}
	for j := c.pending.first; j != nil; j = j.next {
		if j.open == 0 {
			continue
		}
		all := j.all()
		for i := range all {
			if a := &all[i]; actors.SlotOf(a.gate) == slot {
				c.stranded(a)
			}
		}
	}
}

// stranded handles an assignment whose gate is gone.
func (c *Core) stranded(a *assignment) {
	switch a.state {
	case sent:
		c.detach(a)
	case queued: // it never left the session, as far as is known
		c.returned(a, true)
	case ending:
		a.flags &^= ackDue
	}
}

// Misplaced takes another shard's word that a node is connected to a member that is not
// known here, or not any more: what waits for the node asks again soon.
func (c *Core) Misplaced(nowMs int64, node string, eff *Effects) {
	c.begin(nowMs, eff)
	for a := c.afar.byNode[node]; a != nil; a = a.next {
		a.asks = 0
		c.timers.set(a, min(c.nowMs+c.cfg.RetryMs, a.patience()))
	}
}
