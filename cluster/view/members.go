package view

import (
	"cmp"
	"slices"
	"time"
)

// Member is what is known of one member, for status.
type Member struct {
	Name, Address, Version string // Name is "" when nobody answers at Address
	Instance               uint64
	Started                time.Time
	NodesAddr, APIAddr     string
	Self                   bool
	Status                 string // self, meeting, up, down, refused or silent (an address)
	State                  State  // as it says, or said last
	Why                    string // it is down or refused, or does not come up
	Since                  time.Time
	Slot                   uint16 // while it is up
	Sockets                int    // nodes connected
	Partitions             int    // claimed
	ClockOffset, RTT       time.Duration
	LastHeard              time.Duration // ago
	Protocol               int           // version of the messages, while it is up
}

var statusNames = [...]string{meeting: "meeting", isUp: "up", isDown: "down", isRefused: "refused"}

// Members lists this member first, then the others by name, then addresses of which some
// source says that a member is there, but where nobody answers.
func (v *View) Members(now Now) []Member {
	c := &v.cfg
	all := []Member{{
		Name: c.Name, Address: c.Address, Version: c.Version, Instance: c.Instance, Started: time.UnixMilli(c.StartMs),
		NodesAddr: c.NodesAddr, APIAddr: c.APIAddr, Self: true, Status: "self", State: v.state,
		Since: time.UnixMilli(c.StartMs), Sockets: v.sockets, Partitions: len(v.place.own), Protocol: c.MaxVersion,
	}}
	for _, p := range v.peers {
		all = append(all, p.member(now))
	}
	for _, p := range v.rivals {
		all = append(all, p.member(now))
	}
	for _, t := range v.targets {
		if t.peer == nil && t.reported {
			all = append(all, Member{
				Address: t.address, Status: "silent", Why: "no answer; it may be unable to reach " + c.Address,
				LastHeard: time.Duration(now.Mono-t.since) * time.Millisecond,
			})
		}
	}
	slices.SortFunc(all[1:], func(a, b Member) int {
		if (a.Name == "") != (b.Name == "") {
			return cmp.Compare(b.Name, a.Name)
		}
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Address, b.Address), cmp.Compare(a.Instance, b.Instance))
	})
	return all
}

func (p *peer) member(now Now) Member {
	m := Member{
		Name: p.name, Address: p.address, Version: p.version, Instance: p.instance, Started: time.UnixMilli(p.start),
		NodesAddr: p.nodes, APIAddr: p.api, Status: statusNames[p.status], State: p.state, Why: p.why,
		Since: time.UnixMilli(p.changed), Slot: p.slot, Sockets: int(min(p.sockets, 1<<31)), Partitions: len(p.claims),
		LastHeard: time.Duration(max(now.Mono-p.heard, 0)) * time.Millisecond,
	}
	if p.measured {
		m.ClockOffset = time.Duration(p.offsetMs) * time.Millisecond
		m.RTT = time.Duration(p.rttMs) * time.Millisecond
	}
	if p.status == isUp {
		m.Protocol = p.protocol
	}
	return m
}
