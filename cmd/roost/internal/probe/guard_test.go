package probe

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestClassify(t *testing.T) {
	public := addrs(
		"8.8.8.8", "11.0.0.1", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.1",
		"198.17.255.255", "198.20.0.0", "223.255.255.255", "2606:4700::1111", "2001:4860:4860::8888",
		"::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1",
	)
	for _, a := range public {
		require.Empty(t, classify(a), a)
	}
	for class, list := range map[string][]netip.Addr{
		"loopback":                addrs("127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1", "::127.0.0.1", "::ffff:0:127.0.0.1"),
		"private":                 addrs("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "::ffff:10.1.2.3", "64:ff9b::192.168.0.1", "2002:a00:1::"),
		"carrier-grade NAT":       addrs("100.64.0.1", "100.127.255.255"),
		"link-local":              addrs("169.254.169.254", "fe80::1", "::ffff:169.254.169.254", "fe80::1%eth0"),
		"unique local":            addrs("fc00::1", "fd12:3456::1"),
		"site-local":              addrs("fec0::1"),
		"multicast":               addrs("224.0.0.1", "239.255.255.255", "ff02::1"),
		"broadcast":               addrs("255.255.255.255"),
		"unspecified":             addrs("0.0.0.0", "::", "::ffff:0.0.0.0"),
		"this network":            addrs("0.1.2.3"),
		"documentation":           addrs("192.0.2.1", "198.51.100.7", "203.0.113.1", "2001:db8::1", "3fff::1"),
		"benchmarking":            addrs("198.18.0.1", "198.19.255.255"),
		"protocol assignments":    addrs("192.0.0.8", "2001:2::1", "2001:20::1"),
		"6to4 relay":              addrs("192.88.99.1"),
		"reserved":                addrs("240.0.0.1", "254.1.1.1", "4000::1", "5f00::1", "1::1", "200::1"),
		"Teredo":                  addrs("2001::1"),
		"local NAT64":             addrs("64:ff9b:1::808:808"),
		"discard":                 addrs("100::1"),
		"as the embedded 10.0.0.": addrs("64:ff9b::10.0.0.1", "2002:a00:1::"),
	} {
		for _, a := range list {
			require.Contains(t, classify(a), class, a)
		}
	}
	require.NotEmpty(t, classify(netip.Addr{}))
}

func TestGuardKnowsOwnAddresses(t *testing.T) {
	// Loopback is an address of every machine; the class before it is what makes the difference.
	require.True(t, ownAddress(netip.MustParseAddr("127.0.0.1")))
	require.True(t, ownAddress(netip.MustParseAddr("::ffff:127.0.0.1")))
	require.False(t, ownAddress(netip.MustParseAddr("8.8.8.8")))
	require.NoError(t, guard{allowPrivate: true}.check("x", netip.MustParseAddr("127.0.0.1")))
	err := guard{}.check("evil.example", netip.MustParseAddr("10.0.0.1"))
	require.EqualError(t, err, "target 10.0.0.1 (from evil.example) is private; start the node with --allow-private to allow it")
	require.EqualError(t, guard{}.check("10.0.0.1", netip.MustParseAddr("10.0.0.1")), "target 10.0.0.1 is private; start the node with --allow-private to allow it")
}

// Every kind, and every way to name loopback: nothing may arrive there.
func TestPrivateTargetsAreRefused(t *testing.T) {
	address, count := listenTCP(t, func(net.Conn) {})
	port := portOf(t, address)
	z := newZone(t, map[string][][]string{
		"evil.example. A":     {{"127.0.0.1"}},
		"six.example. AAAA":   {{"::1"}},
		"mapped.example. A":   {{"8.8.8.8", "127.0.0.1"}},
		"nat.example. AAAA":   {{"64:ff9b::7f00:1"}},
		"metadata.example. A": {{"169.254.169.254"}},
		// What a resolver that knows the old notations would say.
		"2130706433. A": {{"127.0.0.1"}},
		"0x7f000001. A": {{"127.0.0.1"}},
		"0177.0.0.1. A": {{"127.0.0.1"}},
		"127.1. A":      {{"127.0.0.1"}},
	})
	o := Options{Resolver: z.resolver()}
	for host, why := range map[string]string{
		"evil.example":       "target 127.0.0.1 (from evil.example) is private (loopback); start the node with --allow-private",
		"six.example":        "target ::1 (from six.example) is private (loopback)",
		"mapped.example":     "target 127.0.0.1 (from mapped.example) is private (loopback)",
		"nat.example":        "target 64:ff9b::7f00:1 (from nat.example) is private (loopback), as the embedded 127.0.0.1",
		"metadata.example":   "target 169.254.169.254 (from metadata.example) is private (link-local)",
		"127.0.0.1":          "target 127.0.0.1 is private (loopback)",
		"[::1]":              "target ::1 ",
		"[::ffff:127.0.0.1]": "target 127.0.0.1 ",
		"[::ffff:7f00:1]":    "target 127.0.0.1 ",
		"[::127.0.0.1]":      "is private (loopback), as the embedded 127.0.0.1",
		"0.0.0.0":            "target 0.0.0.0 is unspecified",
		"[::]":               "target :: is unspecified",
		"2130706433":         "ambiguous",
		"0x7f000001":         "ambiguous",
		"0X7F.1":             "ambiguous",
		"0177.0.0.1":         "ambiguous",
		"127.1":              "ambiguous",
		"127.0.0.1.":         "ambiguous",
	} {
		t.Run(host, func(t *testing.T) {
			bare := strings.Trim(host, "[]")
			require.Contains(t, refused(t, o, "http", HTTPArgs{URL: "http://" + host + ":" + port}), why)
			require.Contains(t, refused(t, o, "tcp", TCPArgs{Address: host + ":" + port}), why)
			require.Contains(t, refused(t, o, "udp", UDPArgs{Address: host + ":" + port}), why)
			require.Contains(t, refused(t, o, "dns", DNSArgs{Name: "example.com", Server: host + ":" + port}), why)
			require.Contains(t, refused(t, o, "dns", DNSArgs{Name: "example.com", Server: host + ":" + port, Transport: "tcp"}), why)
			require.Contains(t, refused(t, o, "ping", PingArgs{Host: bare}), why)
			require.Contains(t, refused(t, o, "traceroute", TracerouteArgs{Host: bare}), why)
		})
	}
	// Digits of other scripts become ASCII digits in the HTTP client.
	require.Contains(t, refused(t, o, "http", HTTPArgs{URL: "http://１２７.0.0.1:" + port}), "target 127.0.0.1")
	require.Zero(t, count())
}

// The check at the socket is what counts, whatever the resolver said before.
func TestSocketIsGuarded(t *testing.T) {
	address, count := listenTCP(t, func(net.Conn) {})
	ap := netip.MustParseAddrPort(address)
	d := newDialer(Options{}.withDefaults())
	for _, a := range addrs("127.0.0.1", "::ffff:127.0.0.1") {
		_, _, err := d.connect(t.Context(), "tcp", "evil.example", []netip.Addr{a}, ap.Port())
		var r *Refused
		require.ErrorAs(t, err, &r)
		require.Contains(t, r.Reason, "target 127.0.0.1 (from evil.example)")
	}
	require.Zero(t, count())
}

func TestConnectFallsBack(t *testing.T) {
	address, count := listenTCP(t, func(net.Conn) {})
	ap := netip.MustParseAddrPort(address)
	d := newDialer(private.withDefaults())
	c, took, err := d.connect(t.Context(), "tcp", "x", addrs("127.0.0.2", "::1", "127.0.0.1"), ap.Port())
	require.NoError(t, err)
	require.Equal(t, address, c.RemoteAddr().String())
	require.Positive(t, took)
	require.NoError(t, c.Close())
	require.Eventually(t, func() bool { return count() == 1 }, patience, 1e6)
	_, _, err = d.connect(t.Context(), "tcp", "x", addrs("127.0.0.2", "127.0.0.3"), ap.Port())
	require.ErrorContains(t, err, "refused")
	require.Contains(t, cause(err), "127.0.0.2:"+portOf(t, address)+": connection refused; 127.0.0.3:")
}

func TestRedirectsAreGuarded(t *testing.T) {
	// With private targets allowed, what is refused is left to the scheme and the count.
	z := newZone(t, map[string][][]string{"a.example. A": {{"127.0.0.1"}}})
	var to string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusFound)
	}))
	defer srv.Close()
	o := Options{AllowPrivate: true, Resolver: z.resolver()}
	args := HTTPArgs{URL: srv.URL, FollowRedirects: true}
	to = "file:///etc/passwd"
	require.Contains(t, run(t, o, "http", args).Reason, `http: redirect to scheme "file"`)
	to = "/again"
	require.Equal(t, "http: more than 10 redirects", run(t, o, "http", args).Reason)
	to = "http://0x7f000001/"
	require.Contains(t, refused(t, o, "http", args), "ambiguous")
	to = "http://a.example:0/"
	require.Contains(t, refused(t, o, "http", args), `port "0"`)
}

func TestResolveKeepsFamily(t *testing.T) {
	z := newZone(t, map[string][][]string{"both.example. A": {{"127.0.0.1"}}, "both.example. AAAA": {{"::1"}}, "four.example. A": {{"127.0.0.1"}}})
	d := newDialer(Options{AllowPrivate: true, Resolver: z.resolver()})
	got, err := d.resolve(t.Context(), "both.example", 4)
	require.NoError(t, err)
	require.Equal(t, addrs("127.0.0.1"), got)
	got, err = d.resolve(t.Context(), "both.example", 6)
	require.NoError(t, err)
	require.Equal(t, addrs("::1"), got)
	got, err = d.resolve(t.Context(), "both.example", 0)
	require.NoError(t, err)
	require.ElementsMatch(t, addrs("::1", "127.0.0.1"), got)
	_, err = d.resolve(t.Context(), "four.example", 6)
	require.Error(t, err)
	_, err = d.resolve(t.Context(), "127.0.0.1", 6)
	require.EqualError(t, err, "127.0.0.1 has no IPv6 address")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = d.resolve(ctx, "four.example", 0)
	require.ErrorIs(t, err, context.Canceled)
}

func TestCheckHost(t *testing.T) {
	for _, ok := range []string{"example.com", "example.com.", "a", "xn--bcher-kva.example", "_srv.example", "1.2.3.4", "::1", "[::1]", "fe80::1%eth0", "3com.example", "1e100.net"} {
		require.NoError(t, checkHost(ok), ok)
	}
	for _, bad := range []string{"", ".", "a..b", "1", "1.2.3", "1.2.3.4.5", "256.1.1.1", "01.2.3.4", "0x1", "0x", "a.0x7f", "bücher.example", "a b", "a/b", "a\x00b", strings.Repeat("a", 64) + ".b", strings.Repeat("a.", 130)} {
		require.Error(t, checkHost(bad), bad)
	}
}
