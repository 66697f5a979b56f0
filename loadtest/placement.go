//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/loadtest/internal/fleet"
	"github.com/roost-server/roost/loadtest/internal/nodes"
	"github.com/roost-server/roost/loadtest/internal/ports"
	"github.com/roost-server/roost/loadtest/internal/proc"
	"github.com/roost-server/roost/loadtest/internal/remote"
)

// placement is where the nodes of the run command live: in this process, or in workers.
type placement struct {
	workers int
	hosts   []string
	token   string
	sources []string
}

// tokenEnv keeps a token out of the list of processes.
const tokenEnv = "LOADTEST_TOKEN"

// flags adds what chooses the place.
func (p *placement) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.IntVar(&p.workers, "workers", 0, "processes on this host that share the nodes; 0: they are in this one")
	f.StringSliceVar(&p.hosts, "worker", nil, "host:port of a \"loadtest worker\" that takes a share of the nodes, or host:port=weight; may be given more than once")
	f.StringVar(&p.token, "token", "", "what the workers of --worker were started with; the environment's "+tokenEnv+" is the default")
	f.StringSliceVar(&p.sources, "source", nil, "address that nodes of this host connect from, or a network of them (127.10.0.0/24); several are used in turn")
}

// open makes the nodes; none is connected yet. where names the workers, and is empty when
// the nodes are in this process. The caller stops the group.
func (p *placement) open(ctx context.Context, spec nodes.Spec) (g nodes.Group, where []string, err error) {
	if spec.Sources, err = ports.Parse(p.sources); err != nil {
		return nil, nil, err
	}
	if p.workers == 0 && len(p.hosts) == 0 {
		g, err = here(spec)
		return g, nil, err
	}
	if p.workers == 0 && len(p.sources) > 0 {
		return nil, nil, errors.New("--source is of the nodes on this host, and all are in those of --worker: give it to \"loadtest worker\" there")
	}
	cfg := remote.Config{Local: p.workers, Args: []string{workerName, "--inherited"}, Token: tokenOf(p.token)}
	for _, s := range p.hosts {
		h, err := remote.ParseHost(s)
		if err != nil {
			return nil, nil, err
		}
		cfg.Hosts = append(cfg.Hosts, h)
	}
	all, err := remote.Start(ctx, cfg, spec)
	if err != nil {
		return nil, nil, err
	}
	return all, all.Names(), nil
}

func tokenOf(flag string) string {
	if flag != "" {
		return flag
	}
	return os.Getenv(tokenEnv)
}

// here makes nodes in this process, if it may have so many.
func here(spec nodes.Spec) (nodes.Group, error) {
	cfg := fleet.Config(spec)
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := ports.Check(&spec, spec.Nodes); err != nil {
		return nil, err
	}
	need := uint64(cfg.FilesNeeded())
	limit, err := proc.RaiseFileLimit(need)
	if err != nil {
		return nil, err
	}
	if limit < need {
		return nil, fmt.Errorf("%d nodes in one process need %d open files, and the limit here is %d: at most %d are possible; raise the limit (ulimit -Hn), or give more --workers or --worker",
			spec.Nodes, need, limit, max(0, int64(limit)-fleet.FilesReserve))
	}
	if spec.Nodes > manyNodes {
		debug.SetGCPercent(100) // a heap that is large is collected as usual
	}
	return fleet.NewGroup(spec)
}

// manyNodes is how many make the heap large: what main allows for a small one would be
// hundreds of bytes a node.
const manyNodes = 100_000
