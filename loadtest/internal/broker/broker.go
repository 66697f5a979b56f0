//go:build linux

// Package broker runs "roost broker", the embedded broker as a process of its own, so that
// what the server takes is the server's alone.
package broker

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"runtime"
	"syscall"

	"github.com/roost-server/roost/loadtest/internal/tail"
)

// listens is what the broker says when it is up.
var listens = regexp.MustCompile(`embedded broker at (\S+)`)

// Process is a running broker. Any goroutine may call its methods.
type Process struct {
	Address string // HOST:PORT

	cmd  *exec.Cmd
	log  tail.Buffer
	done chan struct{}
}

// Start runs the broker of a program and returns when it says where it listens. It dies
// with this process. The caller ends it by Kill.
func Start(ctx context.Context, program string) (*Process, error) {
	p := &Process{cmd: exec.Command(program, "broker", "--listen", "127.0.0.1:0"), log: tail.Buffer{Most: 4 << 10}, done: make(chan struct{})}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	p.cmd.Stderr = &p.log
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	started, said := make(chan error), make(chan string, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the broker dies with the thread that started it
		err := p.cmd.Start()
		started <- err
		if err == nil {
			read(out, said)
			_ = p.cmd.Wait() // it is killed at the end
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("cannot run %s: %w", program, err)
	}
	select {
	case p.Address = <-said:
		return p, nil
	case <-p.done:
		return nil, fmt.Errorf("%s broker ended and did not say where it listens: %s", program, p.log.Bytes())
	case <-ctx.Done():
		p.Kill()
		return nil, fmt.Errorf("%s broker does not say where it listens: %w", program, ctx.Err())
	}
}

// read looks for the line that says where the broker listens, and drops the rest.
func read(out io.Reader, said chan<- string) {
	sc := bufio.NewScanner(out)
	for sc.Scan() {
		if m := listens.FindStringSubmatch(sc.Text()); m != nil {
			said <- m[1]
			break
		}
	}
	_, _ = io.Copy(io.Discard, out)
}

// Kill ends it by SIGKILL and waits for its end.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}
