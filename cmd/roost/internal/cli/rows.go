package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/cmd/roost/internal/client"
)

// rows prints outcomes one by one: as aligned columns, whose widths have to be fixed before the last
// one is known, or as lines of JSON.
type rows struct {
	g     *Globals
	c     *client.Client
	json  bool
	width int // of the column for nodes

	begun   bool
	where   map[string]string // places of nodes, where asked for
	noWhere bool              // the API did not say; do not ask again
	shown   bool              // a line of progress is on the terminal
}

const (
	minNodeWidth = 12
	maxNodeWidth = 40
	whereWidth   = 18
	// maxLookups caps the nodes whose place is asked for.
	maxLookups    = 200
	lookupTimeout = 500 * time.Millisecond
)

// fit makes room for the ids that are known before.
func (r *rows) fit(nodes ...string) {
	for _, id := range nodes {
		r.width = min(max(r.width, len(id)), maxNodeWidth)
	}
}

func (r *rows) print(ctx context.Context, v *api.ResultView) {
	r.clearProgress()
	if r.json {
		printJSON(r.g.Out, lineOf(v))
		return
	}
	if !r.begun {
		r.begun = true
		r.fit(v.Node)
		r.width = max(r.width, minNodeWidth)
		r.columns("NODE", "WHERE", "OUTCOME", "DURATION", "DETAIL")
	}
	r.columns(orDash(v.Node), orDash(r.place(ctx, v.Node)), clean(v.Outcome), formatMs(v.DurationMs), detail(v))
}

func (r *rows) columns(node, where, outcome, duration, detail string) {
	line := fmt.Sprintf("%-*s  %-*s  %-9s  %9s  %s", r.width, node, whereWidth, shorten(where, whereWidth), outcome, duration, detail)
	fmt.Fprintln(r.g.Out, strings.TrimRight(line, " "))
}

// place tells where a node is, if the API knows. It is a convenience and never an error.
func (r *rows) place(ctx context.Context, node string) string {
	if node == "" || r.noWhere {
		return ""
	}
	if at, ok := r.where[node]; ok {
		return at
	}
	if len(r.where) >= maxLookups {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	n, err := r.c.Node(ctx, node)
	if err != nil && !client.IsNotFound(err) {
		r.noWhere = true
		return ""
	}
	if r.where == nil {
		r.where = map[string]string{}
	}
	r.where[node] = strings.TrimSpace(n.Country + " " + n.City)
	return r.where[node]
}

// note tells a person something that is not a result.
func (r *rows) note(format string, args ...any) {
	r.clearProgress()
	fmt.Fprintf(r.g.Err, "roost: %s\n", clean(fmt.Sprintf(format, args...)))
}

// The terminal's commands to return to the start of the line and clear it (ECMA-48).
const clearLine = "\r\x1b[K"

func (r *rows) progress(text string) {
	if r.json || !r.g.isTerminal(r.g.Err) {
		return
	}
	r.shown = true
	fmt.Fprint(r.g.Err, clearLine+text)
}

func (r *rows) clearProgress() {
	if r.shown {
		r.shown = false
		fmt.Fprint(r.g.Err, clearLine)
	}
}

// printJSON prints a value as one line.
func printJSON(w io.Writer, v any) {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		fmt.Fprintf(w, "{\"error\":%q}\n", err.Error())
	}
}
