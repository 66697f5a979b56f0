package deploy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const patience = 30 * time.Second

// member is as much of a member as HAProxy sees: /readyz, and a port for nodes.
type member struct {
	nodes, api net.Listener
	ready      atomic.Bool
	mu         sync.Mutex
	conns      []net.Conn
	headers    []string
}

func newMember(t *testing.T) *member {
	t.Helper()
	m := &member{}
	m.ready.Store(true)
	var err error
	m.nodes, err = net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	m.api, err = net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !m.ready.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(m.api) }()
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := m.nodes.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { m.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = server.Close()
		_ = m.nodes.Close()
		m.mu.Lock()
		for _, c := range m.conns {
			_ = c.Close()
		}
		m.mu.Unlock()
		serving.Wait()
	})
	return m
}

// serve reads the header of version 2 and gives back the lines that follow.
func (m *member) serve(c net.Conn) {
	r := bufio.NewReader(c)
	fixed := make([]byte, 16)
	if _, err := io.ReadFull(r, fixed); err != nil {
		_ = c.Close()
		return
	}
	m.mu.Lock()
	m.conns = append(m.conns, c)
	m.headers = append(m.headers, string(fixed))
	m.mu.Unlock()
	if _, err := r.Discard(int(fixed[14])<<8 | int(fixed[15])); err != nil {
		return
	}
	_, _ = io.Copy(c, r)
}

func (m *member) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.conns)
}

func (m *member) header() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(m.headers, "")
}

// node is a connection that says a line and hears it again.
type node struct {
	c net.Conn
	r *bufio.Reader
}

func (n *node) echo() error {
	if _, err := io.WriteString(n.c, "hello\n"); err != nil {
		return err
	}
	line, err := n.r.ReadString('\n')
	if err == nil && line != "hello\n" {
		err = fmt.Errorf("%q came back", line)
	}
	return err
}

func dial(t *testing.T, addr string) (*node, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = c.Close() })
	return &node{c, bufio.NewReader(c)}, nil
}

func haproxy(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("haproxy")
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/haproxy")
	}
	if err != nil {
		t.Skip("haproxy is not installed")
	}
	return path
}

func TestHAProxyAcceptsConfigurations(t *testing.T) {
	for _, file := range []string{"haproxy/haproxy.cfg", "compose/haproxy.cfg"} {
		out, err := exec.Command(haproxy(t), "-c", "-f", file).CombinedOutput()
		require.NoError(t, err, "%s: %s", file, out)
		require.NotContains(t, string(out), "WARNING", file)
	}
}

// TestHAProxyDrains runs HAProxy with the configuration as it is, but for the addresses: nodes
// are spread, their addresses are told, and a member that says 503 keeps the sockets that it
// has and gets no more until it is ready again.
func TestHAProxyDrains(t *testing.T) {
	program := haproxy(t)
	members := []*member{newMember(t), newMember(t), newMember(t)}
	front, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	files := make([]*os.File, 2)
	files[0], err = front.(*net.TCPListener).File()
	require.NoError(t, err)
	apiFront, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	files[1], err = apiFront.(*net.TCPListener).File()
	require.NoError(t, err)

	dir := t.TempDir()
	text := read(t, "haproxy/haproxy.cfg")
	replace := func(old, with string) {
		require.Contains(t, text, old)
		text = strings.ReplaceAll(text, old, with)
	}
	replace("bind :7400 backlog 65535", "bind fd@3") // inherited, so that no port has to be guessed
	replace("bind 127.0.0.1:7480", "bind fd@4")
	replace("/var/run/haproxy-roost.sock", filepath.Join(dir, "stats.sock"))
	replace("maxconn 200000", "maxconn 1000")
	replace("maxconn 190000", "maxconn 900")
	for i, m := range members {
		name := fmt.Sprintf("server roost-%d 10.0.0.%d:", i+1, i+1)
		replace(name+"7400", fmt.Sprintf("server roost-%d %s port %d", i+1, m.nodes.Addr(), m.api.Addr().(*net.TCPAddr).Port))
		replace(name+"7480", fmt.Sprintf("server roost-%d %s", i+1, m.api.Addr()))
	}
	file := filepath.Join(dir, "haproxy.cfg")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	cmd := exec.Command(program, "-db", "-f", file)
	cmd.ExtraFiles = files
	var log strings.Builder
	cmd.Stderr = &log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	for i, l := range []net.Listener{front, apiFront} { // HAProxy's alone from here on
		require.NoError(t, files[i].Close())
		require.NoError(t, l.Close())
	}

	var held []*node
	connect := func(n int) {
		for range n {
			require.Eventually(t, func() bool {
				c, err := dial(t, front.Addr().String())
				if err != nil || c.echo() != nil {
					return false
				}
				held = append(held, c)
				return true
			}, patience, 10*time.Millisecond)
		}
	}
	connect(9)
	for i, m := range members {
		require.Positive(t, m.count(), "member %d has none", i+1)
		// Version 2, command PROXY, TCP over IPv4.
		require.True(t, strings.HasPrefix(m.header(), "\r\n\r\n\x00\r\nQUIT\n\x21\x11"), "%q", m.header())
	}
	res, err := http.Get("http://" + apiFront.Addr().String() + "/readyz")
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusOK, res.StatusCode)

	// It drains.
	members[0].ready.Store(false)
	stats := func(want string) func() bool {
		return func() bool {
			c, err := net.Dial("unix", filepath.Join(dir, "stats.sock"))
			if err != nil {
				return false
			}
			defer c.Close()
			if _, err := io.WriteString(c, "show stat\n"); err != nil {
				return false
			}
			b, _ := io.ReadAll(c)
			for line := range strings.Lines(string(b)) {
				if f := strings.Split(line, ","); len(f) > 17 && f[0] == "members" && f[1] == "roost-1" {
					return f[17] == want
				}
			}
			return false
		}
	}
	require.Eventually(t, stats("DOWN"), patience, 20*time.Millisecond)
	had := members[0].count()
	connect(6)
	require.Equal(t, had, members[0].count(), "it gets no more")
	for _, n := range held {
		require.NoError(t, n.echo(), "all that were there are there")
	}

	// It is back.
	members[0].ready.Store(true)
	require.Eventually(t, stats("UP"), patience, 20*time.Millisecond)
	require.Eventually(t, func() bool { connect(1); return members[0].count() > had }, patience, 20*time.Millisecond)
	for _, n := range held {
		require.NoError(t, n.echo())
	}
}
