//go:build linux

package steps

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/loadtest/internal/fleet"
	"github.com/roost-server/roost/loadtest/internal/membertest"
	"github.com/roost-server/roost/loadtest/internal/nodes"
	"github.com/roost-server/roost/protocol"
)

func small() Plan {
	return Plan{Nodes: 60, Early: 20, Storm: 0.5, Heartbeat: time.Second, Hold: 50 * time.Millisecond, Window: 10, Size: 64, Patience: 2 * time.Second}
}

// play does the steps on nodes of this process.
func play(t *testing.T, p Plan, to netip.AddrPort, kafka []string) (*Account, []string, error) {
	t.Helper()
	spec := nodes.Spec{Servers: []netip.AddrPort{to}, Nodes: p.Nodes, Of: p.Nodes, NodePrefix: "t-", Seed: 3}
	g, err := fleet.NewGroup(spec)
	require.NoError(t, err)
	defer func() { require.NoError(t, g.Stop()) }()
	ids := spec.IDs()
	var names []string
	a, err := Run(t.Context(), p, Env{
		Group: g, IDs: ids, Brokers: kafka, PIDs: []int{os.Getpid()},
		Drain:  func(context.Context, func(string)) (int, error) { return 1, nil },
		Kernel: func() (int64, error) { return int64(600 * g.Stats().Connected), nil },
		Step:   func(name string) { names = append(names, name) }, Show: func(string) {},
	})
	return a, names, err
}

func TestAllSteps(t *testing.T) {
	b := membertest.StartBridge(t, &membertest.Bridge{})
	a, names, err := play(t, small(), b.Member.Addr(), b.Brokers)
	require.NoError(t, err)
	require.Empty(t, a.Problems)
	require.Equal(t, []string{"connect nodes up to 20", "one job to each of 20 nodes", "connect nodes up to 60", "hold for 50ms",
		"one job to each of 60 nodes", "cut 50 % of the nodes at once", "drain"}, names)
	require.Len(t, a.Steps, len(names))
	require.Equal(t, 60, a.Connected)
	require.EqualValues(t, 80, a.Outcomes)
	require.EqualValues(t, 60, a.FullOutcomes)
	require.Equal(t, map[string]int64{"ok": 80}, a.ByOutcome)
	require.EqualValues(t, 80, a.Delivered)
	require.Zero(t, a.Lost+a.Twice+a.Corrupt)
	require.Positive(t, a.Cut)
	require.EqualValues(t, a.Cut, a.Reconnects)
	require.EqualValues(t, 600*60, a.KernelBytes)
	require.InDelta(t, 600, a.KernelPerNode, 1e-9)
	require.Positive(t, a.ServerRSS)
	require.Equal(t, 1, a.ServersOK)

	var out bytes.Buffer
	a.Print(&out)
	require.Contains(t, out.String(), "60 connected of 60")
	require.Contains(t, out.String(), "80 recorded: 80 ok")
	line, err := json.Marshal(a)
	require.NoError(t, err)
	require.Contains(t, string(line), `"outcomes_at_full":60`)
	require.NotContains(t, string(line), "null")
}

func TestWhatAServerGetsWrongIsAProblem(t *testing.T) {
	for name, c := range map[string]struct {
		bridge *membertest.Bridge
		says   string
	}{
		"lost":    {&membertest.Bridge{Drop: 30}, "58 outcomes, 2 lost"},
		"twice":   {&membertest.Bridge{Double: 30}, "2 twice"},
		"corrupt": {&membertest.Bridge{Corrupt: 30}, "2 not what was sent"},
		"outcome": {&membertest.Bridge{Outcome: protocol.OutcomeFailed}, "60 not ok"},
	} {
		t.Run(name, func(t *testing.T) {
			b := membertest.StartBridge(t, c.bridge)
			p := small()
			p.Early, p.Storm = 0, 0
			a, _, err := play(t, p, b.Member.Addr(), b.Brokers)
			require.NoError(t, err)
			require.Contains(t, strings.Join(a.Problems, "\n"), c.says)
		})
	}
}

func TestNodesThatAreRefusedEndTheRun(t *testing.T) {
	m := membertest.Start(t, &membertest.Member{OnHello: func(h *protocol.Hello) *protocol.Close {
		if h.NodeID == "t-000007" {
			return &protocol.Close{Reason: protocol.ReasonUnauthenticated}
		}
		return nil
	}})
	p := small()
	p.Early = 0
	a, _, err := play(t, p, m.Addr(), nil)
	require.ErrorContains(t, err, "1 were told never to come back")
	require.Len(t, a.Steps, 1, "the account is what there is")
}

func TestAnInterruptedRunIsAccounted(t *testing.T) {
	m := membertest.Start(t, &membertest.Member{})
	g, err := fleet.NewGroup(nodes.Spec{Servers: []netip.AddrPort{m.Addr()}, Nodes: 5, Of: 5})
	require.NoError(t, err)
	defer func() { require.NoError(t, g.Stop()) }()
	ctx, cancel := context.WithCancel(t.Context())
	p := small()
	p.Nodes, p.Early, p.Hold = 5, 0, time.Hour
	a, err := Run(ctx, p, Env{Group: g, PIDs: []int{os.Getpid()}, Show: func(string) {}, Step: func(name string) {
		if strings.HasPrefix(name, "hold") {
			cancel()
		}
	}})
	require.ErrorIs(t, err, context.Canceled)
	require.True(t, a.Interrupted)
	require.Equal(t, 5, a.Connected)
}

func TestAStepThatFailsEndsTheRun(t *testing.T) {
	_, err := Run(t.Context(), small(), Env{PIDs: []int{os.Getpid()}, Kernel: func() (int64, error) { return 0, errors.New("no memory") }})
	require.ErrorContains(t, err, "no memory")
	a, err := Run(t.Context(), small(), Env{PIDs: []int{-1}})
	require.Error(t, err)
	require.NotNil(t, a)
}

func TestPlanMistakesNameTheFlag(t *testing.T) {
	for flag, change := range map[string]func(*Plan){
		"--nodes":     func(p *Plan) { p.Nodes = 0 },
		"--early":     func(p *Plan) { p.Early = p.Nodes + 1 },
		"--storm":     func(p *Plan) { p.Storm = 1.5 },
		"--heartbeat": func(p *Plan) { p.Heartbeat = time.Millisecond },
		"--hold":      func(p *Plan) { p.Hold = -time.Second },
		"--window":    func(p *Plan) { p.Window = 0 },
		"--patience":  func(p *Plan) { p.Patience = 0 },
	} {
		p := small()
		change(&p)
		_, err := Run(t.Context(), p, Env{})
		require.ErrorContains(t, err, flag)
	}
}
