//go:build linux

package suite

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/roost-server/roost/loadtest/chaos/process"
	"github.com/roost-server/roost/loadtest/internal/wait"
)

var errFound = errors.New("found")

// TestMain also lets this program be a suite.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "suite" {
		os.Args = os.Args[1:]
		Main(Command("suite", "for tests",
			&cobra.Command{Use: "good", RunE: func(*cobra.Command, []string) error { return nil }},
			&cobra.Command{Use: "bad", RunE: func(*cobra.Command, []string) error { return errFound }},
			&cobra.Command{Use: "broken", RunE: func(*cobra.Command, []string) error { return errors.New("no wheel") }},
		), errFound)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func TestMainEndsTheProcess(t *testing.T) {
	for _, tc := range []struct {
		arg  string
		code int
		says string
	}{{"good", 0, ""}, {"bad", ExitBad, ""}, {"broken", ExitBad, "suite: no wheel\n"}, {"unheard-of", ExitBad, "unheard-of"}} {
		cmd := exec.Command(os.Args[0], "suite", tc.arg)
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		_ = cmd.Run() // the code tells
		require.Equal(t, tc.code, cmd.ProcessState.ExitCode(), tc.arg)
		if tc.says == "" {
			require.Empty(t, out.String())
		}
		require.Contains(t, out.String(), tc.says)
	}
}

func TestComplete(t *testing.T) {
	roost := filepath.Join(t.TempDir(), "roost")
	good := func() *Options { return &Options{Kafka: Embedded, Rate: 1, Roost: roost} }
	require.ErrorContains(t, good().Complete(nil, nil, nil), "build it with")
	require.NoError(t, os.WriteFile(roost, nil, 0o700))
	o := good()
	require.NoError(t, o.Complete([]Bound{{"--nodes", 3, 3, 3}}, []string{"b"}, []string{"a", "b"}))
	require.NotZero(t, o.Seed)
	o.Seed = 7
	require.NoError(t, o.Complete(nil, nil, nil))
	require.EqualValues(t, 7, o.Seed)

	require.EqualError(t, good().Complete([]Bound{{"--nodes", 2, 3, 4}}, nil, nil), "--nodes is 2: allowed are 3 to 4")
	require.EqualError(t, good().Complete([]Bound{{"--nodes", 5, 3, 4}}, nil, nil), "--nodes is 5: allowed are 3 to 4")
	require.EqualError(t, good().Complete(nil, []string{"c"}, []string{"a", "b"}), `--only is "c": allowed are "a", "b"`)
	o = good()
	o.Rate = 0
	require.EqualError(t, o.Complete(nil, nil, nil), "--rate is 0: allowed are 1 to 10000")
	o = good()
	o.Kafka = "redis"
	require.ErrorContains(t, o.Complete(nil, nil, nil), "embedded and apache")
}

// stage is a run with a member that is a shell script.
type stage struct {
	*Member
	launcher *process.Launcher
	wg       sync.WaitGroup

	mu      sync.Mutex
	script  string
	route   string
	crashes int
	failed  []error
	wrongs  []string
}

func newStage(t *testing.T, script string) *stage {
	s := &stage{launcher: process.NewLauncher(t.TempDir()), script: script}
	s.Member = NewMember("m1", Host{
		Launch: func() (*process.Process, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.script == "" {
				return nil, errors.New("no script")
			}
			return s.launcher.Start("m1", "/bin/sh", "-c", s.script)
		},
		Serves: func(ctx context.Context, p *process.Process) (string, error) {
			found, err := p.Find(ctx, regexp.MustCompile(`at (\w+)`))
			if err != nil {
				return "", err
			}
			return found[0], nil
		},
		Route:   func(addr string) { s.mu.Lock(); defer s.mu.Unlock(); s.route = addr },
		Crashed: func(*process.Process) { s.mu.Lock(); defer s.mu.Unlock(); s.crashes++ },
		Failed:  func(err error) { s.mu.Lock(); defer s.mu.Unlock(); s.failed = append(s.failed, err) },
		Wrong: func(kind, detail string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.wrongs = append(s.wrongs, kind+": "+detail)
		},
		Go:           s.wg.Go,
		StopPatience: 500 * time.Millisecond,
	})
	return s
}

// begin starts the member; the test ends it.
func (s *stage) begin(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(func() { cancel(); s.wg.Wait(); s.launcher.Close() })
	require.NoError(t, StartAll(ctx, ctx, []*Member{s.Member}, "the log"))
	return ctx
}

func (s *stage) look(f func()) { s.mu.Lock(); defer s.mu.Unlock(); f() }

const serve = "trap 'exit 0' TERM; echo at home; while :; do sleep 0.05; done"

func TestAMemberComesAndGoes(t *testing.T) {
	s := newStage(t, serve)
	require.Equal(t, "m1 out", s.Status())
	require.Nil(t, s.Process())
	s.Kill()
	s.Stop(true) // nothing is there
	ctx := s.begin(t)
	require.Equal(t, "m1 up", s.Status())
	s.look(func() { require.Equal(t, "home", s.route) })

	p := s.Process()
	frozen := make(chan struct{})
	go func() { defer close(frozen); s.Freeze(ctx, 300*time.Millisecond) }()
	require.True(t, wait.Await(ctx, func() bool { return s.Status() == "m1 frozen" && !s.Running() }))
	<-frozen
	require.True(t, s.Running())
	require.Equal(t, p, s.Process())

	s.Stop(true)
	require.False(t, s.Running())
	s.look(func() { require.Empty(t, s.route) })
	require.True(t, wait.Await(ctx, func() bool { return s.Status() == "m1 down" && s.Process() == nil }))
	require.NoError(t, s.Start(ctx))
	require.True(t, s.AwaitUp(ctx))
	s.Kill()
	require.True(t, wait.Await(ctx, func() bool { return s.Process() == nil }))
	s.look(func() {
		require.Empty(t, s.wrongs)
		require.Zero(t, s.crashes)
	})
}

func TestAMemberThatEndsByItselfIsStartedAgain(t *testing.T) {
	s := newStage(t, serve)
	ctx := s.begin(t)
	p := s.Process()
	s.look(func() { s.script = "" })
	p.Signal(9)
	require.True(t, wait.Await(ctx, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.failed) == 1 }))
	require.Regexp(t, `member m1 ended by itself, signal: killed; see .*, which ends with "at home"`, s.HowEnded(p))
	s.look(func() {
		require.Equal(t, 1, s.crashes)
		require.Empty(t, s.route)
		s.script = serve
	})
	require.NoError(t, s.Start(ctx))
	require.True(t, s.AwaitUp(ctx))
	s.Process().Signal(9)
	require.True(t, wait.Await(ctx, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.crashes == 2 }))
	require.True(t, s.AwaitUp(ctx), "it is there again")
}

func TestAMemberThatDoesNotStop(t *testing.T) {
	s := newStage(t, "trap '' TERM; echo at home; while :; do sleep 0.05; done")
	s.begin(t)
	s.Stop(true)
	s.look(func() { require.Regexp(t, "does not stop: member m1 did not end within 500ms of SIGTERM", s.wrongs[0]) })

	s = newStage(t, strings.Replace(serve, "exit 0", "exit 3", 1))
	ctx := s.begin(t)
	s.Stop(false)
	require.True(t, wait.Await(ctx, func() bool { return s.Process() == nil }))
	s.look(func() { require.Empty(t, s.wrongs, "Kafka was not well") })
	require.NoError(t, s.Start(ctx))
	require.True(t, s.AwaitUp(ctx))
	s.Stop(true)
	s.look(func() { require.Regexp(t, "orderly end: member m1 ended with code 3", s.wrongs[0]) })
}

func TestAMemberThatDoesNotComeUp(t *testing.T) {
	s := newStage(t, "trap 'exit 0' TERM; while :; do sleep 0.05; done")
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); s.wg.Wait(); s.launcher.Close() })
	limit, stop := context.WithTimeout(ctx, 200*time.Millisecond)
	defer stop()
	require.EqualError(t, StartAll(ctx, limit, []*Member{s.Member}, "the log"), "a member does not come up: m1 starting; see the log")
	s.look(func() { s.script = "" })
	require.EqualError(t, StartAll(ctx, limit, []*Member{s.Member}, "the log"), "no script")
}
