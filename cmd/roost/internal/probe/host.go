package probe

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// literal returns the address that host is, if it is one, without the IPv4-in-IPv6 disguise.
func literal(host string) (netip.Addr, bool) {
	if len(host) > 1 && host[0] == '[' && host[len(host)-1] == ']' {
		host = host[1 : len(host)-1]
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}, false
	}
	return a.Unmap(), true
}

// checkHost refuses what is neither an address nor a name that a resolver should see.
//
// A name whose last label is a number is an IPv4 address in one of the old notations (octal, hex, one
// number) to some resolvers and a name to others (WHATWG URL Standard, "ends in a number"), so that
// what it means depends on the node. It is refused as ambiguous.
func checkHost(host string) error {
	if host == "" {
		return errors.New("has no host")
	}
	if len(host) > MaxHostBytes+1 {
		return fmt.Errorf("host is longer than %d bytes", MaxHostBytes)
	}
	if _, ok := literal(host); ok {
		return nil
	}
	for i := 0; i < len(host); i++ {
		c := host[i]
		if !isAlnum(c) && c != '-' && c != '_' && c != '.' {
			return fmt.Errorf("host %q has the character %q; allowed are letters, digits, '-', '_' and '.' (write other scripts as xn--...)", host, c)
		}
	}
	name := strings.TrimSuffix(host, ".")
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return fmt.Errorf("host %q has an empty label or one longer than 63 bytes", host)
		}
	}
	if last := name[strings.LastIndexByte(name, '.')+1:]; isNumber(last) {
		return fmt.Errorf("host %q is an ambiguous notation of an IPv4 address; write it as four decimal numbers without leading zeros", host)
	}
	return nil
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// isNumber is whether a label is one in inet_aton(3): decimal, octal or hexadecimal.
func isNumber(label string) bool {
	if l := strings.ToLower(label); strings.HasPrefix(l, "0x") {
		return strings.Trim(l[2:], "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}

// splitHostPort takes host:port apart and checks both.
func splitHostPort(address string) (host string, port uint16, err error) {
	host, p, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not HOST:PORT (an IPv6 address stands in brackets)", cut(address, MaxHostBytes))
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("port %q is not a number from 1 to 65535", cut(p, 20))
	}
	if err := checkHost(host); err != nil {
		return "", 0, err
	}
	return host, uint16(n), nil
}

// checkRange is the common form of complaint about numbers.
func checkRange(field string, v, low, high int64) error {
	if v < low || v > high {
		return fmt.Errorf("%s: %d is not within %d and %d", field, v, low, high)
	}
	return nil
}

// checkTimes checks the fields that most kinds have; 0 is "not given" for each.
func checkTimes(timeoutMs, maxLatencyMs int64, ipVersion int) error {
	if err := checkRange("timeout_ms", timeoutMs, 0, MaxTimeoutMs); err != nil {
		return err
	}
	if err := checkRange("max_latency_ms", maxLatencyMs, 0, MaxTimeoutMs); err != nil {
		return err
	}
	return checkIPVersion(ipVersion)
}

func checkIPVersion(v int) error {
	if v != 0 && v != 4 && v != 6 {
		return fmt.Errorf("ip_version: %d is not 0 (either), 4 or 6", v)
	}
	return nil
}
