//go:build linux

package relay

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Command is the hidden subcommand that [Serve] is the body of.
const Command = "relay-loop"

// endTimeout is how long a loop may take to leave once it is told to.
const endTimeout = 20 * time.Second

const readyLine = "ready"

// Args are the arguments for a configuration that [Serve] takes, after [Command].
func (c *Config) Args(partitions int) []string {
	return []string{
		Command, strings.Join(c.Brokers, ","), c.From, c.To, c.Group,
		c.Interval.String(), strconv.Itoa(c.Records), strconv.Itoa(partitions),
	}
}

// Serve runs a loop until in ends, telling on out when it is ready and, as the last
// line, its [Stats].
func Serve(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	if len(args) != 7 {
		return fmt.Errorf("%s is started by the relay command; it has %d arguments of 7", Command, len(args))
	}
	cfg := Config{Brokers: strings.Split(args[0], ","), From: args[1], To: args[2], Group: args[3]}
	var err error
	if cfg.Interval, err = time.ParseDuration(args[4]); err != nil {
		return err
	}
	if cfg.Records, err = strconv.Atoi(args[5]); err != nil {
		return err
	}
	partitions, err := strconv.Atoi(args[6])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, in)
		cancel()
	}()
	st, err := Loop(ctx, cfg, partitions, func() { fmt.Fprintln(out, readyLine) })
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(st)
}

// Process is a loop in a process of its own.
type Process struct {
	cmd   *exec.Cmd
	in    io.Closer
	lines chan string // of its output; closed at its end
	err   bytes.Buffer
}

// Start runs exe, which has to hand [Command] to [Serve], and returns when the loop has
// its partitions. The caller ends it with [Process.Stop].
func Start(ctx context.Context, exe string, cfg Config, partitions int) (*Process, error) {
	p := &Process{cmd: exec.Command(exe, cfg.Args(partitions)...), lines: make(chan string, 4)}
	p.cmd.Stderr = &p.err
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the load, which then ends the loop
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	p.in = in
	go func() {
		defer close(p.lines)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			p.lines <- sc.Text()
		}
	}()
	timeout := time.NewTimer(endTimeout)
	defer timeout.Stop()
	select {
	case line := <-p.lines:
		if line == readyLine {
			return p, nil
		}
		err = fmt.Errorf("it says %q", line)
	case <-timeout.C:
		err = errors.New("it was not assigned its partitions in time")
	case <-ctx.Done():
		err = ctx.Err()
	}
	_, ended := p.Stop()
	return nil, errors.Join(fmt.Errorf("relay: the loop did not start: %w", err), ended)
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Stop ends the loop after its transaction and returns what it has done.
func (p *Process) Stop() (st Stats, err error) {
	_ = p.in.Close()
	kill := time.AfterFunc(endTimeout, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	last := ""
	for line := range p.lines {
		last = line
	}
	if err := p.cmd.Wait(); err != nil {
		return st, fmt.Errorf("relay: the loop failed: %w: %s", err, bytes.TrimSpace(p.err.Bytes()))
	}
	if err := json.Unmarshal([]byte(last), &st); err != nil {
		return st, fmt.Errorf("relay: the loop's last words %q: %w", last, err)
	}
	return st, nil
}
