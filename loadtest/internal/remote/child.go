//go:build linux

package remote

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/roost-server/roost/loadtest/internal/tail"
)

// InheritedFD is the file descriptor at which a child finds its end of the socket pair.
const InheritedFD = 3

// tailBytes is what is kept of a child's output, for the message about its end.
const tailBytes = 2 << 10

// child is a worker process of this coordinator.
type child struct {
	cmd  *exec.Cmd
	tail tail.Buffer   // of its output
	done chan struct{} // closed when it has ended
}

// startChild runs a program with one end of a socket pair, and returns the other. The
// child dies with this process, however that ends.
func startChild(program string, args []string) (*child, net.Conn, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "worker"), os.NewFile(uintptr(pair[1]), "coordinator")
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	_ = ours.Close() // FileConn has a duplicate
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	c := &child{cmd: exec.Command(program, args...), tail: tail.Buffer{Most: tailBytes}, done: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr = &c.tail, &c.tail
	c.cmd.WaitDelay = time.Second
	c.cmd.ExtraFiles = []*os.File{theirs} // becomes InheritedFD
	// A group of its own: Ctrl-C in a terminal is for the coordinator, which ends its children in order.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error, 1)
	go func() {
		// The kernel sends Pdeathsig when the thread that started the child ends: this one
		// stays until the child has ended, and is never unlocked.
		runtime.LockOSThread()
		err := c.cmd.Start()
		started <- err
		if err == nil {
			_ = c.cmd.Wait() // ProcessState has it
			close(c.done)
		}
	}()
	if err := <-started; err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return c, conn, nil
}

// Inherited is the connection of a child to its coordinator. In a process that is no child
// that file descriptor may be anything: it is left alone.
func Inherited() (net.Conn, error) {
	domain, err := unix.GetsockoptInt(InheritedFD, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err == nil && domain != unix.AF_UNIX {
		err = unix.EAFNOSUPPORT
	}
	if err != nil {
		return nil, fmt.Errorf("this is for the coordinator's own children: file descriptor %d is not its socket: %w", InheritedFD, err)
	}
	f := os.NewFile(InheritedFD, "coordinator")
	defer f.Close() // FileConn has a duplicate
	return net.FileConn(f)
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// end waits for the process to end by itself, then kills it. It tells how that was.
func (c *child) end(patience time.Duration) string {
	t := time.NewTimer(patience)
	defer t.Stop()
	killed := ""
	select {
	case <-c.done:
	case <-t.C:
		killed = "killed by the coordinator: "
		_ = c.cmd.Process.Kill()
		<-c.done
	}
	how := killed + c.cmd.ProcessState.String()
	if last := c.tail.Line(); last != "" {
		how += fmt.Sprintf("; its last words: %q", last)
	}
	return how
}
