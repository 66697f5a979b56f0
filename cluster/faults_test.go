package cluster

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/cluster/certs"
	"github.com/roost-server/roost/cluster/remote"
)

// sendUntil sends numbers from one member to the peer called name, and returns those that
// were taken.
func sendUntil(stop <-chan struct{}, from *node, name string) map[uint64]bool {
	taken := map[uint64]bool{}
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	for i := uint64(0); ; i++ {
		select {
		case <-stop:
			return taken
		case <-tick.C:
		}
		if slot := from.slotOf(name); slot != 0 && from.Send(slot, number(i)) {
			taken[i] = true
		}
	}
}

// missing is how many of the numbers neither arrived at b nor were given back to a. The
// caller holds b's lock.
func missing(taken map[uint64]bool, a, b *node) (n int) {
	seen := map[uint64]bool{}
	for _, got := range b.got {
		for _, v := range got {
			seen[v] = true
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, body := range a.back[b.name] {
		seen[binary.BigEndian.Uint64(body)] = true
	}
	for v := range taken {
		if !seen[v] {
			n++
		}
	}
	return n
}

// Over connections that break and come back, some before the peer is given up and some
// after, each message that was taken arrives once and in order, or is given back.
func TestNothingIsLostUnseen(t *testing.T) {
	fast := func(c *Config) { c.Beat, c.DeadAfter = 20*time.Millisecond, 250*time.Millisecond }
	a := join(t, "a", nil, fast)
	b := join(t, "b", []string{a.Addr()}, fast)
	done, stop := make(chan map[uint64]bool), make(chan struct{})
	go func() { done <- sendUntil(stop, a, "b") }()
	for range 8 {
		a.eventually(func() bool { return a.byName["b"] != 0 }, "not up")
		<-time.After(time.Duration(rand.IntN(100)) * time.Millisecond)
		if rand.IntN(3) == 0 {
			a.cut.Store(b.Advertised(), true) // one way only
		} else {
			part(a, b)
		}
		<-time.After(time.Duration(rand.IntN(600)) * time.Millisecond)
		heal(a, b)
	}
	a.eventually(func() bool { return a.byName["b"] != 0 }, "not up at the end")
	close(stop)
	taken := <-done
	require.Greater(t, len(taken), 100)
	b.eventually(func() bool { return missing(taken, a, b) == 0 }, "messages are lost")
	b.mu.Lock()
	defer b.mu.Unlock()
	seen := map[uint64]bool{}
	for slot, got := range b.got {
		for i, v := range got {
			require.False(t, seen[v], "message %d came twice", v)
			require.True(t, i == 0 || got[i-1] < v, "slot %d is out of order", slot)
			seen[v] = true
		}
	}
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	_, err := certs.CreateCA(dir, time.Now(), time.Hour)
	require.NoError(t, err)
	store := func(name string) *certs.Store {
		_, err := certs.CreateMember(dir, name, nil, time.Now(), time.Hour)
		require.NoError(t, err)
		s, err := certs.Load(filepath.Join(dir, certs.CAFile), filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
		require.NoError(t, err)
		return s
	}
	a := join(t, "a", nil, func(c *Config) { c.Remote.TLS = store("a") })
	b := join(t, "b", []string{a.Addr()}, func(c *Config) { c.Remote.TLS = store("b") })
	a.eventually(func() bool { return a.byName["b"] != 0 }, "b is not up")
	b.eventually(func() bool { return b.byName["a"] != 0 }, "a is not up")
	require.True(t, a.Send(a.slotOf("b"), number(1)))
	b.eventually(func() bool { return len(b.got[b.byName["a"]]) == 1 }, "no message")

	_, err = Start(context.Background(), Config{
		Name: "c", Cluster: "test", Partitions: 16, Handler: &node{},
		Remote: remote.Config{Listen: "127.0.0.1:0", TLS: store("d")},
	})
	require.ErrorContains(t, err, `called "c", but its certificate is for "d"`)
}
