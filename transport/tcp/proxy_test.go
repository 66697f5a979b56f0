package tcp

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/roost-server/roost/protocol"
)

// proxyHeader makes a header of version 2.
func proxyHeader(command, family byte, addresses []byte, tlvs ...byte) []byte {
	b := append([]byte(proxySignature), proxyVersion|command, family)
	b = binary.BigEndian.AppendUint16(b, uint16(len(addresses)+len(tlvs)))
	return append(append(b, addresses...), tlvs...)
}

func ports(from, to uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from), to)
}

func tcp4(from netip.AddrPort, tlvs ...byte) []byte {
	a := from.Addr().As4()
	return proxyHeader(proxyPassed, proxyStream4, append(append(a[:], 10, 0, 0, 1), ports(from.Port(), 7400)...), tlvs...)
}

func tcp6(from netip.AddrPort) []byte {
	a, to := from.Addr().As16(), netip.MustParseAddr("2001:db8::1").As16()
	return proxyHeader(proxyPassed, proxyStream6, append(append(a[:], to[:]...), ports(from.Port(), 7400)...))
}

func TestParseProxy(t *testing.T) {
	four := netip.MustParseAddrPort("203.0.113.9:51234")
	six := netip.MustParseAddrPort("[2001:db8::9]:51234")
	none := netip.AddrPort{}
	crc := []byte{3, 0, 4, 1, 2, 3, 4}
	for name, c := range map[string]struct {
		header []byte
		from   netip.AddrPort
	}{
		"tcp4":             {tcp4(four), four},
		"tcp4 with TLVs":   {tcp4(four, crc...), four},
		"tcp4, odd TLVs":   {tcp4(four, 0xee), four}, // nobody reads them
		"tcp6":             {tcp6(six), six},
		"tcp4 within tcp6": {tcp6(netip.AddrPortFrom(netip.AddrFrom16(four.Addr().As16()), four.Port())), four},
		"largest":          {tcp4(four, make([]byte, maxProxyBytes-proxyFixedBytes-12)...), four},
		"local":            {proxyHeader(proxyLocal, 0, nil), none},
		"local, addresses": {append([]byte(proxySignature+"\x20"), tcp4(four)[13:]...), none},
		"unknown family":   {proxyHeader(proxyPassed, proxyUnknown, []byte("whatever")), none},
		"unix":             {proxyHeader(proxyPassed, proxyStreamUX, make([]byte, 216)), none},
	} {
		t.Run(name, func(t *testing.T) {
			for n := range c.header {
				size, _, err := parseProxy(c.header[:n])
				require.NoError(t, err, n)
				require.Zero(t, size, n)
			}
			size, from, err := parseProxy(append(c.header[:len(c.header):len(c.header)], protocol.Preface...))
			require.NoError(t, err)
			require.Equal(t, len(c.header), size)
			require.Equal(t, c.from, from)
		})
	}
}

func TestParseProxyRefuses(t *testing.T) {
	whole := tcp4(netip.MustParseAddrPort("203.0.113.9:51234"))
	with := func(at int, v ...byte) string {
		b := bytes.Clone(whole)
		copy(b[at:], v)
		return string(b)
	}
	for name, c := range map[string]struct {
		b      string
		at     int // how many bytes it takes to see
		reason protocol.Reason
		says   string
	}{
		"version 1":          {"PROXY TCP4 203.0.113.9 10.0.0.1 5 7400\r\n", 6, protocol.ReasonNotReady, "send-proxy-v2"},
		"no header":          {protocol.Preface, 8, protocol.ReasonNotReady, "missing"},
		"http":               {"GET / HTTP/1.1\r\n", 1, protocol.ReasonBadPreface, "PROXY header"},
		"http POST":          {"POST / HTTP/1.1\r\n", 2, protocol.ReasonBadPreface, "PROXY header"},
		"wrong signature":    {with(11, 'X'), 12, protocol.ReasonBadPreface, "PROXY header"},
		"version 3":          {with(12, 0x31), 13, protocol.ReasonNotReady, "0x31"},
		"unknown command":    {with(12, 0x22), 13, protocol.ReasonNotReady, "0x22"},
		"datagrams":          {with(13, 0x12), 16, protocol.ReasonNotReady, "0x12"},
		"family of nobody":   {with(13, 0x41), 16, protocol.ReasonNotReady, "0x41"},
		"too long":           {with(14, 0x10, 0x01), 16, protocol.ReasonNotReady, "at most 4112"},
		"longest":            {with(14, 0xff, 0xff), 16, protocol.ReasonNotReady, "at most"},
		"too short for IPv4": {with(14, 0, 11), 16, protocol.ReasonNotReady, "too few"},
		"too short for IPv6": {with(13, 0x21), 16, protocol.ReasonNotReady, "too few"},
	} {
		t.Run(name, func(t *testing.T) {
			for n := range len(c.b) + 1 {
				_, _, err := parseProxy([]byte(c.b[:n]))
				if n < c.at {
					require.NoError(t, err, n)
					continue
				}
				require.Equal(t, c.reason, protocol.ReasonOf(err), n)
				require.ErrorContains(t, err, c.says)
			}
		})
	}
}

func FuzzProxyHeader(f *testing.F) {
	f.Add(tcp4(netip.MustParseAddrPort("203.0.113.9:51234"), 3, 0, 4, 1, 2, 3, 4), uint8(3))
	f.Add(tcp6(netip.MustParseAddrPort("[2001:db8::9]:1")), uint8(17))
	f.Add(proxyHeader(proxyLocal, 0, nil), uint8(1))
	f.Add([]byte("PROXY TCP4 203.0.113.9 10.0.0.1 5 7400\r\n"), uint8(0))
	f.Fuzz(func(t *testing.T, b []byte, chunk uint8) {
		size, from, err := parseProxy(b)
		if size > 0 && err == nil {
			if size > len(b) || size > maxProxyBytes || size < proxyFixedBytes {
				t.Fatalf("%d of %d bytes", size, len(b))
			}
			_ = netip.AddrPortFrom(from.Addr(), from.Port()).String()
		}
		// In parts it comes to the same, and no part asks for more than was promised.
		step := int(chunk)%31 + 1
		for n := 0; n < len(b); n += step {
			s, f, e := parseProxy(b[:n])
			switch {
			case e != nil:
				if err == nil || e.Error() != err.Error() {
					t.Fatalf("%v after %d bytes, then %v", e, n, err)
				}
				return
			case s > 0:
				if s != size || f != from || err != nil {
					t.Fatalf("%d %v after %d bytes, then %d %v %v", s, f, n, size, from, err)
				}
				return
			}
		}
	})
}

func proxyConfig() Config {
	cfg := testConfig()
	cfg.ProxyProtocol = true
	return cfg
}

func TestProxiedNode(t *testing.T) {
	n := &node{}
	s := start(t, proxyConfig(), n)
	from := netip.MustParseAddrPort("203.0.113.9:51234")
	header := tcp4(from, make([]byte, 1000)...)
	for name, write := range map[string]func(c *client, b []byte){
		"at once": func(c *client, b []byte) { c.write(b) },
		"byte by byte": func(c *client, b []byte) {
			for i := range b {
				c.write(b[i : i+1])
			}
		},
		"header, then the rest": func(c *client, b []byte) {
			c.write(b[:len(header)])
			eventually(t, "it is read", func() bool { return s.Stats().BytesIn >= uint64(len(header)) })
			c.write(b[len(header):])
		},
		"across the edge": func(c *client, b []byte) {
			was := s.Stats().BytesIn
			c.write(b[:len(header)-1])
			eventually(t, "it is read", func() bool { return s.Stats().BytesIn >= was+uint64(len(header))-1 })
			c.write(b[len(header)-1:])
		},
	} {
		t.Run(name, func(t *testing.T) {
			ends := len(n.closed())
			c := dial(t, s)
			write(c, c.frames(append(header[:len(header):len(header)], protocol.Preface...), hello()))
			c.want(&protocol.Welcome{})
			c.ping(1)
			conn := n.conn(ends)
			on(t, conn.Loop(), func() {
				assert.Equal(t, from.String(), conn.RemoteAddr())
				assert.Nil(t, conn.in.part)
			})
			c.send(&protocol.Close{Reason: protocol.ReasonBye})
			c.wantEnd()
			eventually(t, "Closed", func() bool { return len(n.closed()) == ends+1 })
			require.Equal(t, from.String(), n.closed()[ends].addr)
		})
	}
}

func TestProxyHeaderIsRequired(t *testing.T) {
	cfg := proxyConfig()
	cfg.HelloTimeout = 300 * time.Millisecond
	n := &node{}
	s := start(t, cfg, n)
	header := tcp4(netip.MustParseAddrPort("203.0.113.9:51234"))
	for name, c := range map[string]struct {
		send   string
		reason protocol.Reason
	}{
		"missing":      {protocol.Preface, protocol.ReasonNotReady},
		"version 1":    {"PROXY TCP4 203.0.113.9 10.0.0.1 5 7400\r\n" + protocol.Preface, protocol.ReasonNotReady},
		"garbage":      {strings.Repeat("\x00\xff", 40_000), protocol.ReasonBadPreface},
		"too long":     {proxySignature + "\x21\x11\xff\xff" + strings.Repeat("x", 70_000), protocol.ReasonNotReady},
		"not whole":    {string(header[:20]), protocol.ReasonHelloTimeout},
		"nothing":      {"", protocol.ReasonHelloTimeout},
		"only that":    {string(header), protocol.ReasonHelloTimeout},
		"twice":        {string(header) + string(header), protocol.ReasonNotReady},
		"then garbage": {string(header) + "GET / HTTP/1.1\r\n", protocol.ReasonBadPreface},
	} {
		t.Run(name, func(t *testing.T) {
			cl := dial(t, s)
			cl.write([]byte(c.send))
			require.NotEmpty(t, cl.wantClose(c.reason).Message)
		})
	}
	require.Empty(t, n.closed())
	require.Equal(t, uint64(4), s.Stats().ProxyErrors)
	require.Zero(t, s.Stats().Panics)
}

func TestProxyHealthChecks(t *testing.T) {
	n := &node{}
	s := start(t, proxyConfig(), n)
	check := func(b []byte) {
		c := dial(t, s)
		c.write(b)
		require.NoError(t, c.c.CloseWrite())
		c.wantEnd() // nothing is said, and nothing is reset
	}
	check(proxyHeader(proxyLocal, 0, nil))
	check(nil)
	s.RefuseWith(&Refusal{Reason: protocol.ReasonDrain})
	check(proxyHeader(proxyLocal, 0, nil))
	check(nil)
	s.Refuse(false)

	// A balancer that speaks for itself may go on: its own address stands then.
	c := dial(t, s)
	c.write(c.frames(append(proxyHeader(proxyLocal, 0, nil), protocol.Preface...), hello()))
	c.want(&protocol.Welcome{})
	conn := n.conn(0)
	on(t, conn.Loop(), func() { assert.Equal(t, c.c.LocalAddr().String(), conn.RemoteAddr()) })
	eventually(t, "the checks are gone", func() bool { return s.Stats().Open == 1 })
	require.Zero(t, s.Stats().ProxyErrors)
	require.Zero(t, s.Stats().Refused)
}

func TestProxyFrom(t *testing.T) {
	cfg := proxyConfig()
	cfg.ProxyFrom = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	s := start(t, cfg, &node{})
	dial(t, s).wantClose(protocol.ReasonNotReady)
	st := s.Stats()
	require.Equal(t, uint64(1), st.Refused)
	require.Equal(t, uint64(1), st.RefusedPeer)

	cfg.ProxyFrom = append(cfg.ProxyFrom, netip.MustParsePrefix("127.0.0.0/8"))
	s = start(t, cfg, &node{})
	c := dial(t, s)
	c.write(c.frames(append(tcp4(netip.MustParseAddrPort("203.0.113.9:5")), protocol.Preface...), hello()))
	c.want(&protocol.Welcome{})
	c.ping(1)
}

func TestLogsNameTheNode(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	s, err := Start(context.Background(), proxyConfig(), &node{}, zap.New(core))
	require.NoError(t, err)
	t.Cleanup(func() { stop(t, s) })
	c := dial(t, s)
	c.write(append(tcp4(netip.MustParseAddrPort("203.0.113.9:51234")), "ROOST/9\n"...))
	c.wantClose(protocol.ReasonBadPreface)
	said := logs.FilterMessage("handshake refused").All()
	require.Len(t, said, 1)
	require.Equal(t, "203.0.113.9:51234", said[0].ContextMap()["address"])
	for range 3 { // wrong ones are told to the operator, and not each
		c = dial(t, s)
		c.write([]byte(protocol.Preface))
		c.wantClose(protocol.ReasonNotReady)
	}
	said = logs.FilterLevelExact(zap.WarnLevel).All()
	require.Len(t, said, 1)
	require.Contains(t, said[0].ContextMap()["error"], "send-proxy-v2")
}

// A balancer that sends the header to a member that does not expect it must not make
// nodes stay away for ever.
func TestProxyHeaderWhereNoneIsExpected(t *testing.T) {
	s := start(t, testConfig(), &node{})
	for _, b := range [][]byte{tcp4(netip.MustParseAddrPort("203.0.113.9:5")), []byte("PROXY UNKNOWN\r\n"), {'\r'}} {
		c := dial(t, s)
		c.write(b)
		require.Contains(t, c.wantClose(protocol.ReasonNotReady).Message, "proxy_protocol")
	}
	c := dial(t, s)
	c.write([]byte("P"))
	c.wantClose(protocol.ReasonBadPreface)
}
