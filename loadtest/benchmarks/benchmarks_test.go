//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/roost-server/roost/loadtest/internal/report"
	"github.com/roost-server/roost/loadtest/internal/report/reporttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// programs builds what is measured, and what measures.
func programs(t *testing.T) (flags []string) {
	t.Helper()
	dir := t.TempDir()
	for name, pkg := range map[string]string{"roost": "cmd/roost", "loadtest": "loadtest"} {
		file := filepath.Join(dir, name)
		out, err := exec.Command("go", "build", "-o", file, "github.com/roost-server/roost/"+pkg).CombinedOutput()
		require.NoError(t, err, "%s", out)
		flags = append(flags, "--"+name, file)
	}
	return flags
}

// children are the processes that this one has.
func children(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("/proc/self/task/*/children")
	require.NoError(t, err)
	all := ""
	for _, f := range files {
		b, _ := os.ReadFile(f) // a thread may end
		all += string(b)
	}
	return strings.TrimSpace(all)
}

func TestBenchmarks(t *testing.T) {
	flags := programs(t)
	t.Run("a run leaves its reports", func(t *testing.T) {
		out := filepath.Join(t.TempDir(), "reports")
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		args := append(flags, "--out", out, "--nodes", "50", "--only", "hold", "--set", "hold.duration=6s", "--", "--partitions", "2")
		require.NoError(t, run(ctx, args))
		require.Empty(t, children(t))
		var names []string
		files, err := os.ReadDir(out)
		require.NoError(t, err)
		for _, f := range files {
			names = append(names, f.Name())
			b, err := os.ReadFile(filepath.Join(out, f.Name()))
			require.NoError(t, err)
			require.Less(t, len(b), 400_000)
			host, err := os.Hostname()
			require.NoError(t, err)
			for _, private := range []string{out, "roost-benchmarks-", host} {
				require.NotContains(t, string(b), private, f.Name())
			}
		}
		require.Equal(t, []string{"README.md", "hold.html", "hold.json", "index.html"}, names)
		r, err := report.Load(filepath.Join(out, "hold.json"))
		require.NoError(t, err)
		require.Equal(t, 50, r.Account.Connected)
		require.NotNil(t, r.Figures.BytesPerNode)
		require.Equal(t, []string{"bin/loadtest", "run", "hold", "--nodes", "50", "--set", "hold.duration=6s"}, r.Meta.Command)
	})
	t.Run("Ctrl-C leaves nothing running", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			done <- run(ctx, append(flags, "--out", t.TempDir(), "--nodes", "20", "--only", "hold,ramp", "--set", "hold.duration=1h"))
		}()
		require.Eventually(t, func() bool { return len(strings.Fields(children(t))) == 3 }, time.Minute, 50*time.Millisecond)
		cancel()
		select {
		case err := <-done:
			require.ErrorContains(t, err, "interrupted")
		case <-time.After(time.Minute):
			t.Fatal("it goes on")
		}
		require.Empty(t, children(t))
	})
	t.Run("a server that cannot start", func(t *testing.T) {
		err := run(context.Background(), append(flags, "--out", t.TempDir(), "--only", "hold", "--", "--partitions", "-1"))
		require.ErrorContains(t, err, "hold: the server ended before it was up")
		require.ErrorContains(t, err, "Partitions is -1")
		require.Empty(t, children(t))
	})
}

func TestMistakes(t *testing.T) {
	for want, args := range map[string][]string{
		`there is no "fast"; there are hold, ramp`: {"--only", "fast"},
		"--soak: 1ms":  {"--soak", "1ms"},
		"--out: ":      {"--out", "/dev/null/x"},
		"unknown flag": {"--fast"},
	} {
		require.ErrorContains(t, run(context.Background(), args), want)
	}
}

func TestPlan(t *testing.T) {
	todo, err := chosen([]string{"soak", "jobs"})
	require.NoError(t, err)
	require.Equal(t, "jobs", todo[0].name)
	require.Equal(t, "soak", todo[1].name)
	seen := map[string]bool{}
	for _, n := range names() {
		require.False(t, seen[n], n)
		seen[n] = true
	}
	s := session{out: t.TempDir(), soak: 90 * time.Minute, nodes: 7, set: []string{"a=b"}}
	require.Equal(t, []string{"run", "soak", "--nodes", "7", "--set", "a=b", "--set", "warm-up.duration=5m0s", "--set", "soak.duration=1h30m0s"}, s.settings(&todo[1]))
	put(t, s.out, "jobs")
	require.Equal(t, []string{"run", "soak", "--nodes", "7", "--set", "a=b", "--set", "jobs.rate=10000", "--set", "warm-up.duration=5m0s", "--set", "soak.duration=1h30m0s"}, s.settings(&todo[1]))
}

// put writes a known run into a folder.
func put(t *testing.T, dir, name string) {
	t.Helper()
	r, err := report.Summarize(reporttest.Storm(name, 70, 1))
	require.NoError(t, err)
	b, err := json.Marshal(r)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, name+".json"), b, 0o600))
}

// TestIndexIsOfAllThereIs also of reports that an earlier call has left.
func TestIndexIsOfAllThereIs(t *testing.T) {
	s := session{out: t.TempDir()}
	require.NoError(t, s.index())
	files, err := os.ReadDir(s.out)
	require.NoError(t, err)
	require.Empty(t, files)
	put(t, s.out, "storm")
	put(t, s.out, "jobs")
	require.NoError(t, os.WriteFile(filepath.Join(s.out, "peers.md"), nil, 0o600))
	require.NoError(t, s.index())
	b, err := os.ReadFile(filepath.Join(s.out, "README.md"))
	require.NoError(t, err)
	text := string(b)
	require.Contains(t, text, "| [jobs](jobs.html) | jobs in a closed loop: as many as the machine does | 15000 | 5000 | 20000 |")
	require.Less(t, strings.Index(text, "[jobs]"), strings.Index(text, "[storm]"))
	require.Contains(t, text, "Example Processor 9000, 2 cores, 16 GiB")
	require.Contains(t, text, "peers.md")
	rows := 0
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "|") {
			require.Equal(t, 14, strings.Count(line, "|"), fmt.Sprint(line))
			rows++
		}
	}
	require.Equal(t, 4, rows)
	require.NoError(t, os.WriteFile(filepath.Join(s.out, "hold.json"), []byte("{}"), 0o600))
	require.ErrorContains(t, s.index(), "hold.json: no report")
}
