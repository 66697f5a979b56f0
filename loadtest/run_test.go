//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/loadtest/internal/membertest"
	"github.com/roost-server/roost/loadtest/internal/timeline"
)

func TestRunAScenario(t *testing.T) {
	b := membertest.StartBridge(t, &membertest.Bridge{Prefix: "t."})
	dir := t.TempDir()
	args := []string{"run", "jobs", "--server", b.Member.Addr().String(), "--kafka", b.Brokers[0], "--topic-prefix", "t.", "--nodes", "20", "--seed", "5",
		"--set", "warm-up.duration=300ms", "--set", "closed.duration=300ms", "--set", "open.duration=1s", "--set", "open.jobs.rate=300",
		"--set", "rising.duration=300ms", "--server-pid", "here=" + self}
	out, progress, err := call(t, append(args, "--out", dir)...)
	require.NoError(t, err)
	require.Contains(t, progress, "scenario jobs, 20 nodes, seed 5")
	require.Contains(t, progress, "closed")
	require.Contains(t, out, "0 lost")
	text, err := os.ReadFile(filepath.Join(dir, timelineFile))
	require.NoError(t, err)
	var tl timeline.Timeline
	require.NoError(t, json.Unmarshal(text, &tl))
	require.Empty(t, tl.Problems)
	require.EqualValues(t, 5, tl.Meta.Seed)
	require.Contains(t, tl.Meta.YAML, "nodes: 20")
	require.Equal(t, "here", tl.Samples[0].Servers[0].Name)
	require.Equal(t, b.Jobs(), tl.Account.Jobs)
	require.Equal(t, tl.Account.Submitted, tl.Account.Recorded)

	out, progress, err = call(t, append(args, "--json")...)
	require.NoError(t, err)
	require.Empty(t, progress)
	require.True(t, json.Valid([]byte(out)))
}

func TestRunFailsWhenTheServerDoes(t *testing.T) {
	b := membertest.StartBridge(t, &membertest.Bridge{Drop: 50})
	file := filepath.Join(t.TempDir(), "mine.yaml")
	require.NoError(t, os.WriteFile(file, []byte("name: mine\nnodes: 10\ndrain: 300ms\nphases:\n- {until: settled, ramp: }\n- {duration: 1s, jobs: {rate: 100}}"), 0o600))
	_, _, err := call(t, "run", file, "--server", b.Member.Addr().String(), "--kafka", b.Brokers[0])
	require.ErrorIs(t, err, errBad)
	require.ErrorContains(t, err, "assignments have no outcome")
}

func TestAnInterruptedRunReports(t *testing.T) {
	m := membertest.Start(t, &membertest.Member{HeartbeatMs: 30_000})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	go func() {
		for ctx.Err() == nil && len(m.Hellos()) < 5 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	var o, p bytes.Buffer
	require.NoError(t, run(ctx, []string{"run", "hold", "--server", m.Addr().String(), "--nodes", "5", "--json"}, &o, &p))
	require.True(t, json.Valid(o.Bytes()))
	require.Eventually(t, func() bool { return m.Byes() == 5 }, 10*time.Second, time.Millisecond)
}

func TestScenariosAreListed(t *testing.T) {
	out, _, err := call(t, "scenarios")
	require.NoError(t, err)
	require.Regexp(t, `(?m)^hold +15000 nodes +1m0s`, out)
	require.Regexp(t, `(?m)^soak +15000 nodes +2h5m0s`, out)
	out, _, err = call(t, "scenarios", "storm")
	require.NoError(t, err)
	require.Contains(t, out, "storm: {fraction: 100%}")
	_, _, err = call(t, "scenarios", "nothere")
	require.ErrorContains(t, err, "there is no scenario nothere")
}

func TestMistakesOfRunAreExplained(t *testing.T) {
	m := membertest.Start(t, &membertest.Member{})
	at := m.Addr().String()
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"run"}, "accepts 1 arg"},
		{[]string{"run", "nothere"}, "there is no scenario nothere; built in are churn"},
		{[]string{"run", "hold", "--nodes", "0"}, "with --set nodes=0: hold.yaml:"},
		{[]string{"run", "hold", "--set", "jobs.rate=1"}, "no phase has jobs"},
		{[]string{"run", "hold", "--server", "127.0.0.1:1"}, "is the server running there?"},
		{[]string{"run", "hold", "--server", at, "--server-pid", "x"}, "PID or NAME=PID is expected"},
		{[]string{"run", "hold", "--server", at, "--server-pid", "99999999"}, "no such process"},
		{[]string{"run", "hold", "--server", at, "--node-prefix", "a b"}, "--node-prefix"},
		{[]string{"run", "hold", "--server", at, "--nodes", "9999999"}, "at most"},
		{[]string{"run", "jobs", "--server", at, "--nodes", "1", "--kafka", "127.0.0.1:1"}, "cannot reach Kafka"},
	} {
		_, _, err := call(t, tc.args...)
		require.ErrorContains(t, err, tc.want, "%v", tc.args)
	}
}
