package cluster

import (
	"time"

	"github.com/roost-server/roost/cluster/view"
)

// MemberInfo is what is known of one member, for status.
type MemberInfo struct {
	view.Member
	// Of what is sent to it, while it is up: messages and bytes not acknowledged yet, bytes
	// of these that were sent, for how long the first of them has been waiting, and messages that had to be sent again.
	Queued       int
	QueuedBytes  int64
	InFlight     int64
	QueuedFor    time.Duration
	Sent, Resent uint64
}

// Members lists this member first, then the others by name, also those that are down or
// refused, with the reason; then addresses where a member should be but nobody answers.
func (c *Cluster) Members() []MemberInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	members := c.view.Members(now)
	all := make([]MemberInfo, len(members))
	for i, m := range members {
		all[i].Member = m
		if d := c.conn(m.Slot); d != nil {
			s := d.stats()
			all[i].Queued, all[i].QueuedBytes, all[i].Sent, all[i].Resent = s.Queued, s.QueuedBytes, s.Sent, s.Resent
			all[i].InFlight = s.InflightBytes
			if s.WaitingSinceMs > 0 {
				all[i].QueuedFor = time.Duration(now.Mono-s.WaitingSinceMs) * time.Millisecond
			}
		}
	}
	return all
}
