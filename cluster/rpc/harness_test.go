package rpc

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/roost-server/roost/cluster/link"
)

// network joins two members, 0 and 1, by real links; each knows the other as slot 7.
type network struct {
	t    *testing.T
	rpcs [2]*RPC
	logs [2]*observer.ObservedLogs

	mu     sync.Mutex
	links  [2]*link.Link // nil after down
	lose   float64       // of the packets
	full   [2]bool       // this member's queue takes nothing
	queued int64         // the most bytes that were seen in a queue
	wake   chan struct{}
	stop   chan struct{}
	done   chan struct{}
}

const slot = 7

func newNetwork(t *testing.T, queueBytes int) *network {
	n := &network{t: t, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	for i := range n.links {
		n.links[i] = link.New(link.Config{Self: uint64(i + 1), Peer: uint64(2 - i), QueueBytes: queueBytes, ResendMs: 10})
		core, logs := observer.New(zap.WarnLevel)
		n.logs[i] = logs
		n.rpcs[i] = New(func(s uint16, body []byte) bool { return n.send(i, s, body) }, zap.New(core))
	}
	go n.run()
	t.Cleanup(func() {
		n.rpcs[0].Close()
		n.rpcs[1].Close()
		close(n.stop)
		<-n.done
	})
	return n
}

func nowMs() int64 { return time.Now().UnixMilli() }

func (n *network) send(i int, s uint16, body []byte) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.links[i]
	ok := s == slot && l != nil && !n.full[i] && l.Send(nowMs(), body)
	if ok {
		n.queued = max(n.queued, l.Stats().QueuedBytes)
		n.poke()
	}
	return ok
}

func (n *network) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *network) set(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
	n.poke()
}

func (n *network) run() {
	defer close(n.done)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-n.stop:
			return
		case <-n.wake:
		case <-tick.C:
		}
		for i := range n.links {
			for _, body := range n.carry(i) {
				n.rpcs[1-i].Message(slot, body)
			}
		}
	}
}

// carry takes what a member sends to the other's link.
func (n *network) carry(i int) (came [][]byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	from, to := n.links[i], n.links[1-i]
	if from == nil {
		return nil
	}
	from.Tick(nowMs(), func(packet []byte) {
		if to == nil || rand.Float64() < n.lose {
			return
		}
		var p link.Packet
		if err := p.Parse(packet); err != nil {
			panic(err)
		}
		if err := to.Receive(nowMs(), &p, func(body []byte) { came = append(came, body) }); err != nil {
			panic(err)
		}
	})
	return came
}

// down ends the connection, and tells both sides.
func (n *network) down() {
	n.set(func() { n.links = [2]*link.Link{} })
	n.rpcs[0].Down(slot)
	n.rpcs[1].Down(slot)
}

// empty waits until nothing is under way at either member.
func (n *network) empty() {
	n.t.Helper()
	require.Eventually(n.t, func() bool {
		for _, r := range n.rpcs {
			if calls, serving := r.underWay(); calls+serving > 0 {
				return false
			}
		}
		return true
	}, 10*time.Second, time.Millisecond)
}

// underWay counts the calls of this side and those that it serves.
func (r *RPC) underWay() (calls, serving int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.peers {
		p.mu.Lock()
		calls += len(p.calls)
		serving += len(p.serving)
		p.mu.Unlock()
	}
	return calls, serving
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}
