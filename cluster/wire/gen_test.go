package wire

import (
	"pgregory.net/rapid"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/directory"
	"github.com/roost-server/roost/actors/shard"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// The instances of members by slot, in tests.
var instances = map[uint16]uint64{0: 1<<64 - 1, 1: 7, 9: 0x0102030405060708}

func instanceOf(slot uint16) (uint64, bool) { i, ok := instances[slot]; return i, ok }

func slotOf(instance uint64) (uint16, bool) {
	for s, i := range instances {
		if i == instance {
			return s, true
		}
	}
	return 0, false
}

func profile() *actors.Profile {
	return &actors.Profile{Agent: "roost-go/1", Attributes: protocol.Attributes{Country: "AU", City: "Sydney", ASN: 1221,
		Platform: "linux/arm64", Tags: []string{"home", "fibre"}, Kinds: []string{"ping", "http"}}}
}

// samples is one of everything, by name.
func samples() map[string][][]byte {
	p := profile()
	toGate := &actors.ToGate{
		Withdrawals: []actors.Withdrawal{{Node: "syd-1", JobID: "j0", Attempt: 2, Reason: "timed out"}},
		Deliveries: []actors.Delivery{
			{Node: "syd-1", JobID: "j1", Kind: "ping", Args: []byte{0x81, 0xa1, 'n', 3}, Shard: 5, Attempt: 1, TimeoutMs: 30000, Priority: 4},
			{Node: "syd-2", JobID: "j1", Kind: "ping", Args: []byte{0x81, 0xa1, 'n', 3}, Shard: 5, Attempt: 2, TimeoutMs: 30000, Priority: 4},
			{Node: "syd-2", JobID: "j2", Kind: "http", Shard: 5, Attempt: 1, TimeoutMs: 500},
		},
		Acks:      []actors.Ack{{Node: "syd-3", JobID: "j3", Attempt: 1}},
		Evictions: []actors.Eviction{{Node: "syd-4", Incarnation: 1 << 62}, {Node: "syd-5", Incarnation: 3, Contested: true}},
	}
	fromGate := &actors.FromGate{
		Results: []actors.Result{{Node: "syd-1", JobID: []byte("j1"), Attempt: 1, Outcome: protocol.OutcomeFailed, DurationUs: 1500,
			Error: []byte("no answer"), Output: []byte{0x92, 1, 2}}},
		Progress:      []actors.Progress{{Node: "syd-1", JobID: "j1", Attempt: 1, Data: []byte{7}}},
		Registrations: []actors.Registration{{Node: "syd-2", Incarnation: 77, Profile: p}, {Node: "syd-3", Incarnation: 78, Profile: p}},
		Notices: []actors.Notice{{Kind: actors.Held, Node: "syd-2", JobID: "j2", Attempt: 1, Incarnation: 77},
			{Kind: actors.Lost, Node: "syd-9", JobID: "j9", Attempt: 3, Incarnation: 76}},
		Departures: []actors.Departure{{Node: "syd-9", Incarnation: 76}},
	}
	out := map[string][][]byte{
		"ToGate":   AppendToGate(nil, 5, 1_800_000_000_000, 3, toGate),
		"FromGate": AppendFromGate(nil, 5, 1_800_000_000_000, 3, fromGate),
	}
	at := shard.Location{Node: "syd-1", Gate: actors.GateOf(9, 2), Incarnation: 77, Profile: p}
	for name, m := range map[string]any{
		"Locate": &shard.Locate{From: 3, Node: "syd-1", WaitMs: 10_000}, "Located": &shard.Located{Location: at},
		"Located unknown": &shard.Located{Location: shard.Location{Node: "syd-1"}, Unknown: true}, "Rebuilt": &shard.Rebuilt{Shard: 3},
		"Silent": &shard.Silent{Node: "syd-1", UntilMs: 1_800_000_000_000}, "Answered": &shard.Answered{Node: "syd-1"},
		"Select": &shard.Select{From: 3, JobID: "j1", Round: 2, Kind: "ping", Count: 4, Exclude: []string{"syd-7"}, Selector: &record.Selector{
			Country: "AU", City: "Sydney", ASN: 1221, Platform: "linux/arm64", Tags: []string{"home"}}},
		"Candidates": &shard.Candidates{JobID: "j1", Round: 2, Nodes: []shard.Location{at}, Funnel: directory.Funnel{9, 8, 7, 6, 5, 4, 3, 2, 1}},
	} {
		out[name], _ = AppendShard(nil, 6, 1_800_000_000_001, m, instanceOf)
	}
	return out
}

func id(t *rapid.T, label string) string {
	return rapid.StringMatching(`[a-z0-9]{1,40}`).Draw(t, label)
}

func some[T any](t *rapid.T, label string, one func() T) []T {
	var out []T
	for range rapid.IntRange(0, 6).Draw(t, label) {
		out = append(out, one())
	}
	return out
}

func number32(t *rapid.T) uint32 { return rapid.Uint32().Draw(t, "number") }

func blob(t *rapid.T) []byte {
	if b := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "bytes"); len(b) > 0 {
		return b
	}
	return nil
}

func genToGate(t *rapid.T, shard uint32) *actors.ToGate {
	job := actors.Delivery{Shard: shard}
	return &actors.ToGate{
		Deliveries: some(t, "deliveries", func() actors.Delivery {
			if job.JobID == "" || rapid.Bool().Draw(t, "another job") {
				job = actors.Delivery{JobID: id(t, "job"), Kind: id(t, "kind"), Args: blob(t), Shard: shard,
					TimeoutMs: uint32(rapid.IntRange(0, protocol.MaxTimeoutMs).Draw(t, "timeout")), Priority: uint8(rapid.IntRange(0, 9).Draw(t, "priority"))}
			}
			job.Node, job.Attempt = id(t, "node"), number32(t)
			return job
		}),
		Withdrawals: some(t, "withdrawals", func() actors.Withdrawal {
			return actors.Withdrawal{Node: id(t, "node"), JobID: id(t, "job"), Attempt: number32(t), Reason: string(blob(t))}
		}),
		Acks: some(t, "acks", func() actors.Ack {
			return actors.Ack{Node: id(t, "node"), JobID: id(t, "job"), Attempt: number32(t)}
		}),
		Evictions: some(t, "evictions", func() actors.Eviction {
			return actors.Eviction{Node: id(t, "node"), Incarnation: rapid.Uint64().Draw(t, "incarnation"), Contested: rapid.Bool().Draw(t, "contested")}
		}),
	}
}

func genProfile(t *rapid.T) *actors.Profile {
	p := &actors.Profile{Agent: rapid.StringN(0, 20, 40).Draw(t, "agent")}
	p.Country, p.City, p.ASN = rapid.StringMatching(`[A-Z]{0,3}`).Draw(t, "country"), rapid.StringN(0, 20, 40).Draw(t, "city"), number32(t)
	p.Platform = rapid.StringN(0, 20, 40).Draw(t, "platform")
	p.Tags = some(t, "tags", func() string { return id(t, "tag") })
	p.Kinds = some(t, "kinds", func() string { return id(t, "kind") })
	return p
}

func genFromGate(t *rapid.T) *actors.FromGate {
	known := []*actors.Profile{genProfile(t), genProfile(t)}
	incarnation := rapid.Uint64()
	return &actors.FromGate{
		Results: some(t, "results", func() actors.Result {
			return actors.Result{Node: id(t, "node"), JobID: []byte(id(t, "job")), Attempt: number32(t),
				Outcome: protocol.Outcome(rapid.IntRange(0, 4).Draw(t, "outcome")), DurationUs: rapid.Uint64().Draw(t, "us"), Error: blob(t), Output: blob(t)}
		}),
		Progress: some(t, "progress", func() actors.Progress {
			return actors.Progress{Node: id(t, "node"), JobID: id(t, "job"), Attempt: number32(t), Data: blob(t)}
		}),
		Registrations: some(t, "registrations", func() actors.Registration {
			return actors.Registration{Node: id(t, "node"), Incarnation: incarnation.Draw(t, "incarnation"), Profile: rapid.SampledFrom(known).Draw(t, "profile")}
		}),
		Notices: some(t, "notices", func() actors.Notice {
			return actors.Notice{Kind: actors.NoticeKind(rapid.IntRange(0, int(actors.Lost)).Draw(t, "notice")), Node: id(t, "node"),
				JobID: id(t, "job"), Attempt: number32(t), Incarnation: incarnation.Draw(t, "incarnation")}
		}),
		Departures: some(t, "departures", func() actors.Departure {
			return actors.Departure{Node: id(t, "node"), Incarnation: incarnation.Draw(t, "incarnation")}
		}),
	}
}

func genLocation(t *rapid.T) shard.Location {
	slot := rapid.SampledFrom([]uint16{0, 1, 9}).Draw(t, "slot")
	return shard.Location{Node: id(t, "node"), Gate: actors.GateOf(slot, uint32(rapid.Uint16().Draw(t, "loop"))),
		Incarnation: rapid.Uint64().Draw(t, "incarnation"), Profile: genProfile(t)}
}

func genShard(t *rapid.T) any {
	ms := rapid.Int64Range(0, 1<<62-1)
	switch rapid.IntRange(0, 7).Draw(t, "message") {
	case 0:
		return &shard.Locate{From: number32(t), Node: id(t, "node"), WaitMs: ms.Draw(t, "wait")}
	case 1:
		return &shard.Located{Location: genLocation(t)}
	case 2:
		return &shard.Located{Location: shard.Location{Node: id(t, "node")}, Unknown: true}
	case 3:
		return &shard.Rebuilt{Shard: number32(t)}
	case 4:
		return &shard.Silent{Node: id(t, "node"), UntilMs: ms.Draw(t, "until")}
	case 5:
		return &shard.Answered{Node: id(t, "node")}
	case 6:
		p := genProfile(t)
		return &shard.Select{From: number32(t), JobID: id(t, "job"), Round: number32(t), Kind: id(t, "kind"), Count: rapid.IntRange(0, record.MaxTargets).Draw(t, "count"),
			Selector: &record.Selector{Country: p.Country, City: p.City, ASN: p.ASN, Platform: p.Platform, Tags: p.Tags},
			Exclude:  some(t, "exclude", func() string { return id(t, "node") })}
	default:
		m := &shard.Candidates{JobID: id(t, "job"), Round: number32(t), Nodes: some(t, "nodes", func() shard.Location { return genLocation(t) })}
		for i := range m.Funnel {
			m.Funnel[i] = rapid.IntRange(0, maxCounted).Draw(t, "stage")
		}
		return m
	}
}
