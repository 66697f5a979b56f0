//go:build linux

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/loadtest/internal/live"
	"github.com/roost-server/roost/loadtest/internal/report"
	"github.com/roost-server/roost/loadtest/internal/report/page"
	"github.com/roost-server/roost/loadtest/internal/timeline"
)

// The files that a run leaves in its --out folder.
const (
	timelineFile = "timeline.json"
	summaryFile  = "summary.json"
	pageFile     = "report.html"
)

// output is how a run is shown: while it goes on, at its end, and in files.
type output struct {
	json bool
	dir  string
	view *live.View
}

// flags adds the flags --json and --out.
func (o *output) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&o.json, "json", false, "print one line of JSON, and no progress")
	f.StringVar(&o.dir, "out", "", "folder for "+timelineFile+", "+summaryFile+" and "+pageFile)
}

// start checks what can be checked before the run, and begins the live view: feed it by
// o.view.Phase and o.view.Sample. Text for people goes to the writer that it returns,
// which keeps it apart from the view.
func (o *output) start(cmd *cobra.Command, nodes int) (io.Writer, error) {
	if o.dir != "" {
		if err := os.MkdirAll(o.dir, 0o755); err != nil {
			return nil, fmt.Errorf("--out: %w", err)
		}
	}
	if o.json {
		return io.Discard, nil
	}
	w := cmd.ErrOrStderr()
	o.view = live.New(w, live.IsTerminal(w))
	o.view.Nodes(nodes)
	return o.view, nil
}

// finish ends the view, writes the files, prints the summary, and returns the verdict:
// an error that wraps errBad when the run found problems.
func (o *output) finish(cmd *cobra.Command, t *timeline.Timeline) error {
	o.view.Close()
	t.Meta.Command = shareable(t.Meta.Command)
	s, err := report.Summarize(t)
	if err != nil {
		return err
	}
	if err := o.write(t, s); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	if o.json {
		s.Samples = nil // one line is for figures
		err = report.JSON(cmd.OutOrStdout(), s)
	} else {
		err = s.Table(cmd.OutOrStdout())
	}
	if err != nil {
		return err
	}
	return verdict(t.Problems...)
}

// secret are the flags whose value stays out of reports.
var secret = []string{"--credential", "--token"}

// shareable is a command without secrets, and without the folder of its program.
func shareable(command []string) []string {
	c := slices.Clone(command)
	for i := range c {
		name, _, joined := strings.Cut(c[i], "=")
		switch {
		case i == 0:
			c[i] = filepath.Base(c[i])
		case joined && slices.Contains(secret, name):
			c[i] = name + "=..."
		case slices.Contains(secret, c[i]) && i+1 < len(c):
			c[i+1] = "..."
		}
	}
	return c
}

// write makes the files of --out.
func (o *output) write(t *timeline.Timeline, s *report.Summary) error {
	if o.dir == "" {
		return nil
	}
	for name, v := range map[string]any{timelineFile: t, summaryFile: s} {
		if err := report.Create(filepath.Join(o.dir, name), func(w io.Writer) error { return report.JSON(w, v) }); err != nil {
			return err
		}
	}
	return report.Create(filepath.Join(o.dir, pageFile), func(w io.Writer) error {
		return page.Render(w, []*report.Summary{s})
	})
}

// reportCommand draws what runs have written.
func reportCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "report FILE...",
		Short: "Draw an HTML page of what runs have written with --out; of several, compare them",
		Long: `Draw an HTML page of what runs have written with --out. Each FILE is a timeline.json,
a summary.json, or a folder that has them. Several are put on one page, to compare.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var runs []*report.Summary
			for _, name := range args {
				s, err := report.Load(name)
				if err != nil {
					return err
				}
				runs = append(runs, s)
			}
			draw := func(w io.Writer) error { return page.Render(w, runs) }
			if out == "-" {
				return draw(cmd.OutOrStdout())
			}
			if err := report.Create(out, draw); err != nil {
				return fmt.Errorf("-o: %w", err)
			}
			fmt.Fprintln(cmd.ErrOrStderr(), out)
			return nil
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "report.html", "the page; - is standard output")
	return cmd
}
