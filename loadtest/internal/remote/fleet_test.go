//go:build linux

package remote

import (
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/loadtest/internal/fleet"
	"github.com/roost-server/roost/loadtest/internal/membertest"
	"github.com/roost-server/roost/loadtest/internal/nodes"
)

// Nodes in two child processes and in this one, on one member.
func TestNodesInSeveralProcesses(t *testing.T) {
	t.Parallel()
	m := membertest.Start(t, &membertest.Member{HeartbeatMs: 1000})
	h := newHost(t, func(w *Worker) { w.Start = fleet.NewGroup })
	cfg := Config{Local: 2, Args: []string{asFleet}, Hosts: hosts(h)}
	cfg.Hosts[0].Weight = 2
	s := spec(200)
	s.First, s.Of, s.OpenTimeout, s.Credit = 100, 300, 10*time.Second, 64
	s.Servers = []netip.AddrPort{m.Addr()}
	g := begin(t, cfg, s)
	require.NoError(t, g.Ramp(t.Context(), 50, 0))
	eventually(t, func() bool { return g.Stats().Connected == 50 && g.Stats().ConnectTook > 0 })
	require.NoError(t, g.Ramp(t.Context(), 200, 1000))
	eventually(t, func() bool { return g.Stats().Connected == 200 && g.Stats().ConnectTook > 0 })
	ids := map[string]bool{}
	for _, h := range m.Hellos() {
		ids[h.NodeID] = true
	}
	require.Len(t, ids, 200)
	for i := range 200 {
		require.True(t, ids[s.ID(100+i)], "node %d", i)
	}
	require.Greater(t, g.Stats().Load.RSSBytes, int64(3<<20), "of three processes")

	cut, err := g.Cut(t.Context(), 0.5)
	require.NoError(t, err)
	want := 0
	for i := range 200 {
		if nodes.Hit(s.Seed, 1, 100+i, 0.5) {
			want++
		}
	}
	require.Equal(t, want, cut, "the same nodes as if they were in one process")
	eventually(t, func() bool { return g.Stats().Connected == 200 && g.Stats().Sessions == uint64(200+cut) })

	require.NoError(t, syscall.Kill(g.links[0].child.pid(), syscall.SIGKILL))
	eventually(t, func() bool { return len(g.Stats().Problems) == 1 })
	require.Equal(t, 150, g.Stats().Connected)
	require.Equal(t, 50, g.Stats().Dead)
	require.NoError(t, g.Stop())
	eventually(t, func() bool { return m.Byes() == 150 }, "the others say goodbye")
}
