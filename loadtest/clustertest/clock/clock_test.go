//go:build linux && amd64

package clock

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const childEnv = "CLOCK_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		os.Exit(m.Run())
	}
	begin := time.Now()
	for time.Since(begin) < time.Minute { // it is killed long before
		fmt.Println(time.Now().UnixMilli(), time.Since(begin).Milliseconds())
		time.Sleep(time.Millisecond)
	}
}

// TestSet moves the clock of a child, twice, while that reads it all the time.
func TestSet(t *testing.T) {
	if why := Lacking(); why != "" {
		t.Skip(why)
	}
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childEnv+"=1")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	in := bufio.NewScanner(out)
	// ahead reads on until the child's clock is so far ahead.
	ahead := func(want time.Duration) {
		t.Helper()
		last := int64(-1)
		for in.Scan() {
			var wall, mono int64
			_, err := fmt.Sscan(in.Text(), &wall, &mono)
			require.NoError(t, err)
			require.GreaterOrEqual(t, mono, last, "the monotonic clock goes on")
			require.Less(t, mono, int64(50_000), "the clock does not move")
			last = mono
			if d := time.Until(time.UnixMilli(wall)) - want; d.Abs() < 2*time.Second {
				return
			}
		}
		t.Fatal("the child ended")
	}
	ahead(0)
	for _, want := range []time.Duration{time.Hour, -10 * time.Second, 0} {
		require.NoError(t, Set(cmd.Process.Pid, want))
		ahead(want)
	}
	require.Error(t, Set(cmd.Process.Pid, 1500*time.Millisecond))
	require.Error(t, Set(1<<23, time.Second), "process "+strconv.Itoa(1<<23)+" cannot exist")
}
