package wire

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/shard"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// member is a shard of a member, whose messages go to the other one as bytes.
type member struct {
	t        *testing.T
	instance uint64
	peer     *member
	slot     uint16 // of the link to the peer
	core     *shard.Core
	eff      shard.Effects
	arrived  []string // deliveries at gates of this member
}

const nowMs = 1_800_000_000_000

// pair makes two members with a shard each.
func pair(t *testing.T) (a, b *member) {
	a, b = &member{t: t, instance: 11, slot: 4}, &member{t: t, instance: 22, slot: 9}
	a.peer, b.peer = b, a
	for i, m := range []*member{a, b} {
		cfg := shard.DefaultConfig()
		cfg.Partition, cfg.Partitions = uint32(i), 2
		m.core = shard.NewCore(cfg, func() []uint32 { return []uint32{0, 1} })
		m.core.Restored(nowMs, -1, &m.eff)
		m.eff.Reset()
	}
	return a, b
}

func (m *member) inst(slot uint16) (uint64, bool) {
	if slot == 0 {
		return m.instance, true
	}
	return m.peer.instance, slot == m.slot
}

func (m *member) slotOf(instance uint64) (uint16, bool) {
	if instance == m.instance {
		return 0, true
	}
	return m.slot, instance == m.peer.instance
}

// run carries out the effects of a step, and all that follows from them.
func (m *member) run() {
	asks, deliveries := append([]shard.Ask(nil), m.eff.Asks...), append([]shard.GateDelivery(nil), m.eff.Deliveries...)
	m.eff.Reset()
	for i := range deliveries {
		d := &deliveries[i]
		b := &actors.ToGate{Deliveries: []actors.Delivery{d.Delivery}}
		if actors.SlotOf(d.Gate) == 0 {
			m.take(d.Gate, b)
			continue
		}
		require.Equal(m.t, m.slot, actors.SlotOf(d.Gate))
		for _, body := range AppendToGate(nil, d.Delivery.Shard, 1, actors.LoopOf(d.Gate), b) {
			h, got, err := DecodeToGate(body)
			require.NoError(m.t, err)
			m.peer.take(h.Loop, got)
		}
	}
	for i := range asks {
		to, message := m, asks[i].Message
		if asks[i].Shard == m.peer.partition() {
			to = m.peer
			bodies, ok := AppendShard(nil, asks[i].Shard, 1, message, m.inst)
			require.True(m.t, ok)
			require.Len(m.t, bodies, 1)
			var err error
			_, message, err = DecodeShard(bodies[0], to.slotOf)
			require.NoError(m.t, err)
		}
		to.hear(message)
		to.run()
	}
}

func (m *member) partition() uint32 { return m.core.Status().Partition }

func (m *member) take(loop uint32, b *actors.ToGate) {
	for i := range b.Deliveries {
		m.arrived = append(m.arrived, fmt.Sprintf("%s to %s at loop %d", b.Deliveries[i].JobID, b.Deliveries[i].Node, loop))
	}
}

func (m *member) hear(message any) {
	switch x := message.(type) {
	case *shard.Locate:
		m.core.Locate(nowMs, x, &m.eff)
	case *shard.Located:
		require.False(m.t, x.Unknown)
		m.core.Located(nowMs, &x.Location, &m.eff)
	case *shard.Select:
		m.core.Select(nowMs, x, &m.eff)
	case *shard.Candidates:
		m.core.Candidates(nowMs, x, &m.eff)
	default:
		require.Fail(m.t, "unexpected", "%T", message)
	}
}

// connect registers a node of the peer's shard at a gate of this member.
func (m *member) connect(node string, loop uint32) {
	b := &actors.FromGate{Registrations: []actors.Registration{{Node: node, Incarnation: 1,
		Profile: &actors.Profile{Attributes: protocol.Attributes{Country: "AU", Kinds: []string{"ping"}}}}}}
	for _, body := range AppendFromGate(nil, m.peer.partition(), 1, loop, b) {
		_, got, err := DecodeFromGate(body, m.peer.slot)
		require.NoError(m.t, err)
		m.peer.core.FromGate(nowMs, got, &m.peer.eff)
		m.peer.run()
	}
}

func (m *member) submit(offset int64, j record.Job) {
	value, err := record.AppendJob(nil, &j)
	require.NoError(m.t, err)
	m.core.Records(nowMs, []actors.Record{{Offset: offset, TimestampMs: nowMs, Value: value}}, &m.eff)
	m.run()
}

// TestShardsOfTwoMembers has a node be found wherever it is, from either side.
func TestShardsOfTwoMembers(t *testing.T) {
	a, b := pair(t)
	node := "" // its home is b's shard
	for i := 0; node == ""; i++ {
		if name := fmt.Sprint("n", i); record.Partition(name, 2) == 1 {
			node = name
		}
	}
	a.submit(0, record.Job{ID: "waits", Kind: "ping", Target: record.Target{Node: node}})
	require.Empty(t, a.arrived)
	a.connect(node, 2)
	a.submit(1, record.Job{ID: "located", Kind: "ping", Target: record.Target{Node: node}})
	a.submit(2, record.Job{ID: "chosen", Kind: "ping", Target: record.Target{Select: &record.Selector{Country: "AU", Count: 1}}})
	b.submit(0, record.Job{ID: "home", Kind: "ping", Target: record.Target{Select: &record.Selector{Country: "AU", Count: 1}}})
	var want []string
	for _, job := range []string{"waits", "located", "chosen", "home"} {
		want = append(want, fmt.Sprintf("%s to %s at loop 2", job, node))
	}
	require.Equal(t, want, a.arrived)
	require.Empty(t, b.arrived)

	b.core.MemberGone(nowMs, b.slot, &b.eff)
	require.Zero(t, b.core.Status().Nodes)
	require.Zero(t, b.core.Status().OnNodes)
}
