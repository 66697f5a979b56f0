//go:build linux

package server

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/loadtest/internal/tail"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shell runs a script as the server.
func shell(t *testing.T, script string) (*Process, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return Start(ctx, "/bin/sh", "-c", script)
}

const line = "echo warming up; echo member m serves: nodes 127.0.0.1:7400, API http://%s, Kafka k:1; "

func TestProcess(t *testing.T) {
	t.Setenv("ROOST_API_TOKEN", "secret")
	var status atomic.Int32
	status.Store(http.StatusServiceUnavailable)
	mux := http.NewServeMux()
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(status.Load())) })
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(status.Load()))
		fmt.Fprint(w, "roost_jobs_pending{partition=\"0\"} 3\nroost_jobs_pending{partition=\"1\"} 4\n")
	})
	web := httptest.NewServer(mux)
	defer web.Close()
	defer http.DefaultClient.CloseIdleConnections()

	p, err := shell(t, "test -z \"$ROOST_API_TOKEN\" || exit 3; "+fmt.Sprintf(line, web.Listener.Addr())+"exec sleep 60")
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:7400", p.Nodes)
	require.Equal(t, web.URL, p.API)
	ctx := context.Background()
	require.False(t, p.Ready(ctx))
	_, _, err = p.Pending(ctx)
	require.ErrorContains(t, err, "503")
	status.Store(http.StatusOK)
	require.True(t, p.Ready(ctx))
	jobs, partitions, err := p.Pending(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 7, jobs)
	require.Equal(t, 2, partitions)
	require.NoError(t, p.Ended())
	require.DirExists(t, fmt.Sprintf("/proc/%d", p.PID()))
	p.Kill()
	require.ErrorContains(t, p.Ended(), "signal: killed")
	require.NoDirExists(t, fmt.Sprintf("/proc/%d", p.PID()))
}

func TestStop(t *testing.T) {
	const up = "echo serves: nodes a:1, API http://b:2, Kafka k; "
	for _, tc := range []struct{ script, want string }{
		{"trap 'exit 0' TERM; " + up + "while :; do sleep 0.01; done", ""},
		{"trap 'echo trouble >&2; exit 4' TERM; " + up + "while :; do sleep 0.01; done", "exit status 4: trouble"},
	} {
		p, err := shell(t, tc.script)
		require.NoError(t, err)
		err = p.Stop(context.Background())
		if tc.want == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, tc.want)
		}
	}
	p, err := shell(t, "trap '' TERM; "+up+"while :; do sleep 0.01; done")
	require.NoError(t, err)
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorContains(t, p.Stop(gone), "did not stop in time: signal: killed")
}

func TestServersThatDoNotStart(t *testing.T) {
	_, err := shell(t, "echo no such flag >&2; exit 2")
	require.ErrorContains(t, err, "before it was up: exit status 2: no such flag")
	_, err = Start(context.Background(), "/nowhere/roost")
	require.ErrorIs(t, err, os.ErrNotExist)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_, err = Start(ctx, "/bin/sh", "-c", "echo waiting for Kafka >&2; exec sleep 60")
	require.ErrorContains(t, err, "was not up in time: signal: killed: waiting for Kafka")
}

func TestSum(t *testing.T) {
	for text, want := range map[string][2]int64{
		"":                                      {0, 0},
		"# HELP m Jobs.\n# TYPE m gauge\nm 5\n": {5, 1},
		"m{a=\"}\"} 2\nm{a=\"b\"} 3e3 1700000000\nmm 9\nm_total 9\nm": {3002, 2},
	} {
		total, series, err := sum(strings.NewReader(text), "m")
		require.NoError(t, err, text)
		require.Equal(t, want, [2]int64{total, int64(series)}, text)
	}
	_, _, err := sum(strings.NewReader("m x"), "m")
	require.ErrorContains(t, err, `"m x"`)
}

func TestTheEndOfALogIsKept(t *testing.T) {
	l := tail.Buffer{Most: logBytes}
	for range 100 {
		_, _ = l.Write(make([]byte, 1000))
	}
	_, _ = l.Write([]byte("end"))
	require.Len(t, l.Bytes(), logBytes)
	require.True(t, strings.HasSuffix(string(l.Bytes()), "end"))
}
