//go:build linux

package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/roost-server/roost/loadtest/internal/membertest"
	"github.com/roost-server/roost/loadtest/internal/report"
)

// topicsAndGroups lists what a broker has.
func topicsAndGroups(t *testing.T, broker string) (names []string) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.DisableClientMetrics())
	require.NoError(t, err)
	defer cl.Close()
	meta, err := kmsg.NewPtrMetadataRequest().RequestWith(context.Background(), cl)
	require.NoError(t, err)
	for _, topic := range meta.Topics {
		names = append(names, *topic.Topic)
	}
	groups, err := kmsg.NewPtrListGroupsRequest().RequestWith(context.Background(), cl)
	require.NoError(t, err)
	for _, g := range groups.Groups {
		names = append(names, "group "+g.Group)
	}
	return names
}

func TestRelay(t *testing.T) {
	b, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	defer b.Close()
	args := []string{"relay", "--kafka", b.ListenAddrs()[0], "--partitions", "3", "--window", "500"}
	out, progress, err := call(t, append(args, "--jobs", "3000", "--commit-interval", "10ms", "--json")...)
	require.NoError(t, err)
	require.Empty(t, progress)
	var rep report.Relay
	require.NoError(t, json.Unmarshal([]byte(out), &rep))
	require.EqualValues(t, 3000, rep.Records)
	require.Positive(t, rep.RecordsPerS)
	require.Positive(t, rep.P50Ms)
	require.Positive(t, rep.RecordBytes)
	require.GreaterOrEqual(t, rep.Transactions, int64(6), "no window is committed before it is full")
	require.Zero(t, rep.Lost+rep.Duplicates+rep.Corrupt+rep.Unreadable, rep.LastError)

	out, progress, err = call(t, append(args, "--duration", "1500ms", "--warmup", "200ms")...)
	require.NoError(t, err)
	require.Contains(t, progress, "records/s")
	require.Contains(t, out, "transactions")
	require.NotContains(t, strings.Join(topicsAndGroups(t, b.ListenAddrs()[0]), " "), "roost-relay-", "nothing is left")
}

func TestJobsAndRelay(t *testing.T) {
	b := membertest.StartBridge(t, &membertest.Bridge{})
	out, _, err := call(t, "jobs", "--server", b.Member.Addr().String(), "--kafka", b.Brokers[0], "--nodes", "20", "--window", "50",
		"--jobs", "1000", "--relay", "--commit-interval", "10ms", "--json")
	require.NoError(t, err)
	var rep report.Jobs
	require.NoError(t, json.Unmarshal([]byte(out), &rep))
	require.EqualValues(t, 1000, rep.Jobs)
	require.NotNil(t, rep.Relay)
	require.EqualValues(t, 1000, rep.Relay.Records)
	require.EqualValues(t, membertest.Partitions, rep.Relay.Partitions)
	require.InEpsilon(t, rep.JobsPerS/rep.Relay.RecordsPerS, *rep.RelayRatio, 1e-9)
	require.EqualValues(t, 1000, rep.NodeJobs, "the relay has no nodes")
}

func TestJobsBesideJobsThatWait(t *testing.T) {
	b := membertest.StartBridge(t, &membertest.Bridge{})
	args := []string{"jobs", "--server", b.Member.Addr().String(), "--kafka", b.Brokers[0], "--nodes", "20", "--window", "50",
		"--jobs", "500", "--waiting", "300", "--away", "40", "--idle", "100ms", "--server-pid", self}
	out, _, err := call(t, append(args, "--json")...)
	require.NoError(t, err)
	var rep report.Jobs
	require.NoError(t, json.Unmarshal([]byte(out), &rep))
	require.EqualValues(t, 500, rep.Jobs)
	require.EqualValues(t, 500, rep.NodeJobs)
	w := rep.Waiting
	require.NotNil(t, w)
	require.EqualValues(t, 300, w.Jobs)
	require.EqualValues(t, 300, w.Cancelled)
	require.Zero(t, w.Open+w.Duplicates)
	require.NotNil(t, w.IdleCPU)
	require.NotNil(t, w.IdleCPUBefore)
	require.NotNil(t, w.ServerBytes)
	require.Positive(t, w.WithoutPerS)
	require.InEpsilon(t, rep.JobsPerS/w.WithoutPerS, w.Ratio, 1e-9)
	require.GreaterOrEqual(t, w.TakenS, w.SubmitS)
	require.Zero(t, b.Waiting(), "the broker and the server are clean")
	require.EqualValues(t, 2*500+20, b.Jobs(), "without, behind, beside")
}

func TestJobsThatAreNotCancelledAreTold(t *testing.T) {
	b := membertest.StartBridge(t, &membertest.Bridge{Ignore: 100})
	out, progress, err := call(t, "jobs", "--server", b.Member.Addr().String(), "--kafka", b.Brokers[0], "--nodes", "20",
		"--jobs", "100", "--waiting", "300", "--idle", "100ms", "--drain", "2s")
	require.ErrorIs(t, err, errBad)
	require.ErrorContains(t, err, "3 jobs that waited are not cancelled, outcomes map[cancelled:297]")
	require.Contains(t, out, "297 in")
	require.Contains(t, progress, "beside 300 jobs that wait")
	require.EqualValues(t, 3, b.Waiting())
}

func TestNodesSweep(t *testing.T) {
	b := membertest.StartBridge(t, &membertest.Bridge{})
	args := []string{"jobs", "--server", b.Member.Addr().String(), "--kafka", b.Brokers[0], "--jobs", "200", "--window", "50", "--nodes-sweep", "5,20"}
	out, _, err := call(t, append(args, "--json")...)
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	require.Len(t, lines, 2)
	for i, nodes := range []int{5, 20} {
		var rep report.Jobs
		require.NoError(t, json.Unmarshal([]byte(lines[i]), &rep))
		require.Equal(t, nodes, rep.Connected)
		require.EqualValues(t, 200, rep.Jobs)
	}
	out, _, err = call(t, args...)
	require.NoError(t, err)
	require.Regexp(t, `(?m)^nodes +jobs a second.*\n5 .*\n20 `, out)

	bad := membertest.StartBridge(t, &membertest.Bridge{Double: 100})
	_, _, err = call(t, "jobs", "--server", bad.Member.Addr().String(), "--kafka", bad.Brokers[0], "--jobs", "200", "--nodes-sweep", "5,20")
	require.ErrorContains(t, err, "with 5 nodes: ")
	require.ErrorContains(t, err, "with 20 nodes: ")
}

func TestRebuild(t *testing.T) {
	b, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	defer b.Close()
	exe, err := os.Executable()
	require.NoError(t, err)
	args := []string{"rebuild", "--roost", exe, "--kafka", b.ListenAddrs()[0], "--jobs", "2000", "--settle", "100ms"}
	out, progress, err := call(t, append(args, "--json")...)
	require.NoError(t, err)
	require.Empty(t, progress)
	var rep report.Rebuild
	require.NoError(t, json.Unmarshal([]byte(out), &rep))
	require.EqualValues(t, 2000, rep.Pending)
	for _, v := range []float64{rep.EmptyReadyS, rep.FillS, rep.AssignedS, rep.ReadyS, rep.RebuiltS} {
		require.Positive(t, v)
	}
	require.GreaterOrEqual(t, rep.RebuiltS, rep.AssignedS)
	for _, n := range []int64{rep.RSSEmpty, rep.RSSFilled, rep.RSSRebuilt} {
		require.Greater(t, n, int64(1<<20))
	}
	require.GreaterOrEqual(t, rep.RSSRebuiltPeak, int64(1<<20))
	require.NotContains(t, strings.Join(topicsAndGroups(t, b.ListenAddrs()[0]), " "), "roost-rebuild-", "nothing is left")

	out, progress, err = call(t, append(args, "--keep")...)
	require.NoError(t, err)
	require.Contains(t, out, "2000 jobs")
	require.Contains(t, progress, "killed; starting again")
	require.Contains(t, strings.Join(topicsAndGroups(t, b.ListenAddrs()[0]), " "), "roost-rebuild-")

	_, _, err = call(t, append(args, "--timeout", "6s", "--", "--forget", "7")...)
	require.ErrorContains(t, err, "the server has 1993 of 2000 jobs")
	_, _, err = call(t, append(args, "--timeout", "6s", "--", "--most", "500")...)
	require.ErrorContains(t, err, "the server has 500 of 2000 jobs")
	_, _, err = call(t, append(args, "--roost", filepath.Join(t.TempDir(), "roost"))...)
	require.ErrorContains(t, err, "no such file")
	_, _, err = call(t, append(args, "--", "--forget", "x")...)
	require.ErrorContains(t, err, "before it was up: exit status 1: invalid argument")

	// One that makes up jobs.
	out, _, err = call(t, append(args, "--json", "--", "--forget", "-5")...)
	require.ErrorIs(t, err, errBad)
	require.ErrorContains(t, err, "2005 jobs, not 2000")
	require.Contains(t, out, `"pending":2005`)
}
