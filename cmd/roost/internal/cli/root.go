// Package cli is the roost command line.
package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Version is set when the program is built.
var Version = "dev"

// Main runs the command line and returns the process's exit code.
func Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, message := ExitCode(NewRoot(NewGlobals()).ExecuteContext(ctx))
	if message != "" {
		fmt.Fprintln(os.Stderr, "roost: "+message)
	}
	return code
}

// NewRoot returns the whole command.
func NewRoot(g *Globals) *cobra.Command {
	root := &cobra.Command{
		Use:   "roost",
		Short: "Roost brings jobs from Kafka to millions of connected nodes, and one outcome of each back",
		Long: `Roost brings jobs from Kafka to millions of connected nodes, and one outcome of each back.

Try it:      roost dev                     a whole Roost with 25 nodes, in this terminal
             roost run http http://127.0.0.1:7480/healthz --count 10
Run it:      roost serve --kafka HOST:PORT a member of a cluster
             roost node --server HOST:PORT a node that runs network checks`,
		Version: Version,
	}
	prepare(root)
	root.SetOut(g.Out)
	root.SetErr(g.Err)
	root.AddCommand(newDev(g), newServe(g), newNode(g), newBroker(g),
		NewRun(g), NewNodes(g), NewJobs(g), NewStatus(g), NewWatermarks(g), NewTree(g), NewTrace(g), NewDrain(g), NewRebalance(g), NewCerts(g))
	return root
}

// newLogger writes to standard error: for a person, or JSON for machines.
func newLogger(level, format string) (*zap.Logger, error) {
	lvl, err := zapcore.ParseLevel(level)
	if err != nil {
		return nil, fmt.Errorf("--log-level: %q; allowed are debug, info, warn and error", level)
	}
	var cfg zap.Config
	switch format {
	case "json":
		cfg = zap.NewProductionConfig()
		cfg.EncoderConfig.EncodeTime = zapcore.ISO8601TimeEncoder
	case "text":
		cfg = zap.NewDevelopmentConfig()
		cfg.Development, cfg.DisableCaller, cfg.DisableStacktrace = false, true, true
	default:
		return nil, fmt.Errorf("--log-format: %q; allowed are text and json", format)
	}
	cfg.Level = zap.NewAtomicLevelAt(lvl)
	cfg.OutputPaths, cfg.ErrorOutputPaths = []string{"stderr"}, []string{"stderr"}
	return cfg.Build()
}
