package nodes

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roost-server/roost/loadtest/chaos/checker"
)

// Stats are what the processes print, a line of JSON each second.
type Stats struct {
	Sessions int64    `json:"sessions"`
	Jobs     int64    `json:"jobs"`     // deliveries
	Runs     int64    `json:"runs"`     // handlers that ended
	Acked    int64    `json:"acked"`    // results
	Held     int64    `json:"held"`     // results that wait for that
	Cancels  int64    `json:"cancels"`  // of what ran
	Unwanted int64    `json:"unwanted"` // times that results were sent that nobody wants
	Blames   []string `json:"blames,omitempty"`
}

// Fleet are the nodes of a process.
type Fleet struct {
	cfg      Config
	nodes    []*node
	sessions *sessionLog
	stats    struct {
		sessions, jobs, runs, acked, cancels, unwanted atomic.Int64
	}

	mu      sync.Mutex
	log     *os.File
	line    []byte
	err     error
	strange [64]foreignJob // jobs of single nodes, lately
	seen    int
	blames  []string
}

type foreignJob struct {
	id    string
	shard uint32
}

// SinglePrefix starts the ids of jobs for one node.
const SinglePrefix = "one-"

// Run simulates the nodes until ctx or the input ends. It prints "nodes are up", and then
// [Stats].
func Run(ctx context.Context, cfg Config, in io.Reader, out io.Writer) error {
	f := &Fleet{cfg: cfg}
	var err error
	if f.log, err = os.Create(cfg.Runs); err != nil {
		return err
	}
	defer f.log.Close()
	if f.sessions, err = newSessionLog(cfg.Sessions); err != nil {
		return err
	}
	defer f.sessions.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // whoever started the process is gone when its input ends
		for lines := bufio.NewScanner(in); lines.Scan(); {
		}
		cancel()
	}()
	var wg sync.WaitGroup
	for i := range cfg.Count {
		n := newNode(f, i)
		f.nodes = append(f.nodes, n)
		for _, l := range n.links {
			if cfg.One {
				wg.Go(func() { l.roam(ctx) })
			} else {
				wg.Go(func() { l.run(ctx) })
			}
		}
	}
	fmt.Fprintln(out, "nodes are up")
	f.watch(ctx, out)
	wg.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// watch prints stats and makes mischief.
func (f *Fleet) watch(ctx context.Context, out io.Writer) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for k := 0; ; k++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, n := range f.nodes {
			if n.kind == flaky || n.kind == replaying {
				n.mischief()
			}
		}
		if k%2 == 0 {
			b, err := json.Marshal(f.Stats())
			if err == nil {
				fmt.Fprintf(out, "%s\n", b)
			}
		}
	}
}

// Stats returns the figures of now.
func (f *Fleet) Stats() Stats {
	s := Stats{
		Sessions: f.stats.sessions.Load(), Jobs: f.stats.jobs.Load(), Runs: f.stats.runs.Load(), Acked: f.stats.acked.Load(),
		Cancels: f.stats.cancels.Load(), Unwanted: f.stats.unwanted.Load(),
	}
	for _, n := range f.nodes {
		n.mu.Lock()
		s.Held += int64(len(n.outbox))
		n.mu.Unlock()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s.Blames = append(s.Blames, f.blames...)
	return s
}

// ran logs a run. The line is with the system before the result is sent, so that it
// survives the process.
func (f *Fleet) ran(r *checker.Run) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stats.runs.Add(1)
	f.line = r.Append(f.line[:0])
	if _, err := f.log.Write(f.line); err != nil && f.err == nil {
		f.err = err
	}
	if strings.HasPrefix(r.Job, SinglePrefix) {
		f.strange[f.seen%len(f.strange)] = foreignJob{r.Job, uint32(f.seen % 16)}
		f.seen++
	}
}

// foreign returns a job that some node of the process ran.
func (f *Fleet) foreign(rng *rand.Rand) (id string, shard uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	j := f.strange[rng.IntN(len(f.strange))]
	return j.id, j.shard
}

// maxBlames are kept; more of the same tell nothing new.
const maxBlames = 5

// blame notes something that the server should not have done.
func (f *Fleet) blame(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.blames) < maxBlames {
		f.blames = append(f.blames, what)
	}
}
