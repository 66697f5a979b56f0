//go:build linux

// Package process runs the processes of the harness: their output goes to files, and
// they die with the harness, however that ends.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Launcher starts processes from one thread that lives as long as it does: the kernel
// kills the children when the thread that started them ends.
type Launcher struct {
	dir    string // of the log files
	starts chan start
	ended  chan struct{}

	mu    sync.Mutex
	lives map[string]int // how often each name was started
	all   []*Process
}

type start struct {
	cmd  *exec.Cmd
	done chan error
}

// NewLauncher returns a launcher whose processes log to files in dir.
func NewLauncher(dir string) *Launcher {
	l := &Launcher{dir: dir, starts: make(chan start), ended: make(chan struct{}), lives: map[string]int{}}
	go func() {
		defer close(l.ended)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for s := range l.starts {
			s.done <- s.cmd.Start()
		}
	}()
	return l
}

// Close kills what still runs and waits for its end.
func (l *Launcher) Close() {
	l.mu.Lock()
	all := slices.Clone(l.all)
	l.mu.Unlock()
	for _, p := range all {
		p.Kill()
	}
	close(l.starts)
	<-l.ended
}

// Process is one that was started.
type Process struct {
	Name string
	Log  string         // path of the file with its output
	In   io.WriteCloser // its standard input

	cmd  *exec.Cmd
	out  *output
	done chan struct{}
	code int
	how  string
}

// Start runs a program. The name is that of its log file, with a number for each life.
func (l *Launcher) Start(name, program string, args ...string) (*Process, error) {
	l.mu.Lock()
	l.lives[name]++
	log := filepath.Join(l.dir, fmt.Sprintf("%s-%03d.log", name, l.lives[name]))
	l.mu.Unlock()
	file, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(file, "$ %s %s\n", program, strings.Join(args, " "))
	p := &Process{Name: name, Log: log, cmd: exec.Command(program, args...), out: &output{file: file}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.Env = environment()
	// A group of their own: Ctrl-C in a terminal is for the harness, which ends them in order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if p.In, err = p.cmd.StdinPipe(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	s := start{p.cmd, make(chan error, 1)}
	l.starts <- s
	if err := <-s.done; err != nil {
		return nil, errors.Join(err, file.Close())
	}
	l.mu.Lock()
	l.all = append(slices.DeleteFunc(l.all, (*Process).Ended), p)
	l.mu.Unlock()
	go p.wait()
	return p, nil
}

// environment is that of the harness without settings of roost.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "ROOST_") })
}

func (p *Process) wait() {
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		p.code = exit.ExitCode()
	} else if err != nil {
		p.code = -2
	}
	p.how = p.cmd.ProcessState.String()
	p.out.close()
	close(p.done)
}

// PID is its process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Ended tells whether it has.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Code is the exit code of a process that ended; -1 after a signal.
func (p *Process) Code() int { return p.code }

// How tells in words how a process ended: "exit status 1", "signal: killed".
func (p *Process) How() string { return p.how }

// Signal sends one; that the process has ended already is no error.
func (p *Process) Signal(s syscall.Signal) {
	if !p.Ended() {
		_ = p.cmd.Process.Signal(s)
	}
}

// Kill is SIGKILL, and waits for the end.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.done
}

// Stop is SIGTERM, and SIGKILL when that takes too long; it reports whether it did not.
func (p *Process) Stop(patience time.Duration) bool {
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return true
	case <-time.After(patience):
		p.Kill()
		return false
	}
}

// Find waits until the output matches, and returns the expression's groups.
func (p *Process) Find(ctx context.Context, expr *regexp.Regexp) ([]string, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ended := p.Ended()
		if m := expr.FindStringSubmatch(p.out.head()); m != nil {
			return m[1:], nil
		}
		if ended {
			return nil, fmt.Errorf("%s ended with code %d and did not say %v; see %s", p.Name, p.code, expr, p.Log)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s does not say %v: %w; see %s", p.Name, expr, ctx.Err(), p.Log)
		case <-tick.C:
		case <-p.done:
		}
	}
}

// Last returns the newest whole line of output.
func (p *Process) Last() string {
	tail := strings.TrimRight(p.out.tail(), "\n")
	return tail[strings.LastIndexByte(tail, '\n')+1:]
}

// Tail returns the end of the output.
func (p *Process) Tail() string { return p.out.tail() }

// What is kept of an output besides the file.
const (
	headBytes = 1 << 20
	tailBytes = 4 << 10
)

type output struct {
	mu    sync.Mutex
	file  *os.File
	first bytes.Buffer
	last  []byte
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.first.Write(b[:min(len(b), headBytes-o.first.Len())])
	o.last = append(o.last, b[max(0, len(b)-tailBytes):]...)
	if len(o.last) > 4*tailBytes {
		o.last = slices.Clone(o.last[len(o.last)-tailBytes:])
	}
	return o.file.Write(b)
}

func (o *output) head() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.first.String()
}

func (o *output) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.last[max(0, len(o.last)-tailBytes):])
}

func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.file.Close()
}
