package directory

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// ownTowns is the first profile with a town of its own.
const ownTowns = 1_000_000

// profileNumber makes the profiles of a fleet of some 60 countries, 400 ASNs and 1000
// towns. From 2000 on each has a tag of its own, and from a million on a town as well.
func profileNumber(i int) *actors.Profile {
	p := &actors.Profile{Agent: fmt.Sprint("v1.", i%3), Attributes: protocol.Attributes{
		Country: fmt.Sprintf("%c%c", 'A'+i%60%26, 'A'+i%60/26), City: fmt.Sprint("City ", i%1000), ASN: uint32(1000 + i%400),
		Platform: []string{"linux/amd64", "linux/arm64", "windows/amd64"}[i/7%3],
		Tags:     []string{[]string{"home", "office", "cloud"}[i/11%3], []string{"ipv4", "ipv6"}[i/13%2]},
		Kinds:    []string{"ping", "http", "dns"},
	}}
	if i%10 == 0 {
		p.Kinds = p.Kinds[:1]
	}
	if i >= 2000 {
		p.Tags = append(p.Tags, fmt.Sprint("serial-", i))
	}
	if i >= ownTowns {
		p.City = fmt.Sprint("Village ", i)
	}
	if i%1000 == 500 {
		p.Tags = append(p.Tags, "rare")
	}
	return p
}

// fleetQueries are from many that fit to few; the first filter narrows as well.
var fleetQueries = map[string]*Query{
	"any":          {Count: 10},
	"kind":         {Kind: "http", Count: 10},
	"kind/1":       {Kind: "http", Count: 1},
	"platform":     {Kind: "http", Count: 10, Selector: &record.Selector{Platform: "linux/arm64"}},
	"country":      {Kind: "http", Count: 10, Selector: &record.Selector{Country: "BA"}},
	"asn":          {Kind: "http", Count: 10, Selector: &record.Selector{ASN: 1203}},
	"country+city": {Kind: "http", Count: 10, Selector: &record.Selector{Country: "DA", City: "City 3"}},
	"platform+asn": {Kind: "http", Count: 10, Selector: &record.Selector{Platform: "linux/arm64", ASN: 1207}},
	"tag":          {Kind: "http", Count: 10, Selector: &record.Selector{Tags: []string{"home"}}},
	"rare tag":     {Kind: "ping", Count: 10, Selector: &record.Selector{Tags: []string{"rare"}}},
	"nobody":       {Kind: "http", Count: 10, Selector: &record.Selector{City: "Nowhere"}},
}

func BenchmarkMatch(b *testing.B) {
	const nodes = 1_000_000
	for _, distinct := range []int{2000, nodes} {
		profiles := make([]*actors.Profile, distinct)
		for i := range profiles {
			profiles[i] = profileNumber(i)
		}
		d := fleet(nodes, func(i int) *actors.Profile { return profiles[i%distinct] })
		for _, name := range slices.Sorted(maps.Keys(fleetQueries)) {
			q := fleetQueries[name]
			b.Run(fmt.Sprintf("profiles=%d/%s", distinct, name), func(b *testing.B) {
				b.ReportAllocs()
				var f Found
				for b.Loop() {
					f = d.Match(q, 0)
				}
				b.ReportMetric(float64(f.Funnel[Unused]), "fit")
			})
		}
	}
}

// table is what the directory is measured by: a map by id, searched by a scan.
type table struct{ nodes map[string]entry }

type entry struct {
	profile     *actors.Profile
	incarnation uint64
	gate        uint32
}

func (d *table) register(gate uint32, r *actors.Registration) {
	if p, known := d.nodes[r.Node]; known && p.incarnation > r.Incarnation {
		return
	}
	d.nodes[r.Node] = entry{profile: r.Profile, incarnation: r.Incarnation, gate: gate}
}

func (d *table) depart(node string, incarnation uint64) {
	if p, ok := d.nodes[node]; ok && p.incarnation <= incarnation {
		delete(d.nodes, node)
	}
}

func registrations(nodes, distinct int) []actors.Registration {
	all, profiles := make([]actors.Registration, nodes), make([]*actors.Profile, distinct)
	for i := range profiles {
		profiles[i] = profileNumber(i)
	}
	for i := range all {
		all[i] = actors.Registration{Node: fmt.Sprintf("node-%07d", i), Incarnation: 1, Profile: profiles[i*7919%distinct]}
	}
	return all
}

// BenchmarkChurn is what a node's departure and return cost among 200,000.
func BenchmarkChurn(b *testing.B) {
	const nodes = 200_000
	for _, distinct := range []int{2000, nodes} {
		all := registrations(nodes, distinct)
		d, m := New(), &table{nodes: map[string]entry{}}
		for i := range all {
			d.Register(1, &all[i])
			m.register(1, &all[i])
		}
		b.Run(fmt.Sprintf("profiles=%d/directory", distinct), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				r := &all[i*7919%nodes]
				d.Depart(r.Node, r.Incarnation)
				d.Register(1, r)
			}
		})
		b.Run(fmt.Sprintf("profiles=%d/map", distinct), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				r := &all[i*7919%nodes]
				m.depart(r.Node, r.Incarnation)
				m.register(1, r)
			}
		})
	}
}

// BenchmarkFill is what each of 200,000 nodes costs when all arrive.
func BenchmarkFill(b *testing.B) {
	const nodes = 200_000
	all := registrations(nodes, 2000)
	b.Run("directory", func(b *testing.B) {
		for b.Loop() {
			d := New()
			for i := range all {
				d.Register(1, &all[i])
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/nodes, "ns/node")
	})
	b.Run("map", func(b *testing.B) {
		for b.Loop() {
			m := &table{nodes: map[string]entry{}}
			for i := range all {
				m.register(1, &all[i])
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/nodes, "ns/node")
	})
}

func BenchmarkPage(b *testing.B) {
	const nodes = 1_000_000
	d := fleet(nodes, func(i int) *actors.Profile { return profileNumber(i % 2000) })
	for name, f := range map[string]*Filter{
		"all": {}, "few": {Selector: &record.Selector{ASN: 1203}}, "prefix": {Prefix: "node-05"},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				d.Page(f, "node-0400000", 100)
			}
		})
	}
}

func BenchmarkSpread(b *testing.B) {
	all := make([]Location, 640)
	for i := range all {
		all[i] = Location{Node: fmt.Sprint(i), Profile: profileNumber(i)}
	}
	b.ReportAllocs()
	for b.Loop() {
		Spread(all, 10)
	}
}

// BenchmarkDepartMember is what a third of 200,000 nodes costs that leaves at once; without
// any that leave it is the look at all nodes.
func BenchmarkDepartMember(b *testing.B) {
	const nodes = 200_000
	all := registrations(nodes, 2000)
	for _, leaving := range []bool{true, false} {
		b.Run(fmt.Sprintf("leaving=%v", leaving), func(b *testing.B) {
			b.ReportAllocs()
			d := New()
			for b.Loop() {
				if leaving || d.Len() == 0 {
					b.StopTimer()
					for i := range all {
						d.Register(actors.GateOf(uint16(i%3), 1), &all[i])
					}
					b.StartTimer()
				}
				if leaving {
					d.DepartMember(2)
				} else {
					d.DepartMember(9)
				}
			}
		})
	}
}
