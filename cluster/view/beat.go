package view

import (
	"fmt"
)

// advance is called first in every method that is told the time. When this process stood
// still, what it missed is not held against its peers.
func (v *View) advance(now Now) {
	gap := now.Mono - v.lastMono
	v.lastMono = max(now.Mono, v.lastMono)
	if gap <= 2*v.cfg.BeatMs {
		return
	}
	for _, p := range v.up {
		p.heard += gap
	}
}

// Heard says that a packet of the session arrived that is not the view's.
func (v *View) Heard(now Now, session uint64) {
	v.advance(now)
	if p := v.up[session]; p != nil {
		p.heard = max(p.heard, now.Mono)
	}
}

// NextMs is when Tick wants to be called next, mono.
func (v *View) NextMs(now Now) int64 {
	next := now.Mono + v.cfg.BeatMs/4
	for _, p := range v.up {
		next = min(next, p.nextBeat)
	}
	return max(next, now.Mono+1)
}

// Tick does what is due.
func (v *View) Tick(now Now) {
	v.advance(now)
	for _, p := range v.up {
		if silent := now.Mono - p.heard; silent > v.cfg.DeadAfterMs {
			v.takeDown(now, p, "silent for "+seconds(silent))
		}
	}
	v.sayBeats(now)
	if v.leaving != "" {
		return
	}
	for _, p := range v.peers {
		if p.status == meeting {
			v.watch(now, p)
		}
	}
	for _, t := range v.targets {
		if now.Mono >= t.next {
			v.dial(now, t)
		}
	}
	v.forget(now)
}

// sayBeats sends the beats that are due, and those that are nearly: so the beats to all
// peers come to go out together, and a large cluster wakes its members up no more often than
// a small one.
func (v *View) sayBeats(now Now) {
	due := false
	for _, p := range v.up {
		due = due || now.Mono >= p.nextBeat
	}
	if !due {
		return
	}
	for _, p := range v.slots {
		if p != nil && p.nextBeat-now.Mono <= v.cfg.BeatMs/8 {
			v.sayBeat(now, p)
		}
	}
}

// watch reports a peer that does not come up.
func (v *View) watch(now Now, p *peer) {
	switch silent := now.Mono - p.heard; {
	case silent > v.silentMs():
		p.status, p.changed = isDown, now.Wall
		p.session, p.seen, p.unheard = v.nextSession(), 0, 0
		v.unalias(now, p)
		if p.why == "" {
			p.why = "silent before it was up"
		}
	case p.unheard != 0 && now.Mono-p.unheard > unheardMs:
		v.trouble(now, p, fmt.Sprintf("we hear %s but it does not hear us at %s, which it advertises: it must be reachable from here", p.name, p.address))
	}
}

// dial says hello where it is due.
func (v *View) dial(now Now, t *target) {
	p := t.peer
	switch {
	case t.self, p != nil && p.status == isUp, p != nil && p.address != t.address:
		t.next, t.since = now.Mono+v.cfg.BeatMs, now.Mono
		return
	case p == nil && !t.answered && !t.reported && t.listed > 0 && now.Mono-t.since > unheardMs:
		t.reported = true
		v.out.Refused("", t.address, fmt.Sprintf("no answer for %s: nobody listens there, or it cannot reach this member at %s, which this member advertises",
			seconds(unheardMs), v.cfg.Address))
	}
	v.sayHello(now, t)
	if p == nil || p.status != meeting {
		t.wait = min(2*t.wait, helloBeats*v.cfg.BeatMs)
	} else {
		t.wait = v.cfg.BeatMs
	}
	t.next = now.Mono + t.wait
}

// sayBeat sends a beat, with the claims if the peer lacks them.
func (v *View) sayBeat(now Now, p *peer) {
	m := beat{
		from: p.session, to: p.seen, state: v.state, sockets: uint64(v.sockets),
		times:         times{sent: now.Wall, echo: p.theirs.sent, arrived: p.theirs.arrived},
		claimsVersion: v.place.version, claimsAck: p.claimsVersion,
	}
	if v.leaving != "" {
		m.flags |= flagGoodbye
		m.why = clip(v.leaving)
	} else {
		if p.claimsAck != v.place.version && (p.claimsSentVersion != v.place.version || now.Mono-p.claimsSent >= v.cfg.BeatMs) {
			m.flags |= flagClaims
			m.claims = v.place.own
			p.claimsSent, p.claimsSentVersion = now.Mono, v.place.version
		}
		if now.Mono-p.gossiped >= gossipMs {
			m.flags |= flagGossip
			m.addresses = v.acquaintances(now, p)
			p.gossiped = now.Mono
		}
	}
	p.lastBeat, p.nextBeat = now.Mono, now.Mono+v.cfg.BeatMs
	v.out.Send(p.address, m.append(nil))
}

func (v *View) beat(now Now, cert string, m *beat) error {
	p := v.up[m.to]
	if p == nil || p.seen != m.from {
		if p = v.waiting(m); p == nil {
			v.answerDead(now, m)
			return nil
		}
		v.bringUp(now, p) // it has us up, so it knows our session
		if p.status != isUp {
			return nil
		}
	}
	if p.cert != cert {
		return fmt.Errorf("view: a beat of %s's session with a certificate for %q", p.name, cert)
	}
	p.heard = max(p.heard, now.Mono)
	p.state, p.sockets = m.state, m.sockets
	v.measure(now, p, m.times)
	p.claimsAck = m.claimsAck
	switch {
	case m.flags&flagBye != 0:
		p.byeHeard = true
		return nil
	case m.flags&flagGoodbye != 0:
		v.bury(now, p, "left: "+m.why)
		v.answerDead(now, m)
		return nil
	}
	if m.flags&flagClaims != 0 && m.claimsVersion > p.claimsVersion {
		p.claimsVersion = m.claimsVersion
		v.takeClaims(p, m.claims)
		p.nextBeat = min(p.nextBeat, max(now.Mono, p.lastBeat+urgentMs)) // acknowledge it soon
	}
	v.learn(now, m.addresses)
	return nil
}

// waiting finds the peer that is meeting us with just this pair of sessions.
func (v *View) waiting(m *beat) *peer {
	if m.from == 0 || v.leaving != "" {
		return nil
	}
	for _, p := range v.peers {
		if p.session == m.to && p.seen == m.from && p.status == meeting && p.measured {
			return p
		}
	}
	return nil
}

// answerDead tells a member that left that its goodbye was heard.
func (v *View) answerDead(now Now, m *beat) {
	if m.flags&flagGoodbye == 0 {
		return
	}
	for _, g := range v.gone {
		if g.session == m.to && g.seen == m.from {
			bye := beat{from: g.session, to: g.seen, flags: flagBye, times: times{sent: now.Wall}, state: v.state}
			v.out.Send(g.address, bye.append(nil))
		}
	}
}

// Leave says goodbye to all, again with each beat until they have heard it. From then on
// this member meets nobody.
func (v *View) Leave(now Now, why string) {
	v.advance(now)
	if why == "" {
		why = "no reason given"
	}
	v.leaving, v.state = why, Leaving
	for _, p := range v.up {
		v.sayBeat(now, p)
	}
}

// Left says whether all that are up have heard the goodbye.
func (v *View) Left() bool {
	for _, p := range v.up {
		if !p.byeHeard {
			return false
		}
	}
	return v.leaving != ""
}
