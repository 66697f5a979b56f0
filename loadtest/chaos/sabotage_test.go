//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTheCheckerFindsABrokenCommitter runs the server with its committer broken on
// purpose, and sees the checker report what comes of it.
func TestTheCheckerFindsABrokenCommitter(t *testing.T) {
	dir := t.TempDir()
	roost, chaos := filepath.Join(dir, "roost"), filepath.Join(dir, "chaos")
	build := func(args ...string) {
		out, err := exec.Command("go", append([]string{"build"}, args...)...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	build("-tags", "roost_sabotage", "-o", roost, "github.com/roost-server/roost/cmd/roost")
	build("-o", chaos, "github.com/roost-server/roost/loadtest/chaos")
	for _, c := range []struct{ sabotage, fault, finds string }{
		{"offsets-first", "member killed", "lost"},
		{"no-fencing", "member frozen past its session", "duplicates"},
	} {
		t.Run(c.sabotage, func(t *testing.T) {
			t.Parallel()
			// Whether a fault hits the moment that matters is chance: on a busy machine not each seed does.
			for _, seed := range []string{"8", "7", "9", "10"} {
				if judge(t, dir, c.sabotage, c.fault, seed)[c.finds].(float64) > 0 {
					return
				}
			}
			t.Fatalf("the checker is content with a committer that is broken by %s", c.sabotage)
		})
	}
}

// judge runs a few faults and returns the checker's verdict.
func judge(t *testing.T, dir, sabotage, fault, seed string) map[string]any {
	cmd := exec.Command(filepath.Join(dir, "chaos"), "run", "--roost", filepath.Join(dir, "roost"),
		"--only", fault, "--faults", "4", "--seed", seed)
	cmd.Env = append(os.Environ(), "SABOTAGE="+sabotage, "TMPDIR="+dir)
	out, err := cmd.Output()
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	var verdict map[string]any
	require.NoError(t, json.Unmarshal(lines[len(lines)-1], &verdict), "%s", out)
	bad := verdict["lost"].(float64) + verdict["duplicates"].(float64) + verdict["wrong"].(float64)
	require.Equal(t, bad > 0, err != nil, "the exit code is not the verdict: %v: %s", err, out)
	t.Logf("%s, seed %s: lost %v, duplicates %v, wrong %v", sabotage, seed, verdict["lost"], verdict["duplicates"], verdict["wrong"])
	return verdict
}
