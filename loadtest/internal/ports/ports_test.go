//go:build linux

package ports

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/loadtest/internal/nodes"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		in    []string
		count int
		first string
		last  string
	}{
		{[]string{"127.0.0.1"}, 1, "127.0.0.1", "127.0.0.1"},
		{[]string{"127.10.0.0/24"}, 254, "127.10.0.1", "127.10.0.254"},
		{[]string{"127.10.0.0/31", "127.10.1.1"}, 3, "127.10.0.0", "127.10.1.1"},
		{[]string{"127.10.0.3/32"}, 1, "127.10.0.3", "127.10.0.3"},
		{[]string{"fd00::/126"}, 2, "fd00::1", "fd00::2"},
		{[]string{"255.255.255.252/30"}, 2, "255.255.255.253", "255.255.255.254"},
		{[]string{"127.10.0.0/20"}, 4094, "127.10.0.1", "127.10.15.254"},
	} {
		got, err := Parse(tc.in)
		require.NoError(t, err, tc.in)
		require.Len(t, got, tc.count, tc.in)
		require.Equal(t, tc.first, got[0].String())
		require.Equal(t, tc.last, got[len(got)-1].String())
	}
	none, err := Parse(nil)
	require.NoError(t, err)
	require.Empty(t, none)
	for in, want := range map[string]string{
		"here":          "is expected",
		"127.10.0.0/33": "is expected",
		"127.10.0.1/24": "127.10.0.0/24",
		"127.0.0.0/8":   "more than 4096",
		"::/0":          "more than 4096",
	} {
		_, err := Parse([]string{in})
		require.ErrorContains(t, err, want, in)
	}
	_, err = Parse([]string{"127.0.0.0/30", "127.0.0.2"})
	require.ErrorContains(t, err, "127.0.0.2 is there twice")
}

func TestRoom(t *testing.T) {
	sources, err := Parse([]string{"127.10.0.0/30"})
	require.NoError(t, err)
	server := netip.MustParseAddrPort("127.0.0.1:7400")
	other := netip.MustParseAddrPort("127.0.0.1:7401")
	r := Range{32768, 60999}
	require.NoError(t, r.check(&nodes.Spec{Servers: []netip.AddrPort{server}}, 28232))
	err = r.check(&nodes.Spec{Servers: []netip.AddrPort{server, server}}, 28233)
	require.ErrorContains(t, err, "at most 28232 can connect", "the same address twice is one")
	require.ErrorContains(t, err, "widen")
	both := &nodes.Spec{Servers: []netip.AddrPort{server, other}, Sources: sources}
	require.NoError(t, r.check(both, 4*28232))
	require.ErrorContains(t, r.check(both, 4*28232+1), "from 2 source to 2 server addresses, with 28232 ports each (32768 to 60999), at most 112928 can connect")
	require.NotContains(t, Range{1024, 65535}.check(both, 1_000_000).Error(), "widen")
}

func TestCheck(t *testing.T) {
	r, err := OfKernel()
	require.NoError(t, err)
	require.Positive(t, r.Count())
	spec := &nodes.Spec{Servers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:7400")}}
	require.NoError(t, Check(spec, r.Count()))
	require.Error(t, Check(spec, r.Count()+1))
	spec.Servers[0] = netip.MustParseAddrPort("127.0.0.1:7400")
	require.NoError(t, Check(spec, 1_000_000))
	spec.Sources = []netip.Addr{netip.MustParseAddr("127.10.0.1"), netip.MustParseAddr("127.10.0.2")}
	require.NoError(t, Check(spec, 2*r.Count()))
	require.Error(t, Check(spec, 2*r.Count()+1))
	spec.Sources[1] = netip.MustParseAddr("192.0.2.1") // documentation, RFC 5737
	require.ErrorContains(t, Check(spec, 1), "--source 192.0.2.1: this host cannot connect from there")
	spec.Sources = []netip.Addr{netip.MustParseAddr("2001:db8::1")} // RFC 3849
	require.ErrorContains(t, Check(spec, 1), "--source 2001:db8::1")
}
