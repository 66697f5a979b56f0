package kafka

import (
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func freeAddr(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	return ln.Addr().String()
}

// The clients start before the broker, live through its stop and restart, and
// lose nothing.
func TestBrokerAbsentThenStoppedAndStarted(t *testing.T) {
	dir := t.TempDir()
	first := startEmbedded(t, EmbeddedConfig{Listen: freeAddr(t), DataDir: dir})
	cfg := testConfig(t, first.Addr())
	plan := makeTopics(t, cfg, 4)
	require.NoError(t, first.Close())

	var mu sync.Mutex
	states := map[string][]bool{}
	cfg.OnState = func(client string, ok bool, _ error) {
		mu.Lock()
		defer mu.Unlock()
		states[client] = append(states[client], ok)
	}
	rec := newRecorder("c", nil)
	k := attachCommitter(t, cfg, plan.Jobs, rec)
	c := runConsumer(t, cfg, plan.Jobs, rec, nil)
	d := &deliveries{}
	p := newTestProducer(t, cfg, d.add)
	sent := 0
	send := func(n int) {
		for range n {
			v := []byte(fmt.Sprint(sent))
			require.NoError(t, p.Produce(Message{Topic: plan.Jobs, Partition: PartitionByKey, Key: v, Value: v}))
			sent++
		}
	}

	send(100)
	eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(states["consumer"]) == 1 && len(states["producer"]) == 1
	}, "both see that it is absent")
	require.Contains(t, c.Stats().LastError, "refused")
	require.Contains(t, p.Stats().LastError, "refused")
	require.False(t, c.Reachable())
	require.False(t, p.Reachable())
	require.Empty(t, d.snapshot())

	for round := range 2 {
		e := startEmbedded(t, EmbeddedConfig{Listen: cfg.Bootstrap, DataDir: dir})
		eventually(t, func() bool { return c.Reachable() && p.Reachable() }, "reachable, round %d", round)
		send(100)
		eventually(t, func() bool { return rec.count() >= sent && p.Len() == 0 }, "all arrive, round %d", round)
		commits := k.commits.Load()
		send(10)
		eventually(t, func() bool { return k.commits.Load() > commits }, "commits go on, round %d", round)

		require.NoError(t, e.Close())
		eventually(t, func() bool { return !c.Reachable() && !p.Reachable() }, "absence is seen, round %d", round)
		send(100) // wait in the queue
	}
	startEmbedded(t, EmbeddedConfig{Listen: cfg.Bootstrap, DataDir: dir})
	eventually(t, func() bool { return len(rec.values()) == sent && p.Len() == 0 }, "all arrive in the end")
	for _, x := range d.snapshot() {
		require.NoError(t, x.Err)
	}
	require.Len(t, d.snapshot(), sent)
	require.NoError(t, p.Err())
	c.stop(t)()
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, []bool{false, true, false, true, false, true}, states["consumer"])
	require.Equal(t, []bool{false, true, false, true, false, true}, states["producer"])
}

// A member must be able to end while the broker is away.
func TestStopWhileBrokerIsAway(t *testing.T) {
	e := startEmbedded(t, EmbeddedConfig{Listen: ":0"})
	cfg := testConfig(t, e.Addr())
	plan := makeTopics(t, cfg, 2)
	produceN(t, cfg, plan.Jobs, "a", 100)
	rec := newRecorder("c", nil)
	c := runConsumer(t, cfg, plan.Jobs, rec, nil)
	eventually(t, func() bool { return rec.count() == 100 }, "records")
	require.NoError(t, e.Close())
	eventually(t, func() bool { return !c.Reachable() }, "absence is seen")
	start := time.Now()
	c.stop(t)()
	t.Logf("the consumer ended after %s", time.Since(start))
	require.True(t, rec.has("revoked") || rec.has("lost"))
}
