//go:build linux

package guest

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/roost-server/roost/protocol"
)

// sink is where drained nodes are sent: it stands for the other members of a cluster,
// which would take as much memory again. It hears a node's HELLO and tells it never to
// come back.
type sink struct {
	address string
	ep      int
	listen  int
	wake    int
	done    chan struct{}

	mu  sync.Mutex
	err error
}

const (
	sinkBacklog = 65535
	sinkEvents  = 512
	sinkAccepts = 256 // between two looks at those that have spoken
)

// openSink listens on a port of the kernel's choice.
func openSink() (*sink, error) {
	s := &sink{ep: -1, listen: -1, wake: -1, done: make(chan struct{})}
	if err := s.open(); err != nil {
		s.closeFiles()
		return nil, fmt.Errorf("a place for drained nodes: %w", err)
	}
	go s.run()
	return s, nil
}

func (s *sink) open() (err error) {
	if s.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if s.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return err
	}
	if s.listen, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	if err = unix.Bind(s.listen, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err
	}
	if err = unix.Listen(s.listen, sinkBacklog); err != nil {
		return err
	}
	name, err := unix.Getsockname(s.listen)
	if err != nil {
		return err
	}
	in, ok := name.(*unix.SockaddrInet4)
	if !ok {
		return fmt.Errorf("listens on %v", name)
	}
	s.address = fmt.Sprintf("127.0.0.1:%d", in.Port)
	return errors.Join(s.watch(s.listen), s.watch(s.wake))
}

func (s *sink) watch(fd int) error {
	return unix.EpollCtl(s.ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

// run serves until close.
func (s *sink) run() {
	defer close(s.done)
	never, err := protocol.NewEncoder().Append(nil, &protocol.Close{Reason: protocol.ReasonReplaced, Message: "the test is over"})
	events, buf := make([]unix.EpollEvent, sinkEvents), make([]byte, 64<<10)
	for err == nil {
		var n int
		n, err = unix.EpollWait(s.ep, events, -1)
		if errors.Is(err, unix.EINTR) {
			n, err = 0, nil
		}
		for _, ev := range events[:max(n, 0)] {
			switch fd := int(ev.Fd); fd {
			case s.wake:
				return
			case s.listen:
				err = s.accept()
			default:
				// What a node says first fits one read. It is read so that closing does not
				// reset the connection before the node has read the answer.
				_, _ = unix.Read(fd, buf)
				_, _ = unix.Write(fd, never)
				_ = unix.Close(fd)
			}
		}
	}
	s.mu.Lock()
	s.err = fmt.Errorf("the place for drained nodes: %w", err)
	s.mu.Unlock()
}

// accept takes some of those that wait.
func (s *sink) accept() error {
	for range sinkAccepts {
		fd, _, err := unix.Accept4(s.listen, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch err {
		case nil:
			if err := s.watch(fd); err != nil {
				return errors.Join(err, unix.Close(fd))
			}
		case unix.EAGAIN:
			return nil
		case unix.EINTR, unix.ECONNABORTED:
		default:
			return err
		}
	}
	return nil
}

// failed returns why it serves no longer, or nil.
func (s *sink) failed() error { s.mu.Lock(); defer s.mu.Unlock(); return s.err }

// close ends it and waits for that.
func (s *sink) close() {
	_, _ = unix.Write(s.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	<-s.done
	s.closeFiles()
}

func (s *sink) closeFiles() {
	for _, fd := range []int{s.ep, s.listen, s.wake} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}
