package cli

import (
	"bytes"
	"context"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/cmd/roost/internal/api/apitest"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares with testdata/name.golden; what changes from run to run is replaced before.
func golden(t *testing.T, name, got string) {
	t.Helper()
	for _, r := range []struct{ pattern, by string }{
		{`\b[0-9A-HJKMNP-TV-Z]{26}\b`, "01JDX5ZQ4T8M7KX0F3Y2N9C6RA"},
		{`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`, "2026-01-02 03:04:05"},
		{`\b(\d+[dhms])+ ago`, "1m2s ago"},
	} {
		got = regexp.MustCompile(r.pattern).ReplaceAllString(got, r.by)
	}
	path := filepath.Join("testdata", name+".golden")
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// buffer is an output that may be looked at while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// testMember is a real server of the API over a small backend, and the commands that talk to it.
type testMember struct {
	t       *testing.T
	backend *apitest.Backend
	server  *api.Server
	g       *Globals
	out     *buffer
	err     *buffer
}

func testNodes() []api.NodeView {
	kinds := []string{"dns", "http"}
	return []api.NodeView{
		{ID: "sydney-1", Country: "AU", City: "Sydney", ASN: 1221, Platform: "linux/arm64", Tags: []string{"home", "fibre"}, Kinds: kinds, Member: "m1", Incarnation: 3, Agent: "roost-node/1.2.3", RemoteAddr: "192.0.2.7:50123", ConnectedMs: 1_700_000_000_000},
		{ID: "perth-1", Country: "AU", City: "Perth", ASN: 4_200_000_000, Platform: "linux/amd64", Kinds: kinds, Member: "m1"},
		{ID: "berlin-1", Country: "DE", City: "Berlin", ASN: 3320, Platform: "linux/amd64", Tags: []string{"home"}, Kinds: []string{"http"}, Member: "m2"},
	}
}

// runNode is a node that fails in Berlin.
func runNode(_ *record.Job, n api.NodeView) (apitest.Run, bool) {
	switch n.ID {
	case "berlin-1":
		return apitest.Run{Outcome: protocol.OutcomeFailed, Duration: 1234 * time.Millisecond, Error: "status 503, expected 200-399"}, true
	case "perth-1":
		return apitest.Run{Outcome: protocol.OutcomeOK, Duration: 98765 * time.Microsecond, Output: map[string]any{"status": 200, "bytes": 1256, "redirects": 0, "total_ms": 98.7}}, true
	}
	return apitest.Run{Outcome: protocol.OutcomeOK, Duration: 4321 * time.Microsecond, Output: map[string]any{"status": 200, "bytes": 1256, "first_byte_ms": 2.5}}, true
}

func startMember(t *testing.T, handler apitest.Handler, nodes ...api.NodeView) *testMember {
	t.Helper()
	return startServer(t, api.Config{}, apitest.New(handler, nodes...), nil)
}

// startServer serves backend, or wrapped around it.
func startServer(t *testing.T, cfg api.Config, backend *apitest.Backend, wrapped api.Backend) *testMember {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) }) // runs last
	if wrapped == nil {
		wrapped = backend
	}
	cfg.Listen = "127.0.0.1:0"
	s, err := api.New(cfg, wrapped, zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel)))
	require.NoError(t, err)
	require.NoError(t, s.Start(t.Context()))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, s.Close(ctx))
	})
	return &testMember{t: t, backend: backend, server: s, g: &Globals{API: "http://" + s.Addr().String(), slack: defaultSlack, patience: 10 * time.Second}}
}

// result is what a command did.
type result struct {
	out, err string
	code     int
	message  string
}

// run runs one command to its end.
func (m *testMember) run(args ...string) result {
	m.t.Helper()
	return <-m.start(m.t.Context(), args...)
}

// start runs one command in the background; m.out and m.err show what it writes.
func (m *testMember) start(ctx context.Context, args ...string) <-chan result {
	out, errOut := &buffer{}, &buffer{}
	m.out, m.err = out, errOut
	g := *m.g
	g.Out, g.Err = out, errOut
	root := &cobra.Command{Use: "roost", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(NewRun(&g), NewNodes(&g), NewJobs(&g), NewStatus(&g), NewWatermarks(&g),
		NewTree(&g), NewTrace(&g), NewDrain(&g), NewRebalance(&g))
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(io.Discard)
	done := make(chan result, 1)
	go func() {
		code, message := ExitCode(root.ExecuteContext(ctx))
		done <- result{out: out.String(), err: errOut.String(), code: code, message: message}
	}()
	return done
}

// submitted is the only job that was submitted.
func (m *testMember) submitted() api.JobView {
	m.t.Helper()
	list, err := m.backend.Jobs(m.t.Context(), api.JobFilter{Limit: 2})
	require.NoError(m.t, err)
	require.Len(m.t, list.Jobs, 1)
	return list.Jobs[0]
}

// waitForJob waits until a job has been submitted and is followed, and returns its id.
func (m *testMember) waitForJob() string {
	m.t.Helper()
	var id string
	require.Eventually(m.t, func() bool {
		list, err := m.backend.Jobs(m.t.Context(), api.JobFilter{Limit: 1})
		if err != nil || len(list.Jobs) == 0 {
			return false
		}
		id = list.Jobs[0].ID
		return strings.Contains(m.out.String(), id) || m.backend.Following(id) > 0
	}, 10*time.Second, time.Millisecond)
	return id
}
