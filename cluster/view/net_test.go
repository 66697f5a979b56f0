package view

import (
	"container/heap"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// world is a network of views in virtual time.
type world struct {
	t       *testing.T
	now     int64
	rnd     *rand.Rand
	members map[string]*member // by address
	order   []string
	packets packets
	seq     int
	delayMs func(from, to string) int64
	lost    func(from, to string) bool
	sent    int
	bytes   int64
}

type packet struct {
	at       int64
	seq      int
	from, to string
	cert     string
	body     []byte
}

type packets []packet

func (p packets) Len() int { return len(p) }
func (p packets) Less(i, j int) bool {
	return p[i].at < p[j].at || p[i].at == p[j].at && p[i].seq < p[j].seq
}
func (p packets) Swap(i, j int) { p[i], p[j] = p[j], p[i] }
func (p *packets) Push(x any)   { *p = append(*p, x.(packet)) }
func (p *packets) Pop() any {
	old := *p
	x := old[len(old)-1]
	*p = old[:len(old)-1]
	return x
}

// member is one view with what it said.
type member struct {
	*View
	w        *world
	address  string
	cert     string
	skew     int64
	paused   bool
	nextTick int64
	peers    map[uint16]Peer
	history  []string
	refused  []string
	conflict error
	owners   map[uint32]string // name of the owner and epoch
}

func newWorld(t *testing.T, seed uint64) *world {
	return &world{
		t: t, now: 1, rnd: rand.New(rand.NewPCG(seed, 1)), members: map[string]*member{},
		delayMs: func(string, string) int64 { return 1 }, lost: func(string, string) bool { return false },
	}
}

const epochStart = 1_800_000_000_000

func (w *world) config(name, address string) Config {
	return Config{
		Cluster: "c", Name: name, Version: "1", Instance: w.rnd.Uint64() | 1, StartMs: epochStart + w.now,
		Address: address, Partitions: 64, NodesAddr: "n-" + name, APIAddr: "a-" + name,
	}
}

func (w *world) add(cfg Config, seeds ...string) *member {
	m := &member{w: w, address: cfg.Address, peers: map[uint16]Peer{}, owners: map[uint32]string{}}
	v, err := New(cfg, m)
	require.NoError(w.t, err)
	m.View = v
	w.members[cfg.Address] = m
	w.order = append(w.order, cfg.Address)
	m.Discovered(m.at(), "seeds", seeds)
	return m
}

// start makes members a, b, c ... that know the first one.
func (w *world) start(n int) []*member {
	all := make([]*member, n)
	for i := range all {
		name := fmt.Sprintf("m%d", i)
		all[i] = w.add(w.config(name, name+":1"), "m0:1")
	}
	return all
}

func (w *world) kill(m *member) {
	if w.members[m.address] == m {
		delete(w.members, m.address)
		w.order = slices.DeleteFunc(w.order, func(a string) bool { return a == m.address })
	}
}

func (m *member) at() Now { return Now{Mono: m.w.now, Wall: epochStart + m.w.now + m.skew} }

// act is for calls from outside of run: the view wants its Tick after them.
func (m *member) act() Now {
	m.nextTick = m.w.now
	return m.at()
}

func (w *world) run(ms int64) {
	for end := w.now + ms; w.now < end; {
		next := end
		for _, a := range w.order {
			if m := w.members[a]; !m.paused {
				next = min(next, max(m.nextTick, w.now+1))
			}
		}
		if len(w.packets) > 0 {
			next = min(next, max(w.packets[0].at, w.now))
		}
		w.now = next
		for len(w.packets) > 0 && w.packets[0].at <= w.now {
			p := heap.Pop(&w.packets).(packet)
			m := w.members[p.to]
			if m == nil {
				continue
			}
			if m.paused {
				p.at = w.now + 50
				heap.Push(&w.packets, p)
				continue
			}
			require.NoError(w.t, m.Receive(m.at(), p.cert, p.body))
			m.nextTick = min(m.nextTick, m.NextMs(m.at()))
		}
		for _, a := range slices.Clone(w.order) {
			if m := w.members[a]; m != nil && !m.paused && m.nextTick <= w.now {
				m.Tick(m.at())
				m.nextTick = m.NextMs(m.at())
			}
		}
	}
}

func (m *member) Send(address string, body []byte) {
	w := m.w
	w.sent++
	w.bytes += int64(len(body))
	if w.lost(m.address, address) {
		return
	}
	w.seq++
	heap.Push(&w.packets, packet{at: w.now + w.delayMs(m.address, address), seq: w.seq, from: m.address, to: address, cert: m.cert, body: body})
}

func (m *member) Up(p Peer) {
	_, used := m.peers[p.Slot]
	require.False(m.w.t, used, "slot %d is given twice", p.Slot)
	require.NotZero(m.w.t, p.Slot)
	m.peers[p.Slot] = p
	m.history = append(m.history, "up "+p.Name)
}

func (m *member) Down(p Peer, why string) {
	require.Contains(m.w.t, m.peers, p.Slot)
	for part, o := range m.View.place.owners {
		require.False(m.w.t, o.known && o.slot == p.Slot, "partition %d is owned by a slot that is down", part)
	}
	delete(m.peers, p.Slot)
	m.history = append(m.history, "down "+p.Name+": "+why)
}

func (m *member) Owner(partition uint32, slot uint16, epoch uint64, known bool) {
	switch {
	case !known:
		delete(m.owners, partition)
	case slot == 0:
		m.owners[partition] = fmt.Sprintf("%s %d", m.cfg.Name, epoch)
	default:
		require.Contains(m.w.t, m.peers, slot, "an owner that is not up")
		m.owners[partition] = fmt.Sprintf("%s %d", m.peers[slot].Name, epoch)
	}
}

func (m *member) Refused(name, address, why string) {
	m.refused = append(m.refused, name+" "+address+": "+why)
}

func (m *member) Conflict(err error) { m.conflict = err }

func (m *member) names() []string {
	var names []string
	for p := range maps.Values(m.peers) {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	return names
}

// agree checks that all are up for all, in the same pair of sessions on both sides, and
// that all see the same owners.
func (w *world) agree(all ...*member) {
	w.t.Helper()
	for _, m := range all {
		require.Len(w.t, m.peers, len(all)-1, "%s sees %v; %v; refused %v", m.cfg.Name, m.names(), m.history, m.refused)
		for _, p := range m.peers {
			other := w.members[p.Address]
			back := other.View.up[p.TheirSession]
			require.NotNil(w.t, back, "%s is up for %s, but not the other way round in this session", p.Name, m.cfg.Name)
			require.Equal(w.t, p.Session, back.seen)
			require.Equal(w.t, m.cfg.Name, back.name)
		}
		require.Equal(w.t, all[0].owners, m.owners, "%s and %s see different owners", all[0].cfg.Name, m.cfg.Name)
	}
}
