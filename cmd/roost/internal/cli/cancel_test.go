package cli

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/cmd/roost/internal/api/apitest"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// submit puts a job into the member without a command.
func (m *testMember) submit(id string, nodes ...string) {
	m.t.Helper()
	j := &record.Job{ID: id, Kind: "http", Target: record.Target{Nodes: nodes}}
	require.NoError(m.t, j.Validate())
	require.NoError(m.t, m.backend.Submit(m.t.Context(), j))
}

func TestCancel(t *testing.T) {
	m := startMember(t, nil, testNodes()...)
	m.submit("a", "sydney-1", "absent")
	m.submit("b", "sydney-1")
	m.submit("c", "perth-1")
	require.NoError(t, m.backend.Record("a", "sydney-1", apitest.Run{Outcome: protocol.OutcomeOK}))
	r := m.run("jobs", "cancel", "a", "b", "--reason", "wrong target")
	require.Zero(t, r.code, r.message)
	require.Equal(t, "job a: 1 ok, 1 cancelled\njob b: 1 cancelled\n", r.out)
	require.Empty(t, r.err)
	require.Contains(t, m.run("jobs", "b").out, "wrong target")
	v, err := m.backend.Job(t.Context(), "c")
	require.NoError(t, err)
	require.Equal(t, api.StateRunning, v.State, "the others go on")

	r = m.run("jobs", "cancel", "a", "nothing", "c")
	require.Equal(t, 2, r.code)
	require.Contains(t, r.err, "job a had ended already")
	require.Contains(t, r.err, "does not know job nothing")
	require.Equal(t, "job c: 1 cancelled\n", r.out, "one mistake does not keep the others")
	m.backend.Forget("a")
	r = m.run("jobs", "cancel", "a")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.err, "job a had ended already")

	for line, want := range map[string]string{"": "which job?", "a --wait -1s": "--wait: -1s", "a --reason " + strings.Repeat("x", 257): "reason: "} {
		r := m.run(append([]string{"jobs", "cancel"}, strings.Fields(line)...)...)
		require.Equal(t, 2, r.code)
		require.Contains(t, r.message+r.err, want)
	}
}

func TestCancelSaysWhatIsLeft(t *testing.T) {
	m := startMember(t, nil, testNodes()...)
	m.backend.SetStubborn("perth-1")
	m.backend.SetStubborn("absent")
	m.submit("a", "sydney-1", "perth-1", "absent")
	r := m.run("jobs", "cancel", "a", "--wait", "30ms")
	require.Equal(t, 1, r.code)
	require.Equal(t, "job a: cancelled, but 2 of 3 assignments not ended yet: perth-1 running, absent waiting\n", r.out)
	r = m.run("jobs", "cancel", "a", "--wait", "0", "--json")
	require.Zero(t, r.code, "not waited for")
	var v api.JobView
	require.NoError(t, json.Unmarshal([]byte(r.out), &v))
	require.Equal(t, "a", v.ID)

	m.g.terminal = func(io.Writer) bool { return true }
	done := m.start(t.Context(), "jobs", "cancel", "a")
	require.Eventually(t, func() bool { return strings.Contains(m.err.String(), "waiting for job a: 1 of 3 outcomes") }, 10*time.Second, time.Millisecond)
	require.NoError(t, m.backend.Record("a", "perth-1", apitest.Run{Outcome: protocol.OutcomeOK}))
	require.NoError(t, m.backend.Record("a", "absent", apitest.Run{Outcome: protocol.OutcomeCancelled}))
	r = <-done
	require.Zero(t, r.code, r.message)
	require.Equal(t, "job a: 1 ok, 2 cancelled\n", r.out)
	require.Equal(t, "job a: ended; the results topic has the outcomes", cancelLine(&api.JobView{ID: "a", State: api.StateDone, Targets: 2}))

	many := make([]string, 30)
	for i := range many {
		many[i] = "away-" + string(rune('a'+i))
		m.backend.SetStubborn(many[i])
	}
	m.submit("many", many...)
	require.Contains(t, m.run("jobs", "cancel", "many", "--wait", "1ms").out, "30 of 30 assignments not ended yet: away-a waiting, ")
	require.Contains(t, m.run("jobs", "cancel", "many", "--wait", "1ms").out, ", and 20 more\n")
}

func TestCancelInterrupted(t *testing.T) {
	m := startMember(t, nil, testNodes()...)
	m.g.terminal = func(io.Writer) bool { return true }
	m.backend.SetStubborn("sydney-1")
	m.submit("a", "sydney-1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := m.start(ctx, "jobs", "cancel", "a")
	require.Eventually(t, func() bool { return strings.Contains(m.err.String(), "waiting for job a: 0 of 1 outcome") }, 10*time.Second, time.Millisecond)
	cancel()
	r := <-done
	require.Equal(t, 130, r.code)
	require.Contains(t, r.message, "what was cancelled stays so")
}

// elsewhere is a member that has jobs taken by others.
type elsewhere struct{ *apitest.Backend }

func (elsewhere) Submit(context.Context, *record.Job) error { return nil }

// What is not known while the member rebuilds is waited for, and said so.
func TestRebuilding(t *testing.T) {
	m := startMember(t, runNode, testNodes()...)
	m.submit("known", "sydney-1")
	shards := []api.RebuildingView{{Partition: 3, Restored: 700}, {Partition: 4, Restored: 500}}
	const waiting = "waiting: the cluster is rebuilding partitions 3-4 from Kafka, 1200 jobs so far"
	for _, args := range [][]string{{"jobs", "late"}, {"jobs", "cancel", "late"}, {"nodes", "late"}} {
		m.backend.SetRebuilding(shards...)
		done := m.start(t.Context(), args...)
		require.Eventually(t, func() bool { return strings.Contains(m.err.String(), waiting) }, 10*time.Second, time.Millisecond)
		m.backend.SetRebuilding()
		r := <-done
		require.Equal(t, 2, r.code)
		require.Equal(t, 1, strings.Count(r.err, "waiting: "), "said once")
		require.Regexp(t, "does not know job late|node late is not connected", r.message+r.err)
	}

	m.backend.SetRebuilding(shards...)
	r := m.run("jobs", "known")
	require.Zero(t, r.code, r.message)
	require.Empty(t, r.err)
	for _, what := range []string{"jobs", "nodes"} {
		r = m.run(what)
		require.Zero(t, r.code)
		require.Contains(t, r.err, "the "+what+" of partitions 3-4 are missing here: they are being rebuilt from Kafka")
		require.NotContains(t, m.run(what, "--limit", "1000", "--json").out, "rebuilding")
	}
	require.NotContains(t, m.run("jobs", "--tenant", "x").err, "no recent job fits")
	require.Contains(t, m.run("status").out, "rebuilding, 700 jobs so far")
	require.Contains(t, m.run("watermarks").out, "rebuilding")

	// Another member may be the one that takes the job, so that this one does not know it.
	other := startServer(t, api.Config{}, m.backend, elsewhere{m.backend})
	other.g.slack = time.Millisecond
	r = other.run("run", "http", "http://x.test", "--ttl", "1ms", "--timeout", "1ms")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.message, "the cluster is rebuilding partitions 3-4 from Kafka, 1200 jobs so far; look again")

	m.g.patience = 0
	r = m.run("jobs", "late")
	require.Equal(t, 2, r.code)
	require.Contains(t, r.message, "job late: not known yet: 2 partitions are being rebuilt, 1200 jobs so far")
	require.Contains(t, r.message, "Try again in 1s")

	m.g.patience = 10 * time.Second
	m.g.terminal = func(io.Writer) bool { return true }
	done := m.start(t.Context(), "jobs", "late")
	require.Eventually(t, func() bool { return strings.Contains(m.err.String(), clearLine+waiting) }, 10*time.Second, time.Millisecond)
	m.submit("late", "sydney-1")
	r = <-done
	require.Zero(t, r.code, r.message)
	require.True(t, strings.HasSuffix(r.err, clearLine))

	m.g.terminal = nil
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done = m.start(ctx, "jobs", "later", "--follow")
	require.Eventually(t, func() bool {
		return strings.Contains(m.err.String(), "waiting for job later: the cluster is rebuilding")
	}, 10*time.Second, time.Millisecond)
	cancel()
	require.Equal(t, 130, (<-done).code)
}

func TestJobsOneShowsWhatIsOpen(t *testing.T) {
	m := startMember(t, nil, testNodes()...)
	j := &record.Job{ID: "a", Kind: "http", Target: record.Target{Nodes: []string{"sydney-1", "perth-1", "absent"}}, DeadlineMs: 1_900_000_000_000,
		NotBeforeMs: 1_700_000_000_000, Attempts: 5, Priority: 7}
	require.NoError(t, j.Validate())
	require.NoError(t, m.backend.Submit(t.Context(), j))
	require.NoError(t, m.backend.Record("a", "sydney-1", apitest.Run{Outcome: protocol.OutcomeOK}))
	r := m.run("jobs", "a")
	require.Zero(t, r.code, r.message)
	golden(t, "job-open", r.out)
	require.NotContains(t, m.run("jobs", "a", "--outcome", "failed").out, "done", "what has ended and is hidden does not come back as open")
}
