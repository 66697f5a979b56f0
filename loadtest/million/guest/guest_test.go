//go:build linux

package guest

import (
	"bufio"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/protocol"
)

func TestSourcesHaveRoomForAll(t *testing.T) {
	for _, n := range []int{1, portsPerSource, portsPerSource + 1, 1_000_000, 2_000_000} {
		list := Sources(n)
		require.GreaterOrEqual(t, len(list)*portsPerSource, n)
		require.Less(t, (len(list)-1)*portsPerSource, n)
		seen := map[string]bool{}
		for _, a := range list {
			require.True(t, a.IsLoopback())
			require.False(t, seen[a.String()])
			seen[a.String()] = true
		}
	}
}

func TestKernelMemory(t *testing.T) {
	const info = "MemTotal: 1000 kB\nMemFree: 400 kB\nMemAvailable: 1 kB\nBuffers: 10 kB\nCached: 90 kB\nAnonPages: 200 kB\nHugePages_Total: 0\n"
	n, err := parseKernel(info)
	require.NoError(t, err)
	require.EqualValues(t, 300<<10, n)
	_, err = parseKernel("MemTotal: 1000 kB\n")
	require.ErrorContains(t, err, "MemFree")
	_, err = parseKernel("MemTotal: x kB\n")
	require.Error(t, err)
	n, err = kernelBytes()
	require.NoError(t, err)
	require.Positive(t, n)
}

func TestOnlyTheFirstProcessOfAGuestIsInit(t *testing.T) { require.False(t, IsInit()) }

func TestASinkDismissesNodesForGood(t *testing.T) {
	s, err := openSink()
	require.NoError(t, err)
	const nodes = 600 // more than it accepts at once
	conns := make([]net.Conn, nodes)
	for i := range conns {
		c, err := net.Dial("tcp", s.address)
		require.NoError(t, err)
		defer c.Close()
		conns[i] = c
	}
	hello, err := protocol.NewEncoder().Append([]byte(protocol.Preface), &protocol.Hello{Version: protocol.Version, NodeID: "n"})
	require.NoError(t, err)
	for _, c := range conns {
		_, err := c.Write(hello)
		require.NoError(t, err)
	}
	dec := protocol.NewDecoder()
	for _, c := range conns {
		require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
		b := make([]byte, 4096)
		n, err := bufio.NewReader(c).Read(b)
		require.NoError(t, err)
		typ, body, _, err := protocol.NextFrame(b[:n], protocol.MaxBodyBytes)
		require.NoError(t, err)
		require.Equal(t, protocol.TypeClose, typ)
		var m protocol.Close
		require.NoError(t, dec.Decode(body, &m))
		require.Equal(t, protocol.ReconnectNever, m.Reason.Policy())
	}
	require.NoError(t, s.failed())
	s.close()
}
