//go:build linux

package netlab

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func newLab(t *testing.T, names ...string) *Lab {
	if err := Check(); err != nil {
		t.Skip(err)
	}
	l, err := Create(names...)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		left, err := filepath.Glob(filepath.Join(netnsDir, l.namespace("*")))
		require.NoError(t, err)
		require.Empty(t, left)
	})
	return l
}

// listen echoes on a host.
func (l *Lab) listen(t *testing.T, host string) netip.AddrPort {
	at := netip.AddrPortFrom(l.Addr(host), 7000)
	var ln net.Listener
	require.NoError(t, l.Within(host, func() (err error) {
		ln, err = net.Listen("tcp", at.String())
		return err
	}))
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return at
}

func (l *Lab) dial(t *testing.T, host string, to netip.AddrPort) (c net.Conn, err error) {
	d := net.Dialer{Timeout: time.Second}
	require.NoError(t, l.Within(host, func() error {
		c, err = d.Dial("tcp", to.String())
		return nil
	}))
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}

// echo has bytes go to and fro.
func echo(c net.Conn, n int, patience time.Duration) error {
	out := bytes.Repeat([]byte("roost"), n/5)
	in := make([]byte, len(out))
	_ = c.SetDeadline(time.Now().Add(patience))
	failed := make(chan error, 1)
	go func() {
		_, err := c.Write(out)
		failed <- err
	}()
	if _, err := io.ReadFull(c, in); err != nil {
		return err
	}
	if !bytes.Equal(in, out) {
		return io.ErrUnexpectedEOF
	}
	return <-failed
}

func TestHostsReachEachOther(t *testing.T) {
	l := newLab(t, "a", "b", "c")
	at := l.listen(t, "b")
	for _, host := range []string{"a", "b", "c"} {
		c, err := l.dial(t, host, at)
		require.NoError(t, err)
		require.NoError(t, echo(c, 1<<20, 10*time.Second))
	}

	name, args := l.Command("a", "roost", "serve")
	require.Equal(t, "ip netns exec "+l.namespace("a")+" roost serve", name+" "+strings.Join(args, " "))
}

// TestSweep removes what a process left that is gone, and nothing of one that is there.
func TestSweep(t *testing.T) {
	mine := newLab(t, "a")
	pid, start, ok := strings.Cut(mine.Owner(), ".")
	require.True(t, ok)
	nobody := Open("8388608."+start, "x") // above what a process id can be
	before := Open(pid+".1"+start, "x")   // it had our id
	foreign := Open("pets."+start, "x")   // not made here
	for _, l := range []*Lab{nobody, before, foreign} {
		require.NoError(t, ip([][]string{{"netns", "add", l.namespace("x")}}))
	}
	t.Cleanup(func() { require.NoError(t, foreign.Close()) })
	removed, err := Sweep()
	require.NoError(t, err)
	require.Contains(t, removed, nobody.namespace("x"))
	require.Contains(t, removed, before.namespace("x"))
	require.NotContains(t, removed, foreign.namespace("x"))
	_, err = os.Stat(filepath.Join(netnsDir, mine.namespace("a")))
	require.NoError(t, err)
}

func TestImpair(t *testing.T) {
	l := newLab(t, "a", "b", "c")
	at := l.listen(t, "b")
	open, err := l.dial(t, "a", at)
	require.NoError(t, err)
	require.NoError(t, echo(open, 1000, 10*time.Second))

	t.Run("delay", func(t *testing.T) {
		w, err := l.Impair("a", Rule{Delay: 40 * time.Millisecond})
		require.NoError(t, err)
		begin := time.Now()
		require.NoError(t, echo(open, 10, 10*time.Second), "an open connection goes on")
		require.GreaterOrEqual(t, time.Since(begin), 80*time.Millisecond)
		require.NoError(t, echo(open, 1<<20, 30*time.Second), "segments and checksums are whole")
		require.NoError(t, w.Close())
	})
	require.NoError(t, echo(open, 1<<20, 10*time.Second))

	t.Run("loss", func(t *testing.T) {
		w, err := l.Impair("a", Rule{Loss: 0.1})
		require.NoError(t, err)
		require.NoError(t, echo(open, 1<<20, 60*time.Second))
		passed, dropped := w.Counts()
		require.Positive(t, dropped)
		require.Greater(t, passed, dropped)
		require.NoError(t, w.Close())
	})

	t.Run("one way", func(t *testing.T) {
		w, err := l.Impair("a", Rule{From: []netip.Addr{l.Addr("a")}, To: []netip.Addr{l.Addr("b")}, Loss: 1})
		require.NoError(t, err)
		_, err = l.dial(t, "a", at)
		require.ErrorContains(t, err, "timeout", "packets vanish; nobody says so")
		atA := l.listen(t, "a")
		c, err := l.dial(t, "c", atA)
		require.NoError(t, err)
		require.NoError(t, echo(c, 1000, 10*time.Second), "others reach it")
		require.NoError(t, w.Close())
		require.NoError(t, echo(open, 1000, 30*time.Second), "TCP gets over it")
	})

	t.Run("port", func(t *testing.T) {
		w, err := l.Impair("b", Rule{Port: 7000, Loss: 1})
		require.NoError(t, err)
		_, err = l.dial(t, "a", at)
		require.Error(t, err)
		require.NoError(t, w.Close())
	})
}

func TestParse(t *testing.T) {
	frame := make([]byte, ethernetBytes+ipv4Bytes+4+4)
	frame[12], frame[13] = 0x08, 0x00
	head := frame[ethernetBytes:]
	head[0], head[9] = 0x46, 6 // six words of head, TCP
	copy(head[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	copy(head[24:], []byte{0x1c, 0xe8, 0xc0, 0x00}) // ports 7400 and 49152
	p, ok := parse(frame)
	require.True(t, ok)
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	require.Equal(t, packet{from: a, to: b, ports: [2]uint16{7400, 49152}}, p)

	for _, c := range []struct {
		rule Rule
		fits bool
	}{
		{Rule{}, true}, {Rule{Port: 7400}, true}, {Rule{Port: 49152}, true}, {Rule{Port: 7401}, false},
		{Rule{From: []netip.Addr{b, a}}, true}, {Rule{From: []netip.Addr{b}}, false},
		{Rule{To: []netip.Addr{b}}, true}, {Rule{From: []netip.Addr{a}, To: []netip.Addr{a}}, false},
	} {
		require.Equal(t, c.fits, c.rule.fits(&p, true), "%+v", c.rule)
	}
	head[7] = 1 // a later fragment
	p, ok = parse(frame)
	require.True(t, ok)
	require.Zero(t, p.ports)
	head[7], head[0] = 0, 0x4f // a longer head than there is
	p, ok = parse(frame)
	require.True(t, ok)
	require.Zero(t, p.ports)

	frame[13] = 6 // ARP: only rules for everything fit
	p, ok = parse(frame)
	require.False(t, ok)
	require.True(t, (&Rule{Delay: 1}).fits(&p, ok))
	require.False(t, (&Rule{From: []netip.Addr{a}}).fits(&p, ok))
	_, ok = parse(frame[:20])
	require.False(t, ok)
}
