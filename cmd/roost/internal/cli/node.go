package cli

import (
	"errors"
	"fmt"
	"os"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/cmd/roost/internal/agent"
	roost "github.com/roost-server/roost/sdk/go"
)

func newNode(g *Globals) *cobra.Command {
	var cfg agent.Config
	var level, format string
	host, err := os.Hostname()
	if err != nil {
		host = "node"
	}
	cmd := &cobra.Command{
		Use:   "node --server HOST:PORT",
		Short: "Run a node: an agent that does network checks",
		Long: `Run a node: an agent that does network checks for whoever may submit jobs.

It offers http, tcp, udp and dns, and ping and traceroute where it has the privilege
for them. Targets on this machine, in private networks and on the local link are
refused unless --allow-private is given.`,
		Example: `  roost node --server roost1:7400,roost2:7400 --id probe-17 --country AU --asn 1221 --tag home
  ROOST_NODE_TOKEN=… roost node --server roost1:7400 --outbox /var/lib/roost-node/outbox`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLogger(level, format)
			if err != nil {
				return cannot(err)
			}
			if len(cfg.Servers) == 0 {
				return cannot(errors.New("--server: missing; give HOST:PORT of one or more members"))
			}
			cfg.Version = Version
			if cfg.Token == "" {
				cfg.Token = os.Getenv("ROOST_NODE_TOKEN")
			}
			a, err := agent.New(cfg, log)
			if err != nil {
				return cannot(err)
			}
			defer func() { _ = a.Close() }()
			introduce(g, &cfg, a)
			return nodeExit(a.Run(cmd.Context()))
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&cfg.Servers, "server", nil, "HOST:PORT of members, comma separated or given more than once")
	f.StringVar(&cfg.NodeID, "id", host, "this node's id: unique, and the same over restarts")
	f.StringVar(&cfg.Attributes.Country, "country", "", "ISO 3166-1 code of the country, such as AU")
	f.StringVar(&cfg.Attributes.City, "city", "", "city")
	f.Uint32Var(&cfg.Attributes.ASN, "asn", 0, "autonomous system number")
	f.StringSliceVar(&cfg.Attributes.Tags, "tag", nil, "label to be chosen by; may be given more than once")
	f.IntVar(&cfg.Concurrency, "concurrency", roost.DefaultConcurrency, "jobs at once")
	f.BoolVar(&cfg.AllowPrivate, "allow-private", false, "allow targets on this machine and in private networks")
	f.StringVar(&cfg.OutboxPath, "outbox", "", "file that keeps results until they are recorded, over restarts")
	f.StringVar(&cfg.Token, "token", "", "credential for the members; better given as ROOST_NODE_TOKEN")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&format, "log-format", "text", "text or json")
	return prepare(cmd)
}

func introduce(g *Globals, cfg *agent.Config, a *agent.Agent) {
	fmt.Fprintf(g.Out, "node %s offers %s\n", cfg.NodeID, strings.Join(a.Kinds(), ", "))
	var missing []string
	for _, why := range a.Missing() { // starts with the kind
		missing = append(missing, "not offered: "+why)
	}
	sort.Strings(missing)
	for _, line := range missing {
		fmt.Fprintln(g.Out, line)
	}
}

// nodeExit tells an end that a member ordered from one that the user did.
func nodeExit(err error) error {
	var closed *roost.CloseError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &closed):
		return &ExitError{Code: exitNotOK, Err: fmt.Errorf("the member at %s does not want this node back: %w", closed.Addr, closed)}
	}
	return &ExitError{Code: exitNotOK, Err: err}
}
