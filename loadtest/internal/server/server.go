//go:build linux

// Package server runs "roost serve" as a process, for measurements that have to kill
// it, and asks its API what everybody may ask.
package server

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/roost-server/roost/loadtest/internal/tail"
)

// serves is what the server says when it listens.
var serves = regexp.MustCompile(`serves: nodes ([^ ,]+), API (http://[^ ,]+)`)

// pendingMetric counts, for each partition, jobs without all their outcomes recorded.
const pendingMetric = "roost_jobs_pending"

// logBytes is how much of the server's log is kept, for the message when it fails.
const logBytes = 4 << 10

// Process is a running server. Any goroutine may call its methods.
type Process struct {
	Nodes string // address for nodes, HOST:PORT
	API   string // base URL

	cmd  *exec.Cmd
	log  tail.Buffer
	done chan struct{} // closed when the process has ended and err is set
	err  error
	http http.Client
}

// Start runs the program and returns when it says where it listens. The server dies
// with this process. ROOST_ variables of the environment are not passed on: the
// arguments are all that it is told. The caller ends it by Kill or Stop.
func Start(ctx context.Context, program string, args ...string) (*Process, error) {
	p := &Process{cmd: exec.Command(program, args...), log: tail.Buffer{Most: logBytes}, done: make(chan struct{})}
	p.http.Timeout = 10 * time.Second
	p.http.Transport = &http.Transport{}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "ROOST_") {
			p.cmd.Env = append(p.cmd.Env, kv)
		}
	}
	p.cmd.Stderr = &p.log
	// Ctrl-C is for the measurement, which then ends the server.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	out, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", program, err)
	}
	p.cmd.Stdout = w
	started := make(chan error)
	go p.run(started)
	err = <-started
	w.Close()
	if err != nil {
		out.Close()
		return nil, fmt.Errorf("cannot run %s: %w", program, err)
	}
	said := make(chan []string, 1)
	go read(out, said)
	select {
	case m := <-said:
		p.Nodes, p.API = m[1], m[2]
		return p, nil
	case <-p.done:
		return nil, p.failure("the server ended before it was up")
	case <-ctx.Done():
		p.Kill()
		return nil, p.failure("the server was not up in time")
	}
}

// run starts the process and waits for its end, on one thread: a process with a
// Pdeathsig dies with the thread that started it.
func (p *Process) run(started chan<- error) {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	err := p.cmd.Start()
	started <- err
	if err == nil {
		p.err = p.cmd.Wait()
	}
	close(p.done)
}

// read looks for the line that says where the server listens, and drops the rest.
func read(out io.ReadCloser, said chan<- []string) {
	defer out.Close()
	sc := bufio.NewScanner(out)
	for sc.Scan() {
		if m := serves.FindStringSubmatch(sc.Text()); m != nil {
			said <- m
			break
		}
	}
	_, _ = io.Copy(io.Discard, out)
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Kill ends the process by SIGKILL and waits for its end.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
	p.http.CloseIdleConnections()
}

// Stop ends the process by SIGTERM; when ctx ends before it does, by SIGKILL, which is
// an error.
func (p *Process) Stop(ctx context.Context) error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	defer p.http.CloseIdleConnections()
	select {
	case <-p.done:
	case <-ctx.Done():
		p.Kill()
		return p.failure("the server did not stop in time")
	}
	if p.err != nil {
		return p.failure("the server did not stop well")
	}
	return nil
}

// Ended is an error when the process runs no longer.
func (p *Process) Ended() error {
	select {
	case <-p.done:
		return p.failure("the server has ended")
	default:
		return nil
	}
}

func (p *Process) failure(what string) error {
	<-p.done
	end := "exit code 0"
	if p.err != nil {
		end = p.err.Error()
	}
	return fmt.Errorf("%s: %s: %s", what, end, bytes.TrimSpace(p.log.Bytes()))
}

// Ready tells whether the server calls itself ready.
func (p *Process) Ready(ctx context.Context) bool {
	resp, err := p.get(ctx, "/readyz")
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode == http.StatusOK
}

// AwaitReady waits until the server calls itself ready.
func (p *Process) AwaitReady(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !p.Ready(ctx) {
		if err := p.Ended(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the server at %s is not ready: %w", p.Nodes, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// Pending is how many jobs the server holds without all their outcomes, and how many
// partitions say so.
func (p *Process) Pending(ctx context.Context) (jobs int64, partitions int, err error) {
	resp, err := p.get(ctx, "/metrics")
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, 0, fmt.Errorf("%s/metrics: %s", p.API, resp.Status)
	}
	return sum(resp.Body, pendingMetric)
}

func (p *Process) get(ctx context.Context, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.API+path, nil)
	if err != nil {
		return nil, err
	}
	return p.http.Do(req)
}

// sum adds up the series of one metric in Prometheus' text format.
func sum(r io.Reader, metric string) (total int64, series int, err error) {
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		rest, ok := strings.CutPrefix(sc.Text(), metric)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		value, _, _ := strings.Cut(strings.TrimSpace(rest[strings.LastIndexByte(rest, '}')+1:]), " ") // a timestamp may follow
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("cannot understand %q: %w", sc.Text(), err)
		}
		total, series = total+int64(v), series+1
	}
	if err := sc.Err(); err != nil {
		return 0, 0, fmt.Errorf("metrics: %w", err)
	}
	return total, series, nil
}
