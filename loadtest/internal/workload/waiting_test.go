//go:build linux

package workload

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/loadtest/internal/membertest"
	"github.com/roost-server/roost/protocol/record"
)

func waitingFor(t *testing.T, b *membertest.Bridge, cfg WaitingConfig) *Waiting {
	t.Helper()
	cfg.Brokers, cfg.TopicPrefix, cfg.Size = b.Brokers, "roost.", 128
	cfg.Nodes, cfg.TTL = 30, time.Hour
	w, err := NewWaiting(context.Background(), cfg)
	require.NoError(t, err)
	t.Cleanup(w.Close)
	return w
}

func TestJobsWaitAndAreCancelled(t *testing.T) {
	for name, tc := range map[string]struct {
		bridge       *membertest.Bridge
		open, double int64
	}{
		"all":          {bridge: &membertest.Bridge{}},
		"ignored":      {bridge: &membertest.Bridge{Ignore: 100}, open: 5},
		"twice":        {bridge: &membertest.Bridge{Double: 50}, double: 10},
		"also aborted": {bridge: &membertest.Bridge{Abort: 50}},
	} {
		t.Run(name, func(t *testing.T) {
			b := membertest.StartBridge(t, tc.bridge)
			w := waitingFor(t, b, WaitingConfig{Jobs: 500})
			require.NoError(t, w.Submit(context.Background()))
			require.Eventually(t, func() bool { return b.Waiting() == 500 }, 20*time.Second, time.Millisecond)
			patience := 20 * time.Second
			if tc.open > 0 {
				patience = 2 * time.Second
			}
			c, err := w.Cancel(context.Background(), patience)
			require.NoError(t, err)
			require.Equal(t, Cancelled{
				Submitted: 500, Cancelled: 500 - tc.open, Open: tc.open, Duplicates: c.Duplicates,
				ByOutcome: map[string]int64{"cancelled": 500 - tc.open},
			}, c)
			require.LessOrEqual(t, c.Duplicates, tc.double) // those behind the last outcome are not waited for
			require.Equal(t, tc.double > 0, c.Duplicates > 0)
			require.Equal(t, tc.open, b.Waiting())
		})
	}
}

// Only what was submitted is cancelled, and nothing is when nothing was.
func TestInterruptedSubmissionIsCancelled(t *testing.T) {
	b := membertest.StartBridge(t, &membertest.Bridge{})
	w := waitingFor(t, b, WaitingConfig{Jobs: 500})
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, w.Submit(gone), context.Canceled)
	c, err := w.Cancel(context.Background(), 20*time.Second)
	require.NoError(t, err)
	require.Equal(t, Cancelled{ByOutcome: map[string]int64{}}, c)
}

// Jobs that wait lie only where jobs of connected nodes lie too.
func TestJobsWaitBeside(t *testing.T) {
	b := membertest.StartBridge(t, &membertest.Bridge{})
	w := waitingFor(t, b, WaitingConfig{Jobs: 1, Beside: []string{"sim-000000", "sim-000001"}})
	here := map[int32]bool{}
	for _, id := range w.cfg.Beside {
		here[record.Partition(id, membertest.Partitions)] = true
	}
	require.Less(t, len(here), membertest.Partitions)
	require.Len(t, w.keys, 30)
	for i, p := range w.parts {
		require.True(t, here[p])
		require.Equal(t, record.Partition(string(w.keys[i]), membertest.Partitions), p)
	}
}

func TestWaitingRefuses(t *testing.T) {
	b := membertest.StartBridge(t, &membertest.Bridge{})
	ok := WaitingConfig{Brokers: b.Brokers, TopicPrefix: "roost.", Jobs: 1, Nodes: 1, TTL: time.Minute, Size: 128}
	for want, change := range map[string]func(*WaitingConfig){
		"jobs that wait: 0":  func(c *WaitingConfig) { c.Jobs = 0 },
		"--away: 0":          func(c *WaitingConfig) { c.Nodes = 0 },
		"--waiting-ttl: 1ms": func(c *WaitingConfig) { c.TTL = time.Millisecond },
		"--size: 1":          func(c *WaitingConfig) { c.Size = 1 },
		"no topic x.jobs":    func(c *WaitingConfig) { c.TopicPrefix = "x." },
	} {
		c := ok
		change(&c)
		_, err := NewWaiting(context.Background(), c)
		require.ErrorContains(t, err, want)
	}
}
