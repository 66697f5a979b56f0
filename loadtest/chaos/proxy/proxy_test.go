package proxy

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo is a server that says again what it hears.
func echo(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
	return ln.Addr().String()
}

func start(t *testing.T) *Proxy {
	p, err := New(nil)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

func dial(t *testing.T, p *Proxy) net.Conn {
	c, err := net.Dial("tcp", p.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	return c
}

func say(t *testing.T, c net.Conn, text string) {
	_, err := io.WriteString(c, text)
	require.NoError(t, err)
	b := make([]byte, len(text))
	_, err = io.ReadFull(c, b)
	require.NoError(t, err)
	require.Equal(t, text, string(b))
}

func TestCut(t *testing.T) {
	p := start(t)
	p.SetTarget(echo(t))
	a, b := dial(t, p), dial(t, p)
	say(t, a, "one")
	say(t, b, "two")
	require.Equal(t, 2, p.Cut(nil, 1))
	for _, c := range []net.Conn{a, b} {
		_, err := c.Read(make([]byte, 1))
		require.Error(t, err)
		require.NotErrorIs(t, err, io.EOF)
	}
	say(t, dial(t, p), "three")
}

func TestStall(t *testing.T) {
	p := start(t)
	p.SetTarget(echo(t))
	c := dial(t, p)
	say(t, c, "one")
	const d = 300 * time.Millisecond
	begin := time.Now()
	require.Equal(t, 1, p.Stall(nil, 1, d))
	say(t, c, "two")
	require.GreaterOrEqual(t, time.Since(begin), d)
	say(t, c, "three")
}

func TestNoTarget(t *testing.T) {
	p := start(t)
	for _, target := range []string{"", "127.0.0.1:1"} {
		p.SetTarget(target)
		c, err := net.Dial("tcp", p.Addr())
		if err == nil { // it may be reset as early as that
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		require.Error(t, err)
	}
	p.SetTarget(echo(t))
	say(t, dial(t, p), "now")
}
