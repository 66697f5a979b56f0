package sdnotify

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// manager is what systemd is to a service: a datagram socket.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
}

func newManager(t *testing.T, name string) *manager {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", name)
	t.Setenv("WATCHDOG_USEC", "")
	t.Setenv("WATCHDOG_PID", "")
	return &manager{t, conn}
}

func (m *manager) receive() string {
	m.t.Helper()
	require.NoError(m.t, m.conn.SetReadDeadline(time.Now().Add(patience)))
	b := make([]byte, 4096)
	n, err := m.conn.Read(b)
	require.NoError(m.t, err)
	return string(b[:n])
}

func notifier(t *testing.T) *Notifier {
	t.Helper()
	n, err := FromEnvironment()
	require.NoError(t, err)
	require.NotNil(t, n)
	t.Cleanup(func() { require.NoError(t, n.Close()) })
	return n
}

func TestMessages(t *testing.T) {
	for _, name := range []string{filepath.Join(t.TempDir(), "notify"), "@roost-test-" + strconv.Itoa(os.Getpid())} {
		t.Run(name[:1], func(t *testing.T) {
			m := newManager(t, name)
			n := notifier(t)
			require.Empty(t, os.Getenv("NOTIFY_SOCKET"), "not for children")
			require.NoError(t, n.Status("waiting for Kafka\nREADY=1"))
			require.Equal(t, "STATUS=waiting for Kafka READY=1", m.receive(), "a text is no way to say more")
			require.NoError(t, n.Ready("serving"))
			require.Equal(t, "READY=1\nSTATUS=serving", m.receive())
			require.NoError(t, n.Stopping(strings.Repeat("x", 1000)))
			require.Equal(t, "STOPPING=1\nSTATUS="+strings.Repeat("x", maxStatus), m.receive())
			require.Zero(t, n.Watchdog())
			n.Watch(context.Background(), nil, zap.NewNop()) // returns: nobody watches
		})
	}
}

func TestWithoutSystemd(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	n, err := FromEnvironment()
	require.NoError(t, err)
	require.Nil(t, n)
	require.NoError(t, n.Ready(""))
	require.NoError(t, n.Stopping(""))
	require.Zero(t, n.Watchdog())
	n.Watch(context.Background(), nil, zap.NewNop())
	require.NoError(t, n.Close())
}

// The watchdog is fed while the check says so, is not when it fails or hangs, and is again
// when that is over.
func TestWatchdog(t *testing.T) {
	m := newManager(t, filepath.Join(t.TempDir(), "notify"))
	t.Setenv("WATCHDOG_USEC", "150000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	n := notifier(t)
	require.Equal(t, 150*time.Millisecond, n.Watchdog())
	core, logs := observer.New(zapcore.ErrorLevel)
	ctx, cancel := context.WithCancel(context.Background())
	answers, ended := make(chan error), make(chan struct{})
	go func() {
		defer close(ended)
		n.Watch(ctx, func(ctx context.Context) error {
			if _, ok := ctx.Deadline(); !ok {
				return errors.New("no deadline")
			}
			return <-answers // ignores its deadline, as what hangs does
		}, zap.New(core))
	}()
	for range 3 {
		answers <- nil
		require.Equal(t, "WATCHDOG=1", m.receive())
	}
	answers <- errors.New("a loop is stuck")
	require.Eventually(t, func() bool { return logs.FilterField(zap.Error(errors.New("a loop is stuck"))).Len() == 1 }, patience, time.Millisecond)
	// Nobody answers: it says so, and asks nothing more.
	require.Eventually(t, func() bool { return logs.FilterField(zap.Error(errSilent)).Len() >= 3 }, patience, time.Millisecond)
	require.NoError(t, m.conn.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	_, err := m.conn.Read(make([]byte, 100))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded, "nothing was sent meanwhile")
	answers <- nil
	require.Equal(t, "WATCHDOG=1", m.receive())
	cancel()
	close(answers)
	<-ended
}

// A manager that does not read does not hold the process up for long, nor does one that is gone.
func TestStuckManager(t *testing.T) {
	m := newManager(t, filepath.Join(t.TempDir(), "notify"))
	n := notifier(t)
	var err error
	for i := 0; i < 10_000 && err == nil; i++ {
		err = n.Status("x")
	}
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, m.conn.Close())
	require.Error(t, n.Status("x"))
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct{ socket, usec, pid, want string }{
		{"relative", "", "", "NOTIFY_SOCKET"},
		{filepath.Join(t.TempDir(), "missing"), "", "", "no such file"},
		{"@x", "soon", "", "WATCHDOG_USEC"},
		{"@x", "-5", "", "WATCHDOG_USEC"},
		{"@x", "99999999999999999", "", "WATCHDOG_USEC"},
	} {
		t.Setenv("NOTIFY_SOCKET", c.socket)
		t.Setenv("WATCHDOG_USEC", c.usec)
		t.Setenv("WATCHDOG_PID", c.pid)
		_, err := FromEnvironment()
		require.ErrorContains(t, err, c.want)
	}
	// The watchdog is another process's.
	newManager(t, filepath.Join(t.TempDir(), "notify"))
	t.Setenv("WATCHDOG_USEC", "150000")
	t.Setenv("WATCHDOG_PID", "1")
	require.Zero(t, notifier(t).Watchdog())
}
