package tcp

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/roost-server/roost/protocol"
)

// childEnv makes the test binary a server instead, for what needs a process of its
// own: measuring memory without the clients, and running out of files. Its value is
// the limit of open files, 0 for the one there is.
const childEnv = "ROOST_TCP_TEST_CHILD"

// report is what the child says to each line that it is sent.
type report struct {
	Addr        string
	Established int
	Open        int
	MaxConns    int
	RSS, Heap   uint64 // bytes
	Closed      int64  // calls of Closed
	Err         string // the server's, when it has ended
}

// serveIdle is the child: it serves until its input ends. The line "exhaust" takes
// all files that are left.
func serveIdle() int {
	if files, _ := strconv.ParseUint(os.Getenv(childEnv), 10, 64); files > 0 {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: files}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	cfg := DefaultConfig()
	cfg.Listen, cfg.FileReserve = "127.0.0.1:0", 64
	h := &welcomer{}
	s, err := Start(context.Background(), cfg, h, zap.NewNop())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	out := json.NewEncoder(os.Stdout)
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		switch in.Text() {
		case "exhaust":
			for {
				if _, err := unix.Dup(0); err != nil {
					break
				}
			}
		case "wait":
			<-s.Done()
		}
		debug.FreeOSMemory()
		debug.FreeOSMemory() // pools are emptied by the second collection
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		st := s.Stats()
		r := report{Addr: s.Addr().String(), Established: st.Established, Open: st.Open, MaxConns: st.MaxConns,
			RSS: residentBytes(), Heap: m.HeapAlloc, Closed: h.closed.Load()}
		if err := s.Err(); err != nil {
			r.Err = err.Error()
		}
		_ = out.Encode(r)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = s.Stop(ctx, protocol.ReasonShutdown, "")
	return 0
}

func residentBytes() uint64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0 // without files
	}
	pages, _ := strconv.ParseUint(strings.Fields(string(b))[1], 10, 64)
	return pages * uint64(os.Getpagesize())
}

// welcomer establishes every HELLO, answers pings, and keeps nothing.
type welcomer struct{ closed atomic.Int64 }

func (w *welcomer) LoopStarted(*Loop) LoopHandler { return w }

func (w *welcomer) Frame(c *Conn, t protocol.Type, _ []byte) error {
	switch t {
	case protocol.TypeHello:
		c.Establish(time.Hour)
		return c.Append(&protocol.Welcome{Version: 1, HeartbeatMs: 1000})
	case protocol.TypePing:
		return c.Append(&protocol.Pong{})
	}
	return nil
}

func (w *welcomer) Closed(*Conn, protocol.Reason, error) { w.closed.Add(1) }

// child is the parent's side.
type child struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

func startChild(t testing.TB, files int) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+strconv.Itoa(files))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = in.Close() }) // ends it, whatever happened
	return &child{t: t, cmd: cmd, in: in, out: json.NewDecoder(out)}
}

func (c *child) ask(what string) (r report) {
	c.t.Helper()
	_, err := io.WriteString(c.in, what+"\n")
	require.NoError(c.t, err)
	require.NoError(c.t, c.out.Decode(&r))
	return r
}

func (c *child) end() {
	c.t.Helper()
	require.NoError(c.t, c.in.Close())
	require.NoError(c.t, c.cmd.Wait())
}

// A storm of three times the file limit: the server refuses, and goes on.
func TestStormAtTheFileLimit(t *testing.T) {
	const files = 256
	c := startChild(t, files)
	r := c.ask("")
	require.Equal(t, files-64-8, r.MaxConns)
	var in, out int
	var all []*client
	for range 3 * files {
		all = append(all, dialAddr(t, r.Addr))
	}
	for _, cl := range all {
		_, _ = cl.c.Write(cl.frames([]byte(protocol.Preface), hello()))
		switch typ, _, err := cl.read(); {
		case err == nil && typ == protocol.TypeWelcome:
			in++
		case err == nil:
			require.Equal(t, protocol.TypeClose, typ)
			out++
		default: // refused when there was no file to wait with: the CLOSE may be lost
			out++
		}
	}
	require.Equal(t, r.MaxConns, in)
	require.Equal(t, 3*files-r.MaxConns, out)
	for _, cl := range all {
		require.NoError(t, cl.c.Close())
	}
	eventually(t, "they are gone", func() bool { return c.ask("").Open == 0 })
	cl := dialAddr(t, r.Addr)
	cl.write(cl.frames([]byte(protocol.Preface), hello()))
	cl.want(&protocol.Welcome{})
	require.NoError(t, cl.c.Close())
	c.end()
}

// When others take all files, gnet ends its engine: the server says that it has
// ended, and every session was told.
func TestEngineFailure(t *testing.T) {
	c := startChild(t, 256)
	r := c.ask("")
	established := dialAddr(t, r.Addr)
	established.write(established.frames([]byte(protocol.Preface), hello()))
	established.want(&protocol.Welcome{})
	c.ask("exhaust")
	if last, err := net.Dial("tcp", r.Addr); err == nil { // it may be reset already
		require.NoError(t, last.Close())
	}
	r = c.ask("wait")
	require.Contains(t, r.Err, "accept")
	require.Equal(t, int64(1), r.Closed)
	require.Zero(t, r.Open)
	established.wantEnd()
	c.end()
}
