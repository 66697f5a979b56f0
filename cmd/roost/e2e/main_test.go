//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// patience is how long anything may take on a machine that is busy with other tests.
const patience = 60 * time.Second

// built are the binaries under test.
var built struct {
	dir    string
	binary string // with the race detector, when the tests have it
	plain  string // always without, for tests that look at memory
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "roost-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	built.dir = dir
	stop := startLauncher()
	defer stop()
	if built.plain, err = build(dir, "roost"); err == nil {
		built.binary = built.plain
		if raceEnabled {
			built.binary, err = build(dir, "roost-race", "-race")
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	stop()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

// build compiles cmd/roost.
func build(dir, name string, flags ...string) (string, error) {
	out := filepath.Join(dir, name)
	args := append(append([]string{"build", "-o", out}, flags...), "github.com/roost-server/roost/cmd/roost")
	if text, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, text)
	}
	return out, nil
}

// broker is where a test's topics are.
type broker struct {
	kind string
	addr string
}

// embedded tells whether members need to be told to accept the broker.
func (b broker) embedded() bool { return b.kind == "embedded" }

// onEachBroker runs the test on the embedded broker, and on Apache Kafka when there
// is one.
func onEachBroker(t *testing.T, test func(t *testing.T, b broker)) {
	t.Parallel()
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		test(t, startBroker(t, filepath.Join(t.TempDir(), "data"), "127.0.0.1:0").broker())
	})
	addr := os.Getenv("ROOST_TEST_KAFKA")
	if addr == "" {
		require.NotEqual(t, "1", os.Getenv("ROOST_REQUIRE_KAFKA"),
			"ROOST_REQUIRE_KAFKA=1 asks for the tests on Apache Kafka, and ROOST_TEST_KAFKA does not say where it is")
		return
	}
	t.Run("apache", func(t *testing.T) {
		t.Parallel()
		test(t, broker{"apache", addr})
	})
}

var (
	serial  atomic.Int64
	started = strconv.FormatInt(time.Now().UnixNano(), 36)
)

// unique returns a name that no other test or run has.
func unique(what string) string { return fmt.Sprintf("%s-%s-%d", what, started, serial.Add(1)) }

// eventually waits until the condition holds; why tells what is missing then.
func eventually(t testing.TB, limit time.Duration, why func() string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !holds() {
		if time.Now().After(deadline) {
			require.FailNow(t, "not within "+limit.String(), why())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func text(s string) func() string { return func() string { return s } }

// once makes a function that runs the first time only.
func once(fn func()) func() { return sync.OnceFunc(fn) }
