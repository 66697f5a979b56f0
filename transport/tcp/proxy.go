package tcp

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/panjf2000/gnet/v2"
	"go.uber.org/zap"

	"github.com/roost-server/roost/protocol"
)

// This file reads the header that a balancer puts before the preface to say whose
// connection it passes on: HAProxy's PROXY protocol, version 2
// (https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt, section 2.2). The
// libraries for it wrap a net.Conn and read from it; here bytes come from an event loop.

const (
	proxySignature = "\r\n\r\n\x00\r\nQUIT\n"
	proxyV1        = "PROXY "

	// proxyFixedBytes are the signature, version and command, family, and the length of
	// what follows: addresses, then TLVs.
	proxyFixedBytes = 16

	// maxProxyBytes caps a header. The addresses take up to 216 bytes; a TLV with a
	// client's certificate may take a few thousand. Nobody has been authenticated yet.
	maxProxyBytes = proxyFixedBytes + 4<<10
)

// The commands and families that are told apart: see parseProxy.
const (
	proxyVersion  = 0x20
	proxyLocal    = 0x0
	proxyPassed   = 0x1
	proxyStream4  = 0x11
	proxyStream6  = 0x21
	proxyStreamUX = 0x31
	proxyUnknown  = 0x00
)

// parseProxy takes the header at the start of b. size 0 without an error means that it is
// not whole yet: it is refused as soon as what has come cannot become one. from is not
// valid when the balancer speaks for itself, as in a health check, or does not say whose
// connection it is. TLVs are skipped.
func parseProxy(b []byte) (size int, from netip.AddrPort, err error) {
	n := min(len(b), len(proxySignature))
	if string(b[:n]) != proxySignature[:n] {
		return 0, from, notProxy(b)
	}
	if len(b) > len(proxySignature) {
		if v := b[12]; v&0xf0 != proxyVersion || v&0x0f > proxyPassed {
			return 0, from, proxyErrorf("version and command are 0x%02x; 0x20 and 0x21 are known", v)
		}
	}
	if len(b) < proxyFixedBytes {
		return 0, from, nil
	}
	size = proxyFixedBytes + int(binary.BigEndian.Uint16(b[14:]))
	if size > maxProxyBytes {
		return 0, from, proxyErrorf("it has %d bytes; at most %d are taken", size, maxProxyBytes)
	}
	least, err := proxyAddressBytes(b[12]&0x0f, b[13])
	switch {
	case err != nil:
		return 0, from, err
	case size < proxyFixedBytes+least:
		return 0, from, proxyErrorf("it has %d bytes, too few for addresses of family 0x%02x", size, b[13])
	case len(b) < size:
		return 0, from, nil
	}
	a := b[proxyFixedBytes:size]
	switch least {
	case 12: // source, destination, source's port, destination's port
		from = netip.AddrPortFrom(netip.AddrFrom4([4]byte(a[:4])), binary.BigEndian.Uint16(a[8:]))
	case 36:
		from = netip.AddrPortFrom(netip.AddrFrom16([16]byte(a[:16])).Unmap(), binary.BigEndian.Uint16(a[32:]))
	}
	return size, from, nil
}

// proxyAddressBytes returns how long the addresses are; 0 when they say nothing.
func proxyAddressBytes(command, family byte) (int, error) {
	switch {
	case command == proxyLocal, family == proxyUnknown, family == proxyStreamUX:
		return 0, nil
	case family == proxyStream4:
		return 12, nil
	case family == proxyStream6:
		return 36, nil
	}
	return 0, proxyErrorf("family and transport are 0x%02x; TCP over IPv4 (0x11) or IPv6 (0x21) is expected", family)
}

// notProxy says what else b begins with; nil when that cannot be told yet.
func notProxy(b []byte) error {
	begins := func(s string) bool { return string(b[:min(len(b), len(s))]) == s[:min(len(b), len(s))] }
	switch {
	case begins(proxyV1):
		if len(b) < len(proxyV1) {
			return nil
		}
		return proxyErrorf("it is of version 1; let the balancer send version 2 (HAProxy: send-proxy-v2)")
	case begins(protocol.Preface):
		if len(b) < len(protocol.Preface) {
			return nil
		}
		return proxyErrorf("it is missing; this port takes connections from a balancer that sends it (HAProxy: send-proxy-v2)")
	}
	return protocol.Errorf(protocol.ReasonBadPreface, "neither a PROXY header of version 2 nor the preface %q", protocol.Preface)
}

// proxyErrorf blames the configuration: the node behind the balancer is to come back.
func proxyErrorf(format string, args ...any) error {
	return protocol.Errorf(protocol.ReasonNotReady, "PROXY header: "+format, args...)
}

// unwantedProxy reports an error when b, the first bytes of a connection, are a PROXY
// header. The first byte of version 2 begins no other protocol.
func unwantedProxy(b []byte) error {
	if b[0] == proxySignature[0] || strings.HasPrefix(string(b[:min(len(b), len(proxyV1))]), proxyV1) {
		return proxyErrorf("none is expected here; turn proxy_protocol on, or let one balancer less send it")
	}
	return nil
}

// passed is a connection that a balancer passes on: it is the node's address that counts.
type passed struct {
	gnet.Conn
	from netip.AddrPort
}

// RemoteAddr implements gnet.Conn.
func (p *passed) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(p.from) }

// socket returns gnet's own connection.
func socket(gc gnet.Conn) gnet.Conn {
	if p, ok := gc.(*passed); ok {
		return p.Conn
	}
	return gc
}

// proxied takes the header from the next bytes of c, and returns those behind it.
func (l *Loop) proxied(c *Conn, b []byte) (rest []byte, err error) {
	whole, had := b, 0
	if part := c.in.part; part != nil {
		had = len(part.b)
		part = l.pool.grow(part, min(had+len(b), maxProxyBytes))
		part.b = append(part.b, b[:min(len(b), maxProxyBytes-had)]...)
		c.in.part, whole = part, part.b
	}
	size, from, err := parseProxy(whole)
	if err != nil {
		l.stats.proxyErrors.Add(1)
		l.server.warnProxy(c.RemoteAddr(), err)
		return nil, err
	}
	if size == 0 {
		if c.in.part == nil {
			c.in.part = l.pool.get(len(b))
			c.in.part.b = append(c.in.part.b, b...)
		}
		return nil, nil
	}
	c.in.release(&l.pool)
	c.flags &^= flagProxy
	if from.IsValid() {
		c.gc = &passed{c.gc, from}
	}
	return b[size-had:], nil
}

// balancer reports whether who connected may say whose connection it is.
func (s *Server) balancer(gc gnet.Conn) bool {
	if len(s.cfg.ProxyFrom) == 0 {
		return true
	}
	a, ok := gc.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return false
	}
	ip := a.AddrPort().Addr().Unmap().WithZone("")
	for _, p := range s.cfg.ProxyFrom {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

var errStranger = errors.New("proxy_from does not have its address")

// proxyWarnEvery is how often the log tells of connections without a good header.
const proxyWarnEvery = time.Minute

// warnProxy tells the operator, since the node cannot do anything about it.
func (s *Server) warnProxy(peer string, err error) {
	now := int64(time.Since(s.began)) + 1
	last := s.proxyWarned.Load()
	if last != 0 && now-last < int64(proxyWarnEvery) || !s.proxyWarned.CompareAndSwap(last, now) {
		return
	}
	s.log.Warn("a connection to the nodes' port was refused for its PROXY header; more of these are counted and not logged for a minute",
		zap.String("peer", peer), zap.Error(err))
}
