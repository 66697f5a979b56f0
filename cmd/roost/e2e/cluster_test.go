//go:build linux

package e2e

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// memberView is a member as /v1/members shows it.
type memberView struct {
	Name, State, Reason string
	Nodes               int
	Partitions          []int32
	Drain               *struct {
		Told    int
		EndedMs int64 `json:"ended_ms"`
	}
}

// members returns those that a member knows, by name.
func (m *member) members() map[string]memberView {
	m.t.Helper()
	var list struct{ Members []memberView }
	require.Equal(m.t, http.StatusOK, m.get("/v1/members", &list))
	out := map[string]memberView{}
	for _, v := range list.Members {
		out[v.Name] = v
	}
	return out
}

// owners returns how many partitions have an owner that serves, as a member sees it.
func (m *member) owners() (n int) {
	m.t.Helper()
	for _, v := range m.members() {
		if v.State == "serving" {
			n += len(v.Partitions)
		}
	}
	return n
}

// serveThree starts three members that trust each other by certificates.
func (c *cluster) serveThree() (all []*member) {
	c.t.Helper()
	dir := filepath.Join(c.t.TempDir(), "certs")
	r := command(c.t, "certs", "ca", "--dir", dir)
	require.Equal(c.t, 0, r.code, "%s%s", r.out, r.err)
	for i := range 3 {
		name := fmt.Sprintf("m%d", i+1)
		r := command(c.t, "certs", "member", name, "--dir", dir)
		require.Equal(c.t, 0, r.code, "%s%s", r.out, r.err)
		all = append(all, c.serve("--name", name, "--cluster-listen", "127.0.0.1:0", "--cluster-tls-ca", dir+"/ca.crt",
			"--cluster-tls-cert", dir+"/"+name+".crt", "--cluster-tls-key", dir+"/"+name+".key"))
	}
	for _, m := range all {
		eventually(c.t, patience, text("the members do not find each other"), func() bool {
			all := m.members()
			for _, v := range all {
				if len(v.Partitions) == 0 {
					return false // it is to have its share still
				}
			}
			return len(all) == 3 && m.owners() == 4
		})
	}
	return all
}

// TestClusterOfThree has jobs enter at every member for nodes at every member, then one
// member drained, and one killed: each job has its outcome once, and each question its
// answer, wherever it is asked.
func TestClusterOfThree(t *testing.T) {
	onEachBroker(t, func(t *testing.T, b broker) {
		c := newCluster(t, b)
		all := c.serveThree()
		for i, m := range all {
			startNode(t, m, fmt.Sprintf("at-m%d", i+1))
		}
		results := c.read("results")
		expected := 0
		for i, m := range all {
			eventually(t, patience, text("not all nodes are known everywhere"), func() bool {
				return strings.Count(m.roost("nodes").out, "at-m") == 3
			})
			for k := range all {
				id := fmt.Sprintf("from-m%d-to-m%d", i+1, k+1)
				status, _ := m.submit(map[string]any{"id": id, "kind": "tcp", "ttl_ms": 60_000,
					"target": map[string]any{"node": fmt.Sprintf("at-m%d", k+1)}, "args": map[string]any{"address": m.nodes}})
				require.Equal(t, http.StatusAccepted, status)
				expected++
				require.Equal(t, "ok", results.result(id)["outcome"])
				for _, o := range all {
					require.Equal(t, http.StatusOK, o.get("/v1/jobs/"+id, nil))
					again, _ := o.submit(map[string]any{"id": id, "kind": "tcp", "target": map[string]any{"node": "at-m1"}})
					require.Equal(t, http.StatusOK, again, "a repeated id, asked of another member")
				}
			}
			r := m.roost("run", "tcp", m.nodes, "--count", "3")
			require.Equal(t, 0, r.code, "%s%s", r.out, r.err)
			require.Contains(t, r.out, "3 outcomes: 3 ok")
			expected += 3
		}

		drainOf(t, all[0], all[1])
		expected++
		kill(t, all[0], all[2])
		r := all[0].roost("run", "tcp", all[0].nodes, "--count", "1")
		require.Equal(t, 0, r.code, "%s%s", r.out, r.err)
		expected++
		results.await(expected, patience)
		results.once(expected)
		for _, m := range all[:2] {
			m.stop(interrupt)
		}
	})
}

// drainOf drains a member by asking another one, and has it serve again.
func drainOf(t *testing.T, asked, drained *member) {
	r := asked.roost("drain", "m2", "--wait")
	require.Equal(t, 0, r.code, "%s%s", r.out, r.err)
	v := asked.members()["m2"]
	require.Equal(t, "draining", v.State)
	require.Zero(t, v.Nodes)
	require.Empty(t, v.Partitions)
	require.Equal(t, http.StatusServiceUnavailable, drained.get("/readyz", nil))
	eventually(t, patience, text("the drained member's node is nowhere"), func() bool {
		return asked.metric("roost_sessions") >= 1 && strings.Count(asked.roost("nodes").out, "at-m") == 3
	})
	eventually(t, patience, text("partitions without an owner"), func() bool { return asked.owners() == 4 })
	r = asked.roost("run", "tcp", asked.nodes, "--node", "at-m2")
	require.Equal(t, 0, r.code, "%s%s", r.out, r.err)
	r = asked.roost("drain", "m2", "--cancel")
	require.Equal(t, 0, r.code, "%s%s", r.out, r.err)
	eventually(t, patience, text("it does not serve again"), func() bool {
		return drained.get("/readyz", nil) == http.StatusOK && len(asked.members()["m2"].Partitions) > 0
	})
}

// kill ends a member with SIGKILL, and waits until the others have what it had.
func kill(t *testing.T, other, killed *member) {
	killed.kill()
	eventually(t, patience, text("the killed member's partitions have no owner"), func() bool {
		v := other.members()["m3"]
		return v.State == "down" && other.owners() == 4
	})
}
