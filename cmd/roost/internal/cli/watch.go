package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/cmd/roost/internal/client"
	"github.com/roost-server/roost/protocol"
)

// watch follows one job and prints its outcomes as they arrive. It belongs to one goroutine.
type watch struct {
	g       *Globals
	c       *client.Client
	id      string
	json    bool
	targets int      // how many outcomes are due; 0 until known
	nodes   []string // which nodes they are of, where that is known
	hide    func(outcome string) bool

	rows    *rows
	began   time.Time
	results []api.ResultView
	printed map[uint32]bool // by index, over all streams, each of which begins anew
	job     *api.JobView    // the job, when it is done
	report  string          // the latest progress
}

func newWatch(g *Globals, c *client.Client, id string, asJSON bool) *watch {
	return &watch{
		g: g, c: c, id: id, json: asJSON, began: time.Now(), printed: map[uint32]bool{},
		rows: &rows{g: g, c: c, json: asJSON},
	}
}

// Delays before a broken stream is opened again.
const (
	firstRetry = 200 * time.Millisecond
	lastRetry  = 3 * time.Second
)

// follow prints outcomes until the job is done (nil), or returns why not: the cause of ctx, or an error
// that trying again does not mend. It closes the stream, and opens another when it breaks.
func (w *watch) follow(ctx context.Context, stream *client.Stream) error {
	delay := firstRetry
	for {
		n := len(w.results)
		err := w.read(ctx, stream)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !errors.As(err, new(*client.StreamError)):
			return err // not understood, which another stream does not mend
		}
		if len(w.results) > n {
			delay = firstRetry
		}
		w.rows.note("%v; following again", err)
		for {
			select {
			case <-time.After(delay):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			delay = min(2*delay, lastRetry)
			if stream, err = w.c.Follow(ctx, w.id); err == nil {
				break
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if !mends(err) {
				return err
			}
		}
	}
}

// mends is whether trying again may help.
func mends(err error) bool {
	var unreachable *client.Unreachable
	var p *client.Problem
	return errors.As(err, &unreachable) || errors.As(err, &p) && p.Status >= 500
}

type received struct {
	ev  client.Event
	err error
}

// read prints the outcomes of one stream and closes it.
func (w *watch) read(ctx context.Context, stream *client.Stream) error {
	events, stop := make(chan received), make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			ev, err := stream.Next()
			select {
			case events <- received{ev, err}:
			case <-stop:
				return
			}
			if err != nil || ev.Type == api.EventDone {
				return
			}
		}
	}()
	defer func() {
		close(stop)
		_ = stream.Close() // or Next would wait
		<-ended
		w.rows.clearProgress()
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		w.showProgress()
		select {
		case r := <-events:
			if r.err != nil {
				return r.err
			}
			if w.take(ctx, &r.ev) {
				return nil
			}
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// take handles one event, and reports whether it is the last.
func (w *watch) take(ctx context.Context, ev *client.Event) bool {
	switch {
	case ev.Result != nil:
		r := *ev.Result
		if w.printed[r.Index] {
			return false // of the stream before
		}
		w.printed[r.Index] = true
		w.results = append(w.results, r)
		if w.hide == nil || !w.hide(r.Outcome) {
			w.rows.print(ctx, &r)
		}
	case ev.Progress != nil:
		w.report = fmt.Sprintf("%s: %s", ev.Progress.Node, ev.Progress.Data)
	case ev.Job != nil:
		w.targets = ev.Job.Targets
		if ev.Type == api.EventDone {
			w.job = ev.Job
			return true
		}
	}
	return false
}

func (w *watch) showProgress() {
	text := fmt.Sprintf("waiting: %s", plural(len(w.results), "outcome"))
	if w.targets > 0 {
		text = fmt.Sprintf("waiting: %d of %s", len(w.results), plural(w.targets, "outcome"))
	}
	text += ", " + formatAge(time.Since(w.began))
	if w.report != "" {
		text += ", " + shorten(clean(w.report), 40)
	}
	w.rows.progress(text)
}

// counts are the outcomes so far.
func (w *watch) counts() map[string]int {
	counts := map[string]int{}
	for i := range w.results {
		counts[w.results[i].Outcome]++
	}
	return counts
}

// finish prints the summary and returns the command's error: nil when everything is ok.
func (w *watch) finish() error {
	if !w.json {
		w.summary()
	}
	if w.job != nil && len(w.results) < w.job.Targets {
		return &ExitError{Code: exitNotOK, Err: fmt.Errorf("the member no longer holds %d of %s of job %s; the results topic has all of them",
			w.job.Targets-len(w.results), plural(w.job.Targets, "outcome"), w.id)}
	}
	if n := w.counts()[protocol.OutcomeOK.String()]; n < len(w.results) || n == 0 {
		return &ExitError{Code: exitNotOK}
	}
	return nil
}

func (w *watch) summary() {
	if len(w.results) > 0 {
		fmt.Fprintln(w.g.Out)
	}
	fmt.Fprintf(w.g.Out, "%s: %s\n", plural(len(w.results), "outcome"), formatOutcomes(w.counts()))
	var took []float64
	for i := range w.results {
		if d := w.results[i].DurationMs; d > 0 {
			took = append(took, d)
		}
	}
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	fmt.Fprintf(w.g.Out, "duration: min %s, median %s, p99 %s\n",
		formatMs(took[0]), formatMs(percentile(took, 50)), formatMs(percentile(took, 99)))
}

// percentile is the nearest rank of sorted values.
func percentile(sorted []float64, p int) float64 {
	rank := (p*len(sorted) + 99) / 100
	return sorted[max(rank, 1)-1]
}

// missing says which outcomes have not come.
func (w *watch) missing() string {
	n := w.targets - len(w.results)
	if w.targets == 0 {
		return "the job's outcomes are missing: the member has not seen the job"
	}
	text := fmt.Sprintf("%d of %s missing", n, plural(w.targets, "outcome"))
	if n == 1 && w.targets == 1 {
		text = "the outcome is missing"
	}
	var late []string
	for _, id := range w.nodes {
		if !slices.ContainsFunc(w.results, func(r api.ResultView) bool { return r.Node == id }) {
			late = append(late, id)
		}
	}
	const most = 10
	if len(late) > most {
		late = append(late[:most], fmt.Sprintf("and %d more", len(late)-most))
	}
	if len(late) > 0 {
		text += " (" + strings.Join(late, ", ") + ")"
	}
	return text
}

// excuse says why outcomes are missing, if the member knows.
func (w *watch) excuse(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	_, err := w.c.Job(ctx, w.id)
	if p, rebuilding := client.IsRebuilding(err); rebuilding {
		return ": " + rebuildingText(p.Rebuilding)
	}
	return ""
}

// resultLine is an outcome as --json prints it.
type resultLine struct {
	Job        string          `json:"job"`
	Node       string          `json:"node"`
	Index      uint32          `json:"index"`
	Outcome    string          `json:"outcome"`
	Attempt    uint32          `json:"attempt"`
	DurationMs float64         `json:"duration_ms"`
	Output     json.RawMessage `json:"output"`
	Error      string          `json:"error"`
}

func lineOf(r *api.ResultView) resultLine {
	return resultLine{r.Job, r.Node, r.Index, r.Outcome, r.Attempt, r.DurationMs, r.Output, r.Error}
}
