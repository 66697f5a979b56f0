// Package agent is the node that comes with Roost: the SDK with the probes as its
// handlers.
package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sort"
	"time"

	"go.uber.org/zap"

	"github.com/roost-server/roost/cmd/roost/internal/probe"
	"github.com/roost-server/roost/protocol"
	roost "github.com/roost-server/roost/sdk/go"
)

// Config is who the agent is and what it may do.
type Config struct {
	Servers      []string
	NodeID       string
	Attributes   protocol.Attributes
	Token        string
	TLS          *tls.Config // nil: plain TCP
	Concurrency  int
	AllowPrivate bool
	OutboxPath   string // empty: results are kept in memory
	Version      string
}

// Agent is one node.
type Agent struct {
	client  *roost.Client
	outbox  *roost.FileOutbox
	kinds   []string
	missing map[string]string
}

// New makes an agent. Kinds that this machine cannot run are left out; see Missing.
func New(cfg Config, log *zap.Logger) (*Agent, error) {
	a := &Agent{}
	sdk := roost.Config{
		Servers: cfg.Servers, NodeID: cfg.NodeID, Attributes: cfg.Attributes, Concurrency: cfg.Concurrency,
		Agent: "roost-node/" + cfg.Version, OnEvent: logEvents(log.With(zap.String("node", cfg.NodeID))),
	}
	if cfg.Token != "" {
		sdk.Credential = func(context.Context) ([]byte, error) { return []byte(cfg.Token), nil }
	}
	if cfg.TLS != nil {
		sdk.Dial = roost.DialTLS(cfg.TLS)
	}
	if cfg.OutboxPath != "" {
		outbox, err := roost.OpenFileOutbox(cfg.OutboxPath, roost.FileOptions{})
		if err != nil {
			return nil, err
		}
		if damaged := outbox.Damaged(); damaged != "" {
			log.Warn("the outbox held records that cannot be read; they were set aside", zap.String("file", damaged))
		}
		a.outbox, sdk.Outbox = outbox, outbox
	}
	client, err := roost.New(sdk)
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	a.client = client
	var kinds []probe.Kind
	kinds, a.missing = probe.Kinds(probe.Options{AllowPrivate: cfg.AllowPrivate, UserAgent: "roost-node/" + cfg.Version, Log: log})
	for _, k := range kinds {
		client.Handle(k.Name(), handler(k))
		a.kinds = append(a.kinds, k.Name())
	}
	sort.Strings(a.kinds)
	return a, nil
}

// Kinds returns what the agent runs, and Missing why it does not run the others.
func (a *Agent) Kinds() []string { return a.kinds }

// Missing tells for each kind that this machine cannot run why, and what to do.
func (a *Agent) Missing() map[string]string { return a.missing }

// Run works until ctx ends or a member forbids the node to come back.
func (a *Agent) Run(ctx context.Context) error { return a.client.Run(ctx) }

// Close frees what New opened; after Run has returned.
func (a *Agent) Close() error {
	if a.outbox == nil {
		return nil
	}
	return a.outbox.Close()
}

// handler turns a probe into a handler of the SDK.
func handler(k probe.Kind) roost.Handler {
	return func(ctx context.Context, job roost.Job) (roost.Result, error) {
		out, err := k.Run(ctx, job.Bind)
		var refused *probe.Refused
		switch {
		case err != nil && ended(ctx, err):
			return roost.Result{}, err // the SDK knows why, and what to report
		case errors.As(err, &refused):
			return roost.Result{}, roost.Refused("%s", refused.Reason)
		case err != nil:
			return roost.Result{Outcome: protocol.OutcomeFailed, Error: err.Error(), Output: out.Output}, nil
		case out.OK:
			return roost.OK(out.Output), nil
		}
		return roost.Fail(out.Reason, out.Output), nil
	}
}

// endSlack is how far a probe's own clock may run ahead of the context's timer.
const endSlack = 50 * time.Millisecond

// ended reports whether the job's context is why a probe returned err. A probe may see
// the deadline pass a moment before the context does, so that moment is waited out.
func ended(ctx context.Context, err error) bool {
	if deadline, ok := ctx.Deadline(); ok && errors.Is(err, context.DeadlineExceeded) && time.Until(deadline) < endSlack {
		<-ctx.Done()
	}
	return ctx.Err() != nil
}

func logEvents(log *zap.Logger) func(roost.Event) {
	return func(e roost.Event) {
		switch e := e.(type) {
		case roost.Connected:
			log.Info("connected", zap.String("address", e.Addr), zap.String("member", e.Member), zap.Int("resent", e.Resent))
		case roost.Disconnected:
			if e.RetryIn < 0 {
				log.Info("left", zap.String("address", e.Addr))
				return
			}
			log.Info("disconnected", zap.String("address", e.Addr), zap.Stringer("reason", e.Reason),
				zap.String("message", e.Message), zap.Error(e.Err), zap.Duration("retry_in", e.RetryIn))
		case roost.GoingAway:
			log.Info("asked to leave", zap.Stringer("reason", e.Reason), zap.String("message", e.Message),
				zap.Strings("to", e.Addresses), zap.Duration("in", e.LeaveIn))
		case roost.HandlerPanicked:
			log.Error("a probe panicked", zap.String("job", e.JobID), zap.String("kind", e.Kind),
				zap.String("panic", fmt.Sprint(e.Value)), zap.ByteString("stack", e.Stack))
		case roost.JobFinished:
			log.Debug("job finished", zap.String("job", e.JobID), zap.Stringer("outcome", e.Outcome))
		}
	}
}
