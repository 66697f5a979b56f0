//go:build linux

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/loadtest/internal/ports"
	"github.com/roost-server/roost/loadtest/internal/remote"
)

// workerName is the command by which a coordinator starts its own workers, too.
const workerName = "worker"

func workerCommand() *cobra.Command {
	var listen, token string
	var sources []string
	var once, inherited bool
	cmd := &cobra.Command{
		Use:   workerName,
		Short: "Have nodes for a \"loadtest run --worker\" on another host",
		Long: `Have nodes for a "loadtest run --worker" on another host.

It serves one such run after the other. When a run ends, or is no longer heard of, its
nodes end. Both sides have to be the same build, and have the same token; without one a
worker listens on loopback only. The connection is not encrypted.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log := cmd.ErrOrStderr()
			w := remote.Worker{Start: here, Token: tokenOf(token), Once: once, Log: func(s string) { fmt.Fprintln(log, s) }}
			var err error
			if w.Sources, err = ports.Parse(sources); err != nil {
				return err
			}
			if inherited {
				conn, err := remote.Inherited()
				if err != nil {
					return err
				}
				w.Token = "" // the socket says who is at its other end
				return w.ServeConn(cmd.Context(), conn)
			}
			ln, err := remote.Listen(listen, w.Token)
			if err != nil {
				return err
			}
			fmt.Fprintf(log, "worker at %s, version %s\n", ln.Addr(), remote.Version())
			return w.Serve(cmd.Context(), ln)
		},
	}
	f := cmd.Flags()
	f.StringVar(&listen, "listen", "127.0.0.1:7500", "address for coordinators")
	f.StringVar(&token, "token", "", "what a coordinator has to know; the environment's "+tokenEnv+" is the default")
	f.StringSliceVar(&sources, "source", nil, "address that nodes connect from, or a network of them (10.0.0.0/28); several are used in turn")
	f.BoolVar(&once, "once", false, "end after one coordinator")
	f.BoolVar(&inherited, "inherited", false, "")
	_ = f.MarkHidden("inherited") // it exists
	return cmd
}
