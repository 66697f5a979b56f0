package view

import (
	"errors"
	"fmt"
)

// Receive takes a packet of another view. cert is the name that it is signed with, ""
// without TLS. An error says what was wrong with it; it needs no other treatment.
func (v *View) Receive(now Now, cert string, packet []byte) error {
	v.advance(now)
	if len(packet) == 0 {
		return errors.New("view: an empty packet")
	}
	switch packet[0] {
	case kindHello:
		h, err := decodeHello(packet[1:])
		if err != nil {
			return err
		}
		v.hello(now, cert, &h)
		return nil
	case kindBeat:
		m, err := decodeBeat(packet[1:], v.cfg.Partitions, v.claimsRead)
		if err != nil {
			return err
		}
		if m.claims != nil {
			v.claimsRead = m.claims
		}
		return v.beat(now, cert, &m)
	}
	return nil // of a later version
}

func (v *View) hello(now Now, cert string, h *hello) {
	if h.instance == v.cfg.Instance {
		if t := v.targets[h.to]; t != nil {
			t.self = true
		}
		return
	}
	if _, gone := v.gone[h.instance]; gone || v.leaving != "" {
		return
	}
	p := v.who(now, cert, h)
	if p == nil {
		return
	}
	v.note(now, cert, h, p)
	pending := v.rivals[p.key] == p
	var changed bool
	if !pending {
		changed = v.judge(now, h, p)
	}
	if t := v.targets[p.address]; t != nil && (p.status != isUp || h.flags&flagUp == 0) {
		if changed || p.status != isRefused && now.Mono-t.last >= v.cfg.BeatMs/4 {
			v.sayHello(now, t)
		}
	}
}

// who finds or makes the record of the instance that said hello; nil when it is out of date.
// Whoever cannot be who it says it is, or is of another cluster, must not disturb those of
// its name, and gets a record of its own.
func (v *View) who(now Now, cert string, h *hello) *peer {
	key := h.name
	switch {
	case cert != "" && cert != h.name:
		key += "\x00certificate " + cert
	case h.cluster != v.cfg.Cluster:
		key += "\x00cluster " + h.cluster
	}
	p := v.peers[key]
	switch {
	case p == nil && len(v.peers) >= maxTargets:
		return nil
	case p == nil:
		p = v.newPeer(now, key, h)
		v.peers[key] = p
		return p
	case p.instance == h.instance:
		return p
	}
	return v.replaces(now, p, h)
}

func (v *View) newPeer(now Now, key string, h *hello) *peer {
	return &peer{
		key: key, name: h.name, instance: h.instance, start: h.start, address: h.address,
		session: v.nextSession(), first: now.Mono, heard: now.Mono, changed: now.Wall,
	}
}

// replaces decides between p and another instance of its name, which says hello: a process
// that was restarted, or two that were given one name. It returns whose hello that is then,
// or nil when it is old.
func (v *View) replaces(now Now, p *peer, h *hello) *peer {
	hIsNewer := newer(h.start, h.instance, p.start, p.instance)
	if h.address == p.address && hIsNewer {
		v.bury(now, p, "restarted")
		return v.enthrone(v.newPeer(now, p.key, h))
	}
	r := v.rivals[p.key]
	switch {
	case r == nil || r.instance != h.instance && (newer(h.start, h.instance, r.start, r.instance) || now.Mono-r.heard > v.silentMs()):
		r = v.newPeer(now, p.key, h)
		v.rivals[p.key] = r
	case r.instance != h.instance:
		return nil
	}
	const alive = 2 // beats heard after the other appeared: no packet that was under way
	quiet := v.silentMs()
	if p.status == isUp {
		quiet = 3 * v.cfg.BeatMs
	}
	switch {
	case p.status == isDown || now.Mono-p.heard > quiet:
		if hIsNewer {
			v.bury(now, p, "restarted at "+h.address)
		} else {
			v.takeDown(now, p, "silent for "+seconds(now.Mono-p.heard)+", and another process has its name")
		}
		return v.enthrone(r)
	case p.heard-r.first < alive*v.cfg.BeatMs || now.Mono-r.first < alive*v.cfg.BeatMs:
	case hIsNewer:
		v.taken(now, r, p)
	default:
		v.enthrone(r)
		v.rivals[p.key] = p
		v.taken(now, p, r)
	}
	return r
}

func (v *View) enthrone(p *peer) *peer {
	v.peers[p.key] = p
	if v.rivals[p.key] == p {
		delete(v.rivals, p.key)
	}
	return p
}

// taken refuses loser, whose name is winner's.
func (v *View) taken(now Now, loser, winner *peer) {
	v.refuse(now, loser, nameTaken, fmt.Sprintf("two members are called %s: one at %s, started first, which stays, and one at %s",
		loser.name, winner.address, loser.address))
}

// note writes down what a hello says of its sender.
func (v *View) note(now Now, cert string, h *hello, p *peer) {
	if now.Mono-p.heard > v.silentMs() {
		p.first = now.Mono
	}
	p.heard = now.Mono
	p.start, p.cert, p.version, p.nodes, p.api, p.state = h.start, cert, h.version, h.nodes, h.api, h.state
	if p.address != h.address && p.status != isUp {
		p.address = h.address
	}
	if h.to != "" {
		p.via = h.to
	}
	v.measure(now, p, h.times)
	for _, a := range [...]string{h.via, p.address} {
		if t := v.target(now, a); t != nil {
			t.peer, t.answered, t.reported, t.keptAlive = p, true, false, now.Mono+forgetMs
		}
	}
}

// measure finds how far the peer's clock is from ours.
func (v *View) measure(now Now, p *peer, t times) {
	p.theirs = times{sent: t.sent, arrived: now.Wall}
	if t.echo == 0 {
		return
	}
	rtt := (now.Wall - t.echo) - (t.sent - t.arrived)
	if rtt < -2 || rtt > v.cfg.DeadAfterMs {
		return // a clock was set meanwhile
	}
	p.rttMs = max(rtt, 0)
	p.offsetMs = ((t.arrived - t.echo) + (t.sent - now.Wall)) / 2
	p.measured = true
}

// check is why a peer cannot come together with this member, if so. The texts are for both
// sides.
func (v *View) check(h *hello, p *peer) (refusal, string) {
	me, it := v.cfg.Name+" ("+v.cfg.Address+")", h.name+" ("+p.address+")"
	apart := max(p.offsetMs, -p.offsetMs)
	low, high := max(h.minVer, uint64(v.cfg.MinVersion)), min(h.maxVer, uint64(v.cfg.MaxVersion))
	switch {
	case p.cert != "" && p.cert != h.name:
		return otherCertificate, fmt.Sprintf("%s has a certificate for %s: a member's certificate must bear its name", it, p.cert)
	case h.cluster != v.cfg.Cluster:
		return otherCluster, fmt.Sprintf("%s is of cluster %q, %s of cluster %q", it, h.cluster, me, v.cfg.Cluster)
	case low > high:
		return otherVersion, fmt.Sprintf("%s (%s) speaks versions %d to %d of the messages between members, %s (%s) versions %d to %d: upgrade the older",
			it, h.version, h.minVer, h.maxVer, me, v.cfg.Version, v.cfg.MinVersion, v.cfg.MaxVersion)
	case h.partitions != uint64(v.cfg.Partitions):
		return otherPartitions, fmt.Sprintf("%s has a jobs topic of %d partitions, %s one of %d: they must use the same", it, h.partitions, me, v.cfg.Partitions)
	case p.measured && apart-p.rttMs/2 > v.cfg.MaxSkewMs:
		return clockApart, fmt.Sprintf("the clocks of %s and %s are %s apart, at most %s are allowed: let a time service set both",
			it, me, seconds(apart), seconds(v.cfg.MaxSkewMs))
	}
	p.protocol = int(high)
	return accepted, ""
}

// judge lets a hello take effect; changed says that the other side has to know.
func (v *View) judge(now Now, h *hello, p *peer) (changed bool) {
	if p.status == isUp && h.session == p.seen && h.refusal == accepted {
		v.up[p.session].heard = now.Mono
		return false // it waits for what we said, which may be lost
	}
	r, why := v.check(h, p)
	switch {
	case r == accepted && h.name == v.cfg.Name:
		return v.twin(now, h, p)
	case r != accepted:
		news := p.status != isRefused || p.refusal != r
		v.refuse(now, p, r, why)
		return news
	case h.refusal == nameTaken && h.rival != v.cfg.Instance && newer(v.cfg.StartMs, v.cfg.Instance, h.rivalStart, h.rival):
		v.giveUp(fmt.Sprintf("%s says: %s", h.name, h.why))
		return false
	case h.refusal != accepted:
		v.refuse(now, p, refusedThere, fmt.Sprintf("%s refuses: %s", h.name, h.why))
		return false
	}
	if p.status == isRefused || p.status == isDown {
		p.status, p.refusal, p.why, p.changed = meeting, accepted, "", now.Wall
	}
	v.learn(now, h.addresses)
	return v.meet(now, h, p)
}

// meet settles on the sessions.
func (v *View) meet(now Now, h *hello, p *peer) (changed bool) {
	if h.seen != p.session && p.unheard == 0 {
		p.unheard = now.Mono
	}
	switch {
	case h.session == 0:
		return false // it does not know us
	case p.seen != 0 && h.session < p.seen && (h.session^p.seen)>>32 == 0:
		return false // an old one
	case p.seen != h.session:
		v.takeDown(now, p, "it lost this member and begins anew")
		p.status, p.seen, changed = meeting, h.session, true
	}
	if h.seen != p.session {
		return changed
	}
	p.unheard = 0
	if p.measured {
		v.bringUp(now, p)
	}
	return true
}

// twin is about another process with this member's name.
func (v *View) twin(now Now, h *hello, p *peer) (changed bool) {
	why := fmt.Sprintf("two members are called %s: one at %s and one at %s", h.name, v.cfg.Address, p.address)
	if !newer(v.cfg.StartMs, v.cfg.Instance, p.start, p.instance) {
		news := p.status != isRefused
		v.refuse(now, p, nameTaken, why+", which started later")
		return news
	}
	if h.state != Leaving && now.Mono-p.first >= 2*v.cfg.BeatMs {
		v.giveUp(why + ", which started earlier and stays")
	}
	return false
}

func (v *View) giveUp(why string) {
	if !v.conflict {
		v.conflict = true
		v.out.Conflict(fmt.Errorf("cluster: %s: give this process another name, or end the other", why))
	}
}

// sayHello sends a hello to an address, whoever is there.
func (v *View) sayHello(now Now, t *target) {
	c := &v.cfg
	h := hello{
		cluster: c.Cluster, name: c.Name, instance: c.Instance, start: c.StartMs, address: c.Address,
		minVer: uint64(c.MinVersion), maxVer: uint64(c.MaxVersion), version: c.Version,
		partitions: uint64(c.Partitions), nodes: c.NodesAddr, api: c.APIAddr,
		to: t.address, times: times{sent: now.Wall}, state: v.state,
	}
	if p := t.peer; p != nil {
		h.session, h.seen, h.via = p.session, p.seen, p.via
		h.times.echo, h.times.arrived = p.theirs.sent, p.theirs.arrived
		switch {
		case p.status == isUp:
			h.flags |= flagUp
		case p.status == isRefused && p.refusal != refusedThere:
			h.refusal, h.why = p.refusal, clip(p.why)
			h.rival, h.rivalStart = c.Instance, c.StartMs
			if w := v.peers[p.key]; w != p && w != nil {
				h.rival, h.rivalStart = w.instance, w.start
			}
		case v.rivals[p.key] == p:
			h.seen = 0 // not decided yet
		}
		if p.status != isRefused {
			h.addresses = v.acquaintances(now, p)
		}
	}
	t.last = now.Mono
	v.out.Send(t.address, h.append(nil))
}

// acquaintances are where members are that a peer may want to know.
func (v *View) acquaintances(now Now, but *peer) (addresses []string) {
	for _, p := range v.peers {
		if p != but && (p.status == isUp || p.status == meeting) && now.Mono-p.heard <= v.cfg.DeadAfterMs {
			addresses = append(addresses, p.address)
		}
	}
	return addresses
}

func clip(s string) string { return s[:min(len(s), maxWhy)] }
