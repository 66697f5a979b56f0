//go:build linux

// Package ports reckons with the ports that nodes connect from: between one source and
// one server address there are no more connections than the kernel has ports for them.
// Linux only.
package ports

import (
	"fmt"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/roost-server/roost/loadtest/internal/nodes"
)

// MaxSources is how many source addresses may be given.
const MaxSources = 4096

// Parse reads source addresses: single ones, and networks such as 127.10.0.0/24, of which
// the first and the last address are left out.
func Parse(list []string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, a.Unmap())
		} else if out, err = network(out, s); err != nil {
			return nil, err
		}
		if len(out) > MaxSources {
			return nil, fmt.Errorf("--source %s: more than %d addresses", s, MaxSources)
		}
	}
	seen := map[netip.Addr]bool{}
	for _, a := range out {
		if seen[a] {
			return nil, fmt.Errorf("--source: %s is there twice", a)
		}
		seen[a] = true
	}
	return out, nil
}

func network(out []netip.Addr, s string) ([]netip.Addr, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return nil, fmt.Errorf("--source: %q; an IP address, or a network such as 127.10.0.0/24, is expected", s)
	}
	if p != p.Masked() {
		return nil, fmt.Errorf("--source: %s is within a network; its name is %s", s, p.Masked())
	}
	edges := p.Addr().BitLen()-p.Bits() > 1 // else every address counts: RFC 3021
	a := p.Addr()
	if edges {
		a = a.Next()
	}
	for ; p.Contains(a) && len(out) <= MaxSources; a = a.Next() {
		if !edges || p.Contains(a.Next()) {
			out = append(out, a)
		}
	}
	return out, nil
}

// Range is the kernel's range of ports for connections of which nobody chose the port.
type Range struct{ From, To int }

// Count is how many there are.
func (r Range) Count() int { return r.To - r.From + 1 }

// OfKernel reads it.
func OfKernel() (r Range, err error) {
	const file = "/proc/sys/net/ipv4/ip_local_port_range" // of IPv6, too
	b, err := os.ReadFile(file)
	if err == nil {
		_, err = fmt.Sscan(string(b), &r.From, &r.To)
	}
	if err == nil && (r.From < 1 || r.To < r.From || r.To > 65535) {
		err = fmt.Errorf("cannot understand %q", b)
	}
	if err != nil {
		return Range{}, fmt.Errorf("range of ports: %s: %w", file, err)
	}
	return r, nil
}

// Check refuses nodes that would not find a port on this host, and sources that are not
// this host's. n is how many nodes there are here, in all processes. Between addresses of
// IPv4 loopback nodes choose sources as they need them when none are given.
func Check(spec *nodes.Spec, n int) error {
	r, err := OfKernel()
	if err != nil {
		return err
	}
	for _, a := range spec.Sources {
		if err := usable(a); err != nil {
			return err
		}
	}
	other := func(s netip.AddrPort) bool { a := s.Addr().Unmap(); return !a.Is4() || !a.IsLoopback() }
	if len(spec.Sources) == 0 && !slices.ContainsFunc(spec.Servers, other) {
		return nil
	}
	return r.check(spec, n)
}

func (r Range) check(spec *nodes.Spec, n int) error {
	servers := map[netip.AddrPort]bool{}
	for _, s := range spec.Servers {
		servers[s] = true
	}
	sources := max(1, len(spec.Sources))
	room := sources * len(servers) * r.Count()
	if n <= room {
		return nil
	}
	wide := ""
	if all := 65535 - 1024 + 1; r.Count() < all {
		wide = fmt.Sprintf(", or widen net.ipv4.ip_local_port_range to \"1024 65535\" (%d ports)", all)
	}
	return fmt.Errorf("%d nodes: from %d source to %d server addresses, with %d ports each (%d to %d), at most %d can connect; give more --source or --server addresses%s",
		n, sources, len(servers), r.Count(), r.From, r.To, room, wide)
}

// usable sees whether the host has an address.
func usable(a netip.Addr) error {
	family, to := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: a.As16()})
	if a.Is4() {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Addr: a.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("--source %s: %w", a, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Bind(fd, to); err != nil {
		return fmt.Errorf("--source %s: this host cannot connect from there: %w", a, err)
	}
	return nil
}
