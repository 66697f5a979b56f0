//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/roost-server/roost/loadtest/internal/tail"
)

const (
	startMost = 30 * time.Second // until a server listens
	stopMost  = 5 * time.Second  // until it has ended after SIGTERM
	logBytes  = 4 << 10          // of what it says, for the message when it fails
)

// child is a process that dies with this one.
type child struct {
	cmd  *exec.Cmd
	said tail.Buffer
	done chan struct{} // closed when it has ended and err is set
	err  error
}

// spawn starts a program. Standard output goes to out, or with the errors to where the
// child's last words are kept.
func spawn(out io.Writer, program string, args ...string) (*child, error) {
	c := &child{cmd: exec.Command(program, args...), said: tail.Buffer{Most: logBytes}, done: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr = out, &c.said
	if out == nil {
		c.cmd.Stdout = &c.said
	}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "ROOST_") { // the arguments are all that it is told
			c.cmd.Env = append(c.cmd.Env, kv)
		}
	}
	// Ctrl-C is for this process, which then ends the others.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	go func() {
		// The thread ends with the goroutine, and a process with a Pdeathsig with the
		// thread that started it.
		runtime.LockOSThread()
		err := c.cmd.Start()
		started <- err
		if err == nil {
			c.err = c.cmd.Wait()
		}
		close(c.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("cannot run %s: %w", program, err)
	}
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// stop ends the process by SIGTERM and, when that takes too long, by SIGKILL.
func (c *child) stop() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.done:
	case <-time.After(stopMost):
		_ = c.cmd.Process.Kill()
		<-c.done
	}
}

// ended is an error when the process runs no longer.
func (c *child) ended() error {
	select {
	case <-c.done:
		if c.err != nil {
			return fmt.Errorf("the server has ended: %w: %s", c.err, c.lastWords())
		}
		return fmt.Errorf("the server has ended: %s", c.lastWords())
	default:
		return nil
	}
}

// listens waits until something accepts connections there.
func (c *child) listens(ctx context.Context, at netip.AddrPort) error {
	for end := time.Now().Add(startMost); time.Now().Before(end); {
		if err := c.ended(); err != nil {
			return err
		}
		if conn, err := net.DialTimeout("tcp", at.String(), time.Second); err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("nothing listens on %v after %v: %s", at, startMost, c.lastWords())
}

// announced starts a program and returns the groups of the first line of its output
// that fits.
func announced(ctx context.Context, line *regexp.Regexp, program string, args ...string) (*child, []string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	c, err := spawn(w, program, args...)
	w.Close()
	if err != nil {
		r.Close()
		return nil, nil, err
	}
	found := make(chan []string, 1)
	go func() {
		defer r.Close()
		sc := bufio.NewScanner(r)
		for sc.Scan() {
			if m := line.FindStringSubmatch(sc.Text()); m != nil {
				found <- m[1:]
				break
			}
		}
		_, _ = io.Copy(io.Discard, r)
	}()
	late := time.NewTimer(startMost)
	defer late.Stop()
	select {
	case m := <-found:
		return c, m, nil
	case <-c.done:
		return nil, nil, c.ended()
	case <-late.C:
		err = fmt.Errorf("%s did not say where it listens within %v: %s", program, startMost, c.lastWords())
	case <-ctx.Done():
		err = ctx.Err()
	}
	c.stop()
	return nil, nil, err
}

// freePort returns a port that nobody listens on at the moment.
func freePort() (netip.AddrPort, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).AddrPort(), nil
}

// lastWords is the end of what it has said.
func (c *child) lastWords() []byte { return bytes.TrimSpace(c.said.Bytes()) }
