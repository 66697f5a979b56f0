package cli

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/cmd/roost/internal/api"
)

func otherMembers() []api.MemberView {
	return []api.MemberView{
		{Name: "m2", State: api.MemberDraining, SinceMs: time.Now().Add(-26*time.Hour - time.Minute).UnixMilli(), Nodes: 40, ConnectRate: 2.25, Partitions: []int32{1, 2},
			Address: "10.0.0.2:7946", NodesAddress: "10.0.0.2:7400", APIAddress: "10.0.0.2:7480", Version: "1.2.3", ClockOffsetMs: -12,
			CertificateEnd: time.Date(2020, 1, 2, 0, 0, 0, 0, time.UTC).UnixMilli(), Link: &api.LinkView{QueuedBytes: 1500, InFlightBytes: 500},
			Drain: &api.DrainView{RatePerS: 500, Began: 100, Told: 60}},
		{Name: "m3", State: api.MemberDown, Reason: "silent for 3s", Nodes: 9},
	}
}

func TestStatusOfACluster(t *testing.T) {
	m := startMember(t, nil, testNodes()...)
	m.backend.SetMembers(otherMembers()...)
	m.backend.SetMissing("m2")
	r := m.run("status")
	require.Zero(t, r.code, r.message)
	golden(t, "status-cluster", r.out)
	require.Equal(t, "roost: no answer came in time from m2: what nobody else knows is missing here\n", r.err)
	for _, command := range []string{"nodes", "jobs", "watermarks", "tree"} {
		require.Contains(t, m.run(command).err, "no answer came in time from m2", command)
	}
}

func TestStatusNotes(t *testing.T) {
	var out strings.Builder
	require.NoError(t, printStatus(&out, &api.StatusView{Unowned: []int32{3, 4}}))
	require.Contains(t, out.String(), "no member owns partitions 3-4 at the moment")
	require.Equal(t, "drained 0s ago", memberNotes(&api.MemberView{Drain: &api.DrainView{EndedMs: time.Now().UnixMilli()}}, nil))
	require.Equal(t, "3 of 9 nodes left, 5 a second, 1 partition to hand over",
		drainLine(&api.MemberView{Nodes: 3, Partitions: []int32{7}, Drain: &api.DrainView{Began: 9, RatePerS: 5}}))
	require.Regexp(t, `^\d{4}-\d\d-\d\d SOON: in 4d23h$`, expiry(time.Now().Add(5*24*time.Hour-time.Minute).UnixMilli()))
	require.Equal(t, "2100-01-01", expiry(time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()))
}

func TestTree(t *testing.T) {
	m := startMember(t, nil, testNodes()...)
	r := m.run("tree")
	require.Zero(t, r.code, r.message)
	golden(t, "tree", r.out)
	var v api.TreeView
	require.NoError(t, json.Unmarshal([]byte(m.run("tree", "--member", "test", "--json").out), &v))
	require.Len(t, v.Actors, 8)
	r = m.run("tree", "--member", "gone")
	require.Equal(t, 2, r.code)
	require.Contains(t, r.message, "no member of the cluster is called gone")
}

func TestTrace(t *testing.T) {
	m := startMember(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := m.start(ctx, "trace", "--node", "n")
	tracing := func(n int) {
		t.Helper()
		require.Eventually(t, func() bool { return m.backend.Tracing() == n }, 10*time.Second, time.Millisecond)
	}
	tracing(1)
	m.backend.Step(api.TraceEvent{TimeUs: 1_000_000, Member: "m1", Step: api.StepRead, Node: "n", Job: "j"})
	m.backend.Step(api.TraceEvent{TimeUs: 1_012_345, Member: "m2", Step: api.StepDelivered, Node: "n", Job: "j", Attempt: 2, Text: "to gate 1\x1b[2J"})
	m.backend.StopTracing()
	tracing(1) // again
	m.backend.Step(api.TraceEvent{TimeUs: 1_500_000, Member: "m1", Step: api.StepNotice, Node: "n", Text: "session 7 has ended"})
	require.Eventually(t, func() bool { return strings.Contains(m.out.String(), "has ended") }, 10*time.Second, time.Millisecond)
	cancel()
	r := <-done
	require.Zero(t, r.code, r.message)
	require.Regexp(t, `^TIME +SINCE +MEMBER +STEP +NODE +JOB +DETAIL
\d\d:\d\d:01.000 +\+0.0 ms +m1 +read +n +j
\d\d:\d\d:01.012 +\+12.3 ms +m2 +delivered +n +j +attempt 2, to gate 1 \[2J
\d\d:\d\d:01.500 +m1 +notice +n +- +session 7 has ended
$`, r.out)
	require.Equal(t, 1, strings.Count(r.err, "tracing again: steps may be missing"), r.err)
	tracing(0)

	r = m.run("trace")
	require.Equal(t, 2, r.code)
	require.Contains(t, r.message, "trace what?")
}

func TestDrain(t *testing.T) {
	m := startMember(t, nil, testNodes()...)
	m.backend.SetMembers(otherMembers()...)
	r := m.run("drain", "m2", "--rate", "7", "--to", "test,10.0.0.9:7400")
	require.Zero(t, r.code, r.message)
	require.Equal(t, "member m2: drains: 40 of 40 nodes left, 7 a second, 2 partitions to hand over, sent to test, 10.0.0.9:7400\n", r.out)
	r = m.run("drain", "m2", "--cancel")
	require.Zero(t, r.code, r.message)
	require.Equal(t, "member m2 is serving\n", r.out)
	for line, want := range map[string]string{
		"gone": "no member of the cluster is called gone", "--rate -1": "--rate: -1", "m2 --cancel --rate 5": "no meaning",
		"m2 --to mm": `"mm"`, "a b": "at most 1",
	} {
		r := m.run(append([]string{"drain"}, strings.Fields(line)...)...)
		require.Equal(t, 2, r.code, line)
		require.Contains(t, r.message, want, line)
	}
}

func TestDrainWaits(t *testing.T) {
	m := startMember(t, nil, testNodes()...)
	done := m.start(t.Context(), "drain", "--wait") // the member that is asked
	shows := func(text string) {
		t.Helper()
		require.Eventually(t, func() bool { return strings.Contains(m.err.String(), text) }, 10*time.Second, time.Millisecond)
	}
	shows("draining test: 3 of 3 nodes left, 500 a second")
	m.backend.Leave(3)
	r := <-done
	require.Zero(t, r.code, r.message)
	require.Equal(t, "member test: drained; 3 nodes told to leave in 1s\n", r.out)
	var v api.MemberView
	require.NoError(t, json.Unmarshal([]byte(m.run("drain", "--wait", "--json").out), &v))
	require.NotZero(t, v.Drain.EndedMs)
}

func TestDrainStopsWaiting(t *testing.T) {
	m := startMember(t, nil, testNodes()...)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	wait := func(ctx context.Context) <-chan result {
		done := m.start(ctx, "drain", "test", "--wait")
		require.Eventually(t, func() bool { return strings.Contains(m.err.String(), "draining test") }, 10*time.Second, time.Millisecond)
		return done
	}
	done := wait(ctx)
	cancel()
	r := <-done
	require.Equal(t, 130, r.code)
	require.Contains(t, r.message, "the drain goes on")
	require.Contains(t, r.message, "roost drain test --cancel")
	list, err := m.backend.Members(t.Context())
	require.NoError(t, err)
	require.Equal(t, api.MemberDraining, list.Members[0].State)

	done = wait(t.Context())
	_, err = m.backend.Undrain(t.Context(), "test")
	require.NoError(t, err)
	r = <-done
	require.Equal(t, 1, r.code)
	require.Contains(t, r.message, "member test is serving, and does not drain any more")
}

func TestDrainOfAMemberThatDies(t *testing.T) {
	m := startMember(t, nil)
	alive := api.MemberView{Name: "m2", State: api.MemberServing, Nodes: 5}
	m.backend.SetMembers(alive)
	done := m.start(t.Context(), "drain", "m2", "--wait")
	require.Eventually(t, func() bool { return strings.Contains(m.err.String(), "draining m2") }, 10*time.Second, time.Millisecond)
	alive.State = api.MemberDown
	m.backend.SetMembers(alive)
	r := <-done
	require.Equal(t, 1, r.code)
	require.Contains(t, r.message, "member m2 is gone, with 5 of 5 nodes left")
}

func TestRebalance(t *testing.T) {
	m := startMember(t, nil)
	require.Contains(t, m.run("rebalance").out, "nothing to do")
	m.backend.SetMembers(otherMembers()...)
	require.Equal(t, "member test: tells 2 nodes to leave, for m2, m3\n", m.run("rebalance", "--rate", "9").out)
	require.Contains(t, m.run("rebalance", "--json").out, `"nodes":2`)
	require.Equal(t, 2, m.run("rebalance", "--rate", "100001").code)
}

func TestCompletionOfMembers(t *testing.T) {
	m := startMember(t, nil)
	m.backend.SetMembers(otherMembers()...)
	for _, args := range [][]string{{"drain", "m"}, {"drain", "--to", "m"}, {"tree", "--member", "m"}} {
		r := m.run(append([]string{"__complete"}, args...)...)
		require.True(t, strings.HasPrefix(r.out, "m2\tdraining\nm3\tdown\n"), "%v: %s", args, r.out)
	}
}
