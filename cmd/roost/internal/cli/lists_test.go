package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/cmd/roost/internal/api/apitest"
	"github.com/roost-server/roost/protocol"
)

func TestNodesLists(t *testing.T) {
	nodes := testNodes()
	for i := range nodes {
		nodes[i].ConnectedMs = 0 // or the age changes
	}
	m := startMember(t, nil, nodes...)
	r := m.run("nodes")
	require.Zero(t, r.code, r.message)
	require.Empty(t, r.err)
	golden(t, "nodes", r.out)

	for line, want := range map[string]string{
		"--country AU": "perth-1 sydney-1", "--asn 4200000000": "perth-1", "--tag home": "berlin-1 sydney-1", "--kind dns --city Perth": "perth-1",
		"--platform linux/amd64": "berlin-1 perth-1", "--prefix s": "sydney-1", "--limit 2": "berlin-1 perth-1", "--country FR": "",
	} {
		r := m.run(append([]string{"nodes", "--json"}, strings.Fields(line)...)...)
		require.Zero(t, r.code, r.message)
		var ids []string
		for text := range strings.Lines(r.out) {
			var n api.NodeView
			require.NoError(t, json.Unmarshal([]byte(text), &n))
			ids = append(ids, n.ID)
		}
		require.Equal(t, want, strings.Join(ids, " "), line)
	}
	require.Contains(t, m.run("nodes", "--limit", "2").err, "2 of 3 nodes; show all with --limit 0")
	r = m.run("nodes", "--country", "FR")
	require.Zero(t, r.code)
	require.Empty(t, r.out)
	require.Contains(t, r.err, "no connected node fits")
}

func TestNodesPages(t *testing.T) {
	nodes := make([]api.NodeView, 2500)
	for i := range nodes {
		nodes[i].ID = fmt.Sprintf("n%04d", i)
	}
	m := startMember(t, nil, nodes...)
	for limit, want := range map[string]int{"0": 2500, "1500": 1500, "1000": 1000, "100": 100} {
		r := m.run("nodes", "--json", "--limit", limit)
		require.Zero(t, r.code, r.message)
		require.Equal(t, want, strings.Count(r.out, "\n"), limit)
	}
	require.Equal(t, 2501, strings.Count(m.run("nodes", "--limit", "0").out, "\n"), "one header")
}

func TestNodesOne(t *testing.T) {
	m := startMember(t, nil, testNodes()...)
	r := m.run("nodes", "sydney-1")
	require.Zero(t, r.code, r.message)
	golden(t, "node", r.out)
	var n api.NodeView
	require.NoError(t, json.Unmarshal([]byte(m.run("nodes", "sydney-1", "--json").out), &n))
	require.Equal(t, "Sydney", n.City)

	r = m.run("nodes", "gone")
	require.Equal(t, 2, r.code)
	require.Contains(t, r.message, "node gone is not connected")
	require.Contains(t, m.run("nodes", "sydney-1", "--country", "AU").message, "no meaning")
	require.Contains(t, m.run("nodes", "--limit", "-1").message, "--limit: -1")
	require.Contains(t, m.run("nodes", "a", "b").message, "at most 1")
}

func TestNodesNone(t *testing.T) {
	m := startMember(t, nil)
	r := m.run("nodes")
	require.Zero(t, r.code)
	require.Contains(t, r.err, "no node is connected")
}

func TestJobsLists(t *testing.T) {
	m := startMember(t, runNode, testNodes()...)
	r := m.run("jobs")
	require.Zero(t, r.code)
	require.Contains(t, r.err, "no jobs yet; submit one with")
	m.run("run", "http", "http://x.test", "--tenant", "ops", "--count", "3")
	m.run("run", "dns", "x.test", "--node", "sydney-1")

	r = m.run("jobs")
	require.Zero(t, r.code, r.message)
	lines := strings.Split(r.out, "\n")
	require.Regexp(t, `^ID +KIND +STATE +ENDED +OUTCOMES +AGE +TENANT$`, lines[0])
	require.Regexp(t, `^[0-9A-Z]{26}  dns +done +1/1 +1 ok +\d+s +-$`, lines[1])
	require.Regexp(t, `^[0-9A-Z]{26}  http +done +3/3 +2 ok, 1 failed +\d+s +ops$`, lines[2])
	require.Equal(t, 1, strings.Count(m.run("jobs", "--tenant", "ops", "--json").out, "\n"))
	require.Equal(t, 1, strings.Count(m.run("jobs", "--limit", "1", "--json").out, "\n"))
	require.Contains(t, m.run("jobs", "--state", "waiting").err, "no recent job fits")
	for line, want := range map[string]string{
		"--state gone": "--state", "--limit 0": "--limit: 0", "--limit 1001": "--limit: 1001", "--follow": "--follow needs the ID", "--outcome ok": "--outcome needs the ID",
		"x --state done": "no meaning", "x --outcome good": `--outcome: "good" is none of ok`, "a b": "at most 1",
	} {
		r := m.run(append([]string{"jobs"}, strings.Fields(line)...)...)
		require.Equal(t, 2, r.code, line)
		require.Contains(t, r.message, want, line)
	}
}

func TestJobsOne(t *testing.T) {
	m := startMember(t, runNode, testNodes()...)
	m.run("run", "http", "http://x.test", "--tenant", "ops", "--count", "4")
	id := m.submitted().ID
	r := m.run("jobs", id)
	require.Zero(t, r.code, r.message)
	// Which partition it is depends on the id.
	out := strings.Replace(r.out, fmt.Sprintf("partition %d", m.submitted().Partition), "partition 5", 1)
	golden(t, "job", out)
	out = m.run("jobs", id, "--outcome", "failed").out
	require.Contains(t, out, "berlin-1")
	require.NotContains(t, out, "sydney-1")
	var v api.JobView
	require.NoError(t, json.Unmarshal([]byte(m.run("jobs", id, "--json").out), &v))
	require.Len(t, v.Results, 4)
	r = m.run("jobs", "gone")
	require.Equal(t, 2, r.code)
	require.Contains(t, r.message, "does not know job gone")
}

func TestJobsFollow(t *testing.T) {
	m := startMember(t, runNode, testNodes()...)
	m.run("run", "http", "http://x.test", "--count", "3")
	id := m.submitted().ID
	r := m.run("jobs", id, "--follow")
	require.Equal(t, 1, r.code, "as run")
	require.Contains(t, r.out, "3 outcomes: 2 ok, 1 failed\n")
	r = m.run("jobs", id, "--follow", "--json", "--outcome", "failed")
	require.Equal(t, 1, strings.Count(r.out, "\n"))
	require.Contains(t, r.out, `"node":"berlin-1"`)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := m.start(ctx, "jobs", "not-yet", "--follow")
	require.Eventually(t, func() bool { return strings.Contains(m.err.String(), "has not seen job not-yet yet") }, 10*time.Second, time.Millisecond)
	cancel()
	r = <-done
	require.Equal(t, 130, r.code)
	require.Contains(t, r.message, "roost jobs not-yet --follow")
}

func TestStatus(t *testing.T) {
	m := startMember(t, runNode, testNodes()...)
	m.run("run", "http", "http://x.test", "--count", "3")
	r := m.run("status")
	require.Zero(t, r.code, r.message)
	golden(t, "status", r.out)
	var v api.StatusView
	require.NoError(t, json.Unmarshal([]byte(m.run("status", "--json").out), &v))
	require.Equal(t, "abc", v.Kafka.ClusterID)
	m.backend.SetDown(errors.New("the ledger is broken"))
	r = m.run("status")
	require.Equal(t, 2, r.code)
	require.Contains(t, r.message, "the ledger is broken")
}

func TestShardNotes(t *testing.T) {
	require.Empty(t, shardNotes(&api.ShardView{Restored: 5}))
	require.Equal(t, "rebuilding, 1 job so far; LOST: 7 jobs missing from the state topic; paused; panic",
		shardNotes(&api.ShardView{Rebuilding: true, Restored: 1, Missing: 7, Paused: true, Reason: "panic"}))
	var out strings.Builder
	require.NoError(t, printStatus(&out, &api.StatusView{Kafka: api.KafkaView{PartitionsChanged: "8 partitions, not 4"}}))
	require.Regexp(t, `(?m)^WARNING +8 partitions, not 4$`, out.String())
}

func TestWatermarks(t *testing.T) {
	m := startMember(t, nil)
	m.backend.SetRebuilding(api.RebuildingView{Partition: 6})
	r := m.run("watermarks")
	require.Zero(t, r.code, r.message)
	require.Regexp(t, `^PARTITION +WATERMARK +DONE UNTIL +PENDING +COMMITTED +MEMBER
5 +40 +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \(\d+d\d+h ago\) +1 +41 +test
6( +-){4} +test +rebuilding
$`, r.out)
	r = m.run("watermarks", "--json")
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	require.Len(t, lines, 2)
	require.JSONEq(t, `{"partition":5,"offset":40,"job_ms":1700000000000,"pending":1,"committed":41,"rebuilding":false,"member":"test"}`, lines[0])
}

func TestKafkaLine(t *testing.T) {
	require.Equal(t, "NOT REACHABLE at k:9092: refused", kafkaLine(&api.KafkaView{Bootstrap: "k:9092", Error: "refused"}))
	require.Equal(t, "NOT REACHABLE at k:9092", kafkaLine(&api.KafkaView{Bootstrap: "k:9092"}))
}

func TestRanges(t *testing.T) {
	require.Equal(t, "0-3,5,7-8", ranges([]int32{5, 0, 1, 8, 3, 2, 7}))
	require.Equal(t, "-", ranges(nil))
}

func TestFormats(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 59 * time.Second: "59s", time.Minute: "1m0s", 61 * time.Minute: "1h1m", 50 * time.Hour: "2d2h",
	} {
		require.Equal(t, want, formatAge(d))
	}
	for ms, want := range map[float64]string{0: "-", 0.5: "0.50 ms", 12.34: "12.3 ms", 1234: "1234 ms", 12345: "12.3 s"} {
		require.Equal(t, want, formatMs(ms))
	}
	for n, want := range map[float64]string{0: "0 B", 999: "999 B", 1500: "1.5 kB", 150_000: "150 kB", 2.5e6: "2.5 MB", 3e9: "3.0 GB"} {
		require.Equal(t, want, formatBytes(n))
	}
	require.Equal(t, "1 ok, 2 lost, 3 new", formatOutcomes(map[string]int{"lost": 2, "ok": 1, "new": 3}))
	require.Equal(t, "none", formatOutcomes(map[string]int{}))
	require.Equal(t, "abc…", shorten("abcdef", 4))
}

func TestCompletion(t *testing.T) {
	m := startMember(t, nil, testNodes()...)
	complete := func(args ...string) []string {
		t.Helper()
		r := m.run(append([]string{"__complete"}, args...)...)
		require.Zero(t, r.code, r.message)
		var values []string
		for line := range strings.Lines(r.out) {
			value, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
			if !strings.HasPrefix(value, ":") {
				values = append(values, value)
			}
		}
		return values
	}
	require.Subset(t, complete("run", ""), kinds)
	require.Equal(t, []string{"perth-1"}, complete("run", "http", "http://x.test", "--node", "p"))
	require.Equal(t, []string{"berlin-1", "perth-1", "sydney-1"}, complete("nodes", ""))
	require.Empty(t, complete("nodes", "perth-1", ""))
	require.Len(t, complete("jobs", "x", "--outcome", ""), len(protocol.Outcomes()))
	require.Equal(t, []string{"waiting", "running", "done"}, complete("jobs", "--state", ""))
	require.Equal(t, kinds, complete("nodes", "--kind", ""))
	require.Contains(t, complete("run", "dns", "x", "--type", ""), "MX")
	done := m.start(t.Context(), "run", "tcp", "x.test:1", "--timeout", "1ms", "--deadline", "1ms", "--node", "absent")
	id := m.waitForJob()
	require.Equal(t, []string{id}, complete("jobs", id[:4]))
	require.Equal(t, []string{id}, complete("jobs", "cancel", "x", ""))
	require.Empty(t, complete("jobs", "cancel", id, ""))
	require.NoError(t, m.backend.Record(id, "absent", apitest.Run{}))
	<-done

	require.NoError(t, m.server.Close(t.Context()))
	require.Empty(t, complete("nodes", ""), "without a member, silence")
}
