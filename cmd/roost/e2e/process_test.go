//go:build linux

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// launches are commands to be started by the launcher.
var launches = make(chan launch)

type launch struct {
	cmd  *exec.Cmd
	done chan error
}

// startLauncher starts the goroutine that starts processes. They die with the thread
// that started them, so that a test run that is killed leaves none behind; Go ends
// threads as it likes, but never the one that a living goroutine is locked to.
func startLauncher() (stop func()) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for l := range launches {
			l.done <- l.cmd.Start()
		}
	}()
	return once(func() { close(launches); <-ended })
}

// process is a running roost.
type process struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	out  output // standard output
	err  output // standard error
	done chan struct{}
	code int // when done; -1 after a signal

	brief bool // the caller shows the output itself
}

// start runs the binary under test.
func start(t testing.TB, name string, args ...string) *process {
	t.Helper()
	return startWith(t, built.binary, nil, name, args...)
}

// startWith runs a binary with additions to the environment.
func startWith(t testing.TB, binary string, env []string, name string, args ...string) *process {
	t.Helper()
	p := &process{t: t, name: name, cmd: exec.Command(binary, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	p.cmd.Env = append(append(cleanEnv(), "GORACE=atexit_sleep_ms=20"), env...) // 1 s unless told otherwise
	p.cmd.Dir = t.TempDir()
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	l := launch{p.cmd, make(chan error, 1)}
	launches <- l
	require.NoError(t, <-l.done)
	go func() {
		var exit *exec.ExitError
		err := p.cmd.Wait()
		switch {
		case errors.As(err, &exit):
			p.code = exit.ExitCode()
		case err != nil:
			p.code = -2 // the output could not be read
		}
		close(p.done)
	}()
	t.Cleanup(func() {
		if p.running() {
			p.kill()
		}
		if t.Failed() && !p.brief {
			t.Logf("%s: %s\n--- standard output\n%s\n--- standard error\n%s", name, strings.Join(args, " "), p.out.tail(), p.err.tail())
		}
		// The race detector's own exit code, and its words.
		if strings.Contains(p.err.String(), "DATA RACE") {
			t.Errorf("%s has a data race:\n%s", name, p.err.String())
		}
	})
	return p
}

// cleanEnv is the environment without settings of roost.
func cleanEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "ROOST_") {
			env = append(env, kv)
		}
	}
	return env
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// find waits for a line of standard output, and returns the expression's groups.
func (p *process) find(expr string) []string {
	p.t.Helper()
	return p.findIn(&p.out, expr)
}

// says waits for a line of standard error.
func (p *process) says(expr string) []string {
	p.t.Helper()
	return p.findIn(&p.err, expr)
}

func (p *process) findIn(o *output, expr string) (groups []string) {
	p.t.Helper()
	re := regexp.MustCompile(expr)
	eventually(p.t, patience, text(p.name+" does not say "+expr), func() bool {
		groups = re.FindStringSubmatch(o.String())
		if groups == nil && !p.running() {
			if groups = re.FindStringSubmatch(o.String()); groups == nil {
				require.FailNow(p.t, p.name+" has ended", "exit code %d, and it did not say %s", p.code, expr)
			}
		}
		return groups != nil
	})
	return groups[1:]
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(s))
}

// wait returns the exit code.
func (p *process) wait() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.brief = false
		p.dump()
		require.FailNow(p.t, p.name+" does not end")
	}
	return p.code
}

// dump has the process write its goroutines and end, and logs them: what it says of
// itself is cut otherwise.
func (p *process) dump() {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGQUIT)
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
	}
	p.t.Logf("%s does not end; its goroutines:\n%s", p.name, p.err.String())
}

// kill is SIGKILL.
func (p *process) kill() {
	p.t.Helper()
	_ = p.cmd.Process.Kill()
	p.wait()
}

// stop ends the process in an orderly way, which has to succeed.
func (p *process) stop(s os.Signal) {
	p.t.Helper()
	p.signal(s)
	require.Equal(p.t, 0, p.wait(), "%s: exit code after %v", p.name, s)
}

// residentKB returns the process's resident memory.
func (p *process) residentKB() int {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	require.NoError(p.t, err)
	var kb int
	_, after, _ := strings.Cut(string(b), "VmRSS:")
	_, err = fmt.Sscanf(after, "%d kB", &kb)
	require.NoError(p.t, err)
	return kb
}

// output is what a process has written so far.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

// String returns all of it.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func (o *output) tail() string {
	const most = 6000
	s := o.String()
	if len(s) > most {
		s = "..." + s[len(s)-most:]
	}
	return s
}

// finished is what a command that ends by itself has said.
type finished struct {
	code     int
	out, err string
}

// command runs a command of the binary to its end.
func command(t testing.TB, args ...string) finished {
	t.Helper()
	p := start(t, "roost "+args[0], args...)
	p.brief = true
	code := p.wait()
	return finished{code, p.out.String(), p.err.String()}
}

// freeAddr returns a loopback address below the range that the kernel takes ports
// from by itself, so that nobody gets the port while its process is restarted.
func freeAddr(t testing.TB) string {
	t.Helper()
	for range 200 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10_000+(os.Getpid()*97+int(serial.Add(1))*13)%22_000)
		if ln, err := net.Listen("tcp", addr); err == nil {
			require.NoError(t, ln.Close())
			return addr
		}
	}
	require.FailNow(t, "no free port")
	return ""
}

// refused tells whether nothing listens on the address.
func refused(addr string) bool {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err == nil {
		_ = conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}
