package probe

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// silentResolver is a server that never answers, without its socket.
type silentResolver struct{ asked chan struct{} }

func (r silentResolver) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	r.asked <- struct{}{}
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestTCP(t *testing.T) {
	echo, _ := listenTCP(t, func(c net.Conn) { _, _ = io.Copy(c, c) })
	banner, _ := listenTCP(t, func(c net.Conn) { _, _ = io.WriteString(c, "220 mail.example ready\r\n\xff") })
	flood, _ := listenTCP(t, func(c net.Conn) {
		for {
			if _, err := c.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	})
	silent, _ := listenTCP(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	closed := closedTCP(t)
	z := newZone(t, map[string][][]string{"echo.example. A": {{"127.0.0.1"}}})
	o := Options{AllowPrivate: true, Resolver: z.resolver()}
	for name, tc := range map[string]struct {
		args   TCPArgs
		reason string
	}{
		"connect":         {TCPArgs{Address: silent}, ""},
		"name":            {TCPArgs{Address: "echo.example:" + portOf(t, echo), Send: "hello", Expect: "hello"}, ""},
		"hex":             {TCPArgs{Address: echo, SendHex: "68656C6c6f", Expect: "hello"}, ""},
		"banner":          {TCPArgs{Address: banner, Expect: "220 "}, ""},
		"banner not":      {TCPArgs{Address: banner, Expect: "250 "}, `tcp: closed by the other side after 25 bytes without "250 "`},
		"flood":           {TCPArgs{Address: flood, Expect: "x"}, `tcp: "x" is not in the first 65536 bytes`},
		"closed":          {TCPArgs{Address: closed}, "connect: " + closed + ": connection refused"},
		"no such name":    {TCPArgs{Address: "none.example:1"}, "dns: none.example: no such host"},
		"silent":          {TCPArgs{Address: silent, Expect: "x", TimeoutMs: 50}, "tcp: no answer within 50 ms"},
		"only the family": {TCPArgs{Address: "127.0.0.1:1", IPVersion: 6}, "dns: 127.0.0.1 has no IPv6 address"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tc.reason, run(t, o, "tcp", tc.args).Reason)
		})
	}
	out := run(t, o, "tcp", TCPArgs{Address: banner, Expect: "ready"}).Output.(*TCPOutput)
	require.Equal(t, banner, out.RemoteAddr)
	require.NotNil(t, out.ConnectMs)
	require.NotNil(t, out.FirstByteMs)
	require.Nil(t, out.DNSMs)
	require.Contains(t, out.ReceivedExcerpt, "220 mail.example ready")
	require.Positive(t, out.ReceivedBytes)
	require.GreaterOrEqual(t, out.TotalMs, *out.ConnectMs)
}

// The expected text arrives in pieces; a pipe hands over each write by itself.
func TestTCPExpectAcrossReads(t *testing.T) {
	ours, theirs := net.Pipe()
	defer func() { _ = ours.Close() }()
	go func() {
		for _, s := range []string{"xxhe", "l", "lo", "never read"} {
			_, _ = io.WriteString(theirs, s)
		}
		_ = theirs.Close()
	}()
	out := &TCPOutput{}
	require.NoError(t, (&tcpProbe{}).talk(ours, &TCPArgs{Expect: "hello"}, out))
	require.Equal(t, "xxhello", out.ReceivedExcerpt)
	require.Equal(t, 7, out.ReceivedBytes)
}

func TestTCPEndsWithContext(t *testing.T) {
	reached := make(chan struct{}, 10)
	address, _ := listenTCP(t, func(c net.Conn) {
		reached <- struct{}{}
		_, _ = io.Copy(io.Discard, c)
	})
	endsWithContext(t, private, "tcp", TCPArgs{Address: address, Expect: "x"}, reached)
}

func TestUDP(t *testing.T) {
	echo := listenUDP(t, func(b []byte) [][]byte { return [][]byte{b} })
	late := listenUDP(t, func([]byte) [][]byte { return [][]byte{[]byte("one"), []byte("two"), []byte("three")} })
	many := listenUDP(t, func([]byte) [][]byte {
		list := make([][]byte, MaxUDPReplies)
		for i := range list {
			list[i] = []byte("no")
		}
		return list
	})
	silent := listenUDP(t, func([]byte) [][]byte { return nil })
	z := newZone(t, map[string][][]string{"echo.example. A": {{"127.0.0.1"}}})
	o := Options{AllowPrivate: true, Resolver: z.resolver()}
	for name, tc := range map[string]struct {
		args    UDPArgs
		reason  string
		replied bool
	}{
		"echo":             {UDPArgs{Address: echo, Send: "ping", Expect: "ping"}, "", true},
		"hex":              {UDPArgs{Address: "echo.example:" + portOf(t, echo), SendHex: "70696e67", Expect: "ping"}, "", true},
		"empty datagram":   {UDPArgs{Address: echo, ExpectReply: true}, "", true},
		"third reply":      {UDPArgs{Address: late, Send: "x", Expect: "three"}, "", true},
		"none of many":     {UDPArgs{Address: many, Send: "x", Expect: "yes"}, `udp: "yes" is in none of the first 16 replies`, true},
		"silent":           {UDPArgs{Address: silent, Send: "x", ExpectReply: true, TimeoutMs: 50}, "udp: no answer within 50 ms", false},
		"other reply":      {UDPArgs{Address: echo, Send: "x", Expect: "y", TimeoutMs: 50}, "udp: no answer within 50 ms", true},
		"silence is fine":  {UDPArgs{Address: silent, Send: "x"}, "", false},
		"reply unasked":    {UDPArgs{Address: echo, Send: "x"}, "", true},
		"closed":           {UDPArgs{Address: closedUDP(t), Send: "x", ExpectReply: true}, "udp: port unreachable: nothing listens there", false},
		"closed, no reply": {UDPArgs{Address: closedUDP(t), Send: "x"}, "udp: port unreachable: nothing listens there", false},
		"no such name":     {UDPArgs{Address: "none.example:1"}, "dns: none.example: no such host", false},
	} {
		t.Run(name, func(t *testing.T) {
			out := run(t, o, "udp", tc.args)
			require.Equal(t, tc.reason, out.Reason)
			got := out.Output.(*UDPOutput)
			require.Equal(t, tc.replied, got.Replied)
			require.Equal(t, tc.replied, got.RTTMs != nil)
		})
	}
}

func TestUDPEndsWithContext(t *testing.T) {
	reached := make(chan struct{}, 10)
	address := listenUDP(t, func([]byte) [][]byte {
		reached <- struct{}{}
		return nil
	})
	endsWithContext(t, private, "udp", UDPArgs{Address: address, ExpectReply: true}, reached)
}

func TestNetArgsValidate(t *testing.T) {
	long := strings.Repeat("x", MaxTCPSendBytes+1)
	for want, a := range map[string]interface{ Validate() error }{
		"address: \"\" is not HOST:PORT":                  &TCPArgs{},
		"address: \"::1:80\" is not HOST:PORT":            &TCPArgs{Address: "::1:80"},
		"address: port \"0\"":                             &TCPArgs{Address: "a:0"},
		"address: port \"http\"":                          &UDPArgs{Address: "a:http"},
		"address: port \"65536\"":                         &UDPArgs{Address: "a:65536"},
		"address: has no host":                            &UDPArgs{Address: ":80"},
		"send and send_hex: only one":                     &TCPArgs{Address: "a:1", Send: "a", SendHex: "00"},
		"send: 8193 bytes, more than 8192":                &TCPArgs{Address: "a:1", Send: long},
		"send_hex: more than 1472 bytes":                  &UDPArgs{Address: "a:1", SendHex: strings.Repeat("00", MaxUDPSendBytes+1)},
		"send_hex: not an even number":                    &UDPArgs{Address: "a:1", SendHex: "0"},
		"expect: longer than 4096":                        &UDPArgs{Address: "a:1", Expect: long},
		"timeout_ms: 600001 is not within 0 and 600000":   &TCPArgs{Address: "a:1", TimeoutMs: MaxTimeoutMs + 1},
		"host: has no host":                               &PingArgs{},
		"count: 101 is not within 1 and 100":              &PingArgs{Host: "a", Count: 101},
		"interval_ms: 9 is not within 10 and 10000":       &PingArgs{Host: "a", IntervalMs: 9},
		"size: 23 is not within 24 and 8972":              &PingArgs{Host: "a", Size: 23},
		"max_loss: 1 is not within 0 and 1":               &PingArgs{Host: "a", MaxLoss: 1},
		"method: \"tcp\" is not udp or icmp":              &TracerouteArgs{Host: "a", Method: "tcp"},
		"max_hops: 65 is not within 1 and 64":             &TracerouteArgs{Host: "a", MaxHops: 65},
		"probes: 11 is not within 1 and 10":               &TracerouteArgs{Host: "a", Probes: 11},
		"timeout_ms: 30001 is not within 1 and 30000":     &TracerouteArgs{Host: "a", TimeoutMs: 30001},
		"port: 65536 is not within 1 and 65535":           &TracerouteArgs{Host: "a", Port: 65536},
		"type: \"ANY\" is not one of A, AAAA":             &DNSArgs{Name: "a", Type: "ANY"},
		"name: is empty":                                  &DNSArgs{},
		"name: \"1.2.3.4\" is an address, which only PTR": &DNSArgs{Name: "1.2.3.4"},
		"name: \"a..b\" is not a domain name":             &DNSArgs{Name: "a..b"},
		"server: host \"1.2.3\" is an ambiguous":          &DNSArgs{Name: "a", Server: "1.2.3"},
		"server: port \"x\"":                              &DNSArgs{Name: "a", Server: "b:x"},
		"transport: \"tls\" is not udp or tcp":            &DNSArgs{Name: "a", Transport: "tls"},
		"rcode: \"nxdomain\" is not an rcode":             &DNSArgs{Name: "a", Rcode: "nxdomain"},
		"expect: 33 values, more than 32":                 &DNSArgs{Name: "a", Expect: make([]string, 33)},
		"expect: a value is empty":                        &DNSArgs{Name: "a", Expect: []string{""}},
		"ip_version: 1 is not 0 (either), 4 or 6":         &TracerouteArgs{Host: "a", IPVersion: 1},
		"max_latency_ms: -1 is not within 0 and 600000":   &PingArgs{Host: "a", MaxLatencyMs: -1},
	} {
		require.ErrorContains(t, a.Validate(), want)
	}
}

func TestArgumentsThatDoNotBind(t *testing.T) {
	require.Contains(t, refused(t, private, "tcp", map[string]any{"address": "a:1", "addr": 1}), "tcp: arguments: ")
	require.Contains(t, refused(t, private, "tcp", map[string]any{"address": 7}), "tcp: arguments: ")
	require.Contains(t, refused(t, private, "http", map[string]any{"url": "http://a", "status": "2xx"}), "neither a code nor a range")
	// JSON and msgpack have the same names.
	b, err := json.Marshal(UDPArgs{Address: "a:1", ExpectReply: true, TimeoutMs: 5})
	require.NoError(t, err)
	require.JSONEq(t, `{"address":"a:1","expect_reply":true,"timeout_ms":5}`, string(b))
}

func TestRunRecovers(t *testing.T) {
	k := newKind("x", private.withDefaults().Log, func(context.Context, *TCPArgs) (Outcome, error) { panic("boom") })
	_, err := k.Run(t.Context(), binder(t, TCPArgs{Address: "a:1"}))
	require.EqualError(t, err, "x: internal error: boom")
}
