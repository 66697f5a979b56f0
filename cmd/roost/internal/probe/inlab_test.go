//go:build linux

package probe

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestInLab is the client of the lab: the guard is on, and the addresses of the lab are public ones.
func TestInLab(t *testing.T) {
	if os.Getenv(labRole) != roleClient {
		return // TestLab starts it where it belongs
	}
	buildLab(t)
	require.Eventually(t, func() bool { // until the links are up
		for _, to := range []string{hostIP, "[" + hostIP6 + "]"} {
			c, err := net.DialTimeout("tcp", to+":80", time.Second)
			if err != nil {
				return false
			}
			_ = c.Close()
		}
		return true
	}, patience, 10*time.Millisecond)
	t.Run("public targets", labPublic)
	t.Run("rebinding", labRebinding)
	t.Run("redirects", labRedirects)
	t.Run("happy eyeballs", labHappyEyeballs)
	t.Run("ping", labPing)
	t.Run("traceroute", labTraceroute)
	t.Run("traceroute, not reached", labTracerouteFails)
	t.Run("many traceroutes", labManyTraceroutes)
	t.Run("system resolver", labSystemResolver)
	t.Run("without CAP_NET_RAW", labWithoutRaw)
}

func labPublic(t *testing.T) {
	z := newZone(t, map[string][][]string{"www.example. A": {{hostIP}}, "www.example. AAAA": {{hostIP6}}})
	o := Options{Resolver: z.resolver()}
	for _, v := range []int{0, 4, 6} {
		res := run(t, o, "http", HTTPArgs{URL: "http://www.example/", BodyContains: "the host", IPVersion: v})
		require.True(t, res.OK, res.Reason)
		res = run(t, o, "tcp", TCPArgs{Address: "www.example:80", Send: "GET / HTTP/1.0\r\n\r\n", Expect: "the host", IPVersion: v})
		require.True(t, res.OK, res.Reason)
	}
	res := run(t, o, "dns", DNSArgs{Name: "www.example", Server: hostIP, Expect: []string{"192.0.2.1"}})
	require.True(t, res.OK, res.Reason)
	res = run(t, o, "udp", UDPArgs{Address: hostIP + ":9", Send: "x"})
	require.Equal(t, "udp: port unreachable: nothing listens there", res.Reason)
	for _, own := range []string{clientIP, "[2a00:11:1::1]"} {
		require.Contains(t, refused(t, o, "http", HTTPArgs{URL: "http://" + own + "/"}), "is this node's own address; start the node with --allow-private")
	}
}

// rebind is a web server on loopback, and names that first lead to the public host and then there.
func rebind(t *testing.T) (o Options, z *zone, count func() int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:80")
	require.NoError(t, err)
	count = serveTCP(t, ln, func(net.Conn) {})
	z = newZone(t, map[string][][]string{
		"rebind.example. A": {{hostIP}, {"127.0.0.1"}},
		"inner.example. A":  {{"127.0.0.1"}},
		"mixed.example. A":  {{hostIP, "127.0.0.1"}},
	})
	return Options{Resolver: z.resolver()}, z, count
}

func labRebinding(t *testing.T) {
	const why = "target 127.0.0.1 (from rebind.example) is private (loopback)"
	for name, args := range map[string]any{
		"http": HTTPArgs{URL: "http://rebind.example/"}, "tcp": TCPArgs{Address: "rebind.example:80"},
		"udp": UDPArgs{Address: "rebind.example:80"}, "dns": DNSArgs{Name: "www.example", Server: "rebind.example"},
		"ping":       PingArgs{Host: "rebind.example", Count: 1},
		"traceroute": TracerouteArgs{Host: "rebind.example"},
	} {
		t.Run(name, func(t *testing.T) {
			o, z, count := rebind(t)
			out := run(t, o, name, args)
			if name != "udp" { // whose port is closed
				require.True(t, out.OK, out.Reason)
			}
			require.Equal(t, 1, z.count("rebind.example. A"), "resolved once, and that address used")
			require.Contains(t, refused(t, o, name, args), why)
			require.Zero(t, count())
		})
	}
	t.Run("within one job", func(t *testing.T) {
		o, z, count := rebind(t)
		require.Contains(t, refused(t, o, "http", HTTPArgs{URL: "http://rebind.example/redirect?to=/", FollowRedirects: true}), why)
		require.Equal(t, 2, z.count("rebind.example. A"))
		require.Zero(t, count())
	})
	t.Run("in one answer", func(t *testing.T) {
		o, _, count := rebind(t)
		require.Contains(t, refused(t, o, "http", HTTPArgs{URL: "http://mixed.example/"}), "target 127.0.0.1 (from mixed.example)")
		require.Zero(t, count())
	})
}

func labRedirects(t *testing.T) {
	o, _, count := rebind(t)
	for _, to := range []string{
		"http://127.0.0.1/", "http://inner.example/", "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://0x7f.1/", "//localhost.inner.example:80",
		"http://169.254.169.254/latest/meta-data/", "http://2130706433/", "https://10.0.0.1/", "http://0/", "http://" + clientIP,
	} {
		args := HTTPArgs{URL: "http://" + hostIP + "/redirect?to=" + to, FollowRedirects: true}
		if to == "//localhost.inner.example:80" {
			require.Contains(t, run(t, o, "http", args).Reason, "no such host")
			continue
		}
		require.NotEmpty(t, refused(t, o, "http", args), to)
		args.FollowRedirects = false
		require.True(t, run(t, o, "http", args).OK)
	}
	require.Zero(t, count())
	out := run(t, o, "http", HTTPArgs{URL: "http://" + hostIP + "/redirect?to=http://[" + hostIP6 + "]/", FollowRedirects: true, BodyContains: "the host"})
	require.True(t, out.OK, out.Reason)
	require.Equal(t, "["+hostIP6+"]:80", out.Output.(*HTTPOutput).RemoteAddr)
}

// The router drops what goes to the first address without a word; the second one answers.
func labHappyEyeballs(t *testing.T) {
	d := newDialer(Options{}.withDefaults())
	c, took, err := d.connect(t.Context(), "tcp", "x", []netip.Addr{netip.MustParseAddr("2a00:11:3::1"), netip.MustParseAddr(hostIP)}, 80)
	require.NoError(t, err)
	require.Equal(t, hostIP+":80", c.RemoteAddr().String())
	require.Less(t, took, patience)
	require.NoError(t, c.Close())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = kindOf(t, Options{}, "tcp").Run(ctx, binder(t, TCPArgs{Address: "11.0.3.1:80"}))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, "connect: no answer within 50 ms", run(t, Options{}, "http", HTTPArgs{URL: "http://11.0.3.1", TimeoutMs: 50}).Reason)
	require.Equal(t, "connect: 11.0.4.1:80: no route to host", run(t, Options{}, "tcp", TCPArgs{Address: "11.0.4.1:80"}).Reason)
}

func labPing(t *testing.T) {
	for _, host := range []string{hostIP, hostIP6} {
		res := run(t, Options{}, "ping", PingArgs{Host: host, Count: 5, IntervalMs: 10})
		require.True(t, res.OK, res.Reason)
		require.Equal(t, 63, res.Output.(*PingOutput).TTL, "one router on the way back")
	}
	res := run(t, Options{}, "ping", PingArgs{Host: "11.0.3.1", Count: 2, IntervalMs: 10, TimeoutMs: 50})
	require.Equal(t, "ping: no reply from 11.0.3.1 to 2 packets", res.Reason)
	require.InDelta(t, 1, res.Output.(*PingOutput).Loss, 0)
	require.Equal(t, "ping: 11.0.6.1:9: permission denied", run(t, Options{}, "ping", PingArgs{Host: "11.0.6.1"}).Reason)
	require.Equal(t, "traceroute: 11.0.6.1:9: permission denied", run(t, Options{}, "traceroute", TracerouteArgs{Host: "11.0.6.1"}).Reason)
}

func labTraceroute(t *testing.T) {
	for _, method := range []string{"udp", "icmp"} {
		for host, router := range map[string]string{hostIP: routerIP, hostIP6: gateIP6} {
			for _, port := range []int{0, 53} { // one closed, one that takes the datagrams in
				res := run(t, Options{}, "traceroute", TracerouteArgs{Host: host, Method: method, TimeoutMs: 500, Port: port})
				out := res.Output.(*TracerouteOutput)
				require.NotEmpty(t, out.Hops)
				require.Equal(t, router, out.Hops[0].Addr)
				require.Empty(t, out.Hops[0].OtherAddrs)
				require.Len(t, out.Hops[0].RTTMs, 3)
				require.False(t, out.Hops[0].Reached)
				if method == "udp" && port == 53 {
					continue // no DNS query, so no reply: the host stays silent
				}
				require.True(t, res.OK, res.Reason)
				require.Len(t, out.Hops, 2)
				require.Equal(t, host, out.Hops[1].Addr)
				require.Len(t, out.Hops[1].RTTMs, 3)
				require.True(t, out.Hops[1].Reached)
			}
		}
	}
}

func labTracerouteFails(t *testing.T) {
	res := run(t, Options{}, "traceroute", TracerouteArgs{Host: "11.0.3.1", MaxHops: 2, TimeoutMs: 50})
	require.Equal(t, "traceroute: 11.0.3.1 not reached: no answer from any of 2 hops", res.Reason)
	res = run(t, Options{}, "traceroute", TracerouteArgs{Host: "11.0.2.9", MaxHops: 3, TimeoutMs: 50})
	require.Equal(t, "traceroute: 11.0.2.9 not reached within 3 hops; the last answer came from "+routerIP+" at hop 1", res.Reason)
	hops := res.Output.(*TracerouteOutput).Hops
	require.Len(t, hops, 3)
	require.Equal(t, Hop{TTL: 3, RTTMs: []float64{}, Sent: 3}, hops[2])
	for host, why := range map[string]string{"11.0.4.1": "host unreachable", "11.0.5.1": "prohibited by a filter"} {
		for _, method := range []string{"udp", "icmp"} {
			res = run(t, Options{}, "traceroute", TracerouteArgs{Host: host, Method: method, MaxHops: 3, TimeoutMs: 500})
			require.Contains(t, res.Reason, "traceroute: "+host+" not reached: "+routerIP+" says at hop ")
			require.Contains(t, res.Reason, why)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	out, err := kindOf(t, Options{}, "traceroute").Run(ctx, binder(t, TracerouteArgs{Host: "11.0.2.9", TimeoutMs: MaxReplyWaitMs}))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, routerIP, out.Output.(*TracerouteOutput).Hops[0].Addr, "what was measured stays")
}

func labManyTraceroutes(t *testing.T) {
	k := kindOf(t, Options{}, "traceroute")
	var wg sync.WaitGroup
	for i := range 32 {
		host, router := hostIP, routerIP
		if i%2 == 1 {
			host, router = hostIP6, gateIP6
		}
		method := []string{"udp", "icmp"}[i/2%2]
		wg.Go(func() {
			out, err := k.Run(t.Context(), binder(t, TracerouteArgs{Host: host, Method: method, TimeoutMs: 5000, MaxHops: 4}))
			if err != nil || !out.OK {
				t.Errorf("%s %s: %v %s", method, host, err, out.Reason)
				return
			}
			hops := out.Output.(*TracerouteOutput).Hops
			if len(hops) != 2 || hops[0].Addr != router || hops[1].Addr != host || len(hops[0].OtherAddrs)+len(hops[1].OtherAddrs) > 0 {
				t.Errorf("%s %s: %+v", method, host, hops)
			}
		})
	}
	wg.Wait()
	require.Empty(t, echoIDs.used)
}

// The servers of resolv.conf have port 53, which only a namespace of one's own has free.
func labSystemResolver(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.2:53")
	require.NoError(t, err)
	defer func() { _ = silent.Close() }()
	conf := resolvConf(t, fmt.Sprintf("nameserver 127.0.0.2\nnameserver %s\n", hostIP))
	res := run(t, Options{ResolvConf: conf}, "dns", DNSArgs{Name: "www.example", TimeoutMs: 100, Expect: []string{"192.0.2.1"}})
	require.True(t, res.OK, res.Reason)
	require.Equal(t, hostIP+":53", res.Output.(*DNSOutput).Server)
	require.Equal(t, 2, res.Output.(*DNSOutput).Tries)
}

func labWithoutRaw(t *testing.T) {
	r := withoutRaw(t)
	require.Equal(t, []string{"http", "tcp", "udp", "dns"}, r.Names)
	require.Equal(t, `ping: needs CAP_NET_RAW or net.ipv4.ping_group_range to include gid 0 (it is "1 0"): operation not permitted`, r.Missing["ping"])
	require.Contains(t, r.Missing["traceroute"], "traceroute: needs CAP_NET_RAW for a raw ICMP socket: operation not permitted")
	require.NoError(t, os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0o644)) //nolint:gosec // of the lab alone
	r = withoutRaw(t)
	require.Equal(t, []string{"http", "tcp", "udp", "dns", "ping"}, r.Names)
	require.Empty(t, r.Ping)
	// With both ways open, the one of fewer rights is taken and works.
	raw, err := findICMP().privileged(false)
	require.NoError(t, err)
	require.False(t, raw)
	labPing(t)
}
