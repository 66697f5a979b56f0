package probe

import (
	"fmt"
	"net"
	"net/netip"
)

// block is a range of addresses that are not public unicast.
type block struct {
	prefix netip.Prefix
	class  string
}

func blocks(list ...string) []block {
	out := make([]block, 0, len(list)/2)
	for i := 0; i < len(list); i += 2 {
		out = append(out, block{prefix: netip.MustParsePrefix(list[i]), class: list[i+1]})
	}
	return out
}

// blocks4 follows the IANA IPv4 Special-Purpose Address Registry (RFC 6890 and its updates), RFC 5771
// for multicast and RFC 1112 §4 for the reserved top. The narrower of two ranges stands first.
var blocks4 = blocks(
	"0.0.0.0/32", "unspecified",
	"0.0.0.0/8", "reserved (this network)",
	"10.0.0.0/8", "private",
	"100.64.0.0/10", "private (carrier-grade NAT)",
	"127.0.0.0/8", "private (loopback)",
	"169.254.0.0/16", "private (link-local)",
	"172.16.0.0/12", "private",
	"192.0.0.0/24", "reserved (protocol assignments)",
	"192.0.2.0/24", "reserved (documentation)",
	"192.88.99.0/24", "reserved (6to4 relay)",
	"192.168.0.0/16", "private",
	"198.18.0.0/15", "reserved (benchmarking)",
	"198.51.100.0/24", "reserved (documentation)",
	"203.0.113.0/24", "reserved (documentation)",
	"224.0.0.0/4", "multicast",
	"255.255.255.255/32", "broadcast",
	"240.0.0.0/4", "reserved",
)

// blocks6 follows the IANA IPv6 Special-Purpose Address Registry; what is in no range here is public
// only within 2000::/3, the one part of the space that is given out.
var blocks6 = blocks(
	"::/128", "unspecified",
	"::1/128", "private (loopback)",
	"64:ff9b:1::/48", "private (local NAT64)",
	"100::/64", "reserved (discard)",
	"2001::/32", "reserved (Teredo)",
	"2001::/23", "reserved (protocol assignments)",
	"2001:db8::/32", "reserved (documentation)",
	"3fff::/20", "reserved (documentation)",
	"fc00::/7", "private (unique local)",
	"fe80::/10", "private (link-local)",
	"fec0::/10", "private (site-local)",
	"ff00::/8", "multicast",
)

var (
	global6 = netip.MustParsePrefix("2000::/3")
	// embed6 are the forms of IPv6 that carry an IPv4 address which the packet may end up at, with
	// the offset of its four bytes: NAT64 (RFC 6052), IPv4-compatible (RFC 4291 §2.5.5.1),
	// IPv4-translated (RFC 2765) and 6to4 (RFC 3056). IPv4-mapped is unmapped before.
	embed6 = []struct {
		prefix netip.Prefix
		at     int
	}{
		{netip.MustParsePrefix("64:ff9b::/96"), 12},
		{netip.MustParsePrefix("::/96"), 12},
		{netip.MustParsePrefix("::ffff:0:0:0/96"), 12},
		{netip.MustParsePrefix("2002::/16"), 2},
	}
)

// classify says of what sort an address is, and "" for a public unicast one.
func classify(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return "no address"
	}
	if a.Is4() {
		return inBlocks(a, blocks4)
	}
	if class := inBlocks(a, blocks6); class != "" {
		return class
	}
	for _, e := range embed6 {
		if !e.prefix.Contains(a) {
			continue
		}
		b := a.As16()
		inner := netip.AddrFrom4([4]byte(b[e.at : e.at+4]))
		if class := inBlocks(inner, blocks4); class != "" {
			return fmt.Sprintf("%s, as the embedded %s", class, inner)
		}
		return ""
	}
	if !global6.Contains(a) {
		return "reserved"
	}
	return ""
}

func inBlocks(a netip.Addr, list []block) string {
	for _, b := range list {
		if b.prefix.Contains(a) {
			return b.class
		}
	}
	return ""
}

// guard decides which addresses may be dialled.
type guard struct{ allowPrivate bool }

// check returns a *Refused when a, the address of host, may not be dialled.
func (g guard) check(host string, a netip.Addr) error {
	if g.allowPrivate {
		return nil
	}
	class := classify(a)
	if class == "" && ownAddress(a) {
		// A public address of this machine reaches its services behind whatever firewall it has.
		class = "this node's own address"
	}
	if class == "" {
		return nil
	}
	from := ""
	if host != "" && host != a.String() {
		from = fmt.Sprintf(" (from %s)", cut(host, MaxHostBytes))
	}
	return refusef("target %s%s is %s; start the node with --allow-private to allow it", a, from, class)
}

// ownAddress is whether an interface of this machine has the address. It is asked for each dial:
// interfaces change while a node runs.
func ownAddress(a netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	a = a.Unmap().WithZone("")
	for _, n := range addrs {
		if p, err := netip.ParsePrefix(n.String()); err == nil && p.Addr().Unmap().WithZone("") == a {
			return true
		}
	}
	return false
}
