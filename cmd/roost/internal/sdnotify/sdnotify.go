// Package sdnotify tells systemd how the process does, for units with Type=notify and
// WatchdogSec: the protocol of sd_notify(3), which is one datagram a message. Without
// systemd everything here does nothing.
package sdnotify

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// maxStatus bounds the text of a status line; systemd shows one line.
const maxStatus = 256

// Notifier talks to systemd. Its methods may be called from any goroutine, and on nil.
type Notifier struct {
	mu       sync.Mutex // one message at a time
	conn     *net.UnixConn
	watchdog time.Duration // 0: systemd does not watch
}

// FromEnvironment returns the notifier for the service manager that started this process,
// or nil when none did. It takes the variables out of the environment: they are for this
// process, not for its children.
func FromEnvironment() (*Notifier, error) {
	socket, usec, pid := os.Getenv("NOTIFY_SOCKET"), os.Getenv("WATCHDOG_USEC"), os.Getenv("WATCHDOG_PID")
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		if err := os.Unsetenv(name); err != nil {
			return nil, fmt.Errorf("sdnotify: %w", err)
		}
	}
	if socket == "" {
		return nil, nil
	}
	if !strings.HasPrefix(socket, "/") && !strings.HasPrefix(socket, "@") { // @: abstract, which Go knows too
		return nil, fmt.Errorf("sdnotify: NOTIFY_SOCKET is %q: want a path, or @NAME", socket)
	}
	n := &Notifier{}
	if usec != "" && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		v, err := strconv.ParseInt(usec, 10, 64)
		if err != nil || v < 1 || v > int64(24*time.Hour/time.Microsecond) {
			return nil, fmt.Errorf("sdnotify: WATCHDOG_USEC is %q: want microseconds, up to a day", usec)
		}
		n.watchdog = time.Duration(v) * time.Microsecond
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("sdnotify: %w", err)
	}
	n.conn = conn
	return n, nil
}

// Ready tells that the service serves, and shows the text in systemctl status.
func (n *Notifier) Ready(status string) error {
	return n.send("READY=1\nSTATUS=" + line(status))
}

// Status shows another text in systemctl status.
func (n *Notifier) Status(status string) error {
	return n.send("STATUS=" + line(status))
}

// Stopping tells that the end has begun. The watchdog is fed on until Watch ends.
func (n *Notifier) Stopping(status string) error {
	return n.send("STOPPING=1\nSTATUS=" + line(status))
}

// Watchdog is how often systemd wants to hear that the process is alive; 0: it does not
// watch.
func (n *Notifier) Watchdog() time.Duration {
	if n == nil {
		return 0
	}
	return n.watchdog
}

// Watch tells systemd that the process is alive, three times in each of its intervals, as long
// as alive returns nil in time: it gets a context that ends after a third. When it does
// not, nothing is sent, and systemd ends the process and starts it again. So alive has to
// look at what only a restart mends, and not at what others are to blame for, such as an
// unreachable broker. Watch blocks until ctx ends; without a watchdog it returns at once.
func (n *Notifier) Watch(ctx context.Context, alive func(ctx context.Context) error, log *zap.Logger) {
	every := n.Watchdog() / 3
	if every <= 0 {
		return
	}
	answer := make(chan error, 1)
	for asked := false; ; {
		began := time.Now()
		if !asked { // one that hangs is waited for, not asked again
			bounded, cancel := context.WithTimeout(ctx, every)
			go func() { defer cancel(); answer <- alive(bounded) }()
		}
		err := await(ctx, every, answer)
		asked = errors.Is(err, errSilent)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			log.Error("the watchdog is not fed: systemd will end this process if that goes on",
				zap.Duration("interval", n.watchdog), zap.Error(err))
		default:
			if err := n.send("WATCHDOG=1"); err != nil {
				log.Warn("systemd could not be told that this process is alive", zap.Error(err))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(every - time.Since(began)):
		}
	}
}

var errSilent = errors.New("the check did not answer in time")

// await waits for an answer.
func await(ctx context.Context, limit time.Duration, answer <-chan error) error {
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(limit):
		return errSilent
	}
}

// Close frees the socket.
func (n *Notifier) Close() error {
	if n == nil {
		return nil
	}
	return n.conn.Close()
}

func (n *Notifier) send(message string) error {
	if n == nil {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	// The manager may be stuck; the process must not be because of that.
	if err := n.conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return fmt.Errorf("sdnotify: %w", err)
	}
	if _, err := n.conn.Write([]byte(message)); err != nil {
		return fmt.Errorf("sdnotify: %w", err)
	}
	return nil
}

// line makes one line of a text.
func line(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	return s[:min(len(s), maxStatus)]
}
