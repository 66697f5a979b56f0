package probe

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/net/icmp"
)

// Protocol numbers of IANA.
const (
	protoICMP   = 1
	protoUDP    = 17
	protoICMPv6 = 58
)

// icmpAccess is which ICMP sockets this process may open, by family: the error of opening each.
type icmpAccess struct {
	raw4, raw6   error // "ip4:icmp": any ICMP, needs CAP_NET_RAW
	ping4, ping6 error // "udp4": echo only, needs the group to be in ping_group_range
}

// findICMP opens each sort of socket once.
func findICMP() icmpAccess {
	try := func(network, address string) error {
		c, err := icmp.ListenPacket(network, address)
		if err != nil {
			return err
		}
		return c.Close()
	}
	return icmpAccess{
		raw4: try("ip4:icmp", "0.0.0.0"), raw6: try("ip6:ipv6-icmp", "::"),
		ping4: try("udp4", "0.0.0.0"), ping6: try("udp6", "::"),
	}
}

// privileged is whether echo packets of a family go through a raw socket; the error is why there is
// no socket at all. The unprivileged one is preferred: the kernel then hands a socket its own replies
// only.
func (i icmpAccess) privileged(is6 bool) (raw bool, err error) {
	ping, rawErr := i.ping4, i.raw4
	if is6 {
		ping, rawErr = i.ping6, i.raw6
	}
	if ping == nil {
		return false, nil
	}
	return true, rawErr
}

func (i icmpAccess) raw(is6 bool) error {
	if is6 {
		return i.raw6
	}
	return i.raw4
}

func (i icmpAccess) pingMissing() string {
	_, err4 := i.privileged(false)
	_, err6 := i.privileged(true)
	if err4 == nil || err6 == nil {
		return ""
	}
	return fmt.Sprintf("ping: needs CAP_NET_RAW or net.ipv4.ping_group_range to include gid %d (it is %s): %s",
		os.Getegid(), pingGroupRange(), cause(err4))
}

func (i icmpAccess) tracerouteMissing() string {
	if i.raw4 == nil || i.raw6 == nil {
		return ""
	}
	return fmt.Sprintf("traceroute: needs CAP_NET_RAW for a raw ICMP socket: %s", cause(i.raw4))
}

// pingGroupRange reads the sysctl; an empty range, the kernel's default, reads "1 0".
func pingGroupRange() string {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ping_group_range")
	if err != nil {
		return "unknown"
	}
	return strconv.Quote(strings.Join(strings.Fields(string(b)), " "))
}
