//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// built is where the servers are.
var built string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if built, err = os.MkdirTemp("", "peers-test-"); err != nil {
			panic(err)
		}
		defer os.RemoveAll(built)
		for _, c := range []*exec.Cmd{
			exec.Command("go", "build", "-o", built+"/", "./servers/gnetraw", "./servers/goroutines", "./servers/mochi", "./servers/nats"),
			exec.Command("go", "build", "-C", "../..", "-o", built+"/", "./loadtest/hop"),
		} {
			if out, err := c.CombinedOutput(); err != nil {
				panic(string(out))
			}
		}
		return m.Run()
	}())
}

// call runs the program with small figures.
func call(t *testing.T, ctx context.Context, args ...string) (*report, string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "peers.json")
	args = append([]string{"-bin", built, "-roost", "../../bin/roost", "-loadtest", "../../bin/loadtest", "-rounds", "1",
		"-settle", "100ms", "-warmup", "100ms", "-duration", "300ms", "-json", file}, args...)
	var out bytes.Buffer
	err := program(ctx, args, &out, io.Discard)
	if err != nil {
		return nil, out.String(), err
	}
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	var r report
	require.NoError(t, json.Unmarshal(b, &r))
	return &r, out.String(), nil
}

// children are the processes that this one has started and that are there still.
func children(t *testing.T) (out []string) {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	require.NoError(t, err)
	for _, f := range tasks {
		if b, err := os.ReadFile(f); err == nil {
			out = append(out, strings.Fields(string(b))...)
		}
	}
	return out
}

func TestPeers(t *testing.T) {
	page := filepath.Join(t.TempDir(), "peers.md")
	r, out, err := call(t, t.Context(), "-shapes", "200:20", "-markdown", page)
	require.NoError(t, err)
	require.Empty(t, children(t))
	require.Len(t, r.Rows, len(all()))
	for i, x := range r.Rows {
		require.Equal(t, allNames()[i], x.Peer)
		require.Contains(t, out, x.Peer)
		if x.Missing != "" {
			require.NotContains(t, []string{"gnetraw", "goroutines", "mochi", "nats", "hop", "hop-acks"}, x.Peer, x.Missing)
			require.Regexp(t, "apt-get install|make peers", x.Missing)
			require.Contains(t, out, x.Missing)
			continue
		}
		require.Empty(t, x.Error, x.Peer)
		require.NotEmpty(t, x.Version, x.Peer)
		require.Positive(t, x.Jobs, x.Peer)
		require.Zero(t, x.Lost+x.Strange, x.Peer)
		require.Positive(t, x.JobsPerS, x.Peer)
		require.Positive(t, x.ConnectPerS, x.Peer)
		require.GreaterOrEqual(t, x.P99Ms, x.P50Ms, x.Peer)
		if x.Peer == "gnetraw" && x.CPUUsPerJob > 0 {
			require.EqualValues(t, 1, x.Ratio["gnetraw"])
		}
	}
	md, err := os.ReadFile(page)
	require.NoError(t, err)
	require.Contains(t, string(md), "## 200 nodes")
}

func TestRounds(t *testing.T) {
	r, _, err := call(t, t.Context(), "-shapes", "20:2,50:5", "-rounds", "2", "-peers", "goroutines")
	require.NoError(t, err)
	require.Len(t, r.Rows, 2)
	for i, x := range r.Rows {
		require.Equal(t, []shape{{20, 2}, {50, 5}}[i], x.shape)
		require.Len(t, x.Runs, 2)
		require.Equal(t, x.Jobs, x.Runs[0].Jobs+x.Runs[1].Jobs)
	}
}

func TestWhatIsNotThereIsNamed(t *testing.T) {
	r, out, err := call(t, t.Context(), "-bin", t.TempDir(), "-roost", "no/roost", "-shapes", "10:1", "-peers", "gnetraw,hop roost")
	require.NoError(t, err)
	require.Len(t, r.Rows, 3)
	for _, x := range r.Rows {
		require.Contains(t, x.Missing, "make peers")
		require.Contains(t, out, x.Missing)
	}
}

func TestInterruptLeavesNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(700*time.Millisecond, cancel)
	_, _, err := call(t, ctx, "-shapes", "100:10", "-duration", "30s", "-peers", "goroutines")
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, children(t))
}

func TestFlagsThatCannotWork(t *testing.T) {
	for _, c := range [][2]string{
		{"-shapes 10", "-shapes"}, {"-shapes 0:1", "-shapes"}, {"-peers nobody", "gnetraw, mosquitto"}, {"-rounds 0", "-rounds"},
		{"-duration 1ms", "-duration"}, {"-settle 2m", "heartbeats"}, {"-whole-window -1", "-whole-window"}, {"more", "more"},
	} {
		_, err := flags(strings.Fields(c[0]), io.Discard)
		require.ErrorContains(t, err, c[1])
	}
}

func TestMedians(t *testing.T) {
	x := &row{Peer: "gnetraw", shape: shape{Nodes: 5}, Runs: []run{{CPUUsPerJob: 3, JobsPerS: 10, Jobs: 4}, {CPUUsPerJob: 1, JobsPerS: 30, Jobs: 4, Lost: 1},
		{CPUUsPerJob: 2, JobsPerS: 20, Jobs: 4, Strange: 2}, {Error: "broken", CPUUsPerJob: 99}}}
	y := &row{Peer: "hop", shape: shape{Nodes: 5}, Runs: []run{{CPUUsPerJob: 2}, {CPUUsPerJob: 4}}}
	z := &row{Peer: "nats", shape: shape{Nodes: 5}, Runs: []run{{Error: "broken"}}}
	r := &report{Rows: []*row{x, y, z}}
	r.finish()
	require.EqualValues(t, 2, x.CPUUsPerJob)
	require.EqualValues(t, 20, x.JobsPerS)
	require.Equal(t, []int{12, 1, 2}, []int{x.Jobs, x.Lost, x.Strange})
	require.Equal(t, map[string]float64{"gnetraw": 1.5}, y.Ratio)
	require.Nil(t, z.Ratio)
	require.Contains(t, r.notes(), "nats, 5 nodes, failed: broken")
}

// faulty is a server of the raw protocol with one node, that does to every 10th job what
// it is told.
func faulty(t *testing.T, fault func(body []byte) [][]byte) *load {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	conns := make(chan net.Conn, 2)
	t.Cleanup(func() {
		for len(conns) > 0 {
			(<-conns).Close()
		}
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns <- c
			go func() {
				jobs := 0
				for {
					var head [4]byte
					if _, err := io.ReadFull(c, head[:]); err != nil {
						return
					}
					body := make([]byte, binary.BigEndian.Uint32(head[:]))
					if _, err := io.ReadFull(c, body); err != nil {
						return
					}
					out := [][]byte{body[min(9, len(body)):]}
					switch body[0] {
					case 'J':
						if jobs++; jobs%10 == 0 {
							out = fault(bytes.Clone(out[0]))
						}
						for _, o := range out {
							_, _ = c.Write(appendRaw(nil, 'R', o))
						}
					default:
						_, _ = c.Write(appendRaw(nil, 'O'))
					}
				}
			}()
		}
	}()
	at := l.Addr().(*net.TCPAddr).AddrPort()
	load, err := newLoad(raw{}, 1, at, at)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, load.close()) })
	_, err = load.connect(t.Context())
	require.NoError(t, err)
	return load
}

func TestLoadSeesFaults(t *testing.T) {
	changed := func(at int) func([]byte) [][]byte {
		return func(b []byte) [][]byte { b[at] ^= 1; return [][]byte{b} }
	}
	for name, c := range map[string]struct {
		fault         func([]byte) [][]byte
		lost, strange bool
	}{
		"none":    {func(b []byte) [][]byte { return [][]byte{b} }, false, false},
		"lost":    {func([]byte) [][]byte { return nil }, true, false},
		"twice":   {func(b []byte) [][]byte { return [][]byte{b, b} }, false, true},
		"changed": {changed(bodyBytes - 1), true, true},
		"number":  {changed(5), true, true},
		"short":   {func(b []byte) [][]byte { return [][]byte{b[1:]} }, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			l := faulty(t, c.fault)
			l.open(4)
			require.NoError(t, l.flush())
			for l.results < 36 { // a loss of every 10th leaves no job under way after that
				require.NoError(t, l.turn(t.Context(), 10))
			}
			lost, err := l.drain(t.Context())
			require.NoError(t, err)
			require.Equal(t, c.lost, lost > 0, "%d lost", lost)
			require.Equal(t, c.strange, l.strange > 0, "%d strange", l.strange)
		})
	}
}

// TestWires cuts what a server sends at every byte.
func TestWires(t *testing.T) {
	body := bytes.Repeat([]byte{7}, bodyBytes)
	for name, c := range map[string]struct {
		w          wire
		toNode     []byte // ready, then a job
		dispatcher []byte // a result
	}{
		"raw":  {raw{}, appendRaw(appendRaw(nil, 'O'), 'J', body), appendRaw(nil, 'R', body)},
		"mqtt": {&mqtt{}, (&mqtt{}).job([]byte{0x20, 2, 0, 0, 0x90, 3, 0, 1, 0}, 7, body), (&mqtt{}).answer(nil, body)},
		"nats": {nats{}, natsBody([]byte("INFO {}\r\nPONG\r\nMSG node.7 1"), body), natsBody([]byte("MSG results 1"), body)},
	} {
		t.Run(name, func(t *testing.T) {
			for cut := range c.toNode {
				require.Equal(t, []kind{ready, jobIn}, kinds(t, c.w, c.toNode, cut, false, body), cut)
			}
			for cut := range c.dispatcher {
				require.Equal(t, []kind{result}, kinds(t, c.w, c.dispatcher, cut, true, body), cut)
			}
		})
	}
}

// kinds reads all frames, up to the cut first, and returns those that mean something.
func kinds(t *testing.T, w wire, b []byte, cut int, dispatcher bool, body []byte) (out []kind) {
	t.Helper()
	at := 0
	for _, end := range []int{cut, len(b)} {
		for {
			f, err := w.next(b[at:end], dispatcher)
			require.NoError(t, err)
			if f.size == 0 {
				break
			}
			at += f.size
			if f.kind == jobIn || f.kind == result {
				require.Equal(t, body, f.body)
			}
			if f.kind != other {
				out = append(out, f.kind)
			}
		}
	}
	require.Equal(t, len(b), at)
	return out
}

func TestWiresRefuse(t *testing.T) {
	for name, c := range map[string]struct {
		w    wire
		sent string
	}{
		"raw":     {raw{}, "\xff\xff\xff\xffJ"},
		"connack": {&mqtt{}, "\x20\x02\x00\x05"},
		"suback":  {&mqtt{}, "\x90\x03\x00\x01\x80"},
		"length":  {&mqtt{}, "\x30\xff\xff\xff\xff\x01"},
		"topic":   {&mqtt{}, "\x30\x02\x00\x09"},
		"error":   {nats{}, "-ERR 'Maximum Connections Exceeded'\r\n"},
		"size":    {nats{}, "MSG x 1 many\r\n"},
	} {
		_, err := c.w.next([]byte(c.sent), false)
		require.Error(t, err, name)
	}
}
