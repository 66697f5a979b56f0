//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/loadtest/internal/report"
	"github.com/roost-server/roost/loadtest/internal/report/reporttest"
	"github.com/roost-server/roost/loadtest/internal/timeline"
)

// finished is a run that ends with a timeline, and what it has printed.
func finished(t *testing.T, tl *timeline.Timeline, args ...string) (out, progress string, err error) {
	t.Helper()
	var o output
	cmd := &cobra.Command{Use: "x", SilenceErrors: true, SilenceUsage: true, RunE: func(cmd *cobra.Command, _ []string) error {
		w, err := o.start(cmd, tl.Account.Nodes)
		if err != nil {
			return err
		}
		_, err = w.Write([]byte("hello\n"))
		require.NoError(t, err)
		for _, p := range tl.Phases {
			o.view.Phase(p.Name, 0)
		}
		for i := range tl.Samples {
			o.view.Sample(&tl.Samples[i])
		}
		return o.finish(cmd, tl)
	}}
	o.flags(cmd)
	var stdout, stderr bytes.Buffer
	cmd.SetOut(&stdout)
	cmd.SetErr(&stderr)
	cmd.SetArgs(args)
	err = cmd.ExecuteContext(context.Background())
	return stdout.String(), stderr.String(), err
}

func TestReportOfARun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	tl := reporttest.Storm("storm", 60, 1)
	tl.Meta.Command = []string{"/home/somebody/bin/loadtest", "run", "storm", "--credential", "s3cret", "--token=s3cret"}
	out, progress, err := finished(t, tl, "--out", dir)
	require.NoError(t, err)
	require.Contains(t, out, "15000 of 15000")
	require.Contains(t, progress, "hello\nphase 1: connect\n")
	require.Contains(t, progress, "drain  connected 0")

	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 3)
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		require.NoError(t, err)
		require.NotContains(t, string(b), "s3cret", f.Name())
		require.NotContains(t, string(b), "somebody", f.Name())
		require.Contains(t, string(b), "--credential", f.Name())
	}
	s, err := report.Load(filepath.Join(dir, summaryFile))
	require.NoError(t, err)
	require.Len(t, s.Samples, 61)

	// Drawn again from either file it is the same page.
	page, err := os.ReadFile(filepath.Join(dir, pageFile))
	require.NoError(t, err)
	for _, from := range []string{dir, filepath.Join(dir, summaryFile), filepath.Join(dir, timelineFile)} {
		again := filepath.Join(dir, "again.html")
		_, said, err := call(t, "report", from, "-o", again)
		require.NoError(t, err)
		require.Equal(t, again+"\n", said)
		b, err := os.ReadFile(again)
		require.NoError(t, err)
		require.Equal(t, string(page), string(b))
	}
	out, _, err = call(t, "report", dir, dir, "-o", "-")
	require.NoError(t, err)
	require.Contains(t, out, "2 runs")
}

func TestReportAsJSON(t *testing.T) {
	tl := reporttest.Storm("storm", 60, 1)
	tl.Problems = []string{"3 jobs have no outcome"}
	out, progress, err := finished(t, tl, "--json")
	require.ErrorIs(t, err, errBad)
	require.ErrorContains(t, err, "3 jobs have no outcome")
	require.Empty(t, progress)
	var s report.Summary
	require.NoError(t, json.Unmarshal([]byte(out), &s))
	require.Equal(t, 1, bytes.Count([]byte(out), []byte("\n")))
	require.Empty(t, s.Samples)
	require.EqualValues(t, reporttest.BytesPerNode, *s.Figures.BytesPerNode)
}

func TestReportMistakes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte("{}"), 0o600))
	_, _, err := finished(t, &timeline.Timeline{}, "--out", filepath.Join(file, "x"))
	require.ErrorContains(t, err, "--out: ")
	for want, args := range map[string][]string{
		"requires at least 1 arg": {"report"},
		"no report":               {"report", file},
		"no such file":            {"report", file + "x"},
	} {
		_, _, err := call(t, args...)
		require.ErrorContains(t, err, want)
	}
	require.NoError(t, os.WriteFile(file, []byte(`{"meta":{}}`), 0o600))
	_, _, err = call(t, "report", file, "-o", filepath.Join(file, "x"))
	require.ErrorContains(t, err, "-o: ")
}
