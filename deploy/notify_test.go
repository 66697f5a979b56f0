package deploy_test

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestNotify starts a member as systemd does, with a socket to hear of it: that it waits for
// Kafka, serves, lives, and ends.
func TestNotify(t *testing.T) {
	roost := buildRoost(t)
	socket := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	require.NoError(t, err)
	defer manager.Close()
	receive := func() string {
		t.Helper()
		require.NoError(t, manager.SetReadDeadline(time.Now().Add(2*patience)))
		b := make([]byte, 4096)
		n, err := manager.Read(b)
		require.NoError(t, err)
		return string(b[:n])
	}
	awaiting := func(want string) {
		t.Helper()
		for got := ""; !strings.HasPrefix(got, want); got = receive() {
			require.NotContains(t, got, "STOPPING")
		}
	}

	broker := exec.Command(roost, "broker", "--listen", "127.0.0.1:0")
	out, err := broker.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, broker.Start())
	defer func() { _ = broker.Process.Kill(); _ = broker.Wait() }()
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	kafka := strings.TrimSpace(strings.TrimPrefix(line, "embedded broker at "))

	cmd := exec.Command(roost, "serve", "--kafka", kafka, "--unsafe-embedded-broker", "--name", "notifier",
		"--nodes-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0", "--partitions", "1")
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=600000")
	var log strings.Builder
	cmd.Stderr = &log
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() {
		_ = cmd.Process.Kill()
		if t.Failed() {
			<-ended
			t.Log(log.String())
		}
	}()
	awaiting("READY=1\nSTATUS=serving")
	for range 3 {
		awaiting("WATCHDOG=1")
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	for got := ""; !strings.HasPrefix(got, "STOPPING=1\n"); got = receive() {
	}
	select {
	case err := <-ended:
		require.NoError(t, err, log.String())
	case <-time.After(2 * patience):
		t.Fatal("it does not end")
	}
}
