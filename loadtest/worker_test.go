//go:build linux

package main

import (
	"bufio"
	"context"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/loadtest/internal/membertest"
	"github.com/roost-server/roost/loadtest/internal/nodes"
	"github.com/roost-server/roost/loadtest/internal/ports"
)

// startWorker runs the worker command as a process, and returns where it listens.
func startWorker(t *testing.T, args ...string) (addr string, cmd *exec.Cmd, log func() string) {
	t.Helper()
	cmd = exec.Command(os.Args[0], append([]string{workerName, "--listen", "127.0.0.1:0"}, args...)...)
	runtime.LockOSThread() // the process dies with the thread that started it: this test's, to its end
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Env = append(os.Environ(), tokenEnv+"=")
	out, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	in := bufio.NewReader(out)
	line, err := in.ReadString('\n')
	require.NoError(t, err)
	_, rest, _ := strings.Cut(line, "worker at ")
	addr, _, ok := strings.Cut(rest, ",")
	require.True(t, ok, line)
	var mu sync.Mutex
	var text strings.Builder
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			line, err := in.ReadString('\n')
			mu.Lock()
			text.WriteString(line)
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // of no effect when it has ended
		<-done
		_ = cmd.Wait()
	})
	return addr, cmd, func() string { mu.Lock(); defer mu.Unlock(); return text.String() }
}

func workerSpec(m *membertest.Member, n int) nodes.Spec {
	return nodes.Spec{Servers: []netip.AddrPort{m.Addr()}, Nodes: n, Of: n, InFlight: 50, OpenTimeout: 10 * time.Second, Seed: 1, Stamp: true}
}

func TestNodesInWorkers(t *testing.T) {
	m := membertest.Start(t, &membertest.Member{HeartbeatMs: 1000})
	const token = "a token for tests"
	addr, cmd, log := startWorker(t, "--token", token, "--once", "--source", "127.0.0.5")
	p := placement{workers: 2, hosts: []string{addr + "=2"}, token: token, sources: []string{"127.10.0.0/30"}}
	g, where, err := p.open(t.Context(), workerSpec(m, 100))
	require.NoError(t, err)
	require.Len(t, where, 3)
	require.Contains(t, where[2], "50 nodes")
	require.NoError(t, g.Ramp(t.Context(), 100, 0))
	require.Eventually(t, func() bool { return g.Stats().Connected == 100 }, 20*time.Second, 10*time.Millisecond)
	require.NoError(t, g.Stop())
	require.Empty(t, g.Stats().Problems)
	require.NoError(t, cmd.Wait(), "it was for one coordinator")
	require.Contains(t, log(), "nodes 50 to 99 of 100")
	require.Eventually(t, func() bool { return m.Byes() == 100 }, 20*time.Second, 10*time.Millisecond)
}

func TestInterruptedWorkerLeavesNothing(t *testing.T) {
	m := membertest.Start(t, &membertest.Member{HeartbeatMs: 1000})
	addr, cmd, _ := startWorker(t)
	p := placement{hosts: []string{addr}}
	g, _, err := p.open(t.Context(), workerSpec(m, 10))
	require.NoError(t, err)
	require.NoError(t, g.Ramp(t.Context(), 10, 0))
	require.Eventually(t, func() bool { return g.Stats().Connected == 10 }, 20*time.Second, 10*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.NoError(t, cmd.Wait())
	require.Eventually(t, func() bool { return m.Byes() == 10 }, 20*time.Second, 10*time.Millisecond)
	require.Eventually(t, func() bool { return len(g.Stats().Problems) == 1 }, 20*time.Second, 10*time.Millisecond)
	require.Contains(t, g.Stats().Problems[0], addr)
	require.NoError(t, g.Stop())
}

func TestPlacementInThisProcess(t *testing.T) {
	m := membertest.Start(t, &membertest.Member{HeartbeatMs: 1000})
	g, where, err := (&placement{sources: []string{"127.10.0.1"}}).open(t.Context(), workerSpec(m, 10))
	require.NoError(t, err)
	require.Empty(t, where)
	require.NoError(t, g.Stop())
}

func TestPlacementMistakesAreExplained(t *testing.T) {
	m := membertest.Start(t, &membertest.Member{})
	r, err := ports.OfKernel()
	require.NoError(t, err)
	for want, tc := range map[string]struct {
		p     placement
		nodes int
	}{
		"--source":                              {placement{sources: []string{"nowhere"}}, 1},
		"cannot connect from":                   {placement{sources: []string{"192.0.2.1"}}, 1},
		"can connect; give more":                {placement{sources: []string{"127.0.0.1"}}, r.Count() + 1},
		"from 2 source":                         {placement{workers: 3, sources: []string{"127.10.0.0/30"}}, 2*r.Count() + 1},
		"give it to \"loadtest worker\" there":  {placement{hosts: []string{"h:1"}, sources: []string{"127.0.0.1"}}, 1},
		"host:port=weight":                      {placement{hosts: []string{"h"}}, 1},
		"together":                              {placement{workers: -1}, 1},
		"worker 127.0.0.1:1":                    {placement{hosts: []string{"127.0.0.1:1"}}, 1},
		"are possible":                          {placement{}, 9_999_999},
		"local-1: 5000000 nodes in one process": {placement{workers: 2}, 10_000_000},
	} {
		_, _, err := tc.p.open(t.Context(), workerSpec(m, tc.nodes))
		require.ErrorContains(t, err, want)
	}
}

func TestReportsHaveNoSecrets(t *testing.T) {
	args := []string{"loadtest", "run", "--token", "t0", "--nodes", "3", "--credential=c0", "--worker", "h:1", "--token=t1", "--credential"}
	require.Equal(t, []string{"loadtest", "run", "--token", "...", "--nodes", "3", "--credential=...", "--worker", "h:1", "--token=...", "--credential"}, shareable(args))
	require.Equal(t, "t0", args[3], "the process still has them")
}

func TestWorkerMistakesAreExplained(t *testing.T) {
	t.Setenv(tokenEnv, "")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for want, args := range map[string][]string{
		"at least 16 characters": {"--listen", "0.0.0.0:0"},
		"host:port is expected":  {"--listen", "here"},
		"--source":               {"--source", "nowhere"},
		"coordinator's own":      {"--inherited"},
	} {
		require.ErrorContains(t, run(ctx, append([]string{workerName}, args...), io.Discard, io.Discard), want)
	}
	t.Setenv(tokenEnv, "long enough for a token")
	require.Equal(t, "long enough for a token", tokenOf(""))
	require.Equal(t, "mine", tokenOf("mine"))
}
