//go:build linux

package scenario

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"github.com/roost-server/roost/loadtest/internal/fleet"
	"github.com/roost-server/roost/loadtest/internal/membertest"
	"github.com/roost-server/roost/loadtest/internal/nodes"
	"github.com/roost-server/roost/loadtest/internal/server"
	"github.com/roost-server/roost/loadtest/internal/timeline"
)

// stage is a real server with a broker of its own, for all tests of this package.
type stage struct {
	err    error
	broker *kfake.Cluster
	server *server.Process
	dir    string
}

var theStage stage

func TestMain(m *testing.M) {
	code := m.Run()
	if s := theStage.server; s != nil {
		s.Kill()
	}
	if b := theStage.broker; b != nil {
		b.Close()
	}
	_ = os.RemoveAll(theStage.dir)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			_, _ = os.Stderr.WriteString(err.Error())
			code = 1
		}
	}
	os.Exit(code)
}

var startStage = sync.OnceFunc(func() {
	s := &theStage
	if s.dir, s.err = os.MkdirTemp("", "roost-scenario-"); s.err != nil {
		return
	}
	program := filepath.Join(s.dir, "roost")
	var out []byte
	if out, s.err = exec.Command("go", "build", "-o", program, "github.com/roost-server/roost/cmd/roost").CombinedOutput(); s.err != nil {
		_, _ = os.Stderr.Write(out)
		return
	}
	if s.broker, s.err = kfake.NewCluster(kfake.NumBrokers(1)); s.err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if s.server, s.err = server.Start(ctx, program, "serve", "--kafka", s.broker.ListenAddrs()[0], "--unsafe-embedded-broker", "--partitions", "4",
		"--name", "scenario", "--nodes-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0", "--log-level", "error"); s.err != nil {
		return
	}
	for !s.server.Ready(ctx) {
		if s.err = ctx.Err(); s.err != nil {
			return
		}
	}
})

// onServer makes an environment for a scenario on the real server. Node ids begin with
// prefix, which is the test's own.
func onServer(t *testing.T, sc *Scenario, prefix string) Env {
	t.Helper()
	startStage()
	require.NoError(t, theStage.err)
	spec := nodes.Spec{
		Servers: []netip.AddrPort{netip.MustParseAddrPort(theStage.server.Nodes)}, Nodes: sc.Nodes, NodePrefix: prefix, Seed: sc.Seed, Stamp: true,
	}
	return Env{
		Group: group(t, spec), Spec: spec, Brokers: theStage.broker.ListenAddrs(), TopicPrefix: "roost.",
		Servers: []Server{{Name: "server", PID: theStage.server.PID()}},
	}
}

func group(t *testing.T, spec nodes.Spec) nodes.Group {
	t.Helper()
	g, err := fleet.NewGroup(spec)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, g.Stop()) })
	return g
}

func load(t *testing.T, name string, settings ...string) *Scenario {
	t.Helper()
	sc, err := Load(name, settings...)
	require.NoError(t, err)
	return sc
}

func run(t *testing.T, sc *Scenario, env Env) *timeline.Timeline {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	tl, err := Run(ctx, sc, env)
	require.NoError(t, err)
	require.False(t, tl.Interrupted)
	return tl
}

// books checks that the account is closed and nobody has a reason to complain.
func books(t *testing.T, tl *timeline.Timeline) timeline.Account {
	t.Helper()
	a := tl.Account
	require.Empty(t, tl.Problems)
	require.Equal(t, a.Submitted, a.Recorded)
	require.Zero(t, a.Lost+a.Duplicates)
	require.Equal(t, a.Nodes, a.Connected)
	if a.Submitted > 0 {
		require.Equal(t, map[string]int64{"ok": a.Recorded}, a.Outcomes)
		require.GreaterOrEqual(t, a.Delivered, a.Recorded)
		require.GreaterOrEqual(t, a.Answered, a.Recorded)
	}
	last := tl.Samples[len(tl.Samples)-1]
	require.Equal(t, a.Recorded, last.Recorded)
	require.Len(t, last.Servers, 1)
	require.Positive(t, last.Servers[0].RSSBytes)
	require.Positive(t, last.Servers[0].CPUMs)
	require.Positive(t, last.Load.RSSBytes)
	return a
}

// phase finds one. The outcomes of its last jobs may be read in the next.
func phase(t *testing.T, tl *timeline.Timeline, name string) timeline.Phase {
	t.Helper()
	for _, p := range tl.Phases {
		if p.Name == name {
			require.Greater(t, p.EndMs, p.BeginMs)
			return p
		}
	}
	t.Fatalf("there was no phase %s: %+v", name, tl.Phases)
	return timeline.Phase{}
}

// sampled is how many outcomes the samples' latencies are of.
func sampled(t *testing.T, tl *timeline.Timeline) (n int64) {
	t.Helper()
	for i := range tl.Samples {
		if l := tl.Samples[i].Whole; l != nil {
			n += l.Count
			require.NotEmpty(t, l.Buckets)
		}
	}
	return n
}

func TestHold(t *testing.T) {
	sc := load(t, "hold", "nodes=100", "hold.duration=2s")
	env := onServer(t, sc, "hold-")
	env.Brokers = nil // nothing to do with Kafka
	var phases []string
	env.OnPhase = func(name string, total time.Duration) { phases = append(phases, name+" "+total.String()) }
	samples := 0
	env.OnSample = func(*timeline.Sample) { samples++ }
	env.Meta = timeline.Meta{Command: []string{"loadtest", "run", "hold"}}
	tl := run(t, sc, env)
	books(t, tl)
	require.Equal(t, []string{"connect 5m0s", "hold 2s", "drain 30s"}, phases)
	require.Len(t, tl.Samples, samples)
	require.GreaterOrEqual(t, samples, 5, "at the ends of phases, and each second")
	require.Positive(t, tl.Account.ConnectTookMs)
	require.Equal(t, "hold", tl.Meta.Scenario)
	require.Equal(t, sc.YAML, tl.Meta.YAML)
	require.Equal(t, []string{"loadtest", "run", "hold"}, tl.Meta.Command)
	require.EqualValues(t, 1, tl.Meta.Seed)
	require.InDelta(t, 2000, phase(t, tl, "hold").EndMs-phase(t, tl, "hold").BeginMs, 900)
}

func TestRamp(t *testing.T) {
	sc := load(t, "ramp", "nodes=200", "trickle.duration=1s", "trickle.ramp.rate=20", "rise.duration=2s", "rise.ramp.rate=40/80", "hold.duration=1s")
	tl := run(t, sc, onServer(t, sc, "ramp-"))
	books(t, tl)
	at := func(ms int64) int {
		n := 0
		for _, s := range tl.Samples {
			if s.AtMs <= ms {
				n = s.Connected
			}
		}
		return n
	}
	require.LessOrEqual(t, at(phase(t, tl, "trickle").EndMs), 20)
	require.Greater(t, at(phase(t, tl, "trickle").EndMs), 5)
	require.LessOrEqual(t, at(phase(t, tl, "rise").EndMs), 140, "70 %% of them")
	require.Greater(t, at(phase(t, tl, "rise").EndMs), 60)
	require.Equal(t, 200, at(phase(t, tl, "rush").EndMs))
}

func TestJobs(t *testing.T) {
	sc := load(t, "jobs", "nodes=100", "warm-up.duration=500ms", "closed.duration=1s", "closed.jobs.window=200", "open.duration=2s",
		"open.jobs.rate=200", "rising.duration=2s", "rising.jobs.rate=100/300", "closed.expect.jobs_per_s=10")
	tl := run(t, sc, onServer(t, sc, "jobs-"))
	a := books(t, tl)
	require.Equal(t, a.Jobs, a.Submitted)
	require.Equal(t, a.Recorded, sampled(t, tl))
	require.InDelta(t, 400, phase(t, tl, "open").Whole.Count, 200)
	require.InDelta(t, 400, phase(t, tl, "rising").Whole.Count, 200)
	for _, name := range []string{"closed", "open"} {
		p := phase(t, tl, name)
		require.Positive(t, p.Whole.P50Ms)
		require.Equal(t, p.Whole.Count, p.Deliver.Count)
		require.Equal(t, p.Whole.Count, p.Commit.Count)
		require.Empty(t, p.Whole.Buckets)
	}
	require.Nil(t, phase(t, tl, "connect").Whole)
}

func TestStorm(t *testing.T) {
	sc := load(t, "storm", "nodes=200", "steady.duration=1s", "tenth.duration=3s", "all.duration=5s", "after.duration=1s", "jobs.rate=200",
		"tenth.expect.others_p99_ms=100000", "tenth.storm.fraction=30%")
	tl := run(t, sc, onServer(t, sc, "storm-"))
	books(t, tl)
	require.Len(t, tl.Storms, 2)
	tenth, all := tl.Storms[0], tl.Storms[1]
	require.True(t, tenth.Cut > 20 && tenth.Cut < 110, "%d", tenth.Cut)
	require.Equal(t, 200, all.Cut)
	for _, s := range tl.Storms {
		require.Positive(t, s.ReconnectedMs)
		require.GreaterOrEqual(t, s.RecoveredMs, int64(0))
	}
	p := phase(t, tl, "tenth")
	require.NotNil(t, p.Others)
	require.Less(t, p.Others.Count, p.Whole.Count)
	require.Nil(t, phase(t, tl, "all").Others)
	last := tl.Samples[len(tl.Samples)-1]
	require.GreaterOrEqual(t, int(last.Sessions), 200+tenth.Cut+all.Cut)
}

func TestChurn(t *testing.T) {
	sc := load(t, "churn", "nodes=100", "steady.duration=500ms", "churn.duration=2s", "churn.churn.per_second=30", "rising.duration=2s",
		"rising.churn.per_second=0/60", "after.duration=1s", "jobs.rate=200")
	env := onServer(t, sc, "churn-")
	tl := run(t, sc, env)
	books(t, tl)
	cut := env.Group.Stats().Cut
	require.InDelta(t, 120, cut, 45)
	require.GreaterOrEqual(t, env.Group.Stats().Sessions, 100+cut)
}

func TestSlow(t *testing.T) {
	sc := load(t, "slow", "nodes=100", "steady.duration=1s", "slow.duration=2s", "slow.slow.fraction=20%", "after.duration=3s", "jobs.rate=200")
	tl := run(t, sc, onServer(t, sc, "slow-"))
	books(t, tl)
	for _, x := range tl.Samples {
		if x.AtMs == phase(t, tl, "slow").EndMs {
			require.Greater(t, x.Submitted-x.Delivered, int64(30), "a fifth of 400 was for nodes that do not read")
		}
	}
	require.Greater(t, phase(t, tl, "after").Whole.MaxMs, 900.0, "but later")
}

func TestFanout(t *testing.T) {
	sc := load(t, "fanout", "nodes=150", "all.duration=2s", "all.jobs.rate=5", "some.duration=2s", "some.jobs.count=20", "some.jobs.rate=10")
	tl := run(t, sc, onServer(t, sc, "fanout-"))
	a := books(t, tl)
	require.EqualValues(t, 150, phase(t, tl, "once").Whole.Count, "one to each")
	require.Less(t, a.Jobs, a.Submitted)
	wide := (a.Submitted - 20*a.Jobs) / (150 - 20)
	require.Equal(t, a.Submitted, 150*wide+20*(a.Jobs-wide))
	require.InDelta(t, 1+10, wide, 3)
	require.Equal(t, a.Recorded, sampled(t, tl))
}

func TestSoak(t *testing.T) {
	sc := load(t, "soak", "nodes=50", "warm-up.duration=500ms", "soak.duration=2s", "jobs.rate=100", "soak.expect.rss_growth_percent=200")
	books(t, run(t, sc, onServer(t, sc, "soak-")))
}

func TestMixed(t *testing.T) {
	sc := load(t, "mixed", "nodes=100", "morning.ramp.rate=100/500", "growing.duration=1s", "growing.jobs.rate=50/400", "long-jobs.duration=2s",
		"long-jobs.jobs.rate=50", "long-jobs.jobs.run_for=1500ms", "unrest.duration=2s", "unrest.churn.per_second=10/30", "unrest.jobs.rate=100",
		"announcement.duration=1s", "announcement.jobs.rate=4", "stalled.duration=1s", "stalled.jobs.rate=100",
		"outage.duration=4s", "outage.jobs.rate=100", "evening.duration=1s")
	tl := run(t, sc, onServer(t, sc, "mixed-"))
	books(t, tl)
	require.EqualValues(t, 100, phase(t, tl, "first-jobs").Whole.Count)
	require.Greater(t, phase(t, tl, "long-jobs").Commit.MaxMs, 1400.0, "from delivered to recorded they run")
	require.Len(t, tl.Storms, 1)
}

// A server that loses, doubles and spoils outcomes is told of it, however it is asked.
func TestFaultsBecomeProblems(t *testing.T) {
	b := membertest.StartBridge(t, &membertest.Bridge{Drop: 100, Double: 50, Corrupt: 60})
	sc, err := Parse("f.yaml", []byte(`
name: faults
nodes: 20
drain: 500ms
phases:
- {name: connect, until: settled, ramp: }
- {name: jobs, duration: 1s, jobs: {rate: 400}, expect: {p99_ms: 0.001, jobs_per_s: 100000}}
- {name: cut, duration: 200ms, storm: {fraction: 1}, expect: {reconnected_within: 1ms, connected: 100%}}
expect: {connect_per_s: 1000000, duplicates: 1}
`))
	require.NoError(t, err)
	spec := nodes.Spec{Servers: []netip.AddrPort{b.Member.Addr()}, Nodes: 20, Stamp: true}
	tl := run(t, sc, Env{Group: group(t, spec), Spec: spec, Brokers: b.Brokers, TopicPrefix: "roost."})
	text := strings.Join(tl.Problems, "\n")
	for _, want := range []string{
		"phase jobs: p99 is", "phase jobs: recorded is", "phase cut: 0 of 20 nodes are connected",
		"assignments have no outcome", "outcomes came twice", "outputs are not the job's args", "storm of phase cut: all nodes were connected again after", "\nconnected is",
	} {
		require.Contains(t, text, want)
	}
	a := tl.Account
	require.Equal(t, a.Submitted, a.Recorded+a.Lost)
	require.Positive(t, a.Lost)
	require.Positive(t, a.Duplicates)
	require.Equal(t, b.Jobs(), a.Jobs)
}

func TestAnUntilThatIsNotReachedIsAProblem(t *testing.T) {
	b := membertest.StartBridge(t, &membertest.Bridge{Drop: 1})
	sc, err := Parse("f.yaml", []byte("name: x\nnodes: 20\ndrain: 100ms\nphases:\n- {name: a, until: settled, ramp: }\n- {name: b, until: drained, once: , duration: 200ms}"))
	require.NoError(t, err)
	spec := nodes.Spec{Servers: []netip.AddrPort{b.Member.Addr()}, Nodes: 20}
	tl := run(t, sc, Env{Group: group(t, spec), Spec: spec, Brokers: b.Brokers, TopicPrefix: "roost."})
	require.Equal(t, []string{"phase b is not drained after 200ms: 20 assignments have no outcome", "20 assignments have no outcome"}, tl.Problems)
	require.EqualValues(t, 20, tl.Account.Lost)
}

func TestAnInterruptedRunIsAccounted(t *testing.T) {
	sc := load(t, "jobs", "nodes=50", "warm-up.duration=1h", "warm-up.jobs.window=50", "warm-up.slow.fraction=10%")
	env := onServer(t, sc, "stop-")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var seen atomic.Int64
	env.OnSample = func(s *timeline.Sample) {
		if seen.Store(s.Recorded); s.Recorded > 500 {
			cancel()
		}
	}
	tl, err := Run(ctx, sc, env)
	require.NoError(t, err)
	require.True(t, tl.Interrupted)
	require.Empty(t, tl.Problems)
	require.Greater(t, tl.Account.Recorded, int64(500))
	require.Equal(t, tl.Account.Submitted, tl.Account.Recorded, "what was under way, at slow nodes too, came in")
	require.Len(t, tl.Phases, 2)
}

// A group that fails ends the run, and does not keep it from being accounted.
func TestAGroupThatFailsIsAProblem(t *testing.T) {
	m := membertest.Start(t, &membertest.Member{HeartbeatMs: 30_000})
	sc, err := Parse("f.yaml", []byte("name: x\nnodes: 5\nphases:\n- {name: a, until: settled, ramp: }\n- {name: b, duration: 1h, churn: {per_second: 1}}"))
	require.NoError(t, err)
	spec := nodes.Spec{Servers: []netip.AddrPort{m.Addr()}, Nodes: 5}
	g := group(t, spec)
	tl := run0(t, sc, Env{Group: g, Spec: spec, OnPhase: func(name string, _ time.Duration) {
		if name == "b" {
			require.NoError(t, g.Stop())
		}
	}})
	require.True(t, tl.Interrupted)
	require.Len(t, tl.Problems, 1)
	require.Contains(t, tl.Problems[0], "phase b: the nodes have ended")
}

func run0(t *testing.T, sc *Scenario, env Env) *timeline.Timeline {
	t.Helper()
	tl, err := Run(context.Background(), sc, env)
	require.NoError(t, err)
	return tl
}

func TestMemoryIsHeldAgainstWhatIsExpected(t *testing.T) {
	at := func(connected int, mib ...int64) (s timeline.Sample) {
		s.Connected = connected
		for _, n := range mib {
			s.Servers = append(s.Servers, timeline.Process{RSSBytes: n << 20})
		}
		return s
	}
	f := figures{
		samples: []timeline.Sample{at(1000, 60, 40), at(1000, 50, 70), at(1000, 60, 40), at(1000, 60, 44)},
		idle:    at(0, 50, 40).Servers, asked: 1000,
	}
	require.Empty(t, f.check(&Expect{RSSGrowthPercent: 4.1, RSSBytesPerNode: 14_681}))
	require.Equal(t, []string{
		"the servers' memory grew by 4.00 %, from 100.0 to 104.0 MiB; at most 3 % was expected",
		"a node takes 14680 B of the servers' memory; at most 1000 B was expected",
	}, f.check(&Expect{RSSGrowthPercent: 3, RSSBytesPerNode: 1000}))
}

func TestStormsAreHeldAgainstWhatIsExpected(t *testing.T) {
	e := &engine{sc: &Scenario{Expect: Expect{RecoveredWithin: 2 * time.Second}}}
	p := &Phase{Expect: Expect{ReconnectedWithin: time.Second}}
	for _, s := range []timeline.Storm{
		{Phase: "good", ReconnectedMs: 1000, RecoveredMs: 2000}, {Phase: "late", ReconnectedMs: 1001, RecoveredMs: 2001}, {Phase: "never", ReconnectedMs: -1, RecoveredMs: -1},
	} {
		e.storms = append(e.storms, &storm{Storm: s, phase: p})
	}
	e.checkStorms()
	require.Equal(t, []string{
		"storm of phase late: all nodes were connected again after 1.001s; within 1s was expected",
		"storm of phase late: all that was submitted before was recorded after 2.001s; within 2s was expected",
		"storm of phase never: it never came to it that all nodes were connected again; within 1s was expected",
		"storm of phase never: it never came to it that all that was submitted before was recorded; within 2s was expected",
	}, e.problems)
}

func TestRunRefuses(t *testing.T) {
	sc := load(t, "jobs", "nodes=10")
	_, err := Run(context.Background(), sc, Env{Spec: nodes.Spec{Nodes: 5}})
	require.ErrorContains(t, err, "needs 10 nodes, and the group has 5")
	_, err = Run(context.Background(), sc, Env{Spec: nodes.Spec{Nodes: 10}})
	require.ErrorContains(t, err, "--kafka is needed")
	_, err = Run(context.Background(), load(t, "soak", "nodes=10"), Env{Spec: nodes.Spec{Nodes: 10}})
	require.ErrorContains(t, err, "--server-pid is needed, or --set soak.expect.rss_growth_percent=0")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_, err = Run(ctx, sc, Env{Spec: nodes.Spec{Nodes: 10}, Brokers: []string{"127.0.0.1:1"}})
	require.ErrorContains(t, err, "cannot reach Kafka")
}
