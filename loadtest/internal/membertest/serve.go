package membertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/roost-server/roost/loadtest/internal/topics"
)

// standIn is the state of Serve.
type standIn struct {
	mu      sync.Mutex
	pending [Partitions]int64
	taken   int64
}

// Serve is the least of "roost serve" that can be filled with jobs, killed and asked
// how many it has; args are those that come after the program's name. It returns after
// SIGTERM. Flags of its own make it misbehave: with --forget N a server that finds its
// topics there leaves out N jobs, or makes up -N; with --most N no more than N are taken.
func Serve(args []string, out io.Writer) error {
	f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	f.ParseErrorsAllowlist.UnknownFlags = true
	kafka := f.String("kafka", "", "")
	prefix := f.String("topic-prefix", "", "")
	forget := f.Int64("forget", 0, "")
	most := f.Int64("most", 1<<40, "")
	if err := f.Parse(args); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	brokers := strings.Split(*kafka, ",")
	err := topics.Create(ctx, brokers, Partitions, *prefix+"jobs", *prefix+"results")
	if !errors.Is(err, kerr.TopicAlreadyExists) {
		*forget = 0
	} else {
		err = nil
	}
	if err != nil {
		return err
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(*prefix+"jobs"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableClientMetrics())
	if err != nil {
		return err
	}
	defer cl.Close()
	s := standIn{taken: -max(0, *forget)}
	s.pending[0] = max(0, -*forget)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	web := &http.Server{Handler: s.handler(), ReadHeaderTimeout: time.Second}
	go func() { _ = web.Serve(ln) }()
	defer func() { _ = web.Close() }()
	fmt.Fprintf(out, "member rebuild serves: nodes 127.0.0.1:1, API http://%s, Kafka %s\n", ln.Addr(), *kafka)
	for ctx.Err() == nil {
		cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) { s.take(r.Partition, *most) })
	}
	return nil
}

func (s *standIn) take(partition int32, most int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken++; s.taken > 0 && s.taken <= most {
		s.pending[partition]++
	}
}

func (s *standIn) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, `{"status":"ready"}`) })
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		fmt.Fprintln(w, "# TYPE roost_jobs_pending gauge")
		for p, n := range s.pending {
			fmt.Fprintf(w, "roost_jobs_pending{partition=\"%d\"} %d\nroost_jobs_pending_bytes{partition=\"%d\"} 1e9\n", p, n, p)
		}
	})
	return mux
}
