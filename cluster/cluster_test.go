package cluster

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/roost-server/roost/cluster/discovery"
	"github.com/roost-server/roost/cluster/remote"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testBeat  = 50 * time.Millisecond
	testDead  = 2 * time.Second
	patience  = 20 * time.Second
	lookEvery = 5 * time.Millisecond
)

// wire is the real remote, with a switch for each address.
type wire struct {
	*remote.Remote
	cut *sync.Map
}

func (w wire) Send(address string, body []byte) {
	if _, cut := w.cut.Load(address); !cut {
		w.Remote.Send(address, body)
	}
}

// node is a member with what its handler was told.
type node struct {
	*Cluster
	t    testing.TB
	name string
	cut  sync.Map // addresses
	logs *observer.ObservedLogs

	mu       sync.Mutex
	up       map[uint16]Peer
	byName   map[string]uint16
	history  []string
	got      map[uint16][]uint64 // numbers of messages
	back     map[string][][]byte // unacknowledged messages of the last Down
	owners   map[uint32]string
	told     map[uint32]int // calls of Owner with an owner
	conflict error
	onMsg    func(slot uint16, body []byte)
	wrong    atomic.Pointer[string]
}

func (n *node) fail(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	n.wrong.CompareAndSwap(nil, &s)
}

func (n *node) Up(p Peer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, used := n.up[p.Slot]; used || p.Slot == 0 {
		n.fail("slot %d is given twice", p.Slot)
	}
	n.up[p.Slot] = p
	n.byName[p.Name] = p.Slot
	n.history = append(n.history, "up "+p.Name)
}

func (n *node) Down(p Peer, why string, unacked [][]byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, isUp := n.up[p.Slot]; !isUp {
		n.fail("down of slot %d, which is not up", p.Slot)
	}
	delete(n.up, p.Slot)
	delete(n.byName, p.Name)
	n.back[p.Name] = append(n.back[p.Name], unacked...)
	n.history = append(n.history, "down "+p.Name+": "+why)
}

func (n *node) Message(slot uint16, body []byte) {
	n.mu.Lock()
	if _, isUp := n.up[slot]; !isUp {
		n.fail("a message of slot %d, which is not up", slot)
	}
	if f := n.onMsg; f == nil && len(body) >= 8 {
		n.got[slot] = append(n.got[slot], binary.BigEndian.Uint64(body))
	}
	f := n.onMsg
	n.mu.Unlock()
	if f != nil {
		f(slot, body)
	}
}

func (n *node) Owner(partition uint32, slot uint16, epoch uint64, known bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p, isUp := n.up[slot]
	switch {
	case !known:
		delete(n.owners, partition)
		return
	case slot == 0:
		p.Name = n.name
	case !isUp:
		n.fail("partition %d is owned by slot %d, which is not up", partition, slot)
	}
	n.owners[partition] = fmt.Sprintf("%s %d", p.Name, epoch)
	n.told[partition]++
}

func (n *node) Conflict(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conflict = err
}

func (n *node) slotOf(name string) uint16 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.byName[name]
}

func (n *node) look(f func() bool) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return f()
}

func (n *node) eventually(f func() bool, format string, args ...any) {
	n.t.Helper()
	require.Eventually(n.t, func() bool { return n.look(f) }, patience, lookEvery, append([]any{format}, args...)...)
}

type option func(*Config)

// join starts a member on loopback.
func join(t testing.TB, name string, seeds []string, options ...option) *node {
	t.Helper()
	core, logs := observer.New(zap.InfoLevel)
	n := &node{
		t: t, name: name, logs: logs, up: map[uint16]Peer{}, byName: map[string]uint16{}, got: map[uint16][]uint64{},
		back: map[string][][]byte{}, owners: map[uint32]string{}, told: map[uint32]int{},
	}
	cfg := Config{
		Name: name, Cluster: "test", Version: "1", Partitions: 16, NodesAddr: "nodes-" + name, APIAddr: "api-" + name,
		Remote: remote.Config{Listen: "127.0.0.1:0"}, Beat: testBeat, DeadAfter: testDead,
		Handler: n, Log: zap.New(core),
		carry: func(rc remote.Config) (carrier, error) {
			r, err := remote.Start(rc)
			return wire{r, &n.cut}, err
		},
	}
	if len(seeds) > 0 {
		s, err := discovery.Static(seeds, discovery.Options{})
		require.NoError(t, err)
		cfg.Sources = []discovery.Source{s}
	}
	for _, o := range options {
		o(&cfg)
	}
	c, err := Start(context.Background(), cfg)
	require.NoError(t, err)
	n.Cluster = c
	t.Cleanup(func() {
		n.stop()
		require.Nil(t, n.wrong.Load())
	})
	return n
}

func (n *node) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(n.t, n.Close(ctx))
}

// kill ends a member as its death would: without a word.
func (n *node) kill() {
	n.closing.Do(func() { n.end(context.Background()) })
}

// joinAll starts members that know the first, and waits until all see all.
func joinAll(t testing.TB, names ...string) []*node {
	t.Helper()
	var all []*node
	for _, name := range names {
		var seeds []string
		if len(all) > 0 {
			seeds = []string{all[0].Addr()}
		}
		all = append(all, join(t, name, seeds))
	}
	for _, n := range all {
		n.eventually(func() bool { return len(n.up) == len(names)-1 }, "%s does not see all", n.name)
	}
	return all
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(make([]byte, 0, 32), n) }

func part(a, b *node) {
	a.cut.Store(b.Advertised(), true)
	b.cut.Store(a.Advertised(), true)
}

func heal(a, b *node) {
	a.cut.Delete(b.Advertised())
	b.cut.Delete(a.Advertised())
}

func TestFive(t *testing.T) {
	all := joinAll(t, "a", "b", "c", "d", "e")
	epochs := map[uint32]string{}
	for i, n := range all {
		p := uint32(i)
		epochs[p] = fmt.Sprintf("%s %d", n.name, n.Claim(p))
		slot, _, known := n.Cluster.Owner(p)
		require.True(t, known, "a claim holds at once")
		require.Zero(t, slot)
	}
	for _, n := range all {
		n.eventually(func() bool { return fmt.Sprint(n.owners) == fmt.Sprint(epochs) }, "%s: %v", n.name, n.owners)
		for p := range uint32(5) {
			slot, epoch, known := n.Cluster.Owner(p)
			require.True(t, known)
			name := n.name
			if slot != 0 {
				n.mu.Lock()
				name = n.up[slot].Name
				require.Equal(t, "nodes-"+name, n.up[slot].NodesAddr)
				n.mu.Unlock()
			}
			require.Equal(t, epochs[p], fmt.Sprintf("%s %d", name, epoch))
		}
	}

	// One leaves in good order.
	all[4].stop()
	for _, n := range all[:4] {
		n.eventually(func() bool { return n.byName["e"] == 0 }, "e is still up")
		require.True(t, n.look(func() bool { return n.history[len(n.history)-1] == "down e: left: it ends in good order" }), "%v", n.history)
		require.True(t, n.look(func() bool { return n.owners[4] == "" }))
	}

	// One dies; the others do not mind.
	died := time.Now()
	all[3].kill()
	for _, n := range all[:3] {
		n.eventually(func() bool { return n.byName["d"] == 0 }, "d is still up")
	}
	require.Less(t, time.Since(died), testDead+5*time.Second)
	for _, n := range all[:3] {
		require.True(t, n.look(func() bool { return len(n.up) == 2 }))
		m := n.Members()
		require.Len(t, m, 5)
		require.Equal(t, "down", m[3].Status)
		require.Contains(t, m[3].Why, "silent for")
	}
}

// Each message arrives once and in order, while all send to all and answer.
func TestMessages(t *testing.T) {
	all := joinAll(t, "a", "b", "c")
	const count = 20_000
	var sending sync.WaitGroup
	for _, n := range all {
		for _, peer := range all {
			if peer == n {
				continue
			}
			sending.Go(func() {
				slot := n.slotOf(peer.name)
				for i := range uint64(count) {
					body := number(i)
					if i%1000 == 999 {
						body = append(body, make([]byte, 300_000)...)
					}
					for !n.Send(slot, body) {
						time.Sleep(time.Millisecond) // the queue is full
					}
				}
			})
		}
	}
	sending.Wait()
	for _, n := range all {
		n.eventually(func() bool {
			for _, got := range n.got {
				if len(got) < count {
					return false
				}
			}
			return len(n.got) == 2
		}, "%s did not get all", n.name)
		for slot, got := range n.got {
			require.Len(t, got, count)
			for i, v := range got {
				require.EqualValues(t, i, v, "slot %d", slot)
			}
		}
	}
	require.False(t, all[0].Send(0, number(1)), "slot 0 is no peer")
	require.False(t, all[0].Send(77, number(1)))
	instance, known := all[0].InstanceOf(all[0].slotOf("b"))
	require.True(t, known)
	require.Equal(t, all[1].Instance(), instance)
	slot, known := all[0].SlotOf(instance)
	require.True(t, known)
	require.Equal(t, all[0].slotOf("b"), slot)
}

// A handler may use the cluster from within its calls.
func TestHandlerAnswers(t *testing.T) {
	all := joinAll(t, "a", "b")
	all[1].mu.Lock()
	all[1].onMsg = func(slot uint16, body []byte) {
		all[1].Claim(uint32(body[0]))
		if !all[1].Send(slot, body) {
			all[1].fail("the answer was not taken")
		}
		_ = all[1].Members()
	}
	all[1].mu.Unlock()
	for i := range uint64(10) {
		require.True(t, all[0].Send(all[0].slotOf("b"), number(i)))
	}
	all[0].eventually(func() bool { return len(all[0].got[all[0].byName["b"]]) == 10 }, "no answers")
}

func TestPartAndHeal(t *testing.T) {
	all := joinAll(t, "a", "b", "c")
	a, b := all[0], all[1]
	first := a.slotOf("b")
	epoch := b.Claim(3)
	b.Claim(4)
	owned := func() bool { return len(a.owners) == 2 }
	a.eventually(owned, "no claims")
	require.True(t, a.Send(first, number(0)))
	b.eventually(func() bool { return len(b.got[b.byName["a"]]) == 1 }, "no message")
	require.Eventually(t, func() bool { return a.conn(first).stats().Queued == 0 }, patience, lookEvery)

	part(a, b)
	for i := range uint64(100) {
		require.True(t, a.Send(first, number(1+i)))
	}
	a.eventually(func() bool { return a.byName["b"] == 0 }, "b is still up")
	b.eventually(func() bool { return b.byName["a"] == 0 }, "a is still up")
	require.False(t, a.Send(first, number(0)), "the slot is gone")
	a.mu.Lock()
	require.Len(t, a.back["b"], 100)
	for i, body := range a.back["b"] {
		require.EqualValues(t, 1+i, binary.BigEndian.Uint64(body))
	}
	require.Empty(t, a.owners)
	told := a.told[3]
	a.mu.Unlock()
	_, _, known := a.Cluster.Owner(3)
	require.False(t, known)
	all[2].look(func() bool { require.Len(t, all[2].owners, 2); return true })

	heal(a, b)
	a.eventually(func() bool { return a.byName["b"] != 0 }, "no heal")
	require.NotEqual(t, first, a.slotOf("b"), "a slot is not used again so soon")
	a.eventually(owned, "no claims after the heal")
	a.mu.Lock()
	require.Greater(t, a.told[3], told)
	require.Equal(t, fmt.Sprintf("b %d", epoch), a.owners[3])
	a.mu.Unlock()
	b.eventually(func() bool { return b.byName["a"] != 0 }, "no heal")
	require.True(t, a.Send(a.slotOf("b"), number(7)))
	b.eventually(func() bool { return len(b.got[b.byName["a"]]) == 1 && b.got[b.byName["a"]][0] == 7 }, "no message after the heal")
}

// A process that is restarted at the same address is another one.
func TestRestart(t *testing.T) {
	all := joinAll(t, "a", "b")
	address, old := all[1].Addr(), all[1].Instance()
	all[1].kill()
	again := join(t, "b", []string{all[0].Addr()}, func(c *Config) { c.Remote.Listen = address })
	all[0].eventually(func() bool {
		p, isUp := all[0].up[all[0].byName["b"]]
		return isUp && p.Instance == again.Instance()
	}, "b did not come back")
	_, known := all[0].SlotOf(old)
	require.False(t, known)
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		option option
		want   string
	}{
		"clock":      {func(c *Config) { c.Now = func() time.Time { return time.Now().Add(time.Minute) } }, "at most 2.0 s are allowed"},
		"cluster":    {func(c *Config) { c.Cluster = "other" }, `of cluster "other"`},
		"partitions": {func(c *Config) { c.Partitions = 17 }, "they must use the same"},
	} {
		t.Run(name, func(t *testing.T) {
			a := join(t, "a", nil)
			odd := join(t, "odd", []string{a.Addr()}, c.option)
			for _, n := range []*node{a, odd} {
				require.Eventually(t, func() bool {
					m := n.Members()
					return len(m) == 2 && m[1].Status == "refused"
				}, patience, lookEvery)
				require.Contains(t, n.Members()[1].Why, c.want)
				require.NotZero(t, n.logs.FilterMessage("cluster: a member does not come up").Len())
				require.Empty(t, n.history)
			}
		})
	}
}

func TestTwoOfOneName(t *testing.T) {
	all := joinAll(t, "a", "b")
	late := join(t, "b", []string{all[0].Addr(), all[1].Addr()})
	late.eventually(func() bool { return late.conflict != nil }, "the later one is not told")
	require.ErrorContains(t, late.conflict, "two members are called b")
	require.Eventually(t, func() bool { return all[1].Members()[2].Status == "refused" }, patience, lookEvery)
	require.Contains(t, all[1].Members()[2].Why, "two members are called b")
	require.True(t, all[1].look(func() bool { return all[1].conflict == nil && len(all[1].up) == 1 }))
}

func TestConfigIsChecked(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"Handler":         func(c *Config) { c.Handler = nil },
		"0 partitions":    func(c *Config) { c.Partitions = 0 },
		"negative":        func(c *Config) { c.Beat = -1 },
		"at least 4 beat": func(c *Config) { c.Beat, c.DeadAfter = time.Second, time.Second },
		`name ""`:         func(c *Config) { c.Name = "" },
	} {
		cfg := Config{Name: "a", Cluster: "c", Partitions: 1, Remote: remote.Config{Listen: "127.0.0.1:0"}, Handler: &node{}}
		change(&cfg)
		_, err := Start(context.Background(), cfg)
		require.ErrorContains(t, err, want)
	}
}
