package directory

import (
	"slices"

	"github.com/roost-server/roost/actors"
)

// group is a set of nodes that have something in common: a variant's nodes have equal
// profiles, a class's nodes differ only in tags and agent. It exists while it has nodes.
type group struct {
	class      *group          // of a variant; nil: this is a class
	profile    *actors.Profile // of a class: of one of the variants that it has had
	hash       uint64
	chain      *group // another one of the level with the same hash
	in         []membership
	variants   []*group // of a class
	net, town  *posting // of a class: those of its ASN, and of its city there
	oldest     uint64   // the stamp of head
	head, tail uint32   // the queue: nodes that are not silent, by their stamps
	nodes      uint32
	silent     uint32 // of the nodes
	at         uint32 // of a variant: its place in class.variants
	mark       uint64 // the last search that found it
}

// membership is a group's place in a posting.
type membership struct {
	posting *posting
	at      uint32
}

// key names a posting: what its groups have.
type key struct {
	about  Stage // or aboutTown
	number uint32
	text   string
}

// aboutTown is for postings of an ASN in a city, which are not searched for: they tell
// towns apart when nodes are spread.
const aboutTown = Stages

// posting lists the groups that have something: variants for a tag, else classes.
type posting struct {
	groups []*group
	nodes  int // of the groups
	key    key
	mark   uint64 // of a net or town: the last search that met it,
	index  int32  // and its place in that
}

// nothing is the posting of what no node has.
var nothing posting

// has reports whether the group is in a posting.
func (g *group) has(p *posting) bool {
	for i := range g.in {
		if g.in[i].posting == p {
			return true
		}
	}
	return false
}

// enter gives a node that is in no group its profile, and puts it into the groups for that.
func (d *Directory) enter(h uint32, p *actors.Profile) {
	n := d.nodes.at(h)
	if d.indexed {
		d.attach(n, d.variant(p))
	} else {
		n.profile = d.hold(n.gate, p)
	}
	if n.silent == 0 {
		d.queue(h)
	}
}

// attach counts a node in a variant, and its class.
func (d *Directory) attach(n *node, v *group) {
	n.variant, n.profile = v, v.profile
	v.count(1)
	v.class.count(1)
	if n.silent > 0 {
		n.countSilent(1)
	}
}

// leave takes a node out of its groups, and drops those that have become empty. A
// silent one stays silent.
func (d *Directory) leave(h uint32) {
	n := d.nodes.at(h)
	if !d.indexed {
		d.letGo(n.profile)
		return
	}
	v, c := n.variant, n.variant.class
	if n.silent > 0 {
		v.silent--
		c.silent--
	} else {
		d.unqueue(h)
	}
	v.count(-1)
	c.count(-1)
	if v.nodes == 0 {
		last := len(c.variants) - 1
		c.variants[v.at] = c.variants[last]
		c.variants[v.at].at = v.at
		c.variants[last] = nil
		c.variants = c.variants[:last]
		d.drop(v, variantLevel)
	}
	if c.nodes == 0 {
		d.drop(c, classLevel)
	}
}

// count changes the number of a group's nodes by one.
func (g *group) count(by int) {
	g.nodes += uint32(by)
	for i := range g.in {
		g.in[i].posting.nodes += by
	}
}

// variant returns the group of the nodes with a profile; a new one has no node yet.
func (d *Directory) variant(p *actors.Profile) *group {
	h := d.hash(p, variantLevel)
	for g := d.groups[variantLevel][h]; g != nil; g = g.chain {
		if equal(g.profile, p) {
			return g
		}
	}
	c := d.class(p)
	v := &group{class: c, profile: p, hash: h, at: uint32(len(c.variants)), in: make([]membership, 0, len(p.Tags))}
	c.variants = append(c.variants, v)
	for _, tag := range p.Tags {
		d.join(v, key{about: Tags, text: tag})
	}
	d.keep(v, variantLevel)
	return v
}

// class returns the group of the nodes that are like a profile but for tags and agent.
func (d *Directory) class(p *actors.Profile) *group {
	h := d.hash(p, classLevel)
	for g := d.groups[classLevel][h]; g != nil; g = g.chain {
		if alike(g.profile, p) {
			return g
		}
	}
	c := &group{profile: p, hash: h, in: make([]membership, 0, 6+len(p.Kinds))}
	c.net = d.join(c, key{about: ASN, number: p.ASN})
	c.town = d.join(c, key{about: aboutTown, number: p.ASN, text: p.City})
	if p.Country != "" {
		d.join(c, key{about: Country, text: p.Country})
	}
	if p.City != "" {
		d.join(c, key{about: City, text: p.City})
	}
	if p.Platform != "" {
		d.join(c, key{about: Platform, text: p.Platform})
	}
	d.joinPosting(c, &d.all)
	for _, kind := range p.Kinds {
		d.join(c, key{about: Kind, text: kind})
	}
	d.keep(c, classLevel)
	return c
}

// join puts a group without nodes into the posting of what it has, once.
func (d *Directory) join(g *group, k key) *posting {
	p := d.postings[k]
	if p == nil {
		p = &posting{key: k}
		d.postings[k] = p
	}
	if !g.has(p) {
		d.joinPosting(g, p)
	}
	return p
}

func (d *Directory) joinPosting(g *group, p *posting) {
	g.in = append(g.in, membership{posting: p, at: uint32(len(p.groups))})
	p.groups = append(p.groups, g)
}

func (d *Directory) keep(g *group, level int) {
	g.chain = d.groups[level][g.hash]
	d.groups[level][g.hash] = g
}

// drop forgets a group without nodes.
func (d *Directory) drop(g *group, level int) {
	for i := range g.in {
		d.quit(g, &g.in[i])
	}
	first := d.groups[level][g.hash]
	switch {
	case first != g:
		for first.chain != g {
			first = first.chain
		}
		first.chain = g.chain
	case g.chain != nil:
		d.groups[level][g.hash] = g.chain
	default:
		delete(d.groups[level], g.hash)
	}
}

// quit takes a group out of a posting; the last one takes its place there.
func (d *Directory) quit(g *group, m *membership) {
	p := m.posting
	last := len(p.groups) - 1
	if moved := p.groups[last]; moved != g {
		p.groups[m.at] = moved
		i := slices.IndexFunc(moved.in, func(x membership) bool { return x.posting == p })
		moved.in[i].at = m.at
	}
	p.groups[last] = nil
	p.groups = p.groups[:last]
	if last == 0 && p != &d.all {
		delete(d.postings, p.key)
	}
}

// hash covers what the nodes of a level's groups have in common.
func (d *Directory) hash(p *actors.Profile, level int) uint64 {
	b := append(d.text[:0], p.Country...)
	b = append(append(b, 0), p.City...)
	b = append(b, 0, byte(p.ASN), byte(p.ASN>>8), byte(p.ASN>>16), byte(p.ASN>>24))
	b = append(b, p.Platform...)
	b = appendList(b, p.Kinds)
	if level == variantLevel {
		b = append(append(b, 0, 0), p.Agent...)
		b = appendList(b, p.Tags)
	}
	d.text = b
	return d.sum(d.seed, b)
}

func appendList(b []byte, list []string) []byte {
	for _, s := range list {
		b = append(append(b, 0), s...)
	}
	return b
}

// alike reports whether profiles belong to the same class.
func alike(x, y *actors.Profile) bool {
	return x.Country == y.Country && x.City == y.City && x.ASN == y.ASN && x.Platform == y.Platform &&
		slices.Equal(x.Kinds, y.Kinds)
}

// equal reports whether profiles belong to the same variant.
func equal(x, y *actors.Profile) bool {
	return x == y || alike(x, y) && x.Agent == y.Agent && slices.Equal(x.Tags, y.Tags)
}
