//go:build !race

package sim

import (
	"fmt"
	"math"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/cluster/link"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// The cluster of docs/SCALE.md.
const (
	members    = 100
	partitions = 1024
	nodes      = 100_000_000
	loops      = 16          // event loops of a member
	delayMs    = 1           // within a data centre, with some queueing
	bitsPerMs  = 1_000_000   // 1 Gbit/s
	everyS     = 300         // each node has a job that often
	commits    = 20          // transactions a second of a member: one in 50 ms
	copies     = 3           // of what Kafka writes
	argBytes   = 64          // of a job
	outBytes   = 128         // of a result
	limit      = time.Minute // for anything to happen
)

// figure is one row of a table of the document.
type figure struct {
	label string
	value float64
	unit  string
	off   float64 // how far the document may be from it, as a part
}

func (f figure) String() string {
	digits := 0
	if f.value < 100 {
		digits = 1
	}
	return fmt.Sprintf("| %s | %s %s |", f.label, strconv.FormatFloat(f.value, 'f', digits, 64), f.unit)
}

// TestFigures holds docs/SCALE.md against what comes out here.
func TestFigures(t *testing.T) {
	var all []figure
	all = append(all, placement(t)...)
	all = append(all, registrations(t)...)
	all = append(all, kafka(t)...)
	doc, err := os.ReadFile("../../docs/SCALE.md")
	require.NoError(t, err)
	for _, f := range all {
		t.Log(f)
		row := regexp.MustCompile(`(?m)^\| ` + regexp.QuoteMeta(f.label) + ` \| ([0-9.,]+) ` + regexp.QuoteMeta(f.unit) + ` \|`).FindSubmatch(doc)
		if row == nil {
			t.Errorf("docs/SCALE.md has no row\n%s", f)
			continue
		}
		says, err := strconv.ParseFloat(strings.ReplaceAll(string(row[1]), ",", ""), 64)
		require.NoError(t, err)
		if math.Abs(says-f.value) > f.off*f.value {
			t.Errorf("docs/SCALE.md says %s, it is now\n%s", row[1], f)
		}
	}
}

// placement is what membership and claims cost.
func placement(t *testing.T) []figure {
	before := heap()
	w, err := New(Config{Members: members, Partitions: partitions, DelayMs: delayMs, Seed: 1})
	require.NoError(t, err)
	c := course{t, w}
	all := c.meet()
	owners := make([]*Member, partitions)
	claimBytes, claimS, known := c.claim(owners)
	packets, bytes := c.rest()
	runtime.KeepAlive(w)
	all = append(all,
		figure{"memory of a member's view", float64(heap()-before) / members / 1e3, "KB", 0.3},
		figure{"all members know all owners, after the last claim", known, "ms", 0.3},
		figure{"bytes that each member sends for the claims", (claimBytes - claimS*bytes) / 1e3, "KB", 0.3},
		figure{"packets that each member sends at rest", packets, "packets/s", 0.1},
		figure{"bytes that each member sends at rest", bytes / 1e3, "KB/s", 0.1},
	)
	all = append(all, c.death(owners)...)
	require.True(t, w.All(func(m *Member) bool { return len(m.Trouble) == 0 }))
	return append(all, figure{"memory of the links to its peers, empty", emptyLinks() / 1e3, "KB", 0.3})
}

// course is what happens to a cluster, step by step.
type course struct {
	t *testing.T
	*World
}

func (c course) until(done func() bool) time.Duration {
	took, err := c.Until(limit, done)
	require.NoError(c.t, err)
	return took
}

// sent is what each member has sent so far.
func (c course) sent() (packets, bytes float64) {
	p, b := c.Sent()
	return float64(p) / members, float64(b) / members
}

func (c course) meet() []figure {
	c.until(func() bool { return c.Now >= 1000 })
	met := c.until(func() bool { return c.All(func(m *Member) bool { return m.Peers == members-1 }) })
	packets, bytes := c.sent()
	return []figure{
		{"all members see all others, after the last one's start", met.Seconds(), "s", 0.15},
		{"packets that each member sends until then", packets, "packets", 0.15},
		{"bytes that each member sends until then", bytes / 1e3, "KB", 0.15},
	}
}

// claim is as when Kafka deals the partitions out and the shards are ready within two
// seconds.
func (c course) claim(owners []*Member) (bytes, tookS, knownMs float64) {
	_, before := c.sent()
	began := c.Now
	for i, p := range c.rnd.Perm(partitions) {
		at := began + int64(i)*2000/partitions
		c.until(func() bool { return c.Now >= at })
		owners[p] = c.Members[p%members]
		c.Claim(owners[p], uint32(p))
	}
	known := c.until(func() bool { return c.All(func(m *Member) bool { return m.Owned == partitions }) })
	_, after := c.sent()
	return after - before, float64(c.Now-began) / 1000, float64(known.Milliseconds())
}

// rest is each member's traffic in a second when nothing happens.
func (c course) rest() (packets, bytes float64) {
	const forS = 10
	calm := c.Now + 2000
	c.until(func() bool { return c.Now >= calm })
	p, b := c.sent()
	c.until(func() bool { return c.Now >= calm+forS*1000 })
	packets, bytes = c.sent()
	return (packets - p) / forS, (bytes - b) / forS
}

func (c course) death(owners []*Member) []figure {
	dead := c.Members[17]
	c.Kill(dead)
	down := c.until(func() bool { return c.All(func(m *Member) bool { return m.Peers == members-2 }) })
	require.True(c.t, c.All(func(m *Member) bool { return m.Owned < partitions }))
	heir := 50
	for p, o := range owners {
		if o == dead {
			heir++
			c.Claim(c.Members[heir], uint32(p))
		}
	}
	known := c.until(func() bool { return c.All(func(m *Member) bool { return m.Owned == partitions }) })
	return []figure{
		{"all members know that one is dead", down.Seconds(), "s", 0.15},
		{"all members know its partitions' new owners, after their claims", float64(known.Milliseconds()), "ms", 0.3},
	}
}

func emptyLinks() float64 {
	links := make([]*link.Link, members-1)
	before := heap()
	for i := range links {
		links[i] = link.New(link.Config{Self: 1, Peer: uint64(i) + 2})
	}
	after := heap()
	runtime.KeepAlive(links)
	return float64(after - before)
}

// registrations is what a partition's move costs.
func registrations(t *testing.T) []figure {
	m := register(t, nodes/partitions, members-1, loops, delayMs, bitsPerMs)
	require.Zero(t, m.resent)
	own := float64(nodes/members) * m.heapNode
	return []figure{
		{"nodes of a partition", float64(m.nodes), "nodes", 0.01},
		{"bytes of a registration between members", float64(m.bytes) / float64(m.nodes), "bytes", 0.1},
		{"bytes that the new owner of a partition is sent", float64(m.bytes) / 1e6, "MB", 0.1},
		{"time that they take on a network of 1 Gbit/s", float64(m.ms), "ms", 0.2},
		{"memory of a registered node in its shard", m.heapNode, "bytes", 0.3},
		{"memory of all that are registered at a member's shards", own / 1e6, "MB", 0.3},
	}
}

// kafka is what Kafka has to carry.
func kafka(t *testing.T) []figure {
	job := record.Job{
		ID: "01JD0Z8Q4W2N5R7T9V1X3Y5A7C", Kind: "http", Target: record.Target{Node: "node-000000000000001"},
		Args: append([]byte{0xc4, argBytes}, make([]byte, argBytes)...), Timeout: 30 * time.Second, Tenant: "tenant",
	}
	jobBytes, err := record.AppendJob(nil, &job)
	require.NoError(t, err)
	var rw record.ResultWriter
	resultBytes, err := rw.Append(nil, record.Msgpack, &record.Result{
		Job: job.ID, Node: job.Target.Node, Outcome: protocol.OutcomeOK, Attempt: 1, Kind: job.Kind, Tenant: job.Tenant,
		DurationUs: 150_000, Output: append([]byte{0xc4, outBytes}, make([]byte, outBytes)...),
		JobMs: epoch, TimeMs: epoch + 200, Member: "member-017", Partition: 513, Offset: 123_456_789,
	})
	require.NoError(t, err)
	// Beside its value a record has its key and some bytes (KIP-98: lengths, deltas, headers).
	const around = 12
	jobRecord := float64(len(jobBytes) + len(job.Target.Node) + around)
	resultRecord := float64(len(resultBytes) + len(job.ID) + around)
	rate := float64(nodes) / everyS
	written := rate * (jobRecord + resultRecord)
	return []figure{
		{"jobs a second, one for each node in 5 minutes", rate, "jobs/s", 0.01},
		{"jobs a second for each member", rate / members, "jobs/s", 0.01},
		{"bytes of a job's record", jobRecord, "bytes", 0.05},
		{"bytes of a result's record", resultRecord, "bytes", 0.05},
		{"bytes that Kafka is sent", written / 1e6, "MB/s", 0.05},
		{"bytes that its brokers write, with three copies", copies * written / 1e6, "MB/s", 0.05},
		{"bytes that members read", rate * jobRecord / 1e6, "MB/s", 0.05},
		{"transactions a second", commits * members, "transactions/s", 0.01},
		{"jobs in a transaction", rate / members / commits, "jobs", 0.01},
	}
}
