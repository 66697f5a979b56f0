package roost

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/protocol"
)

// The crash tests run this test binary again as a child, which they kill with
// SIGKILL. The variable says what the child does.
const childEnv = "ROOST_SDK_CRASH_CHILD"

// crashChild is the child's main; false in the parent.
func crashChild() bool {
	what, arg, ok := strings.Cut(os.Getenv(childEnv), " ")
	if !ok {
		return false
	}
	var err error
	switch what {
	case "put":
		err = childPuts(arg)
	case "node":
		path, addr, _ := strings.Cut(arg, " ")
		err = childNode(path, addr)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
	return true
}

// childPuts stores results without end, and says each id after it is stored; of
// three it removes one. Compaction happens on the way.
func childPuts(path string) error {
	o, err := OpenFileOutbox(path, FileOptions{})
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		id := fmt.Sprint("j", i)
		if err := o.Put(entry(id, 1, rand.IntN(20<<10))); err != nil {
			return err
		}
		if i%3 == 0 {
			fmt.Println("put", id)
		} else if err := o.Remove(id, 1); err != nil {
			return err
		}
	}
}

// childNode is a node that says each run of a handler.
func childNode(path, addr string) error {
	o, err := OpenFileOutbox(path, FileOptions{})
	if err != nil {
		return err
	}
	c, err := New(Config{Servers: []string{addr}, NodeID: "crash", Outbox: o})
	if err != nil {
		return err
	}
	c.Handle("k", func(_ context.Context, j Job) (Result, error) {
		fmt.Println("run", j.ID)
		return OK(j.ID), nil
	})
	return c.Run(context.Background())
}

// child starts one and returns its lines and what kills it.
func child(t *testing.T, what string) (lines *bufio.Scanner, kill func()) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+what)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	killed := false
	kill = func() {
		if !killed {
			killed = true
			_ = cmd.Process.Kill()
			_, _ = io.Copy(io.Discard, out)
			_ = cmd.Wait()
		}
	}
	t.Cleanup(kill)
	return bufio.NewScanner(out), kill
}

func TestFileOutboxSurvivesKill(t *testing.T) {
	for range 4 {
		path := filepath.Join(t.TempDir(), "box")
		lines, kill := child(t, "put "+path)
		var stored []string
		for n := 10 + rand.IntN(60); len(stored) < n && lines.Scan(); {
			stored = append(stored, strings.TrimPrefix(lines.Text(), "put "))
		}
		kill()
		for lines.Scan() {
			stored = append(stored, strings.TrimPrefix(lines.Text(), "put "))
		}
		o := openBox(t, path, FileOptions{})
		require.Empty(t, o.Damaged())
		have := map[string]bool{}
		for _, e := range allOf(t, o) {
			have[e.JobID] = true
		}
		require.GreaterOrEqual(t, len(stored), 10)
		for _, id := range stored {
			require.True(t, have[id], "%s was stored", id)
		}
		require.LessOrEqual(t, len(have), len(stored)+5, "and removed ones are gone")
	}
}

// A node killed after it sent results: its successor says what it holds, sends the
// results again, and answers the jobs without running them.
func TestNodeSurvivesKill(t *testing.T) {
	m := newMember(t)
	path := filepath.Join(t.TempDir(), "box")
	lines, kill := child(t, "node "+path+" "+m.addr())
	p, _ := m.session()
	for i := range 5 {
		id := fmt.Sprint("j", i)
		p.job(id, 1, "k", nil)
		p.result(id, 1, protocol.OutcomeOK)
		require.True(t, lines.Scan())
		require.Equal(t, "run "+id, lines.Text())
	}
	kill()
	p.gone()

	lines, _ = child(t, "node "+path+" "+m.addr())
	p, hello := m.session()
	require.Len(t, hello.Held, 5)
	for i := range 5 {
		p.result(fmt.Sprint("j", i), 1, protocol.OutcomeOK)
	}
	p.job("j2", 2, "k", nil)
	p.result("j2", 2, protocol.OutcomeOK)
	p.ack("j2", 2)
	p.job("new", 1, "k", nil)
	p.result("new", 1, protocol.OutcomeOK)
	require.True(t, lines.Scan())
	require.Equal(t, "run new", lines.Text(), "nothing was run again before it")
}
