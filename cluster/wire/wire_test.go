package wire

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/directory"
	"github.com/roost-server/roost/actors/shard"
	"github.com/roost-server/roost/protocol"
)

var update = flag.Bool("update", false, "rewrite testdata/golden.json")

// TestGolden holds the bytes that members of other versions rely on.
func TestGolden(t *testing.T) {
	got := map[string]string{}
	for name, bodies := range samples() {
		require.Len(t, bodies, 1, name)
		got[name] = hex.EncodeToString(bodies[0])
	}
	file := filepath.Join("testdata", "golden.json")
	if *update {
		text, err := json.MarshalIndent(got, "", "  ")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file, append(text, '\n'), 0o644))
	}
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var want map[string]string
	require.NoError(t, json.Unmarshal(text, &want))
	require.Equal(t, want, got, "members of different versions run side by side: add fields at the end, and records; change nothing")
}

func TestToGateRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Header{Kind: KindToGate, Shard: number32(t), Epoch: rapid.Uint64().Draw(t, "epoch"), Loop: uint32(rapid.Uint16().Draw(t, "loop"))}
		b := genToGate(t, want.Shard)
		bodies := AppendToGate(nil, want.Shard, want.Epoch, want.Loop, b)
		if len(b.Deliveries)+len(b.Withdrawals)+len(b.Acks)+len(b.Evictions) == 0 {
			require.Empty(t, bodies)
			return
		}
		require.Len(t, bodies, 1)
		h, got, err := DecodeToGate(bodies[0])
		require.NoError(t, err)
		require.Equal(t, want, h)
		peeked, err := Head(bodies[0])
		require.NoError(t, err)
		require.Equal(t, want, peeked)
		sameToGate(t, b, got)
		got.Release()
	})
}

// list makes empty lists of a pool equal to none.
func list[T any](l []T) []T { return append([]T(nil), l...) }

func sameToGate(t require.TestingT, want, got *actors.ToGate) {
	require.Equal(t, want.Deliveries, list(got.Deliveries))
	require.Equal(t, want.Withdrawals, list(got.Withdrawals))
	require.Equal(t, want.Acks, list(got.Acks))
	require.Equal(t, want.Evictions, list(got.Evictions))
}

func TestFromGateRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Header{Kind: KindFromGate, Shard: number32(t), Epoch: rapid.Uint64().Draw(t, "epoch"), Loop: uint32(rapid.Uint16().Draw(t, "loop"))}
		b := genFromGate(t)
		slot := rapid.Uint16().Draw(t, "slot")
		bodies := AppendFromGate(nil, want.Shard, want.Epoch, want.Loop, b)
		if b.Empty() {
			require.Empty(t, bodies)
			return
		}
		require.Len(t, bodies, 1)
		h, got, err := DecodeFromGate(bodies[0], slot)
		require.NoError(t, err)
		require.Equal(t, want, h)
		require.Equal(t, actors.GateOf(slot, want.Loop), got.Gate)
		require.Equal(t, b.Results, list(got.Results))
		require.Equal(t, b.Progress, list(got.Progress))
		require.Equal(t, b.Registrations, list(got.Registrations))
		require.Equal(t, b.Departures, list(got.Departures))
		first, rest := split(b.Notices)
		require.Equal(t, append(first, rest...), list(got.Notices))
		for i := range got.Registrations {
			for k := range i {
				same := b.Registrations[i].Profile == b.Registrations[k].Profile
				require.Equal(t, same, got.Registrations[i].Profile == got.Registrations[k].Profile, "shared as before")
			}
		}
		got.Release()
	})
}

// split returns the notices that a shard takes before registrations, and the others.
func split(all []actors.Notice) (first, rest []actors.Notice) {
	for _, n := range all {
		if n.Kind == actors.Running || n.Kind == actors.Held {
			first = append(first, n)
		} else {
			rest = append(rest, n)
		}
	}
	return first, rest
}

func TestShardRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Header{Kind: KindShard, Shard: number32(t), Epoch: rapid.Uint64().Draw(t, "epoch")}
		m := genShard(t)
		bodies, ok := AppendShard(nil, want.Shard, want.Epoch, m, instanceOf)
		require.True(t, ok)
		require.Len(t, bodies, 1)
		h, got, err := DecodeShard(bodies[0], slotOf)
		require.NoError(t, err)
		require.Equal(t, want, h)
		require.Equal(t, m, got)
	})
}

func TestLocationsOfMembersThatAreGone(t *testing.T) {
	nobody := func(uint16) (uint64, bool) { return 0, false }
	stranger := func(uint64) (uint16, bool) { return 0, false }
	here := shard.Location{Node: "n", Gate: actors.GateOf(1, 1), Incarnation: 1, Profile: profile()}
	gone := shard.Location{Node: "m", Gate: actors.GateOf(2, 1), Incarnation: 1, Profile: profile()}
	located, candidates := &shard.Located{Location: here}, &shard.Candidates{JobID: "j", Nodes: []shard.Location{gone, here}}
	for _, where := range []struct {
		inst func(uint16) (uint64, bool)
		slot func(uint64) (uint16, bool)
	}{{nobody, slotOf}, {instanceOf, stranger}} {
		bodies, _ := AppendShard(nil, 1, 1, located, where.inst)
		_, m, err := DecodeShard(bodies[0], where.slot)
		require.NoError(t, err)
		require.Equal(t, &shard.Located{Location: shard.Location{Node: "n"}, Unknown: true}, m)
		bodies, _ = AppendShard(nil, 1, 1, candidates, where.inst)
		_, m, err = DecodeShard(bodies[0], where.slot)
		require.NoError(t, err)
		require.Equal(t, &shard.Candidates{JobID: "j"}, m)
	}
	bodies, _ := AppendShard(nil, 1, 1, candidates, instanceOf)
	_, m, err := DecodeShard(bodies[0], slotOf)
	require.NoError(t, err)
	require.Equal(t, []shard.Location{here}, m.(*shard.Candidates).Nodes)
}

func TestOnlyMessagesOfShards(t *testing.T) {
	bodies, ok := AppendShard(nil, 1, 1, &actors.MemberGone{Slot: 1}, instanceOf)
	require.False(t, ok)
	require.Empty(t, bodies)
}

// TestALargeToGateIsSplit has whoever takes one body after the other get what was in it.
func TestALargeToGateIsSplit(t *testing.T) {
	b := &actors.ToGate{}
	large := make([]byte, protocol.MaxPayloadBytes)
	for i := range 40 {
		d := actors.Delivery{Node: fmt.Sprint("node-", i), JobID: fmt.Sprint("job-", i/10), Kind: "ping", Args: large[i/10:], Shard: 3, Attempt: 1}
		b.Deliveries = append(b.Deliveries, d)
	}
	for i := range 20_000 {
		b.Acks = append(b.Acks, actors.Ack{Node: fmt.Sprint("node-", i), JobID: strings.Repeat("j", 100), Attempt: 1})
	}
	bodies := AppendToGate([][]byte{nil}, 3, 9, 1, b)[1:]
	require.Greater(t, len(bodies), 7)
	require.Less(t, len(bodies), 12, "the arguments of a job go once, not ten times")
	all := &actors.ToGate{}
	for _, body := range bodies {
		require.LessOrEqual(t, len(body), MaxBodyBytes)
		_, got, err := DecodeToGate(body)
		require.NoError(t, err)
		all.Deliveries = append(all.Deliveries, got.Deliveries...)
		all.Acks = append(all.Acks, got.Acks...)
	}
	sameToGate(t, b, all)
}

func TestALargeFromGateIsSplitInOrder(t *testing.T) {
	b := &actors.FromGate{Notices: []actors.Notice{{Kind: actors.Lost, Node: "n", JobID: "j", Attempt: 1}, {Kind: actors.Running, Node: "n", JobID: "j", Attempt: 1}},
		Departures: []actors.Departure{{Node: "n", Incarnation: 1}}}
	for i := range 6000 {
		p := profile()
		p.City = strings.Repeat("x", 200)
		b.Registrations = append(b.Registrations, actors.Registration{Node: fmt.Sprint("node-", i), Incarnation: uint64(i), Profile: p})
	}
	for i := range 3 {
		b.Results = append(b.Results, actors.Result{Node: "n", JobID: []byte{byte('a' + i)}, Attempt: 1, Output: make([]byte, protocol.MaxPayloadBytes),
			Error: make([]byte, protocol.MaxErrorBytes)})
	}
	bodies := AppendFromGate(nil, 3, 9, 1, b)
	require.Greater(t, len(bodies), 5)
	var seen []string
	var registered []actors.Registration
	for _, body := range bodies {
		require.LessOrEqual(t, len(body), MaxBodyBytes)
		_, got, err := DecodeFromGate(body, 2)
		require.NoError(t, err)
		first, rest := split(got.Notices)
		registered = append(registered, got.Registrations...)
		for what, n := range [][2]int{{len(got.Results)}, {len(first)}, {len(got.Registrations)}, {len(got.Departures)}, {len(rest)}} {
			if now := fmt.Sprint(what); n[0] > 0 && (len(seen) == 0 || seen[len(seen)-1] != now) {
				seen = append(seen, now)
			}
		}
	}
	require.Equal(t, []string{"0", "1", "2", "3", "4"}, seen, "as a shard takes the parts of one batch")
	require.Equal(t, b.Registrations, registered)
}

func TestALargeAnswerComesInParts(t *testing.T) {
	m := &shard.Candidates{JobID: "j", Round: 1, Funnel: directory.Funnel{5000}}
	ask := &shard.Select{From: 1, JobID: "j", Round: 1}
	for i := range 5000 {
		p := profile()
		p.City = strings.Repeat("x", 200)
		m.Nodes = append(m.Nodes, shard.Location{Node: fmt.Sprint("node-", i), Gate: 1, Incarnation: 1, Profile: p})
		ask.Exclude = append(ask.Exclude, fmt.Sprint(strings.Repeat("y", 110), i))
	}
	bodies, _ := AppendShard(nil, 1, 1, m, instanceOf)
	require.Greater(t, len(bodies), 2)
	got := &shard.Candidates{}
	for i, body := range bodies {
		require.LessOrEqual(t, len(body), MaxBodyBytes)
		_, x, err := DecodeShard(body, slotOf)
		require.NoError(t, err)
		part := x.(*shard.Candidates)
		require.Equal(t, i < len(bodies)-1, part.More)
		part.Nodes = append(got.Nodes, part.Nodes...)
		got = part
	}
	require.Equal(t, m, got)

	bodies, _ = AppendShard(nil, 1, 1, ask, instanceOf)
	require.Len(t, bodies, 1)
	require.LessOrEqual(t, len(bodies[0]), MaxBodyBytes)
	_, x, err := DecodeShard(bodies[0], slotOf)
	require.NoError(t, err)
	n := len(x.(*shard.Select).Exclude)
	require.Greater(t, n, 4000)
	require.Equal(t, ask.Exclude[:n], x.(*shard.Select).Exclude)
}

// grown returns a body as a newer version might write it: with fields after those of each
// record, and with a record that this one does not know.
func grown(t require.TestingT, body []byte) []byte {
	_, rest, err := head(body)
	require.NoError(t, err)
	out := append([]byte(nil), body[:len(body)-len(rest)]...)
	require.NoError(t, records(rest, func(tag byte, f *fields) bool {
		more := append(append([]byte(nil), f.b...), 1, 2, 3)
		out = append(out, tag, byte(len(more)), byte(len(more)>>8), byte(len(more)>>16))
		out = append(out, more...)
		out = append(out, 200, 2, 0, 0, 0xff, 0xff)
		return true
	}))
	return out
}

func TestWhatANewerMemberAdds(t *testing.T) {
	for name, bodies := range samples() {
		newer := grown(t, bodies[0])
		require.Equal(t, decodeAny(t, bodies[0]), decodeAny(t, newer), name)
	}
	_, m, err := DecodeShard([]byte{KindShard, 1, 1, 0, 99, 1, 0, 0, 7}, slotOf)
	require.NoError(t, err)
	require.Nil(t, m, "a message that only newer ones know")
}

func decodeAny(t require.TestingT, body []byte) any {
	switch body[0] {
	case KindToGate:
		_, b, err := DecodeToGate(body)
		require.NoError(t, err)
		return b
	case KindFromGate:
		_, b, err := DecodeFromGate(body, 4)
		require.NoError(t, err)
		return b
	default:
		_, m, err := DecodeShard(body, slotOf)
		require.NoError(t, err)
		return m
	}
}

func TestMalformedBodies(t *testing.T) {
	for name, body := range map[string][]byte{
		"nothing": {}, "kind": {KindRPC, 1, 1, 1}, "no header": {KindToGate}, "half a header": {KindToGate, 5, 5},
		"shard":  append([]byte{KindToGate}, binary.AppendUvarint(nil, 1<<32)...),
		"loop":   append([]byte{KindToGate, 1, 1}, binary.AppendUvarint(nil, 1<<16)...),
		"length": {KindToGate, 1, 1, 1, tagAck, 9, 0}, "cut": {KindToGate, 1, 1, 1, tagAck, 9, 0, 0, 1, 'n'},
		"text": {KindToGate, 1, 1, 1, tagAck, 2, 0, 0, 9, 'n'}, "no node": {KindToGate, 1, 1, 1, tagAck, 3, 0, 0, 0, 1, 'j'},
		"again": {KindToGate, 1, 1, 1, tagAgain, 2, 0, 0, 1, 'n'}, "varint": {KindToGate, 1, 1, 1, tagAck, 5, 0, 0, 1, 'n', 1, 'j', 0x80},
	} {
		_, b, err := DecodeToGate(body)
		require.Nil(t, b, name)
		require.ErrorIs(t, err, ErrMalformed, name)
	}
	for name, body := range map[string][]byte{
		"job": {KindFromGate, 1, 1, 1, tagResult, 2, 0, 0, 1, 'n'}, "outcome": {KindFromGate, 1, 1, 1, tagResult, 6, 0, 0, 1, 'n', 1, 'j', 1, 5},
		"profile": {KindFromGate, 1, 1, 1, tagRegistration, 4, 0, 0, 1, 'n', 1, 1}, "tags": {KindFromGate, 1, 1, 1, tagProfile, 6, 0, 0, 0, 0, 0, 0, 0, 200},
		"kind": {KindToGate, 1, 1, 1},
	} {
		_, b, err := DecodeFromGate(body, 1)
		require.Nil(t, b, name)
		require.ErrorIs(t, err, ErrMalformed, name)
	}
	for name, body := range map[string][]byte{
		"instance": {KindShard, 1, 1, 0, tagLocation, 4, 0, 0, 1, 'n', 1, 2}, "no node": {KindShard, 1, 1, 0, tagLocate, 1, 0, 0, 3},
		"kind": {KindFromGate, 1, 1, 1},
	} {
		_, m, err := DecodeShard(body, slotOf)
		require.Nil(t, m, name)
		require.ErrorIs(t, err, ErrMalformed, name)
	}
}

// TestANodeWithoutProfile has shards find one, whatever was sent: they rely on it.
func TestANodeWithoutProfile(t *testing.T) {
	bodies := AppendFromGate(nil, 1, 1, 1, &actors.FromGate{Registrations: []actors.Registration{{Node: "n", Incarnation: 1}}})
	_, b, err := DecodeFromGate(bodies[0], 1)
	require.NoError(t, err)
	require.Equal(t, &actors.Profile{}, b.Registrations[0].Profile)
	bodies, _ = AppendShard(nil, 1, 1, &shard.Located{Location: shard.Location{Node: "n"}}, instanceOf)
	_, m, err := DecodeShard(bodies[0], slotOf)
	require.NoError(t, err)
	require.NotNil(t, m.(*shard.Located).Location.Profile)
}

// TestNoticesOfANewerMember are dropped one by one.
func TestNoticesOfANewerMember(t *testing.T) {
	bodies := AppendFromGate(nil, 1, 1, 1, &actors.FromGate{Notices: []actors.Notice{{Kind: 99, Node: "n", JobID: "j"}, {Kind: actors.Busy, Node: "n", JobID: "j"}}})
	_, b, err := DecodeFromGate(bodies[0], 1)
	require.NoError(t, err)
	require.Equal(t, []actors.Notice{{Kind: actors.Busy, Node: "n", JobID: "j"}}, list(b.Notices))
}

// TestDecodingReservesLittle has bodies of very many of the smallest records.
func TestDecodingReservesLittle(t *testing.T) {
	const most = 40 // times as many bytes as were sent
	node := []byte{1, 'n'}
	for name, x := range map[string]struct {
		kind    byte
		payload []byte
		tag     byte
	}{
		"again": {KindToGate, node, tagAgain}, "ack": {KindToGate, []byte{1, 'n', 1, 'j'}, tagAck}, "eviction": {KindToGate, node, tagEviction},
		"result": {KindFromGate, []byte{1, 'n', 1, 'j'}, tagResult}, "registration": {KindFromGate, node, tagRegistration},
		"profile": {KindFromGate, nil, tagProfile}, "location": {KindShard, node, tagLocation},
		"excluded": {KindShard, append([]byte{1, 1, 'j', 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x80, 4}, make([]byte, 0x10000)...), tagSelect},
	} {
		body := []byte{x.kind, 1, 1, 0}
		if x.kind == KindToGate {
			body = append(body, tagDelivery, 4, 0, 0, 1, 'n', 1, 'j')
		}
		for len(body) < MaxBodyBytes {
			body = append(append(body, x.tag, byte(len(x.payload)), byte(len(x.payload)>>8), byte(len(x.payload)>>16)), x.payload...)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got := decodeAny(t, body)
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(most*len(body)), name)
		runtime.KeepAlive(got)
	}
}

func FuzzDecode(f *testing.F) {
	for _, bodies := range samples() {
		f.Add(bodies[0])
		f.Add(grown(f, bodies[0]))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if h, b, err := DecodeToGate(body); err == nil {
			for i := range b.Withdrawals {
				require.LessOrEqual(t, len(b.Withdrawals[i].Reason), maxReasonBytes)
			}
			again := AppendToGate(nil, h.Shard, h.Epoch, h.Loop, b)
			for _, x := range again {
				_, _, err := DecodeToGate(x)
				require.NoError(t, err)
			}
			b.Release()
		} else {
			require.True(t, errors.Is(err, ErrMalformed))
		}
		if h, b, err := DecodeFromGate(body, 3); err == nil {
			for _, x := range AppendFromGate(nil, h.Shard, h.Epoch, h.Loop, b) {
				_, _, err := DecodeFromGate(x, 3)
				require.NoError(t, err)
			}
			b.Release()
		}
		if h, m, err := DecodeShard(body, slotOf); err == nil && m != nil {
			bodies, ok := AppendShard(nil, h.Shard, h.Epoch, m, instanceOf)
			require.True(t, ok)
			for _, x := range bodies {
				_, _, err := DecodeShard(x, slotOf)
				require.NoError(t, err)
			}
		}
	})
}
