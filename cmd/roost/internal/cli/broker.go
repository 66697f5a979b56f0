package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/transport/kafka"
)

// newBroker is the embedded broker in a process of its own, so that benchmarks can
// tell its processor time from the member's, and tests can kill it.
func newBroker(g *Globals) *cobra.Command {
	var listen, data, level string
	cmd := &cobra.Command{
		Use:    "broker",
		Short:  "Run the embedded broker alone, for tests and benchmarks",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLogger(level, "text")
			if err != nil {
				return cannot(err)
			}
			b, err := kafka.StartEmbedded(kafka.EmbeddedConfig{Listen: listen, DataDir: data, Log: log})
			if err != nil {
				return cannot(err)
			}
			fmt.Fprintf(g.Out, "embedded broker at %s\n", b.Addr())
			<-cmd.Context().Done()
			return b.Close()
		},
	}
	cmd.Flags().StringVar(&listen, "listen", devKafkaListen, "HOST:PORT on a loopback address")
	cmd.Flags().StringVar(&data, "data", "", "directory that keeps records")
	cmd.Flags().StringVar(&level, "log-level", "warn", "debug, info, warn or error")
	return prepare(cmd)
}
