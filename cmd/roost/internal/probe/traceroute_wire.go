package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// traceBase is the payload of UDP probe 0; each later one is a byte longer. The length tells probes
// apart in what routers quote (at least 8 bytes of the UDP header, RFC 792), while addresses and ports
// stay equal, so that all probes take the same way through load balancers (as Paris traceroute does).
const traceBase = 8

// traceAnswer is one answer to one probe.
type traceAnswer struct {
	probe int
	from  netip.Addr
	at    time.Time
	// arrived is whether the answer is one that only the destination gives.
	arrived bool
	// unreachable is what else was said but that the TTL ran out.
	unreachable string
}

// traceWire are the sockets of one traceroute: a raw one, which sees all ICMP of this machine, and for
// UDP one whose port, which the kernel keeps unique, is quoted in every answer to it. Echo probes are
// recognised by an identifier that no other traceroute of this process has.
type traceWire struct {
	is6  bool
	dst  netip.Addr
	port uint16
	icmp *icmp.PacketConn
	udp  *net.UDPConn // nil for echo probes
	id   uint16       // source port or echo identifier

	answers chan traceAnswer
	failed  chan error
	done    chan struct{}
	readers sync.WaitGroup
}

// echoIDs are the identifiers in use by echo traceroutes of this process.
var echoIDs = struct {
	sync.Mutex
	used map[uint16]bool
}{used: make(map[uint16]bool)}

func takeEchoID() (uint16, error) {
	echoIDs.Lock()
	defer echoIDs.Unlock()
	id := uint16(rand.Uint32()) //nolint:gosec // spread, not secrecy
	for range 1 << 16 {
		if !echoIDs.used[id] {
			echoIDs.used[id] = true
			return id, nil
		}
		id++
	}
	return 0, errors.New("all ICMP echo identifiers are in use")
}

func freeEchoID(id uint16) {
	echoIDs.Lock()
	defer echoIDs.Unlock()
	delete(echoIDs.used, id)
}

func openTraceWire(a *TracerouteArgs, dst netip.Addr) (*traceWire, error) {
	w := &traceWire{
		is6: dst.Is6(), dst: dst, port: uint16(a.Port),
		answers: make(chan traceAnswer, MaxHops*MaxProbesPerHop),
		failed:  make(chan error, 2), // one for each reader
		done:    make(chan struct{}),
	}
	var err error
	if w.is6 {
		w.icmp, err = icmp.ListenPacket("ip6:ipv6-icmp", "::")
	} else {
		w.icmp, err = icmp.ListenPacket("ip4:icmp", "0.0.0.0")
	}
	if err != nil {
		return nil, fmt.Errorf("raw socket: %w", err)
	}
	w.filter()
	if a.Method == "udp" {
		network := "udp4"
		if w.is6 {
			network = "udp6"
		}
		if w.udp, err = net.ListenUDP(network, nil); err == nil {
			w.id = uint16(w.udp.LocalAddr().(*net.UDPAddr).Port)
		}
	} else {
		w.id, err = takeEchoID()
	}
	if err != nil {
		_ = w.icmp.Close()
		return nil, err
	}
	w.readers.Go(w.readICMP)
	if w.udp != nil {
		w.readers.Go(w.readUDP)
	}
	return w, nil
}

// filter spares this process the ICMP that it does not look at; without it all works as well.
func (w *traceWire) filter() {
	if w.is6 {
		var f ipv6.ICMPFilter
		f.SetAll(true)
		f.Accept(ipv6.ICMPTypeTimeExceeded)
		f.Accept(ipv6.ICMPTypeDestinationUnreachable)
		f.Accept(ipv6.ICMPTypePacketTooBig)
		f.Accept(ipv6.ICMPTypeEchoReply)
		_ = w.icmp.IPv6PacketConn().SetICMPFilter(&f)
		return
	}
	var f ipv4.ICMPFilter
	f.SetAll(true)
	f.Accept(ipv4.ICMPTypeTimeExceeded)
	f.Accept(ipv4.ICMPTypeDestinationUnreachable)
	f.Accept(ipv4.ICMPTypeEchoReply)
	_ = w.icmp.IPv4PacketConn().SetICMPFilter(&f)
}

// close ends the readers and waits for them.
func (w *traceWire) close() {
	close(w.done)
	_ = w.icmp.Close()
	if w.udp != nil {
		_ = w.udp.Close()
	} else {
		defer freeEchoID(w.id)
	}
	w.readers.Wait()
}

// send sends one probe.
func (w *traceWire) send(ttl, probe int) error {
	if w.udp != nil {
		return w.sendUDP(ttl, probe)
	}
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: int(w.id), Seq: probe, Data: make([]byte, traceBase)}}
	var err error
	if w.is6 {
		m.Type = ipv6.ICMPTypeEchoRequest // its checksum is the kernel's work
		err = w.icmp.IPv6PacketConn().SetHopLimit(ttl)
	} else {
		err = w.icmp.IPv4PacketConn().SetTTL(ttl)
	}
	if err != nil {
		return fmt.Errorf("ttl %d: %w", ttl, err)
	}
	b, err := m.Marshal(nil)
	if err != nil {
		return err
	}
	_, err = w.icmp.WriteTo(b, &net.IPAddr{IP: w.dst.AsSlice(), Zone: w.dst.Zone()})
	return tolerate(err)
}

func (w *traceWire) sendUDP(ttl, probe int) error {
	var err error
	if w.is6 {
		err = ipv6.NewConn(w.udp).SetHopLimit(ttl)
	} else {
		err = ipv4.NewConn(w.udp).SetTTL(ttl)
	}
	if err != nil {
		return fmt.Errorf("ttl %d: %w", ttl, err)
	}
	_, err = w.udp.WriteToUDPAddrPort(make([]byte, traceBase+probe), netip.AddrPortFrom(w.dst, w.port))
	return tolerate(err)
}

// tolerate drops errors that are an answer to an earlier probe, which arrives as ICMP as well.
func tolerate(err error) error {
	for _, e := range []error{syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENOBUFS} {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}

func (w *traceWire) readICMP() {
	buf := make([]byte, 1500) // an ICMP error quotes less than 1280 bytes
	for {
		n, from, err := w.icmp.ReadFrom(buf)
		at := time.Now()
		if err != nil {
			w.fail(err)
			return
		}
		src, ok := netAddr(from)
		if !ok {
			continue
		}
		if r, ok := w.parse(buf[:n], src); ok {
			r.at = at
			w.deliver(r)
		}
	}
}

// readUDP waits for the case that something does listen on the port.
func (w *traceWire) readUDP() {
	buf := make([]byte, 1)
	for {
		_, from, err := w.udp.ReadFromUDPAddrPort(buf)
		if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) {
			continue
		}
		if err != nil {
			w.fail(err)
			return
		}
		if from.Addr().Unmap() == w.dst && from.Port() == w.port {
			// The reply does not say to which probe.
			w.deliver(traceAnswer{probe: firstOpenProbe, from: w.dst, at: time.Now(), arrived: true})
		}
	}
}

// firstOpenProbe stands for "the first one not answered of the hop that runs"; no length that is quoted comes to it.
const firstOpenProbe = math.MinInt

func (w *traceWire) deliver(r traceAnswer) {
	select {
	case w.answers <- r:
	case <-w.done:
	}
}

func (w *traceWire) fail(err error) {
	select {
	case <-w.done: // closed by the job itself
	default:
		w.failed <- err
	}
}

func netAddr(a net.Addr) (netip.Addr, bool) {
	ip, ok := a.(*net.IPAddr)
	if !ok {
		return netip.Addr{}, false
	}
	addr, ok := netip.AddrFromSlice(ip.IP)
	return addr.Unmap().WithZone(ip.Zone), ok
}

// parse reads one ICMP message; ok is whether it answers a probe of this traceroute.
func (w *traceWire) parse(b []byte, from netip.Addr) (traceAnswer, bool) {
	proto := protoICMP
	if w.is6 {
		proto = protoICMPv6
	}
	m, err := icmp.ParseMessage(proto, b)
	if err != nil {
		return traceAnswer{}, false
	}
	r := traceAnswer{from: from}
	var quoted []byte
	switch body := m.Body.(type) {
	case *icmp.Echo:
		reply := m.Type == ipv4.ICMPTypeEchoReply || m.Type == ipv6.ICMPTypeEchoReply
		r.probe, r.arrived = body.Seq, true
		return r, reply && w.udp == nil && uint16(body.ID) == w.id && from.WithZone("") == w.dst.WithZone("")
	case *icmp.TimeExceeded:
		quoted = body.Data
	case *icmp.DstUnreach:
		quoted = body.Data
		portUnreachable := 3
		if w.is6 {
			portUnreachable = 4
		}
		r.arrived = m.Code == portUnreachable && w.udp != nil
		r.unreachable = unreachableText(w.is6, m.Code)
	case *icmp.PacketTooBig:
		quoted = body.Data
		r.unreachable = "packet too big"
	}
	var ok bool
	r.probe, ok = w.quoted(quoted)
	return r, ok
}

// quoted finds the number of the probe in the packet that an ICMP error quotes.
func (w *traceWire) quoted(b []byte) (probe int, ok bool) {
	var dst netip.Addr
	var proto byte
	switch {
	case w.is6 && len(b) >= ipv6.HeaderLen && b[0]>>4 == 6:
		dst, proto = netip.AddrFrom16([16]byte(b[24:40])), b[6]
		b = b[ipv6.HeaderLen:]
	case !w.is6 && len(b) >= ipv4.HeaderLen && b[0]>>4 == 4:
		size := int(b[0]&0x0f) * 4
		if size < ipv4.HeaderLen || len(b) < size {
			return 0, false
		}
		dst, proto = netip.AddrFrom4([4]byte(b[16:20])), b[9]
		b = b[size:]
	default:
		return 0, false
	}
	if dst != w.dst.WithZone("") || len(b) < 8 {
		return 0, false
	}
	word := func(i int) uint16 { return binary.BigEndian.Uint16(b[i:]) }
	if w.udp != nil {
		const header = 8
		return int(word(4)) - header - traceBase, proto == protoUDP && word(0) == w.id && word(2) == w.port
	}
	if w.is6 {
		return int(word(6)), proto == protoICMPv6 && b[0] == byte(ipv6.ICMPTypeEchoRequest) && word(4) == w.id
	}
	return int(word(6)), proto == protoICMP && b[0] == byte(ipv4.ICMPTypeEcho) && word(4) == w.id
}

// unreachableText names the codes of "destination unreachable" (RFC 792, RFC 1812 §5.2.7.1, RFC 4443
// §3.1).
func unreachableText(is6 bool, code int) string {
	names := map[int]string{
		0: "network unreachable", 1: "host unreachable", 2: "protocol unreachable", 3: "port unreachable",
		4: "fragmentation needed", 9: "network prohibited", 10: "host prohibited", 13: "prohibited by a filter",
	}
	if is6 {
		names = map[int]string{
			0: "no route", 1: "prohibited by a filter", 2: "beyond the scope of the source", 3: "address unreachable",
			4: "port unreachable", 5: "source address refused", 6: "route rejected",
		}
	}
	if n, ok := names[code]; ok {
		return n
	}
	return fmt.Sprintf("unreachable, code %d", code)
}
