package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"

	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/cmd/roost/internal/client"
	"github.com/roost-server/roost/protocol/record"
)

// runOptions are the flags that all kinds share.
type runOptions struct {
	nodes    []string
	country  string
	city     string
	asn      uint32
	tags     []string
	platform string
	count    uint32
	timeout  time.Duration
	ttl      time.Duration
	before   moment // not before
	deadline moment // instead of ttl
	attempts uint32
	backoff  time.Duration
	priority uint8
	tenant   string
	id       string
	args     string
	json     bool
}

const runLong = `Run a job on nodes, and show the outcomes as they arrive.

The job goes to one node that fits the filters, or to as many as --count says, or to those that
--node names. The kinds http, tcp, udp, dns, ping and traceroute have flags of their own; see
"roost run http --help". Any other kind gets its arguments with --args.

Ctrl-C ends the watching, not the job: "roost jobs cancel ID" cancels it, and "roost jobs ID --follow"
watches it again.

With --id the job is run once only, however often the command is repeated: the outcomes of the first
are shown then.

The exit code is 0 when every outcome is ok, 1 when some are not or are missing, 2 when the job could
not be run, and 130 after Ctrl-C.`

const runExample = `  roost run http https://example.com
  roost run http https://example.com/health --expect-status 200 --max-latency 500ms --count 5 --country AU
  roost run tcp example.com:443 --node sydney-1 --node sydney-2
  roost run dns example.com --type MX --count 20 --json
  roost run ping example.com --asn 1221
  roost run com.example.backup --args '{"path":"/data"}' --tag storage --id backup-2026-12-24 \
      --not-before 22:00 --ttl 4h --timeout 30m --attempts 3 --backoff 1m`

// NewRun makes the command that runs a job.
func NewRun(g *Globals) *cobra.Command {
	o := &runOptions{}
	cmd := prepare(&cobra.Command{
		Use:     "run KIND [ARGUMENTS] [FLAGS]",
		Short:   "Run a job on nodes and show the outcomes",
		Long:    runLong,
		Example: runExample,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return errors.New("which kind of job? Such as: roost run http https://example.com")
			case len(args) > 1:
				return fmt.Errorf("the kind %q gets its arguments with --args, as JSON", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return runJob(cmd.Context(), g, o, args[0], json.RawMessage(o.args))
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	})
	g.Bind(cmd)
	o.bind(cmd, g)
	for _, sub := range kindCommands(g, o) {
		cmd.AddCommand(prepare(sub))
	}
	return cmd
}

func (o *runOptions) bind(cmd *cobra.Command, g *Globals) {
	f := cmd.PersistentFlags()
	f.StringArrayVar(&o.nodes, "node", nil, "run on the node with this id; may be given more than once")
	f.StringVar(&o.country, "country", "", "run on nodes in this country, such as AU")
	f.StringVar(&o.city, "city", "", "run on nodes in this city")
	f.Uint32Var(&o.asn, "asn", 0, "run on nodes in this autonomous system")
	f.StringArrayVar(&o.tags, "tag", nil, "run on nodes with this tag; all of them when given more than once")
	f.StringVar(&o.platform, "platform", "", "run on nodes of this platform, such as linux/arm64")
	f.Uint32Var(&o.count, "count", 1, "run on this many of the nodes that fit")
	f.DurationVar(&o.timeout, "timeout", 10*time.Second, "of one attempt, on the node")
	f.DurationVar(&o.ttl, "ttl", 30*time.Second, "how long the job may wait for its nodes, counted from --not-before")
	f.Var(&o.deadline, "deadline", "until when the job may wait, instead of --ttl: "+momentHelp)
	f.Var(&o.before, "not-before", "when the job may start, "+momentHelp)
	f.Uint32Var(&o.attempts, "attempts", 1, "deliveries that may be tried in all")
	f.DurationVar(&o.backoff, "backoff", record.DefaultBackoff, "pause before the second attempt, doubled for each further one; 0: none")
	f.Uint8Var(&o.priority, "priority", 0, "0 to 9; higher goes first")
	f.StringVar(&o.tenant, "tenant", "", "who the job belongs to")
	f.StringVar(&o.id, "id", "", "the job's id, unique among your jobs (default: a new one)")
	f.StringVar(&o.args, "args", "", "the kind's arguments as JSON; flags of the kind go before it")
	f.BoolVar(&o.json, "json", false, "print each outcome as one line of JSON")
	complete(cmd, "node", g.completeNodes)
	complete(cmd, "platform", fixed("linux/amd64", "linux/arm64", "linux/arm", "darwin/arm64", "windows/amd64"))
	for _, flag := range []string{"country", "city", "asn", "tag", "count", "timeout", "ttl", "deadline", "not-before", "attempts", "backoff", "priority", "tenant", "id", "args"} {
		complete(cmd, flag, cobra.NoFileCompletions)
	}
}

// request makes the job; the error is one of the flags.
func (o *runOptions) request(kind string, args json.RawMessage, now time.Time) (*api.JobRequest, error) {
	backoff := o.backoff.Milliseconds()
	r := &api.JobRequest{
		ID: o.id, Kind: kind, Args: args, TimeoutMs: o.timeout.Milliseconds(), TTLMs: o.wait(now).Milliseconds(),
		Attempts: o.attempts, BackoffMs: &backoff, Priority: o.priority, Tenant: o.tenant,
	}
	if r.ID == "" {
		r.ID = ulid.Make().String()
	}
	if !o.deadline.at.IsZero() {
		r.DeadlineMs, r.TTLMs = o.deadline.at.UnixMilli(), 0
	}
	if o.before.given() {
		r.NotBeforeMs = now.Add(o.before.from(now)).UnixMilli()
	}
	switch {
	case len(args) > 0 && !json.Valid(args):
		return nil, errors.New("--args: is not JSON, such as '{\"key\":\"value\"}'")
	case o.timeout < time.Millisecond:
		return nil, fmt.Errorf("--timeout: %s; at least 1ms is expected", o.timeout)
	case o.ttl < time.Millisecond:
		return nil, fmt.Errorf("--ttl: %s; at least 1ms is expected", o.ttl)
	case o.backoff < 0 || o.backoff > 0 && backoff == 0:
		return nil, fmt.Errorf("--backoff: %s; 0, or at least 1ms, is expected", o.backoff)
	case o.attempts == 0:
		return nil, errors.New("--attempts: 0; at least 1 is expected")
	case o.count == 0:
		return nil, errors.New("--count: 0; at least 1 is expected")
	}
	selects := o.country != "" || o.city != "" || o.asn != 0 || len(o.tags) > 0 || o.platform != "" || o.count > 1
	switch {
	case len(o.nodes) > 0 && selects:
		return nil, errors.New("--node names the nodes; --country, --city, --asn, --tag, --platform and --count choose among them. Use one or the other")
	case len(o.nodes) == 1:
		r.Target.Node = o.nodes[0]
	case len(o.nodes) > 1:
		r.Target.Nodes = o.nodes
	default:
		r.Target.Select = &api.SelectorRequest{
			Country: o.country, City: o.city, ASN: o.asn, Platform: o.platform, Tags: o.tags, Count: o.count,
		}
	}
	return r, nil
}

// wait is how long the job may wait for its nodes.
func (o *runOptions) wait(now time.Time) time.Duration {
	if o.deadline.given() {
		return o.deadline.from(now)
	}
	return o.ttl + max(0, o.before.from(now))
}

// overall is how long the job's last outcome may take.
func (o *runOptions) overall(now time.Time) time.Duration {
	total := max(0, o.wait(now)) + o.timeout*time.Duration(o.attempts)
	for n := range o.attempts {
		total += record.Pause(o.backoff, n+1)
	}
	return total
}

// describe says where a job goes.
func describe(t *record.Target) string {
	switch {
	case t.Node != "":
		return "node " + t.Node
	case t.Select != nil:
		return fmt.Sprintf("%s (%s)", plural(t.Size(), "node"), t.Select)
	}
	return plural(t.Size(), "node")
}

var (
	errInterrupted = errors.New("interrupted")
	errOverdue     = errors.New("overdue")
)

// interruptible is a context that Ctrl-C ends with errInterrupted.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	cause, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	unhook := context.AfterFunc(ctx, func() { cancel(errInterrupted) })
	return cause, func() { unhook(); cancel(nil); stop() }
}

// runJob submits a job and shows its outcomes.
func runJob(ctx context.Context, g *Globals, o *runOptions, kind string, args json.RawMessage) error {
	now := time.Now()
	req, err := o.request(kind, args, now)
	if err != nil {
		return cannot(err)
	}
	job, err := req.Record()
	if err != nil {
		return cannot(err)
	}
	c, err := g.client()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, stop := interruptible(ctx)
	defer stop()

	// Followed first, so that no outcome is missed.
	stream, err := c.Follow(ctx, req.ID)
	if err != nil {
		return stopped(ctx, g.explain(err), "the job was not submitted")
	}
	w := newWatch(g, c, req.ID, o.json)
	if err := w.submit(ctx, req, &job.Target); err != nil {
		_ = stream.Close()
		return stopped(ctx, g.explain(uncertain(err, req.ID)), goesOn(req.ID))
	}
	overall := o.overall(now) + g.slack
	followCtx, cancel := context.WithTimeoutCause(ctx, overall, errOverdue)
	defer cancel()
	err = w.follow(followCtx, stream)
	switch {
	case err == nil:
		return w.finish()
	case errors.Is(err, errOverdue):
		if !o.json {
			w.summary()
		}
		return &ExitError{Code: exitNotOK, Err: fmt.Errorf("%s after %s%s; look again with: roost jobs %s", w.missing(), formatAge(overall), w.excuse(ctx), req.ID)}
	}
	return stopped(ctx, g.explain(err), goesOn(req.ID))
}

// submit submits the job and says so. Of one that was submitted before, the first one's outcomes follow.
func (w *watch) submit(ctx context.Context, req *api.JobRequest, target *record.Target) error {
	err := w.g.patiently(ctx, func() error {
		_, err := w.c.Submit(ctx, req)
		return err
	})
	var dup *api.Duplicate
	switch {
	case errors.As(err, &dup):
		w.targets = dup.Job.Targets
		w.rows.note("job %s was submitted before, %s ago, and is not run again; these are its outcomes", req.ID, since(dup.Job.SubmittedMs))
		if !w.json {
			fmt.Fprintf(w.g.Out, "job %s: %s on %s\n\n", clean(req.ID), clean(dup.Job.Kind), plural(w.targets, "node"))
		}
		return nil
	case err != nil:
		return err
	}
	w.targets, w.nodes = target.Size(), targetNodes(target)
	w.rows.fit(w.nodes...)
	if !w.json {
		fmt.Fprintf(w.g.Out, "job %s: %s on %s\n\n", clean(req.ID), clean(req.Kind), clean(describe(target)))
	}
	return nil
}

func targetNodes(t *record.Target) []string {
	if t.Node != "" {
		return []string{t.Node}
	}
	return t.Nodes
}

func goesOn(id string) string {
	return fmt.Sprintf("stopped following; the job goes on.\n  look at it:   roost jobs %s\n  follow it:    roost jobs %s --follow\n  cancel it:    roost jobs cancel %s", id, id, id)
}

// stopped replaces an error by what Ctrl-C means, if that was the reason.
func stopped(ctx context.Context, err error, message string) error {
	if errors.Is(context.Cause(ctx), errInterrupted) {
		return &ExitError{Code: exitInterrupted, Err: errors.New(message)}
	}
	return err
}

// uncertain adds to an error of a submission that the job may run all the same.
func uncertain(err error, id string) error {
	var p *client.Problem
	if errors.As(err, &p) && p.Status < 500 {
		return err
	}
	if _, rebuilding := client.IsRebuilding(err); rebuilding {
		return err
	}
	return fmt.Errorf("%w\nThe job may have been accepted; see: roost jobs %s\nThe same command with --id %s does not run it twice", err, id, id)
}
