//go:build linux

package fleet

import (
	"github.com/roost-server/roost/loadtest/internal/nodes"
	"github.com/roost-server/roost/protocol"
)

// place is where a node may be: nodes are spread unevenly, as real fleets are, by the
// order of the list.
type place struct {
	country, city string
	asns          [3]uint32
}

var places = []place{
	{"US", "New York", [3]uint32{7018, 701, 7922}},
	{"DE", "Frankfurt", [3]uint32{3320, 3209, 24940}},
	{"AU", "Sydney", [3]uint32{1221, 4804, 7545}},
	{"GB", "London", [3]uint32{2856, 5089, 5607}},
	{"JP", "Tokyo", [3]uint32{4713, 2516, 17676}},
	{"BR", "São Paulo", [3]uint32{28573, 27699, 26599}},
	{"IN", "Mumbai", [3]uint32{55836, 24560, 45609}},
	{"FR", "Paris", [3]uint32{3215, 12322, 16276}},
	{"US", "San Francisco", [3]uint32{7922, 7018, 21928}},
	{"NL", "Amsterdam", [3]uint32{1136, 33915, 60781}},
	{"SG", "Singapore", [3]uint32{9506, 4773, 3758}},
	{"CA", "Toronto", [3]uint32{812, 577, 852}},
	{"ZA", "Johannesburg", [3]uint32{3741, 37457, 5713}},
	{"PL", "Warsaw", [3]uint32{5617, 6830, 12912}},
	{"ES", "Madrid", [3]uint32{3352, 12479, 12430}},
	{"AU", "Melbourne", [3]uint32{1221, 4764, 9443}},
	{"SE", "Stockholm", [3]uint32{3301, 1257, 2119}},
	{"MX", "Mexico City", [3]uint32{8151, 28403, 13999}},
	{"KE", "Nairobi", [3]uint32{33771, 37061, 36926}},
	{"NZ", "Auckland", [3]uint32{4771, 9500, 9790}},
}

var (
	platforms = []string{"linux/amd64", "linux/arm64", "darwin/arm64", "windows/amd64", "linux/arm"}
	tagSets   = [][]string{{"home"}, {"home", "wifi"}, {"datacenter"}, {"mobile"}, {"home", "ipv6"}, {"datacenter", "ipv6"}, nil}
	kindSets  = [][]string{{"echo"}, {"echo", "http"}, {"echo", "http", "ping"}, {"echo", "dns", "http", "ping", "traceroute"}}
)

// profile returns the attributes of node number i: the same for the same seed. The slices
// are shared and read-only.
func profile(seed uint64, i int) protocol.Attributes {
	h := nodes.Mix(seed ^ nodes.Mix(uint64(i)))
	take := func(n int) int {
		v := int(h % uint64(n))
		h /= uint64(n)
		return v
	}
	p := &places[min(take(len(places)), take(len(places)))]
	return protocol.Attributes{
		Country: p.country, City: p.city, ASN: p.asns[take(3)],
		Platform: platforms[take(len(platforms))],
		Tags:     tagSets[take(len(tagSets))],
		Kinds:    kindSets[take(len(kindSets))],
	}
}
