//go:build linux

package process

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestProcess(t *testing.T) {
	l := NewLauncher(t.TempDir())
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	p, err := l.Start("cat", "cat")
	require.NoError(t, err)
	_, err = p.In.Write([]byte("port 17 here\nlast words\n"))
	require.NoError(t, err)
	found, err := p.Find(ctx, regexp.MustCompile(`port (\d+)`))
	require.NoError(t, err)
	require.Equal(t, []string{"17"}, found)
	require.NoError(t, p.In.Close())
	<-p.Done()
	require.Zero(t, p.Code())
	require.Equal(t, "last words", p.Last())
	_, err = p.Find(ctx, regexp.MustCompile(`never said`))
	require.ErrorContains(t, err, "ended with code 0")
	log, err := os.ReadFile(p.Log)
	require.NoError(t, err)
	require.Contains(t, string(log), "port 17 here")
}

func TestStop(t *testing.T) {
	l := NewLauncher(t.TempDir())
	defer l.Close()
	p, err := l.Start("sleep", "sleep", "1000")
	require.NoError(t, err)
	require.True(t, p.Stop(20*time.Second))
	require.Equal(t, -1, p.Code())
	require.Equal(t, "signal: terminated", p.How())

	frozen, err := l.Start("sleep", "sleep", "1000")
	require.NoError(t, err)
	require.NotEqual(t, p.Log, frozen.Log)
	frozen.Signal(syscall.SIGSTOP)
	require.Eventually(t, func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", frozen.cmd.Process.Pid))
		return err == nil && strings.Contains(string(stat), ") T ")
	}, 20*time.Second, time.Millisecond)
	require.False(t, frozen.Stop(50*time.Millisecond), "it cannot hear")

	_, err = l.Start("left", "sleep", "1000")
	require.NoError(t, err) // Close kills it
	_, err = l.Start("none", "/no/such/program")
	require.Error(t, err)
}
