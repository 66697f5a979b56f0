//go:build !race

package sim

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/directory"
	"github.com/roost-server/roost/cluster/link"
	"github.com/roost-server/roost/cluster/wire"
	"github.com/roost-server/roost/protocol"
)

// profileOf makes one of 2000 profiles, as a fleet of some 60 countries, 400 networks and
// 1000 towns has them.
func profileOf(i int) *actors.Profile {
	return &actors.Profile{Agent: fmt.Sprint("roost-go/1.", i%3), Attributes: protocol.Attributes{
		Country: fmt.Sprintf("%c%c", 'A'+i%60%26, 'A'+i%60/26), City: fmt.Sprint("City ", i%1000), ASN: uint32(1000 + i%400),
		Platform: []string{"linux/amd64", "linux/arm64", "windows/amd64"}[i/7%3],
		Tags:     []string{[]string{"home", "office", "cloud"}[i/11%3], []string{"ipv4", "ipv6"}[i/13%2]},
		Kinds:    []string{"ping", "http", "dns"},
	}}
}

// moved is what it takes until a partition's new owner knows its nodes.
type moved struct {
	nodes    int
	bytes    int64 // on the wire
	ms       int64 // until the last registration has arrived
	resent   uint64
	heapNode float64 // of the directory, with ids
}

// register sends the registrations of one partition to its new owner: from each of the other
// members a batch for each event loop, as gates answer an Announce, through real links over
// a network with a delay and a bandwidth at the receiver.
func register(t *testing.T, nodes, members, loops int, delayMs int64, bitsPerMs int64) moved {
	profiles := make([]*actors.Profile, 2000)
	for i := range profiles {
		profiles[i] = profileOf(i)
	}
	bodies := make([][][]byte, members)
	batches := make([]*actors.FromGate, members*loops)
	for i := range batches {
		batches[i] = actors.NewFromGate(uint32(i % loops))
	}
	for i := range nodes {
		at := (i * 7919) % len(batches)
		batches[at].Registrations = append(batches[at].Registrations, actors.Registration{
			Node: fmt.Sprintf("node-%015d", i), Incarnation: epoch + uint64(i), Profile: profiles[(i*104729)%len(profiles)],
		})
	}
	for i, b := range batches {
		bodies[i/loops] = wire.AppendFromGate(bodies[i/loops], 7, epoch, uint32(i%loops), b)
		b.Release()
	}
	d := directory.New()
	before := heap()
	m := moved{nodes: nodes}
	m.ms, m.bytes, m.resent = carry(t, bodies, delayMs, bitsPerMs, func(slot uint16, body []byte) {
		_, b, err := wire.DecodeFromGate(body, slot)
		require.NoError(t, err)
		for i := range b.Registrations {
			d.Register(b.Gate, &b.Registrations[i])
		}
		b.Release()
	})
	m.heapNode = float64(heap()-before) / float64(nodes)
	require.Equal(t, nodes, d.Len())
	runtime.KeepAlive(bodies)
	return m
}

// carry moves the bodies of each sender through a link of its own to one receiver.
func carry(t *testing.T, bodies [][][]byte, delayMs, bitsPerMs int64, deliver func(slot uint16, body []byte)) (ms, bytes int64, resent uint64) {
	type flight struct {
		at   int64
		body []byte
	}
	n := len(bodies)
	out, in := make([]*link.Link, n), make([]*link.Link, n)
	to, back := make([][]flight, n), make([][]flight, n)
	left := 0
	for i := range out {
		out[i] = link.New(link.Config{Self: uint64(i) + 1, Peer: 1 << 32})
		in[i] = link.New(link.Config{Self: 1 << 32, Peer: uint64(i) + 1})
		for _, body := range bodies[i] {
			require.True(t, out[i].Send(1, body))
			left++
		}
	}
	free := int64(0) // bits: when the receiver's network has taken what was sent so far
	for now := int64(1); ; now++ {
		require.Less(t, now, int64(60_000))
		for i := range out {
			for len(to[i]) > 0 && to[i][0].at <= now {
				receive(t, in[i], now, to[i][0].body, func(b []byte) { left--; deliver(uint16(i+1), b) })
				to[i] = to[i][1:]
			}
			for len(back[i]) > 0 && back[i][0].at <= now {
				receive(t, out[i], now, back[i][0].body, nil)
				back[i] = back[i][1:]
			}
			out[i].Tick(now, func(p []byte) {
				bytes += int64(len(p)) + overhead
				free = max(free, now*bitsPerMs) + 8*(int64(len(p))+overhead)
				to[i] = append(to[i], flight{delayMs + free/bitsPerMs, p})
			})
			in[i].Tick(now, func(p []byte) { back[i] = append(back[i], flight{now + delayMs, p}) })
		}
		if left == 0 {
			for _, l := range out {
				resent += l.Stats().Resent
			}
			return now, bytes, resent
		}
	}
}

func receive(t *testing.T, l *link.Link, now int64, body []byte, deliver func([]byte)) {
	var p link.Packet
	require.NoError(t, p.Parse(body))
	require.NoError(t, l.Receive(now, &p, deliver))
}

// heap is what the garbage collector leaves.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // the first one only empties the pools
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
