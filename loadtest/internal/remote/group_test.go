//go:build linux

package remote

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/loadtest/internal/nodes"
	"github.com/roost-server/roost/loadtest/internal/timeline"
)

func sum(list []int) (n int) {
	for _, k := range list {
		n += k
	}
	return n
}

func TestShare(t *testing.T) {
	t.Parallel()
	require.Equal(t, []int{15000, 15000, 15000, 15000, 15000}, share(75000, []int{1, 1, 1, 1, 1}))
	require.Equal(t, []int{250, 500, 250}, share(1000, []int{1, 2, 1}))
	require.Equal(t, []int{1, 1, 0}, share(2, []int{1, 1, 1}))
	require.Equal(t, []int{0, 3}, share(3, []int{0, 1}))
	rng := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		weights := make([]int, 1+rng.IntN(12))
		for i := range weights {
			weights[i] = 1 + rng.IntN(1<<rng.IntN(12))
		}
		before := make([]int, len(weights))
		all := sum(weights)
		for n := 0; n <= all; n += 1 + rng.IntN(1+all/50) {
			got := share(n, weights)
			require.Equal(t, n, sum(got), "%d by %v", n, weights)
			for i := range got {
				require.GreaterOrEqual(t, got[i], before[i], "%d by %v", n, weights)
				require.LessOrEqual(t, got[i], weights[i], "%d by %v", n, weights)
				require.InDelta(t, float64(n)*float64(weights[i])/float64(all), got[i], float64(len(weights)))
			}
			before = got
		}
		require.Equal(t, weights, share(all, weights))
	}
	share(10_000_000, []int{1, 1, 1}) // not one by one
}

func TestThreeWorkersAreOneGroup(t *testing.T) {
	t.Parallel()
	a, b, c := newHost(t), newHost(t), newHost(t)
	cfg := Config{Hosts: hosts(a, b, c)}
	cfg.Hosts[1].Weight = 2
	s := spec(1000)
	s.First, s.Of, s.Credential, s.RunFor = 5, 2000, []byte("secret"), time.Second
	g := begin(t, cfg, s)
	require.Equal(t, 1000, g.Stats().Nodes)

	want := s
	want.First, want.Nodes, want.InFlight = 5, 250, 25
	require.Equal(t, want, a.group(t, 0).spec)
	want.First, want.Nodes, want.InFlight = 255, 500, 50
	require.Equal(t, want, b.group(t, 0).spec)
	want.First, want.Nodes, want.InFlight = 755, 250, 25
	require.Equal(t, want, c.group(t, 0).spec)

	ctx := t.Context()
	require.NoError(t, g.Ramp(ctx, 2, 100))
	require.Zero(t, g.Stats().Nodes-1000)
	require.NoError(t, g.Ramp(ctx, 1000, 100))
	cut, err := g.Cut(ctx, 0.5)
	require.NoError(t, err)
	require.Equal(t, 500, cut)
	require.NoError(t, g.Churn(ctx, 40))
	require.NoError(t, g.Slow(ctx, 0.1))

	require.Equal(t, "ramp 250 25, cut 0.5, churn 10, slow 0.1", after(a.group(t, 0).did()))
	require.Equal(t, "ramp 500 50, cut 0.5, churn 20, slow 0.1", after(b.group(t, 0).did()))

	st := g.Stats()
	require.Equal(t, 1000, st.Connected)
	require.EqualValues(t, 500, st.Cut)
	require.EqualValues(t, 1000, st.Sessions)
	require.Equal(t, 500*time.Millisecond, st.ConnectTook, "the longest")
	require.Equal(t, map[string]uint64{"bye": 40, "idle": 3}, st.Closes)
	require.Equal(t, timeline.Process{Name: "load", CPUMs: 30, RSSBytes: 3000}, st.Load)
	require.Empty(t, st.Problems)
	require.Zero(t, st.Unstamped)
	require.Contains(t, g.Names()[1], b.addr)

	// What changes without a command comes by itself.
	r := b.group(t, 0)
	r.mu.Lock()
	r.st.Jobs, r.st.LastError = 77, "it rains"
	r.mu.Unlock()
	eventually(t, func() bool { return g.Stats().Jobs == 77 })
	require.Equal(t, "worker "+b.addr+": it rains", g.Stats().LastError)

	require.NoError(t, g.Stop())
	require.NoError(t, g.Stop())
	ended(t, a.group(t, 0))
	require.Zero(t, g.Stats().Connected)
	require.EqualValues(t, 500, g.Stats().Cut, "what was counted stays")
	require.ErrorIs(t, g.Slow(ctx, 1), errHungUp)

	again := begin(t, cfg, spec(10))
	require.NoError(t, again.Ramp(ctx, 10, 0))
	require.Equal(t, 10, again.Stats().Connected, "the workers have waited for the next")
}

// after cuts off the first call.
func after(calls string) string {
	for i := range calls {
		if calls[i] == ',' {
			return calls[i+2:]
		}
	}
	return ""
}

func TestConnectTookWaitsForAllThatWereAsked(t *testing.T) {
	t.Parallel()
	a, b := newHost(t), newHost(t)
	g := begin(t, Config{Hosts: hosts(a, b)}, spec(10))
	require.Zero(t, g.Stats().ConnectTook)
	require.NoError(t, g.Ramp(t.Context(), 1, 0))
	require.Equal(t, time.Millisecond, g.Stats().ConnectTook, "the other worker was asked for none")
	r := b.group(t, 0)
	require.NoError(t, g.Ramp(t.Context(), 10, 0))
	r.mu.Lock()
	r.st.ConnectTook = 0
	r.mu.Unlock()
	eventually(t, func() bool { return g.Stats().ConnectTook == 0 })
}

func TestStatsAfterACommandShowItsEffect(t *testing.T) {
	t.Parallel()
	often := func(w *Worker) { w.pushEvery = time.Millisecond }
	a, b := newHost(t, often), newHost(t, often)
	g := begin(t, Config{Hosts: hosts(a, b)}, spec(1000))
	for n := 10; n <= 1000; n += 10 {
		require.NoError(t, g.Ramp(t.Context(), n, 0))
		for range 3 {
			require.Equal(t, n, g.Stats().Connected)
		}
	}
}

func TestCommandsThatFailNameTheWorker(t *testing.T) {
	t.Parallel()
	a, b := newHost(t), newHost(t)
	g := begin(t, Config{Hosts: hosts(a, b), Answer: 3 * time.Second}, spec(10))
	_, err := g.Cut(t.Context(), cannot)
	require.ErrorContains(t, err, "worker "+a.addr+": no scissors")
	require.ErrorContains(t, err, "worker "+b.addr+": no scissors")
	require.Contains(t, g.Stats().LastError, "no scissors")
	require.ErrorContains(t, g.Ramp(t.Context(), 11, 0), "there are 10 nodes")

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = g.Cut(ctx, forever)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Empty(t, g.Stats().Problems, "the caller did not want to wait")
}

func TestAWorkerThatDoesNotAnswerIsLost(t *testing.T) {
	t.Parallel()
	a, b := newHost(t), newHost(t)
	g := begin(t, Config{Hosts: hosts(a, b), Answer: 2 * time.Second}, spec(10))
	_, err := g.Cut(t.Context(), forever)
	require.ErrorContains(t, err, "no worker is left")
	require.Len(t, g.Stats().Problems, 2)
	require.Contains(t, g.Stats().Problems[0], "worker "+a.addr+" was lost, with 5 nodes: a command was not answered within 2s")
	require.Equal(t, 10, g.Stats().Dead)
	ended(t, a.group(t, 0))
	require.ErrorContains(t, g.Churn(t.Context(), 1), "no worker is left")
}

func TestAWorkerThatIsEnded(t *testing.T) {
	a, b := newHost(t), newHost(t)
	g := begin(t, Config{Hosts: hosts(a, b)}, spec(11))
	require.NoError(t, g.Ramp(t.Context(), 11, 0))
	b.stop()
	eventually(t, func() bool { return len(g.Stats().Problems) == 1 })
	ended(t, b.group(t, 0))
	require.Contains(t, g.Stats().Problems[0], "worker "+b.addr+" was lost, with 5 nodes: the worker has been ended where it runs")
	require.Equal(t, g.Stats().Problems[0], g.Stats().LastError)
	require.Equal(t, 6, g.Stats().Connected)
	require.Equal(t, 5, g.Stats().Dead)
	require.NotZero(t, g.Stats().ConnectTook)
	n, err := g.Cut(t.Context(), 1)
	require.NoError(t, err, "the others go on")
	require.Equal(t, 6, n)
}

func TestStampsNeedTheSameClock(t *testing.T) {
	a, b := newHost(t), newHost(t, func(w *Worker) { w.clock = "another boot" })
	s := spec(10)
	_, err := Start(t.Context(), Config{Hosts: hosts(a, b)}, s)
	require.ErrorContains(t, err, "worker "+b.addr+" is on another host: --server 127.0.0.1:7400 is a loopback address")
	s.Servers[0] = netipServer("192.0.2.1:7400")
	g := begin(t, Config{Hosts: hosts(a, b)}, s)
	require.Equal(t, 5, g.Stats().Unstamped)
	require.NotContains(t, g.Names()[0], "leave out")
	require.Contains(t, g.Names()[1], "5 nodes, which latencies to and from nodes leave out")
	require.False(t, b.group(t, 0).spec.Stamp)
	stamps := a.group(t, len(a.groups)-1).spec.Stamp
	require.True(t, stamps)
	s.Stamp = false
	require.NoError(t, g.Stop())
	require.Zero(t, begin(t, Config{Hosts: hosts(a, b)}, s).Stats().Unstamped, "nobody asked for it")
}

func TestSourcesAreOfTheirHost(t *testing.T) {
	own := netipAddrs("127.0.0.9")
	a, b := newHost(t), newHost(t, func(w *Worker) { w.Sources = own })
	s := spec(10)
	s.Sources = netipAddrs("127.0.0.7", "127.0.0.8")
	begin(t, Config{Hosts: hosts(a, b)}, s)
	require.Empty(t, a.group(t, 0).spec.Sources)
	require.Equal(t, own, b.group(t, 0).spec.Sources)
}

func TestAFailedStartLeavesNothing(t *testing.T) {
	a := newHost(t)
	b := newHost(t, func(w *Worker) {
		w.Start = func(nodes.Spec) (nodes.Group, error) { return nil, context.DeadlineExceeded }
	})
	_, err := Start(t.Context(), Config{Hosts: hosts(a, b)}, spec(10))
	require.ErrorContains(t, err, "worker "+b.addr+": context deadline exceeded")
	ended(t, a.group(t, 0))

	_, err = Start(t.Context(), Config{Hosts: append(hosts(a), Host{Addr: "127.0.0.1:1"})}, spec(10))
	require.ErrorContains(t, err, "worker 127.0.0.1:1")
	require.ErrorContains(t, err, "running there?")
	_, err = Start(t.Context(), Config{Local: 1, Program: "/nowhere/loadtest"}, spec(10))
	require.ErrorContains(t, err, "worker local-1")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Start(ctx, Config{Hosts: hosts(a), Local: 1, Args: []string{asChild}}, spec(10))
	require.ErrorIs(t, err, context.Canceled)
}

func TestConfigMistakes(t *testing.T) {
	for want, cfg := range map[string]Config{
		"1 to 256 together": {Local: 300},
		"is there twice":    {Hosts: []Host{{Addr: "h:1"}, {Addr: "h:1"}}},
		"each needs one":    {Local: 20},
	} {
		_, err := Start(t.Context(), cfg, spec(10))
		require.ErrorContains(t, err, want)
	}
	_, err := Start(t.Context(), Config{}, spec(10))
	require.ErrorContains(t, err, "1 to 256 together")
	_, err = Start(t.Context(), Config{Hosts: []Host{{Addr: newHost(t).addr, Weight: 1}, {Addr: newHost(t).addr, Weight: 1000}}}, spec(10))
	require.ErrorContains(t, err, "too small")

	h, err := ParseHost("10.0.0.5:7500=3")
	require.NoError(t, err)
	require.Equal(t, Host{"10.0.0.5:7500", 3}, h)
	h, err = ParseHost("[::1]:7500")
	require.NoError(t, err)
	require.Equal(t, Host{"[::1]:7500", 1}, h)
	for _, bad := range []string{"", "host", "host:", "host:1=", "host:1=0", "host:1=1001", "host:1=x"} {
		_, err := ParseHost(bad)
		require.ErrorContains(t, err, "--worker", bad)
	}
}
