//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/roost-server/roost/loadtest/internal/membertest"
	"github.com/roost-server/roost/loadtest/internal/relay"
	"github.com/roost-server/roost/loadtest/internal/report"
	"github.com/roost-server/roost/protocol"
)

// TestMain also lets this program be what the commands start as processes: the relay's
// loop, a worker, and a server.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case relay.Command, workerName:
			main()
			os.Exit(0)
		case "serve":
			if err := membertest.Serve(os.Args[2:], os.Stdout); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	goleak.VerifyTestMain(m)
}

func call(t *testing.T, args ...string) (out, progress string, err error) {
	t.Helper()
	var o, p bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err = run(ctx, args, &o, &p)
	return o.String(), p.String(), err
}

var self = strconv.Itoa(os.Getpid())

func TestHold(t *testing.T) {
	m := membertest.Start(t, &membertest.Member{HeartbeatMs: 200})
	out, progress, err := call(t, "hold", "--server", m.Addr().String(), "--nodes", "100", "--duration", "600ms", "--server-pid", self, "--json")
	require.NoError(t, err)
	require.Empty(t, progress)
	var rep report.Hold
	require.NoError(t, json.Unmarshal([]byte(out), &rep))
	require.Equal(t, 1, strings.Count(out, "\n"))
	require.Equal(t, 100, rep.Connected)
	require.Positive(t, rep.ConnectPerS)
	require.NotNil(t, rep.ServerBytesPerNode)
	require.True(t, rep.StayedConnected)
	require.Positive(t, rep.Pings)

	out, progress, err = call(t, "hold", "--server", m.Addr().String(), "--nodes", "10", "--duration", "1200ms", "--node-prefix", "other-")
	require.NoError(t, err)
	require.Contains(t, out, "10 of 10")
	require.Contains(t, progress, "holding 10 of 10")
	require.Contains(t, out, "unknown (no --server-pid)")
}

func TestHoldFailsWhenNodesAreRefused(t *testing.T) {
	m := &membertest.Member{HeartbeatMs: 1000}
	m.OnHello = func(h *protocol.Hello) *protocol.Close {
		if h.NodeID == "sim-000003" {
			return &protocol.Close{Reason: protocol.ReasonUnauthenticated, Message: "who is that"}
		}
		return nil
	}
	membertest.Start(t, m)
	out, _, err := call(t, "hold", "--server", m.Addr().String(), "--nodes", "5", "--json")
	require.ErrorContains(t, err, "4 of 5 nodes are connected")
	require.ErrorContains(t, err, "who is that")
	var rep report.Hold
	require.NoError(t, json.Unmarshal([]byte(out), &rep))
	require.Equal(t, map[string]uint64{"unauthenticated": 1}, rep.Closes)
	require.Nil(t, rep.ServerBytesPerNode)
}

func TestJobs(t *testing.T) {
	b := membertest.StartBridge(t, &membertest.Bridge{Prefix: "t."})
	args := []string{"jobs", "--server", b.Member.Addr().String(), "--kafka", b.Brokers[0], "--topic-prefix", "t.", "--nodes", "20", "--window", "50", "--server-pid", self}
	out, _, err := call(t, append(args, "--jobs", "2000", "--json")...)
	require.NoError(t, err)
	var rep report.Jobs
	require.NoError(t, json.Unmarshal([]byte(out), &rep))
	require.EqualValues(t, 2000, rep.Jobs)
	require.Zero(t, rep.Lost)
	require.Positive(t, rep.JobsPerS)
	require.Positive(t, rep.P50Ms)
	require.GreaterOrEqual(t, rep.P99Ms, rep.P50Ms)
	require.GreaterOrEqual(t, rep.P999Ms, rep.P99Ms)
	for _, part := range []report.Latency{rep.Append, rep.Deliver, rep.Commit} {
		require.Positive(t, part.P50)
		require.GreaterOrEqual(t, part.P99, part.P50)
		require.GreaterOrEqual(t, part.P999, part.P99)
		require.GreaterOrEqual(t, part.Max, part.P999)
		require.LessOrEqual(t, part.Max, rep.MaxMs*1.01)
	}
	require.Nil(t, rep.Waiting)
	require.Nil(t, rep.Relay)
	require.NotNil(t, rep.ServerCPUUs)
	require.Positive(t, rep.NodeCPUUs)
	require.EqualValues(t, 2000, rep.NodeJobs)
	require.EqualValues(t, 2000, rep.NodeAcks)

	out, progress, err := call(t, append(args, "--duration", "1500ms", "--warmup", "500ms")...)
	require.NoError(t, err)
	require.Contains(t, progress, "jobs/s")
	require.Contains(t, out, "p99.9")
	require.Contains(t, out, "node to outcome")
}

func TestJobsFailsWhenJobsAreLostOrDoubled(t *testing.T) {
	b := membertest.StartBridge(t, &membertest.Bridge{Drop: 100, Double: 100})
	out, _, err := call(t, "jobs", "--server", b.Member.Addr().String(), "--kafka", b.Brokers[0], "--nodes", "20", "--jobs", "500", "--drain", "500ms", "--json")
	require.ErrorIs(t, err, errBad)
	require.ErrorContains(t, err, "5 jobs have no outcome")
	require.ErrorContains(t, err, "4 outcomes came twice")
	var rep report.Jobs
	require.NoError(t, json.Unmarshal([]byte(out), &rep))
	require.EqualValues(t, 5, rep.Lost)
	require.EqualValues(t, 4, rep.Duplicates)
}

func TestInterruptedHoldStillReports(t *testing.T) {
	m := membertest.Start(t, &membertest.Member{HeartbeatMs: 1000})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	go func() {
		for ctx.Err() == nil && len(m.Hellos()) < 5 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	var o, p bytes.Buffer
	_ = run(ctx, []string{"hold", "--server", m.Addr().String(), "--nodes", "5", "--duration", "1h", "--json"}, &o, &p)
	var rep report.Hold
	require.NoError(t, json.Unmarshal(o.Bytes(), &rep))
	require.True(t, rep.Interrupted)
}

func TestMistakesAreExplained(t *testing.T) {
	m := membertest.Start(t, &membertest.Member{})
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"hold", "--server", "127.0.0.1:1"}, "is the server running there?"},
		{[]string{"hold", "--server", m.Addr().String(), "--nodes", "0"}, "--nodes: 0"},
		{[]string{"hold", "--server", m.Addr().String(), "--nodes", "9999999"}, "nodes are possible"},
		{[]string{"hold", "--server", m.Addr().String(), "--nodes", "1", "--server-pid", "0"}, "positive"},
		{[]string{"hold", "--server", m.Addr().String(), "--nodes", "1", "--server-pid", "99999999"}, "no such process"},
		{[]string{"hold", "--duration", "-1s"}, "--duration"},
		{[]string{"jobs", "--server", m.Addr().String(), "--size", "1"}, "--size: 1"},
		{[]string{"jobs", "--rate", "1", "--window", "1"}, "rate"},
		{[]string{"jobs", "--nodes", "1", "--nodes-sweep", "1,2"}, "nodes-sweep"},
		{[]string{"jobs", "--waiting", "1", "--nodes-sweep", "1,2"}, "nodes-sweep"},
		{[]string{"jobs", "--server", m.Addr().String(), "--nodes", "1", "--waiting", "-1"}, "--waiting: jobs that wait: -1"},
		{[]string{"jobs", "--server", m.Addr().String(), "--nodes", "1", "--waiting", "1", "--idle", "0s"}, "--idle: 0s"},
		{[]string{"jobs", "--server", m.Addr().String(), "--nodes", "1", "--relay", "--commit-records", "-1"}, "--commit-records: -1"},
		{[]string{"relay", "--partitions", "0"}, "--partitions: 0"},
		{[]string{"relay", "--commit-interval", "0s"}, "--commit-interval: 0s"},
		{[]string{"relay", "--size", "1"}, "--size: 1"},
		{[]string{"relay-loop"}, "0 arguments"},
		{[]string{"rebuild", "--jobs", "0"}, "--jobs: jobs that wait: 0"},
		{[]string{"rebuild", "--timeout", "0s"}, "--timeout 0s"},
		{[]string{"rebuild", "now"}, `unknown argument "now"`},
		{[]string{"nothing"}, "unknown command"},
	} {
		_, _, err := call(t, tc.args...)
		require.ErrorContains(t, err, tc.want)
	}
}
