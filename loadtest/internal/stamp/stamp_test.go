package stamp

import (
	"bytes"
	"math"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain also lets this program tell its clock to another process.
func TestMain(m *testing.M) {
	if os.Getenv("STAMP_NOW") != "" {
		_, _ = os.Stdout.WriteString(strconv.FormatInt(Now(), 10))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func args(body int) []byte { return append([]byte{0xc4, byte(body)}, make([]byte, body)...) }

func TestStampsComeBack(t *testing.T) {
	a := args(100)
	Put(a[2:], 123, 456, 0)
	sent, seq, received := Of(a[2:])
	require.Equal(t, [3]int64{123, 456, 0}, [3]int64{sent, seq, received})

	before := Now()
	require.Zero(t, Receive(a, true))
	sent, seq, received = Of(a[2:])
	require.Equal(t, [2]int64{123, 456}, [2]int64{sent, seq})
	require.True(t, received >= before && received <= Now())
}

func TestHowLongToRun(t *testing.T) {
	a := args(Bytes)
	Put(a[2:], 1, 2, 1500*time.Millisecond)
	_, _, received := Of(a[2:])
	require.Zero(t, received, "no node had it")
	require.Equal(t, 1500*time.Millisecond, Receive(a, false))
	_, _, received = Of(a[2:])
	require.Zero(t, received, "its node does not stamp")
	require.Equal(t, 1500*time.Millisecond, Receive(a, true))
	_, _, received = Of(a[2:])
	require.NotZero(t, received)
	require.Zero(t, Receive(a, true), "a stamp is no duration")

	Put(a[2:], 1, 2, math.MaxInt64)
	require.Equal(t, maxRunFor, Receive(a, true))
}

func TestArgsOfOthersAreLeftAlone(t *testing.T) {
	for _, a := range [][]byte{nil, {}, {0xc4}, {0xc0}, {0xc4, 23, 22: 0}, {0x80, 100: 1}, {0xdb, 0, 0, 0, 100, 200: 1}} {
		was := bytes.Clone(a)
		require.Zero(t, Receive(a, true))
		require.Equal(t, was, a)
	}
}

func TestProcessesOfOneHostCompare(t *testing.T) {
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "STAMP_NOW=1")
	before := Now()
	out, err := cmd.Output()
	require.NoError(t, err)
	n, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	require.NoError(t, err)
	require.True(t, n >= before && n <= Now(), "%d, %d, %d", before, n, Now())
}
