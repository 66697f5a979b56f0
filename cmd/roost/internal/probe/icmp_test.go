package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	probing "github.com/prometheus-community/pro-bing"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// needsRaw skips where the environment gives no raw sockets.
func needsRaw(t *testing.T) {
	t.Helper()
	if err := findICMP().raw4; err != nil {
		t.Skipf("needs CAP_NET_RAW: %v", err)
	}
}

func TestPingLoopback(t *testing.T) {
	needsRaw(t)
	z := newZone(t, map[string][][]string{"lo.example. A": {{"127.0.0.1"}}})
	o := Options{AllowPrivate: true, Resolver: z.resolver()}
	for _, host := range []string{"127.0.0.1", "::1", "lo.example"} {
		t.Run(host, func(t *testing.T) {
			res := run(t, o, "ping", PingArgs{Host: host, Count: 3, IntervalMs: 10, Size: 200})
			require.True(t, res.OK, res.Reason)
			out := res.Output.(*PingOutput)
			require.Equal(t, 3, out.Sent)
			require.Equal(t, 3, out.Received)
			require.Zero(t, out.Loss)
			require.LessOrEqual(t, *out.MinMs, *out.AvgMs)
			require.LessOrEqual(t, *out.AvgMs, *out.MaxMs)
			require.LessOrEqual(t, *out.StddevMs, *out.MaxMs)
			require.Positive(t, out.TTL)
		})
	}
	require.Equal(t, "dns: none.example: no such host", run(t, o, "ping", PingArgs{Host: "none.example"}).Reason)
}

func TestPingSeriesCounts(t *testing.T) {
	target := netip.MustParseAddr("192.0.2.1")
	s := &pingSeries{addr: target, sent: 4, sentAt: map[int]time.Time{0: time.Now(), 1: time.Now(), 2: time.Now().Add(-time.Second)}}
	packet := func(seq int, rtt time.Duration, from string) *probing.Packet {
		p := &probing.Packet{Seq: seq, Rtt: rtt, TTL: 60, Addr: from}
		p.IPAddr = ipAddr(from)
		return p
	}
	s.received(packet(0, time.Millisecond, "192.0.2.1"))
	require.Equal(t, []time.Duration{time.Millisecond}, s.rtts)
	s.received(packet(1, time.Millisecond, "192.0.2.99"))
	require.Len(t, s.rtts, 1, "somebody else's reply")
	s.received(packet(9, time.Millisecond, "192.0.2.1"))
	require.Len(t, s.rtts, 1, "a packet that was never sent")
	s.received(packet(1, -time.Hour, "192.0.2.1"))
	require.Len(t, s.rtts, 2)
	require.Less(t, s.rtts[1], time.Minute)
	require.GreaterOrEqual(t, s.rtts[1], time.Duration(0), "a clock that was set")
	s.received(packet(2, time.Microsecond, "192.0.2.1"))
	require.GreaterOrEqual(t, s.rtts[2], time.Second, "a target that claims to be near")

	s.rtts = []time.Duration{2 * time.Millisecond, 4 * time.Millisecond, 9 * time.Millisecond}
	out := s.output()
	require.InDelta(t, 0.25, out.Loss, 1e-9)
	require.InDelta(t, 2, *out.MinMs, 1e-9)
	require.InDelta(t, 5, *out.AvgMs, 1e-9)
	require.InDelta(t, 9, *out.MaxMs, 1e-9)
	require.InDelta(t, math.Sqrt(26.0/3), *out.StddevMs, 0.001)
	require.Nil(t, (&pingSeries{sent: 1}).output().AvgMs)
}

func TestTracerouteLoopback(t *testing.T) {
	needsRaw(t)
	listening := listenUDP(t, func([]byte) [][]byte { return [][]byte{[]byte("x")} })
	port := netip.MustParseAddrPort(listening).Port()
	for _, a := range []TracerouteArgs{
		{Host: "127.0.0.1"}, {Host: "127.0.0.1", Method: "icmp"}, {Host: "::1"}, {Host: "::1", Method: "icmp"},
		{Host: "127.0.0.1", Port: int(port)}, {Host: "127.0.0.1", Probes: 10, MaxHops: 64},
	} {
		res := run(t, private, "traceroute", a)
		require.True(t, res.OK, "%+v: %s", a, res.Reason)
		out := res.Output.(*TracerouteOutput)
		require.True(t, out.Reached)
		require.Len(t, out.Hops, 1)
		require.Equal(t, a.Host, out.Hops[0].Addr)
		require.Empty(t, out.Hops[0].OtherAddrs)
		require.Len(t, out.Hops[0].RTTMs, a.withDefaults().Probes)
		require.Equal(t, a.withDefaults().Probes, out.Hops[0].Sent)
		require.True(t, out.Hops[0].Reached)
	}
}

// All at once on one machine: each sees the ICMP of all.
func TestManyTracesAtOnce(t *testing.T) {
	needsRaw(t)
	k := kindOf(t, private, "traceroute")
	var wg sync.WaitGroup
	for i := range 40 {
		host := netip.AddrFrom4([4]byte{127, 0, 0, byte(1 + i%20)}).String()
		method := []string{"udp", "icmp"}[i/20]
		wg.Go(func() {
			out, err := k.Run(t.Context(), binder(t, TracerouteArgs{Host: host, Method: method, Probes: 5, TimeoutMs: MaxReplyWaitMs}))
			if err != nil || !out.OK {
				t.Errorf("%s: %v %s", host, err, out.Reason)
				return
			}
			hops := out.Output.(*TracerouteOutput).Hops
			if len(hops) != 1 || hops[0].Addr != host || len(hops[0].RTTMs) != 5 || len(hops[0].OtherAddrs) > 0 {
				t.Errorf("%s: %+v", host, hops)
			}
		})
	}
	wg.Wait()
	require.Empty(t, echoIDs.used)
}

func TestICMPEndsWithContext(t *testing.T) {
	needsRaw(t)
	for name, args := range map[string]any{
		"ping":       PingArgs{Host: "127.0.0.1", Count: MaxPingCount, IntervalMs: MaxPingIntervalMs},
		"traceroute": TracerouteArgs{Host: "127.0.0.1"},
	} {
		k := kindOf(t, private, name)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := k.Run(ctx, binder(t, args))
		require.ErrorIs(t, err, context.Canceled)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	out, err := kindOf(t, private, "ping").Run(ctx, binder(t, PingArgs{Host: "127.0.0.1", Count: MaxPingCount, IntervalMs: MaxPingIntervalMs}))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, 1, out.Output.(*PingOutput).Received, "what was measured stays")
}

func TestICMPAccess(t *testing.T) {
	no := os.ErrPermission
	raw, err := icmpAccess{}.privileged(false)
	require.NoError(t, err)
	require.False(t, raw)
	raw, err = icmpAccess{ping6: no}.privileged(true)
	require.NoError(t, err)
	require.True(t, raw)
	_, err = icmpAccess{ping4: no, raw4: no}.privileged(false)
	require.ErrorIs(t, err, no)
	require.Empty(t, icmpAccess{ping4: no, raw4: no}.pingMissing(), "IPv6 is left")
	require.Contains(t, icmpAccess{no, no, no, no}.pingMissing(), "ping: needs CAP_NET_RAW or net.ipv4.ping_group_range to include gid")
	require.Empty(t, icmpAccess{raw4: no}.tracerouteMissing())
	require.Contains(t, icmpAccess{raw4: no, raw6: no}.tracerouteMissing(), "traceroute: needs CAP_NET_RAW")
	p := &traceProbe{dial: newDialer(private.withDefaults()), can: icmpAccess{raw4: no}}
	_, err = p.run(t.Context(), &TracerouteArgs{Host: "127.0.0.1"})
	var r *Refused
	require.ErrorAs(t, err, &r)
	q := &pingProbe{dial: p.dial, can: icmpAccess{ping4: no, raw4: no}}
	_, err = q.run(t.Context(), &PingArgs{Host: "127.0.0.1"})
	require.ErrorAs(t, err, &r)
}

// quote4 is an ICMP error about a UDP datagram.
func quote4(t testing.TB, dst string, src, port, length uint16, code int) []byte {
	t.Helper()
	h := make([]byte, 28)
	h[0], h[9] = 0x45, protoUDP
	d := netip.MustParseAddr(dst).As4()
	copy(h[16:], d[:])
	binary.BigEndian.PutUint16(h[20:], src)
	binary.BigEndian.PutUint16(h[22:], port)
	binary.BigEndian.PutUint16(h[24:], length)
	m := icmp.Message{Type: ipv4.ICMPTypeTimeExceeded, Body: &icmp.TimeExceeded{Data: h}}
	if code >= 0 {
		m = icmp.Message{Type: ipv4.ICMPTypeDestinationUnreachable, Code: code, Body: &icmp.DstUnreach{Data: h}}
	}
	b, err := m.Marshal(nil)
	require.NoError(t, err)
	return b
}

func TestTraceParse(t *testing.T) {
	needsRaw(t)
	w, err := openTraceWire(&TracerouteArgs{Method: "udp", Port: 33434}, netip.MustParseAddr("192.0.2.1"))
	require.NoError(t, err)
	defer w.close()
	from := netip.MustParseAddr("198.51.100.1")
	r, ok := w.parse(quote4(t, "192.0.2.1", w.id, 33434, 8+traceBase+7, -1), from)
	require.True(t, ok)
	require.Equal(t, traceAnswer{probe: 7, from: from}, r)
	r, ok = w.parse(quote4(t, "192.0.2.1", w.id, 33434, 8+traceBase, 1), from)
	require.True(t, ok)
	require.Equal(t, traceAnswer{from: from, unreachable: "host unreachable"}, r)
	r, _ = w.parse(quote4(t, "192.0.2.1", w.id, 33434, 8+traceBase, 3), from)
	require.True(t, r.arrived)
	for name, b := range map[string][]byte{
		"destination": quote4(t, "192.0.2.2", w.id, 33434, 16, -1),
		"source port": quote4(t, "192.0.2.1", w.id+1, 33434, 16, -1),
		"port":        quote4(t, "192.0.2.1", w.id, 33435, 16, -1),
		"short":       quote4(t, "192.0.2.1", w.id, 33434, 16, -1)[:30],
		"empty":       nil,
	} {
		_, ok := w.parse(b, from)
		require.False(t, ok, name)
	}
	// A length that stands for no probe finds none.
	tr := &tracer{a: &TracerouteArgs{Probes: 1}, out: &TracerouteOutput{Hops: []Hop{{}}}, sentAt: make([]time.Time, 1), seen: make([]bool, 1)}
	for _, length := range []uint16{0, 8, 15, 17, 65535} {
		r, _ := w.parse(quote4(t, "192.0.2.1", w.id, 33434, length, -1), from)
		tr.take(r)
	}
	require.Empty(t, tr.out.Hops[0].Addr)
	require.Equal(t, "unreachable, code 77", unreachableText(false, 77))
	require.Equal(t, "no route", unreachableText(true, 0))
	require.NoError(t, tolerate(nil))
	require.Error(t, tolerate(errors.New("x")))
}

// Traceroutes with echo requests to one host differ in the identifier alone.
func TestTraceParseEcho(t *testing.T) {
	needsRaw(t)
	for _, host := range []string{"192.0.2.1", "2001:db8::1"} {
		dst := netip.MustParseAddr(host)
		w, err := openTraceWire(&TracerouteArgs{Method: "icmp", Port: 33434}, dst)
		require.NoError(t, err)
		request, reply, exceeded := icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply), icmp.Type(ipv4.ICMPTypeTimeExceeded)
		header := make([]byte, ipv4.HeaderLen)
		header[0], header[9] = 0x45, protoICMP
		copy(header[16:], dst.AsSlice())
		if dst.Is6() {
			request, reply, exceeded = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, ipv6.ICMPTypeTimeExceeded
			header = make([]byte, ipv6.HeaderLen)
			header[0], header[6] = 0x60, protoICMPv6
			copy(header[24:], dst.AsSlice())
		}
		pack := func(typ icmp.Type, body icmp.MessageBody) []byte {
			b, err := (&icmp.Message{Type: typ, Body: body}).Marshal(nil)
			require.NoError(t, err)
			return b
		}
		router := netip.MustParseAddr("198.51.100.1")
		for _, off := range []int{0, 1} {
			echo := &icmp.Echo{ID: int(w.id) ^ off, Seq: 5}
			r, ok := w.parse(pack(reply, echo), dst)
			require.Equal(t, off == 0, ok)
			require.Equal(t, 5, r.probe)
			_, ok = w.parse(pack(reply, echo), router)
			require.False(t, ok, "from another host")
			_, ok = w.parse(pack(request, echo), dst)
			require.False(t, ok, "a request")
			r, ok = w.parse(pack(exceeded, &icmp.TimeExceeded{Data: append(header[:len(header):len(header)], pack(request, echo)...)}), router)
			require.Equal(t, off == 0, ok)
			require.Equal(t, 5, r.probe)
			require.False(t, r.arrived)
		}
		w.close()
	}
}

func TestEchoIDsAreUnique(t *testing.T) {
	seen := make(map[uint16]bool)
	for range 2000 {
		id, err := takeEchoID()
		require.NoError(t, err)
		require.False(t, seen[id])
		seen[id] = true
	}
	for id := range seen {
		freeEchoID(id)
	}
	require.Empty(t, echoIDs.used)
}

// Whatever bytes arrive, parsing comes to an end without a panic.
func TestTraceParseSurvivesGarbage(t *testing.T) {
	needsRaw(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	from := netip.MustParseAddr("198.51.100.1")
	for _, dst := range []string{"192.0.2.1", "2001:db8::1"} {
		for _, method := range []string{"udp", "icmp"} {
			w, err := openTraceWire(&TracerouteArgs{Method: method, Port: 33434}, netip.MustParseAddr(dst))
			require.NoError(t, err)
			first := []byte{byte(ipv4.ICMPTypeTimeExceeded), byte(ipv4.ICMPTypeDestinationUnreachable), byte(ipv6.ICMPTypeTimeExceeded), byte(ipv6.ICMPTypeDestinationUnreachable), byte(ipv6.ICMPTypePacketTooBig)}
			for range 20_000 {
				b := make([]byte, rnd.IntN(120))
				for i := range b {
					b[i] = byte(rnd.Uint32())
				}
				if len(b) > 9 {
					b[0], b[8] = first[rnd.IntN(len(first))], byte(0x40|rnd.IntN(0x30))
				}
				_, ok := w.parse(b, from)
				require.False(t, ok)
			}
			w.close()
		}
	}
}
