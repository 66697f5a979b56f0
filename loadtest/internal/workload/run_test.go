//go:build linux

package workload

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/roost-server/roost/loadtest/internal/fleet"
	"github.com/roost-server/roost/loadtest/internal/membertest"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const nodes = 20

// against starts nodes on the bridge's member and returns a configuration for it.
func against(t *testing.T, b *membertest.Bridge) Config {
	t.Helper()
	return stamped(t, b, true)
}

func stamped(t *testing.T, b *membertest.Bridge, stamp bool) Config {
	t.Helper()
	f, err := fleet.Start(fleet.Config{Servers: append([]nodeAddr(nil), b.Member.Addr()), Nodes: nodes, Stamp: stamp})
	require.NoError(t, err)
	t.Cleanup(f.Stop)
	<-f.Settled()
	fc := fleet.Config{Nodes: nodes, NodePrefix: "sim-"}
	c := Config{Brokers: b.Brokers, TopicPrefix: "roost.", Window: 50, Jobs: 1000, Drain: 20 * time.Second, Size: 128}
	for i := range nodes {
		id := fc.ID(i)
		require.Eventually(t, func() bool { return b.Member.Conn(id) != nil }, 10*time.Second, time.Millisecond)
		c.NodeIDs = append(c.NodeIDs, id)
	}
	return c
}

func TestEveryJobHasOneOutcome(t *testing.T) {
	for _, size := range []int{MinSize, 128, 300, 70_000} {
		b := membertest.StartBridge(t, &membertest.Bridge{JSON: size == 300})
		c := against(t, b)
		c.Size = size
		if size > 1000 {
			c.Jobs = 100
		}
		before, err := record.ParseResult("", seedRecord(t))
		require.NoError(t, err)
		require.NotEmpty(t, before.Job)
		b.Seed(t, seedRecord(t))
		f, err := Run(context.Background(), c)
		require.NoError(t, err)
		if size == 300 { // binary has no JSON form: the output comes back as another value
			require.Equal(t, f.Produced, f.Corrupt, f.LastError)
		} else {
			require.Zero(t, f.Corrupt, f.LastError)
			require.Equal(t, c.Jobs, f.Latency.TotalCount())
			requireParts(t, f)
		}
		require.Equal(t, c.Jobs, f.Produced)
		require.Equal(t, c.Jobs, f.Outcomes)
		require.Equal(t, c.Jobs, f.MeasuredJobs)
		require.Equal(t, map[string]int64{"ok": c.Jobs}, f.ByOutcome)
		require.Zero(t, f.Lost+f.Duplicates+f.NotOK+f.Unreadable+f.ProduceFailed, f.LastError)
		require.Zero(t, b.Misplaced())
		require.Positive(t, f.MeasuredFor)
	}
}

// requireParts checks that the way of each job has two parts, which make up the whole.
func requireParts(t *testing.T, f *Figures) {
	t.Helper()
	require.Equal(t, f.Latency.TotalCount(), f.Deliver.TotalCount())
	require.Equal(t, f.Latency.TotalCount(), f.Commit.TotalCount())
	require.Equal(t, f.Latency.TotalCount(), f.Append.TotalCount())
	require.Positive(t, f.Deliver.ValueAtPercentile(50))
	require.Positive(t, f.Commit.ValueAtPercentile(50))
	require.Positive(t, f.Append.ValueAtPercentile(50))
	// Each is rounded down to 1 us, and to three digits.
	require.InDelta(t, f.Latency.Mean(), f.Deliver.Mean()+f.Commit.Mean(), 3+f.Latency.Mean()/100)
}

// Nodes that do not stamp what they get leave the parts unknown, not wrong.
func TestPartsAreUnknownWithoutStamps(t *testing.T) {
	c := stamped(t, membertest.StartBridge(t, &membertest.Bridge{}), false)
	f, err := Run(context.Background(), c)
	require.NoError(t, err)
	require.Zero(t, f.Corrupt, f.LastError)
	require.Equal(t, c.Jobs, f.Latency.TotalCount())
	require.Zero(t, f.Deliver.TotalCount()+f.Commit.TotalCount())
}

// What an aborted transaction left behind is no outcome.
func TestResultsAreReadCommitted(t *testing.T) {
	b := membertest.StartBridge(t, &membertest.Bridge{Abort: 20})
	c := against(t, b)
	f, err := Run(context.Background(), c)
	require.NoError(t, err)
	require.Equal(t, c.Jobs, f.Outcomes)
	require.Zero(t, f.Duplicates+f.Lost+f.Corrupt, f.LastError)
}

func seedRecord(t *testing.T) []byte {
	var w record.ResultWriter
	v, err := w.Append(nil, record.Msgpack, &record.Result{Job: "0123456789ab-000001-0000000001", Node: "x"})
	require.NoError(t, err)
	return v
}

// A checker that cannot fail is worthless: each fault of the server has to show.
func TestFaultsAreReported(t *testing.T) {
	for name, tc := range map[string]struct {
		bridge                       *membertest.Bridge
		lost, double, corrupt, notOK int64
	}{
		"drops":    {bridge: &membertest.Bridge{Drop: 100}, lost: 10},
		"doubles":  {bridge: &membertest.Bridge{Double: 50}, double: 20},
		"corrupts": {bridge: &membertest.Bridge{Corrupt: 40}, corrupt: 25},
		"fails":    {bridge: &membertest.Bridge{Outcome: protocol.OutcomeTimeout}, notOK: 1000},
	} {
		t.Run(name, func(t *testing.T) {
			b := membertest.StartBridge(t, tc.bridge)
			c := against(t, b)
			if tc.lost > 0 {
				c.Drain = 500 * time.Millisecond
			}
			f, err := Run(context.Background(), c)
			require.NoError(t, err)
			require.EqualValues(t, 1000, f.Produced)
			require.Equal(t, tc.lost, f.Lost)
			require.Equal(t, 1000-tc.lost, f.Outcomes)
			require.Equal(t, tc.double, f.Duplicates)
			require.Equal(t, tc.corrupt, f.Corrupt)
			require.Equal(t, tc.notOK, f.NotOK)
			if tc.corrupt+tc.notOK > 0 {
				require.Contains(t, f.LastError, f.Run)
			}
		})
	}
}

// When nothing comes back the window is full for ever: the run ends all the same.
func TestAServerThatAnswersNothing(t *testing.T) {
	b := membertest.StartBridge(t, &membertest.Bridge{Drop: 1})
	c := against(t, b)
	c.Drain = 300 * time.Millisecond
	f, err := Run(context.Background(), c)
	require.NoError(t, err)
	require.EqualValues(t, c.Window, f.Produced, "the window bounds what is outstanding")
	require.EqualValues(t, c.Window, f.Lost)
	require.Zero(t, f.Outcomes)
}

func TestOpenLoopKeepsItsRate(t *testing.T) {
	b := membertest.StartBridge(t, &membertest.Bridge{})
	c := against(t, b)
	c.Rate, c.Jobs, c.Duration, c.Warmup = 500, 0, time.Second, 200*time.Millisecond
	var seen atomic.Int64
	c.Progress = func(p Progress) { seen.Store(p.Produced) }
	f, err := Run(context.Background(), c)
	require.NoError(t, err)
	require.InDelta(t, 500, f.Produced, 50)
	require.Equal(t, f.Produced, f.Outcomes)
	require.Less(t, f.Latency.TotalCount(), f.Produced, "the warm-up is left out")
	require.Positive(t, seen.Load())
}

func TestInterruptedRunTellsWhatItHas(t *testing.T) {
	b := membertest.StartBridge(t, &membertest.Bridge{})
	c := against(t, b)
	c.Jobs, c.Duration = 0, time.Hour
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	go func() {
		for ctx.Err() == nil && b.Jobs() < 200 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	f, err := Run(ctx, c)
	require.NoError(t, err)
	require.True(t, f.Interrupted)
	require.GreaterOrEqual(t, f.Outcomes, int64(200))
	require.Zero(t, f.Lost)
}

func TestRunRefuses(t *testing.T) {
	b := membertest.StartBridge(t, &membertest.Bridge{})
	ok := Config{Brokers: b.Brokers, TopicPrefix: "roost.", NodeIDs: []string{"a"}, Window: 1, Jobs: 1, Drain: time.Second, Size: 128}
	for want, change := range map[string]func(*Config){
		"--kafka":                func(c *Config) { c.Brokers = nil },
		"--nodes":                func(c *Config) { c.NodeIDs = nil },
		"--rate":                 func(c *Config) { c.Rate = -1 },
		"--window":               func(c *Config) { c.Window = 0 },
		"--size":                 func(c *Config) { c.Size = MinSize - 1 },
		"--size: 458748":         func(c *Config) { c.Size = MaxSize + 1 },
		"--jobs":                 func(c *Config) { c.Jobs = -1 },
		"--duration":             func(c *Config) { c.Jobs = 0 },
		"--warmup":               func(c *Config) { c.Warmup = -1 },
		"--drain":                func(c *Config) { c.Drain = 0 },
		"no topic nothere.jobs:": func(c *Config) { c.TopicPrefix = "nothere." },
		"cannot reach Kafka":     func(c *Config) { c.Brokers = []string{"127.0.0.1:1"} },
		"not valid":              func(c *Config) { c.NodeIDs = []string{"a b"} },
	} {
		c := ok
		change(&c)
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		_, err := Run(ctx, c)
		cancel()
		require.ErrorContains(t, err, want)
	}
}
