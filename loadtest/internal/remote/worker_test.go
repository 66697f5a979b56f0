//go:build linux

package remote

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/loadtest/internal/timeline"
)

func netipServer(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func netipAddrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// gone tells whether a process has ended; one that nobody has waited for yet counts.
func gone(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.HasPrefix(string(b[bytes.LastIndexByte(b, ')')+1:]), " Z")
}

// frozen tells whether all threads of a process are stopped: a signal takes a moment.
func frozen(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, name := range threads {
		b, e := os.ReadFile(name)
		if e != nil || !strings.HasPrefix(string(b[bytes.LastIndexByte(b, ')')+1:]), " T") {
			return false
		}
	}
	return err == nil && len(threads) > 0
}

func TestChildren(t *testing.T) {
	t.Parallel()
	g := begin(t, Config{Local: 3, Args: []string{asChild}}, spec(30))
	require.NoError(t, g.Ramp(t.Context(), 30, 0))
	require.Equal(t, 30, g.Stats().Connected)
	require.Equal(t, "local-1: 10 nodes", g.Names()[0])
	require.EqualValues(t, 3000, g.Stats().Load.RSSBytes)

	victim := g.links[1].child.pid()
	require.NoError(t, syscall.Kill(victim, syscall.SIGKILL))
	eventually(t, func() bool { return len(g.Stats().Problems) == 1 })
	require.Contains(t, g.Stats().Problems[0], "worker local-2 was lost, with 10 nodes: its process ended: signal: killed; its last words: \"nodes 10 to 19 of 30\"")
	st := g.Stats()
	require.Equal(t, 20, st.Connected)
	require.Equal(t, 10, st.Dead)
	require.Equal(t, timeline.Process{Name: "load", CPUMs: 30, RSSBytes: 2000}, st.Load, "what it has used stays used")
	n, err := g.Cut(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, 20, n)
	require.NoError(t, g.Stop())
	for _, l := range g.links {
		require.True(t, gone(l.child.pid()), l.name)
		require.Equal(t, l.child.pid() != victim, l.child.cmd.ProcessState.Success(), l.name)
	}
	require.Len(t, g.Stats().Problems, 1)
}

func TestAChildThatIsAskedToEnd(t *testing.T) {
	t.Parallel()
	g := begin(t, Config{Local: 2, Args: []string{asChild}}, spec(30))
	require.NoError(t, syscall.Kill(g.links[0].child.pid(), syscall.SIGTERM))
	eventually(t, func() bool { return len(g.Stats().Problems) == 1 })
	require.Contains(t, g.Stats().Problems[0], "the worker has been ended where it runs (exit status 0")
}

func TestAWorkerThatHangs(t *testing.T) {
	t.Parallel()
	g := begin(t, Config{Local: 2, Args: []string{asChild}, Patience: 3 * time.Second}, spec(30))
	victim := g.links[0].child.pid()
	require.NoError(t, syscall.Kill(victim, syscall.SIGSTOP))
	eventually(t, func() bool { return frozen(victim) })
	n, err := g.Cut(t.Context(), 1) // waits until it is lost
	require.NoError(t, err)
	require.Equal(t, 15, n)
	require.Len(t, g.Stats().Problems, 1)
	require.Contains(t, g.Stats().Problems[0], "worker local-1 was lost, with 15 nodes: it hangs: nothing was heard of it for 3s (killed by the coordinator: signal: killed")
	require.True(t, gone(victim))
}

func TestTheCoordinatorIsKilled(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	cmd := exec.Command(os.Args[0], asCoordinator, h.addr)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill() }()
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	children := strings.Fields(line)
	require.Len(t, children, 3, line)
	r := h.group(t, 0)
	require.Equal(t, "ramp 10 0", r.did())

	// Another one has to wait.
	_, err = Start(t.Context(), Config{Hosts: hosts(h)}, spec(10))
	require.ErrorContains(t, err, "worker "+h.addr+": refused: the worker is busy with another coordinator, 127.0.0.1:")

	require.NoError(t, cmd.Process.Kill())
	ended(t, r)
	for _, s := range children[1:] {
		pid, err := strconv.Atoi(s)
		require.NoError(t, err)
		eventually(t, func() bool { return gone(pid) }, "child %d of the killed coordinator", pid)
	}
	_, _ = io.Copy(io.Discard, out)
	require.Error(t, cmd.Wait())
	eventually(t, func() bool { return strings.Contains(h.said(), "lost: EOF") || strings.Contains(h.said(), "reset") })
	g := begin(t, Config{Hosts: hosts(h)}, spec(10))
	require.NoError(t, g.Ramp(t.Context(), 10, 0))
}

func TestASilentCoordinatorIsLost(t *testing.T) {
	t.Parallel()
	h := newHost(t, func(w *Worker) { w.Patience = 2 * time.Second })
	line := newWire(dial(t, h.addr), time.Minute)
	_, err := line.greetWorker("", Version())
	require.NoError(t, err)
	s := spec(10)
	require.NoError(t, line.send(&message{ID: 1, Start: &s}))
	eventually(t, func() bool {
		return strings.Contains(h.said(), "nothing was heard of it for 2s; its nodes have been ended")
	})
	ended(t, h.group(t, 0))
}

func TestOnce(t *testing.T) {
	h := newHost(t, func(w *Worker) { w.Once = true; w.Token = "sesame" })
	_, err := Start(t.Context(), Config{Hosts: hosts(h), Token: "wrong"}, spec(10))
	require.ErrorContains(t, err, "token")
	g := begin(t, Config{Hosts: hosts(h), Token: "sesame"}, spec(10))
	require.NoError(t, g.Stop())
	require.NoError(t, <-h.ended)

	h = newHost(t, func(w *Worker) { w.Once = true })
	line := newWire(dial(t, h.addr), time.Minute)
	_, err = line.greetWorker("", Version())
	require.NoError(t, err)
	require.NoError(t, line.conn.Close())
	require.ErrorContains(t, <-h.ended, "was lost")
}

func TestTokens(t *testing.T) {
	const token = "0123456789abcdef"
	h := newHost(t, func(w *Worker) { w.Token = token })
	for _, wrong := range []string{"", "0123456789abcde", token + "0"} {
		_, err := Start(t.Context(), Config{Hosts: hosts(h), Token: wrong}, spec(10))
		require.ErrorContains(t, err, "worker "+h.addr+": refused: the coordinator's token is not that of the worker")
	}
	begin(t, Config{Hosts: hosts(h), Token: token}, spec(10))
	open := newHost(t)
	_, err := Start(t.Context(), Config{Hosts: hosts(open), Token: token}, spec(10))
	require.ErrorContains(t, err, "token", "a worker without one is not the one that was meant")

	for addr, want := range map[string]string{
		"0.0.0.0:0": "at least 16 characters (there are 5)", ":0": "at least 16", "[::]:0": "at least 16", "nonsense": "host:port is expected",
	} {
		_, err := Listen(addr, "short")
		require.ErrorContains(t, err, want, addr)
	}
	for _, addr := range []string{"127.0.0.1:0", "localhost:0", "127.9.9.9:0"} {
		ln, err := Listen(addr, "")
		require.NoError(t, err, addr)
		require.NoError(t, ln.Close())
	}
	ln, err := Listen("0.0.0.0:0", token)
	require.NoError(t, err)
	require.NoError(t, ln.Close())
}

// A worker that only repeats what it is sent has not shown that it has the token.
func TestAnImpostorOfAWorker(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		line := newWire(conn, soon)
		_ = line.send(&message{Hello: &hello{Protocol: protocolVersion, Version: Version(), Nonce: newNonce()}})
		if m, err := line.receive(maxHelloBytes); err == nil {
			_ = line.send(m)
		}
	}()
	_, err = Start(t.Context(), Config{Hosts: []Host{{Addr: ln.Addr().String()}}, Token: "sesame"}, spec(10))
	require.ErrorContains(t, err, "the worker's token is not that of the coordinator")
	<-done
}

func TestVersionsDiffer(t *testing.T) {
	h := newHost(t, func(w *Worker) { w.Version = "v2" })
	_, err := Start(t.Context(), Config{Hosts: hosts(h), Version: "v1"}, spec(10))
	require.ErrorContains(t, err, "worker "+h.addr+": refused: the versions differ: the worker is v2 (protocol 1), the coordinator is v1 (protocol 1)")
	eventually(t, func() bool { return strings.Contains(h.said(), "the coordinator is v1") })

	// A worker looks for itself, too.
	line := newWire(dial(t, h.addr), soon)
	theirs, err := line.firstHello()
	require.NoError(t, err)
	require.NoError(t, line.send(&message{Hello: &hello{Protocol: 9, Version: "v2", Nonce: newNonce(), Proof: theirs.Nonce}}))
	_, err = line.firstHello()
	require.ErrorContains(t, err, "the coordinator is v2 (protocol 9), the worker is v2 (protocol 1)")
}

func TestVersionTellsWhatWasBuilt(t *testing.T) {
	info := &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}
	revision := []debug.BuildSetting{{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.modified", Value: "false"}}
	v, exact := describe(info)
	require.Equal(t, "v1.2.3", v)
	require.False(t, exact)
	info.Settings = revision
	v, exact = describe(info)
	require.Equal(t, "v1.2.3 0123456789ab", v)
	require.True(t, exact)
	info.Main.Version = "v0.0.0-20260101-0123456789ab"
	v, _ = describe(info)
	require.Equal(t, info.Main.Version, v)
	info.Settings[1].Value = "true"
	_, exact = describe(info)
	require.False(t, exact, "nobody knows with what")
	require.NotEmpty(t, Version())
	require.Regexp(t, "^[0-9a-f]{12}$", ownHash())
}

func TestStrangers(t *testing.T) {
	t.Parallel()
	h := newHost(t, func(w *Worker) { w.Patience = 2 * time.Second })
	frame := func(n uint32, body string) []byte {
		return append(binary.BigEndian.AppendUint32(nil, n), body...)
	}
	for what, b := range map[string][]byte{
		"larger than a stranger's may be": frame(1<<30, ""),
		"no JSON":                         frame(3, "x x"),
		"no hello":                        frame(2, "{}"),
		"a command":                       frame(18, `{"id":1,"stop":true}`)[:22],
		"a hello without a proof":         frame(14, `{"hello":{}}  `),
		"HTTP":                            []byte("GET / HTTP/1.1\r\n\r\n"),
	} {
		c := dial(t, h.addr)
		_, err := c.Write(b)
		require.NoError(t, err)
		require.NoError(t, c.SetReadDeadline(time.Now().Add(soon)))
		_, err = io.Copy(io.Discard, c)
		require.False(t, os.IsTimeout(err), "%s: the worker goes on", what)
	}
	silent := dial(t, h.addr)
	for range 3 * maxStrangers {
		dial(t, h.addr) // more than are listened to
	}
	require.NoError(t, silent.SetReadDeadline(time.Now().Add(soon)))
	_, err := io.Copy(io.Discard, silent)
	require.False(t, os.IsTimeout(err))
	eventually(t, func() bool {
		g, err := Start(t.Context(), Config{Hosts: hosts(h)}, spec(10))
		return err == nil && g.Stop() == nil
	})
	require.Empty(t, h.group(t, 0).st.Dials)
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte{0, 0, 0, 2, '{', '}'})
	f.Add([]byte("\x00\x00\x00\x26" + `{"id":1,"ramp":{"up_to":3,"per_s":1}}`))
	f.Add([]byte{0, 15, 255, 255, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		w := &wire{in: bufio.NewReader(bytes.NewReader(b))}
		for {
			if _, err := w.read(maxMessageBytes); err != nil {
				break
			}
		}
		if w.body.Cap() > 4*len(b)+4096 {
			t.Fatalf("%d bytes were reserved for %d", w.body.Cap(), len(b))
		}
	})
}
