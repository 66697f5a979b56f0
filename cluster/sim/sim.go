// Package sim runs the membership and placement of a large cluster in one process and in
// virtual time: as many real [view.View]s as there are members, and a network that has a
// delay and counts. It tells what a cluster of a hundred members costs each of them without
// a hundred machines. docs/SCALE.md has its figures.
package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/roost-server/roost/cluster/view"
)

// Config of a world.
type Config struct {
	Members    int
	Partitions uint32
	DelayMs    int64 // of each packet
	Seed       uint64
}

// World is a cluster in virtual time.
type World struct {
	Now     int64 // ms
	Members []*Member
	cfg     Config
	rnd     *rand.Rand
	byName  map[string]*Member
	transit map[int64][]packet // by when they arrive
}

// Member is one member with what it has sent and been told.
type Member struct {
	*view.View
	Name           string
	Alive          bool
	Packets, Bytes int64 // sent
	Peers          int   // that are up
	Owned          int   // partitions that have an owner, as it sees it
	Trouble        []string
	owned          []bool
	world          *World
	start, next    int64
}

type packet struct {
	to   string
	body []byte
}

// epoch is the Unix time in ms at which worlds begin.
const epoch = 1_800_000_000_000

// overhead is what carries a packet of the view: the header of cluster/link, an envelope of
// gRPC and protobuf, TLS, TCP and IP; an allowance, not a measurement.
const overhead = 51 + 40 + 22 + 52

// New makes a world whose members start within the first second, all knowing all
// addresses, as they do from Kafka.
func New(cfg Config) (*World, error) {
	w := &World{cfg: cfg, rnd: rand.New(rand.NewPCG(cfg.Seed, 0)), byName: map[string]*Member{}, transit: map[int64][]packet{}}
	addresses := make([]string, cfg.Members)
	for i := range addresses {
		addresses[i] = fmt.Sprintf("10.0.%d.%d:7946", i/250, i%250)
	}
	for i, address := range addresses {
		m := &Member{Name: fmt.Sprintf("member-%03d", i), Alive: true, owned: make([]bool, cfg.Partitions), world: w, start: w.rnd.Int64N(1000)}
		m.next = m.start
		v, err := view.New(view.Config{
			Cluster: "roost", Name: m.Name, Version: "v0.0.0", Instance: w.rnd.Uint64() | 1, StartMs: epoch + m.next,
			Address: address, NodesAddr: address, APIAddr: address, Partitions: cfg.Partitions,
		}, m)
		if err != nil {
			return nil, err
		}
		m.View = v
		v.Discovered(m.at(), "board", addresses)
		w.Members = append(w.Members, m)
		w.byName[address] = m
	}
	return w, nil
}

func (m *Member) at() view.Now { return view.Now{Mono: m.world.Now + 1, Wall: epoch + m.world.Now} }

// Send implements view.Out.
func (m *Member) Send(address string, body []byte) {
	m.Packets++
	m.Bytes += int64(len(body)) + overhead
	at := m.world.Now + m.world.cfg.DelayMs
	m.world.transit[at] = append(m.world.transit[at], packet{address, body})
}

// Up implements view.Out.
func (m *Member) Up(view.Peer) { m.Peers++ }

// Down implements view.Out.
func (m *Member) Down(view.Peer, string) { m.Peers-- }

// Owner implements view.Out.
func (m *Member) Owner(partition uint32, slot uint16, epoch uint64, known bool) {
	if known != m.owned[partition] {
		m.owned[partition] = known
		if known {
			m.Owned++
		} else {
			m.Owned--
		}
	}
}

// Refused implements view.Out.
func (m *Member) Refused(name, address, why string) {
	m.Trouble = append(m.Trouble, name+" "+address+": "+why)
}

// Conflict implements view.Out.
func (m *Member) Conflict(err error) { m.Trouble = append(m.Trouble, err.Error()) }

// Claim claims a partition for a member.
func (w *World) Claim(m *Member, partition uint32) {
	m.View.Claim(m.at(), partition)
	m.next = w.Now
}

// Kill ends a member without a word.
func (w *World) Kill(m *Member) { m.Alive = false }

// Sent is what all living members have sent so far.
func (w *World) Sent() (packets, bytes int64) {
	for _, m := range w.Members {
		if m.Alive {
			packets += m.Packets
			bytes += m.Bytes
		}
	}
	return packets, bytes
}

// All says whether something holds for all living members.
func (w *World) All(holds func(*Member) bool) bool {
	for _, m := range w.Members {
		if m.Alive && !holds(m) {
			return false
		}
	}
	return true
}

// Step is the next millisecond.
func (w *World) Step() error {
	w.Now++
	arrived := w.transit[w.Now]
	delete(w.transit, w.Now)
	for _, p := range arrived {
		if m := w.byName[p.to]; m != nil && m.Alive && w.Now >= m.start {
			if err := m.Receive(m.at(), "", p.body); err != nil {
				return err
			}
			m.next = min(m.next, m.NextMs(m.at())-1)
		}
	}
	for _, m := range w.Members {
		if m.Alive && w.Now >= m.next {
			m.Tick(m.at())
			m.next = m.NextMs(m.at()) - 1
		}
	}
	return nil
}

// Until steps until done or the limit, and returns how long it took.
func (w *World) Until(limit time.Duration, done func() bool) (time.Duration, error) {
	for began := w.Now; ; {
		took := time.Duration(w.Now-began) * time.Millisecond
		switch {
		case done():
			return took, nil
		case took >= limit:
			return took, fmt.Errorf("sim: not within %s", limit)
		}
		if err := w.Step(); err != nil {
			return took, err
		}
	}
}
