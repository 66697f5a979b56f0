package probe

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

func TestDNS(t *testing.T) {
	z := newZone(t, map[string][][]string{
		"www.example. A":              {{"192.0.2.1", "192.0.2.2"}},
		"www.example. AAAA":           {{"2001:db8::1"}},
		"example. MX":                 {{"10 Mail.example.", "20 mail2.example."}},
		"example. TXT":                {{`"v=spf1 " "-all"`, `"semi;colon \"quoted\" \195\188"`}},
		"example. NS":                 {{"ns1.example."}},
		"example. SOA":                {{"ns1.example. root.example. 1 2 3 4 5"}},
		"_s._tcp.example. SRV":        {{"1 2 443 www.example."}},
		"example. CAA":                {{`0 issue "ca.example"`}},
		"1.2.0.192.in-addr.arpa. PTR": {{"www.example."}},
		"alias.example. CNAME":        {{"www.example."}},
		"empty.example. A":            {nil},
	})
	ask := func(name, qtype string, expect ...string) DNSArgs {
		return DNSArgs{Name: name, Type: qtype, Server: z.addr, Expect: expect}
	}
	with := func(a DNSArgs, rcode string) DNSArgs { a.Rcode = rcode; return a }
	for name, tc := range map[string]struct {
		args   DNSArgs
		reason string
	}{
		"A":             {ask("www.example", "", "192.0.2.2"), ""},
		"A, last dot":   {ask("WWW.example.", "A", "192.0.2.1", "192.0.2.2"), ""},
		"A not":         {ask("www.example", "A", "192.0.2.3"), `dns: "192.0.2.3" is not in the answer`},
		"AAAA":          {ask("www.example", "AAAA", "2001:0db8:0::1"), ""},
		"MX":            {ask("example", "MX", "10 mail.example"), ""},
		"TXT":           {ask("example", "TXT", "v=spf1 -all", `semi;colon "quoted" ü`), ""},
		"TXT is exact":  {ask("example", "TXT", "V=SPF1 -all"), `dns: "V=SPF1 -all" is not in the answer`},
		"NS":            {ask("example", "NS", "ns1.example."), ""},
		"SOA":           {ask("example", "SOA", "ns1.example root.example 1 2 3 4 5"), ""},
		"SRV":           {ask("_s._tcp.example", "SRV", "1 2 443 www.example"), ""},
		"CAA":           {ask("example", "CAA", `0 issue "ca.example"`), ""},
		"PTR":           {ask("192.0.2.1", "PTR", "www.example"), ""},
		"CNAME":         {ask("alias.example", "CNAME", "www.example"), ""},
		"no such name":  {ask("none.example", "A"), "dns: rcode NXDOMAIN, expected NOERROR"},
		"no such, fine": {with(ask("none.example", "A"), "NXDOMAIN"), ""},
		"rcode not":     {with(ask("www.example", "A"), "NXDOMAIN"), "dns: rcode NOERROR, expected NXDOMAIN"},
		"no records":    {ask("empty.example", "A"), "dns: empty.example. has no A records"},
		"empty, fine":   {with(ask("empty.example", "A"), "NOERROR"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, transport := range []string{"udp", "tcp"} {
				tc.args.Transport = transport
				out := run(t, private, "dns", tc.args)
				require.Equal(t, tc.reason, out.Reason)
				require.Equal(t, transport, out.Output.(*DNSOutput).Transport)
			}
		})
	}
	out := run(t, private, "dns", ask("www.example", "A")).Output.(*DNSOutput)
	require.Equal(t, "www.example.", out.Name)
	require.Equal(t, z.addr, out.Server)
	require.Equal(t, 1, out.Tries)
	require.Equal(t, "NOERROR", out.Rcode)
	require.Equal(t, []string{"rd", "ra"}, out.Flags)
	require.Equal(t, DNSAnswer{Name: "www.example.", Type: "A", TTLSeconds: 60, Value: "192.0.2.1"}, out.Answers[0])
	require.Positive(t, out.TimeMs)
}

func TestDNSFallsBackToTCP(t *testing.T) {
	var many []string
	for i := range 2000 {
		many = append(many, fmt.Sprintf("10.%d.%d.1", i/200, i%200))
	}
	// Names are four times as long in text as on the wire when all bytes need an escape.
	huge := make([]string, 0, 220)
	for i := range 220 {
		label := strings.Repeat(`\001`, 60)
		huge = append(huge, fmt.Sprintf("%d.%s.%s.%s.x.", i, label, label, label))
	}
	z := newZone(t, map[string][][]string{"many.example. A": {many}, "huge.example. NS": {huge}})
	res := run(t, private, "dns", DNSArgs{Name: "many.example", Server: z.addr, Expect: []string{"10.9.199.1"}})
	require.True(t, res.OK, res.Reason)
	out := res.Output.(*DNSOutput)
	require.Equal(t, "tcp", out.Transport)
	require.Equal(t, 2, out.Tries)
	require.True(t, out.AnswersTruncated)
	require.Len(t, out.Answers, MaxDNSAnswers)
	out = run(t, private, "dns", DNSArgs{Name: "huge.example", Type: "NS", Server: z.addr}).Output.(*DNSOutput)
	require.True(t, out.AnswersTruncated)
	require.Greater(t, len(out.Answers), 50)
	require.Less(t, len(out.Answers), 220)
}

// Datagrams that do not answer the question do not count, whatever they say.
func TestDNSSkipsStrays(t *testing.T) {
	address := listenUDP(t, func(b []byte) [][]byte {
		q := new(dns.Msg)
		if q.Unpack(b) != nil {
			return nil
		}
		pack := func(change func(m *dns.Msg)) []byte {
			m := new(dns.Msg)
			m.SetReply(q)
			rr, _ := dns.NewRR(q.Question[0].Name + " 1 IN A 10.6.6.6")
			m.Answer = []dns.RR{rr}
			change(m)
			out, _ := m.Pack()
			return out
		}
		return [][]byte{
			[]byte("x"), {}, b,
			pack(func(m *dns.Msg) { m.Id++ }),
			pack(func(m *dns.Msg) { m.Question[0].Name = "other.example." }),
			pack(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeMX }),
			pack(func(m *dns.Msg) { m.Question = nil }),
			pack(func(m *dns.Msg) {})[:40],
			pack(func(m *dns.Msg) { m.Answer[0].(*dns.A).A = net.IPv4(192, 0, 2, 9) }),
		}
	})
	out := run(t, private, "dns", DNSArgs{Name: "www.example", Server: address, Expect: []string{"192.0.2.9"}, Transport: "udp"})
	require.True(t, out.OK, out.Reason)
	flood := listenUDP(t, func([]byte) [][]byte { return make([][]byte, 2*maxStrayReplies) })
	require.Contains(t, run(t, private, "dns", DNSArgs{Name: "www.example", Server: flood, TimeoutMs: 2000}).Reason, "32 datagrams came, none answers the question")
}

func TestDNSFailures(t *testing.T) {
	closed := closedUDP(t)
	out := run(t, private, "dns", DNSArgs{Name: "a.example", Server: closed})
	require.Equal(t, "dns: server "+closed+" (udp): connection refused", out.Reason)
	require.Equal(t, DNSTries, out.Output.(*DNSOutput).Tries)
	closed = closedTCP(t)
	out = run(t, private, "dns", DNSArgs{Name: "a.example", Server: closed, Transport: "tcp"})
	require.Equal(t, "dns: server "+closed+" (tcp): "+closed+": connection refused", out.Reason)
	silent := listenUDP(t, func([]byte) [][]byte { return nil })
	out = run(t, private, "dns", DNSArgs{Name: "a.example", Server: silent, TimeoutMs: 30})
	require.Equal(t, "dns: server "+silent+" (udp): no answer within 30 ms", out.Reason)
	garbage, _ := listenTCP(t, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 512))
		_, _ = c.Write([]byte{0, 20, 1, 2, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 0x0c, 1, 2, 3, 4, 5, 6})
	})
	require.Contains(t, run(t, private, "dns", DNSArgs{Name: "a.example", Server: garbage, Transport: "tcp"}).Reason, "malformed answer")
	z := newZone(t, nil)
	o := Options{AllowPrivate: true, Resolver: z.resolver()}
	require.Equal(t, "dns: server: ns.example: no such host", run(t, o, "dns", DNSArgs{Name: "a.example", Server: "ns.example"}).Reason)
}

func TestDNSSystemServers(t *testing.T) {
	refuses := func(path, why string) {
		t.Helper()
		require.Contains(t, refused(t, Options{ResolvConf: path}, "dns", DNSArgs{Name: "a.example"}), why)
	}
	refuses("/nonexistent/resolv.conf", "no servers of this node")
	refuses(resolvConf(t, "search example\n"), "names no server")
	refuses(resolvConf(t, "nameserver ns.example\n"), `server "ns.example" is not an address`)
	list, err := systemServers(resolvConf(t, "nameserver 127.0.0.53\nnameserver fe80::1%lo\nnameserver 10.0.0.1\nnameserver 10.0.0.2\n"))
	require.NoError(t, err)
	require.Len(t, list, MaxDNSServers)
	require.Equal(t, "127.0.0.53:53", list[0].String())
	// The operator's own servers may be private ones. Nothing listens on this one.
	out := run(t, Options{ResolvConf: resolvConf(t, "nameserver 127.99.99.99\n")}, "dns", DNSArgs{Name: "a.example"})
	require.Equal(t, "dns: server 127.99.99.99:53 (udp): connection refused", out.Reason)
}

func TestDNSEndsWithContext(t *testing.T) {
	reached := make(chan struct{}, 10)
	address := listenUDP(t, func([]byte) [][]byte {
		reached <- struct{}{}
		return nil
	})
	endsWithContext(t, private, "dns", DNSArgs{Name: "a.example", Server: address, TimeoutMs: MaxTimeoutMs}, reached)
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{`a`: "a", `\"`: `"`, `\\`: `\`, `\255`: "\xff", `\2555`: "\xff5", `x\`: `x\`, `\25`: "25", `\999`: "999", `a\032b`: "a b"} {
		require.Equal(t, want, unescape(in), in)
	}
}
