package agent

import (
	"fmt"

	"github.com/roost-server/roost/protocol"
)

// place is a town with a network that serves it.
type place struct {
	country, city string
	asn           uint32
}

// places gives the nodes of a demonstration something to be chosen by.
var places = []place{
	{"AU", "Sydney", 1221}, {"AU", "Melbourne", 4804}, {"AU", "Perth", 7545},
	{"DE", "Berlin", 3320}, {"DE", "Munich", 6805}, {"DE", "Hamburg", 3209},
	{"US", "Dallas", 7922}, {"US", "Seattle", 209}, {"US", "New York", 701},
	{"BR", "Sao Paulo", 28573}, {"BR", "Recife", 7738},
	{"JP", "Tokyo", 2516}, {"JP", "Osaka", 4713},
	{"IN", "Mumbai", 9829}, {"IN", "Chennai", 24560},
	{"ZA", "Cape Town", 3741}, {"ZA", "Durban", 5713},
	{"FR", "Paris", 3215}, {"FR", "Lyon", 12322},
	{"GB", "London", 2856}, {"GB", "Leeds", 5089},
	{"CA", "Toronto", 812}, {"CA", "Montreal", 5769},
	{"SG", "Singapore", 9506}, {"KE", "Nairobi", 33771},
}

// Demo returns the identity of the i-th node of a demonstration fleet: the same for
// every run, and varied in country, network, city and tags.
func Demo(i int) (nodeID string, a protocol.Attributes) {
	p := places[i%len(places)]
	tags := []string{[]string{"home", "datacenter", "mobile"}[i%3]}
	if i%5 == 0 {
		tags = append(tags, "ipv6")
	}
	return fmt.Sprintf("demo-%03d", i+1), protocol.Attributes{Country: p.country, City: p.city, ASN: p.asn, Tags: tags}
}
