//go:build linux

package remote

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/roost-server/roost/loadtest/internal/fleet"
	"github.com/roost-server/roost/loadtest/internal/nodes"
	"github.com/roost-server/roost/loadtest/internal/timeline"
)

// What this program is when it is started as a process.
const (
	asChild       = "child"       // a worker with recording groups
	asFleet       = "fleet"       // a worker with nodes
	asCoordinator = "coordinator" // of two children and the workers named after it
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		var err error
		switch os.Args[1] {
		case asChild:
			err = beChild(newGroup)
		case asFleet:
			err = beChild(fleet.NewGroup)
		case asCoordinator:
			err = beCoordinator(os.Args[2:])
		default:
			goleak.VerifyTestMain(m)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func beChild(start func(nodes.Spec) (nodes.Group, error)) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	conn, err := Inherited()
	if err != nil {
		return err
	}
	w := Worker{Start: start, Log: func(s string) { fmt.Println(s) }}
	return w.ServeConn(ctx, conn)
}

// beCoordinator prints the ids of its children when it has nodes, and never ends.
func beCoordinator(hosts []string) error {
	cfg := Config{Local: 2, Args: []string{asChild}}
	for _, h := range hosts {
		cfg.Hosts = append(cfg.Hosts, Host{Addr: h})
	}
	g, err := Start(context.Background(), cfg, spec(30))
	if err != nil {
		return err
	}
	if err := g.Ramp(context.Background(), 30, 0); err != nil {
		return err
	}
	fmt.Println("children", g.links[0].child.pid(), g.links[1].child.pid())
	select {}
}

func spec(n int) nodes.Spec {
	return nodes.Spec{Servers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:7400")}, Nodes: n, Of: n, InFlight: 100, NodePrefix: "sim-", Seed: 7, Stamp: true}
}

// recorder is a group that notes what it is asked for, and has it done at once.
type recorder struct {
	mu      sync.Mutex
	spec    nodes.Spec
	calls   []string
	st      nodes.Stats
	stopped chan struct{}
}

var _ nodes.Group = (*recorder)(nil)

func newGroup(s nodes.Spec) (nodes.Group, error) { return newRecorder(s), nil }

func newRecorder(s nodes.Spec) *recorder {
	return &recorder{spec: s, st: nodes.Stats{Nodes: s.Nodes}, stopped: make(chan struct{})}
}

func (r *recorder) note(format string, args ...any) {
	r.calls = append(r.calls, fmt.Sprintf(format, args...))
}

// cannot is a fraction that fails, forever one that takes until the worker ends.
const (
	cannot  = 0.125
	forever = 0.0625
)

func (r *recorder) Ramp(_ context.Context, upTo int, perS float64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note("ramp %d %g", upTo, perS)
	r.st.Connected, r.st.Sessions = upTo, uint64(upTo)
	if upTo > 0 {
		r.st.ConnectTook = time.Duration(upTo) * time.Millisecond
	}
	return nil
}

func (r *recorder) Cut(ctx context.Context, fraction float64) (int, error) {
	if fraction == forever {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note("cut %g", fraction)
	if fraction == cannot {
		r.st.LastError = "no scissors"
		return 0, errors.New("no scissors")
	}
	n := int(fraction * float64(r.spec.Nodes))
	r.st.Cut += uint64(n)
	return n, nil
}

func (r *recorder) Churn(_ context.Context, perS float64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note("churn %g", perS)
	r.st.Closes = map[string]uint64{"bye": uint64(perS), "idle": 1}
	return nil
}

func (r *recorder) Slow(_ context.Context, fraction float64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note("slow %g", fraction)
	return nil
}

func (r *recorder) Stats() nodes.Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.st
	st.Closes = maps.Clone(st.Closes)
	st.Load = timeline.Process{CPUMs: 10, RSSBytes: 1000}
	return st
}

func (r *recorder) Stop() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note("stop")
	r.st.Connected = 0
	close(r.stopped)
	return nil
}

func (r *recorder) did() string { r.mu.Lock(); defer r.mu.Unlock(); return strings.Join(r.calls, ", ") }

// host is a worker on loopback.
type host struct {
	*Worker
	addr  string
	stop  context.CancelFunc
	ended chan error // what Serve returned

	mu     sync.Mutex
	groups []*recorder
	logs   []string
}

// newHost changes a worker by the option before it begins to serve.
func newHost(t *testing.T, option ...func(*Worker)) *host {
	t.Helper()
	h := &host{Worker: &Worker{}, ended: make(chan error, 1)}
	h.Start = func(s nodes.Spec) (nodes.Group, error) {
		r := newRecorder(s)
		h.mu.Lock()
		defer h.mu.Unlock()
		h.groups = append(h.groups, r)
		return r, nil
	}
	h.Log = func(s string) { h.mu.Lock(); defer h.mu.Unlock(); h.logs = append(h.logs, s) }
	for _, o := range option {
		o(h.Worker)
	}
	ln, err := Listen("127.0.0.1:0", h.Token)
	require.NoError(t, err)
	h.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	h.stop = cancel
	go func() { defer close(done); h.ended <- h.Serve(ctx, ln) }()
	t.Cleanup(func() { cancel(); <-done })
	return h
}

// group returns the i-th group that coordinators have asked for, when it is there.
func (h *host) group(t *testing.T, i int) *recorder {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	require.Greater(t, len(h.groups), i)
	return h.groups[i]
}

func (h *host) said() string { h.mu.Lock(); defer h.mu.Unlock(); return strings.Join(h.logs, "\n") }

func hosts(list ...*host) (out []Host) {
	for _, h := range list {
		out = append(out, Host{Addr: h.addr})
	}
	return out
}

// begin starts a group that the test stops.
func begin(t *testing.T, cfg Config, s nodes.Spec) *Group {
	t.Helper()
	g, err := Start(t.Context(), cfg, s)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, g.Stop()) })
	return g
}

const soon = 20 * time.Second

func eventually(t *testing.T, cond func() bool, why ...any) {
	t.Helper()
	require.Eventually(t, cond, soon, 5*time.Millisecond, why...)
}

func ended(t *testing.T, r *recorder) {
	t.Helper()
	select {
	case <-r.stopped:
	case <-time.After(soon):
		t.Fatal("the nodes are still there")
	}
}

// dial opens a connection that the test closes.
func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}
