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
			cmd := exec.Command(chaos, "run", "--roost", roost, "--only", c.fault, "--faults", "4", "--seed", "7")
			cmd.Env = append(os.Environ(), "SABOTAGE="+c.sabotage, "TMPDIR="+dir)
			out, err := cmd.Output()
			require.Error(t, err, "the checker is content: %s", out)
			lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
			var verdict map[string]any
			require.NoError(t, json.Unmarshal(lines[len(lines)-1], &verdict), "%s", out)
			require.Greater(t, verdict[c.finds], 0.0, "%s", out)
		})
	}
}
