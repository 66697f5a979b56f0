package view

import (
	"fmt"
	"slices"
)

// target is an address that hellos are sent to.
type target struct {
	address   string
	listed    int   // sources that name it
	learned   int64 // when a peer named it last, mono; 0: never
	self      bool  // it is this member
	peer      *peer // who answers here; nil: not known
	next      int64 // when the next hello is due
	wait      int64 // between hellos
	last      int64 // when the last one went
	since     int64 // of which moment on nobody has answered
	answered  bool  // since then
	reported  bool  // that nobody answers
	keptAlive int64 // mono; a peer that is remembered keeps its address for so long
}

// status of a peer, as seen from here.
type status uint8

const (
	meeting status = iota // hellos are under way
	isUp
	isDown
	isRefused
)

// peer is one instance of another member.
type peer struct {
	key                 string // in the view's maps
	name                string
	instance            uint64
	start               int64
	address             string
	cert                string
	nodes, api, version string
	protocol            int // of messages, the highest common one
	state               State
	sockets             uint64

	status  status
	changed int64   // when the status became that, wall
	why     string  // of isDown and isRefused, and what is odd with isMeeting
	refusal refusal // of isRefused

	slot          uint16
	session, seen uint64 // ours for it, and its for us; 0: not known
	via           string // the address by which it reached us last
	first, heard  int64  // mono: since when it is heard without a pause, and when it was last
	unheard       int64  // mono: since when it does not acknowledge our session; 0: it does
	theirs        times  // of its last packet: sent, and when that arrived here
	measured      bool
	offsetMs      int64 // its clock less ours
	rttMs         int64

	lastBeat, nextBeat int64
	claims             []claim
	claimsVersion      uint64 // of claims
	claimsAck          uint64 // of ours, as it has them
	claimsSent         int64  // when ours went out last
	claimsSentVersion  uint64
	gossiped           int64
	byeHeard           bool // it knows that we leave
}

// newer says whether p is the one that has to go when both have the same name.
func newer(aStart int64, a uint64, bStart int64, b uint64) bool {
	return aStart > bStart || aStart == bStart && a > b
}

// Discovered says which addresses a source has found, all of them.
func (v *View) Discovered(now Now, source string, addresses []string) {
	v.advance(now)
	addresses = slices.Compact(slices.Sorted(slices.Values(addresses)))
	for _, a := range v.sourceLists[source] {
		if t := v.targets[a]; t != nil {
			t.listed--
		}
	}
	kept := addresses[:0:0]
	for _, a := range addresses {
		if t := v.target(now, a); t != nil {
			t.listed++
			kept = append(kept, a)
		}
	}
	v.sourceLists[source] = kept
}

// target finds or makes the target of an address; nil when it is our own, no address, or
// one too many.
func (v *View) target(now Now, address string) *target {
	if t := v.targets[address]; t != nil {
		return t
	}
	if address == "" || address == v.cfg.Address || len(address) > maxAddress || len(v.targets) >= maxTargets {
		return nil
	}
	t := &target{address: address, next: now.Mono, since: now.Mono, wait: v.cfg.BeatMs}
	v.targets[address] = t
	return t
}

// learn notes addresses that a peer has named.
func (v *View) learn(now Now, addresses []string) {
	for _, a := range addresses {
		if t := v.target(now, a); t != nil {
			t.learned = now.Mono + 1
		}
	}
}

// forget drops what is of no use any more: addresses that nobody names, members that are
// down for long, and instances that left.
func (v *View) forget(now Now) {
	for a, t := range v.targets {
		if t.listed == 0 && (t.learned == 0 || now.Mono-t.learned > forgetMs) && now.Mono > t.keptAlive {
			delete(v.targets, a)
		}
	}
	for name, p := range v.peers {
		if p.status != isUp && now.Mono-p.heard > forgetMs {
			delete(v.peers, name)
		}
	}
	for name, p := range v.rivals {
		if now.Mono-p.heard > v.silentMs() {
			delete(v.rivals, name)
		}
	}
	for _, t := range v.targets {
		if p := t.peer; p != nil && v.peers[p.key] != p && v.rivals[p.key] != p {
			t.peer, t.since, t.answered = nil, now.Mono, false
		}
	}
	for instance, g := range v.gone {
		if now.Mono > g.until {
			delete(v.gone, instance)
		}
	}
}

// bringUp begins a session with a peer whose session and ours are known to both.
func (v *View) bringUp(now Now, p *peer) {
	slot := v.freeSlot()
	if slot == 0 {
		v.refuse(now, p, refusedThere, "65535 members are up: there are no more slots")
		return
	}
	p.status, p.changed, p.why, p.refusal = isUp, now.Wall, "", accepted
	p.slot, p.unheard, p.byeHeard = slot, 0, false
	p.claims, p.claimsVersion, p.claimsAck, p.claimsSent, p.claimsSentVersion = nil, 0, 0, 0, 0
	p.lastBeat, p.nextBeat, p.gossiped = now.Mono-urgentMs, now.Mono, now.Mono
	v.slots[slot] = p
	v.up[p.session] = p
	v.out.Up(Peer{
		Slot: slot, Name: p.name, Instance: p.instance, Address: p.address, Cert: p.cert,
		Session: p.session, TheirSession: p.seen, NodesAddr: p.nodes, APIAddr: p.api, Version: p.version,
	})
}

// freeSlot takes the next slot in the round, so that one is used again as late as can be.
func (v *View) freeSlot() uint16 {
	for range 1<<16 - 1 {
		v.lastSlot++
		if v.lastSlot == 0 {
			v.lastSlot = 1
		}
		for int(v.lastSlot) >= len(v.slots) {
			v.slots = append(v.slots, nil)
		}
		if v.slots[v.lastSlot] == nil {
			return v.lastSlot
		}
	}
	return 0
}

// takeDown ends the session with a peer. Whatever comes next between the two is of new
// sessions.
func (v *View) takeDown(now Now, p *peer, why string) {
	if p.status != isUp {
		return
	}
	slot := p.slot
	delete(v.up, p.session)
	p.status, p.changed, p.why = isDown, now.Wall, why
	p.session, p.seen, p.unheard, p.measured = v.nextSession(), 0, 0, false
	p.claimsVersion = 0
	claims := p.claims
	p.claims = nil
	for _, c := range claims {
		v.reconsider(c.partition)
	}
	v.slots[slot], p.slot = nil, 0
	v.unalias(now, p)
	if t := v.target(now, p.address); t != nil {
		t.peer, t.keptAlive = p, now.Mono+forgetMs
		t.next, t.wait = min(t.next, now.Mono+v.cfg.BeatMs), v.cfg.BeatMs
	}
	v.out.Down(Peer{
		Slot: slot, Name: p.name, Instance: p.instance, Address: p.address, Cert: p.cert,
		NodesAddr: p.nodes, APIAddr: p.api, Version: p.version,
	}, why)
}

// unalias frees the other addresses at which the peer answered: somebody else may next.
func (v *View) unalias(now Now, p *peer) {
	for _, t := range v.targets {
		if t.peer == p && t.address != p.address {
			t.peer, t.since, t.answered = nil, now.Mono, false
		}
	}
}

// grave is of an instance that left or was replaced, with its last session.
type grave struct {
	until         int64
	session, seen uint64
	address       string
}

// bury is for an instance that will not come back.
func (v *View) bury(now Now, p *peer, why string) {
	v.gone[p.instance] = grave{now.Mono + forgetMs, p.session, p.seen, p.address}
	v.takeDown(now, p, why)
	if p.status != isUp {
		p.status, p.why = isDown, why
	}
}

// refuse says once for each reason that the peer and this member do not come together.
func (v *View) refuse(now Now, p *peer, r refusal, why string) {
	v.takeDown(now, p, why)
	news := p.status != isRefused || p.refusal != r
	if news {
		p.changed = now.Wall
	}
	p.status, p.refusal, p.why = isRefused, r, why
	if news {
		v.out.Refused(p.name, p.address, why)
	}
}

// trouble notes once what keeps a peer from coming up.
func (v *View) trouble(now Now, p *peer, why string) {
	if p.why != why {
		p.why, p.changed = why, now.Wall
		v.out.Refused(p.name, p.address, why)
	}
}

func seconds(ms int64) string { return fmt.Sprintf("%.1f s", float64(ms)/1000) }
