//go:build linux

package proc

import (
	"math"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestParseStat(t *testing.T) {
	tail := " S 1 2 3 0 -1 4194560 10 20 30 40 250 50 7 8 20 0 5 0 100 1000 2000"
	for _, name := range []string{"roost", "a b", "x) y (z)", "1 2 3"} {
		d, err := parseStat([]byte("42 (" + name + ")" + tail))
		require.NoError(t, err, name)
		require.Equal(t, 3*time.Second, d, name)
	}
	for _, bad := range []string{"", "42 (x) S 1 2", "42 (x) S 1 2 3 0 -1 4 10 20 30 40 x 50 7"} {
		_, err := parseStat([]byte(bad))
		require.Error(t, err, bad)
	}
}

func TestField(t *testing.T) {
	n, err := field([]byte("VmPeak:\t 99 kB\nVmRSS:\t  1234 kB\nRssAnon: 7 kB\n"), "VmRSS:")
	require.NoError(t, err)
	require.Equal(t, int64(1234<<10), n)
	for _, bad := range []string{"", "VmRSS: 12 MB\n", "VmRSS: kB\n", "VmRSS: x kB\n", "xVmRSS: 1 kB\n"} {
		_, err := field([]byte(bad), "VmRSS:")
		require.Error(t, err, bad)
	}
}

// A child process of known behaviour would be slow; this process itself will do.
func TestSelf(t *testing.T) {
	before, err := CPU(os.Getpid())
	require.NoError(t, err)
	own := SelfCPU()
	x := 1.0
	for SelfCPU()-own < 60*time.Millisecond {
		x = math.Sqrt(x + 1)
	}
	after, err := CPU(os.Getpid())
	require.NoError(t, err)
	require.GreaterOrEqual(t, after-before, 40*time.Millisecond, x)

	small, err := RSS(os.Getpid())
	require.NoError(t, err)
	// Mapped, not allocated: the race detector would shadow heap memory with as much again.
	block, err := unix.Mmap(-1, 0, 64<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
	require.NoError(t, err)
	large, err := RSS(os.Getpid())
	require.NoError(t, err)
	require.InDelta(t, 64<<20, large-small, 16<<20)
	require.NoError(t, unix.Munmap(block))
	peak, err := PeakRSS(os.Getpid())
	require.NoError(t, err)
	require.InDelta(t, large, peak, 16<<20, "what was given back still counts")
}

func TestCheck(t *testing.T) {
	require.NoError(t, Check(os.Getpid()))
	require.ErrorContains(t, Check(0), "positive")
	cmd := exec.Command("true")
	require.NoError(t, cmd.Run())
	require.ErrorContains(t, Check(cmd.Process.Pid), "no such process")
	_, err := PeakRSS(cmd.Process.Pid)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestSteady(t *testing.T) {
	require.Equal(t, int64(0), Steady(nil))
	require.Equal(t, int64(5), Steady([]int64{5}))
	require.Equal(t, int64(30), Steady([]int64{10, 11, 99, 30, 31, 29}), "the first half rises, the second has settled")
}

func TestRaiseFileLimit(t *testing.T) {
	now, err := RaiseFileLimit(10)
	require.NoError(t, err)
	require.GreaterOrEqual(t, now, uint64(10))
	got, err := RaiseFileLimit(now)
	require.NoError(t, err)
	require.Equal(t, now, got)
	huge, err := RaiseFileLimit(1 << 62) // above any kernel's nr_open
	require.NoError(t, err)
	require.GreaterOrEqual(t, huge, now)
	require.Less(t, huge, uint64(1<<62))
}
