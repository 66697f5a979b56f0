//go:build !race

package gate

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
)

// plainConn encodes what it is given and forgets it.
type plainConn struct {
	ctx any
	enc *protocol.Encoder
	out []byte
}

// Append implements session.Conn.
func (c *plainConn) Append(m protocol.Message) (err error) {
	c.out, err = c.enc.Append(c.out[:0], m)
	return err
}

// Close implements session.Conn.
func (c *plainConn) Close(protocol.Reason, string, time.Duration) {}

// CloseSilently implements session.Conn.
func (c *plainConn) CloseSilently(protocol.Reason) {}

// Establish implements Conn.
func (c *plainConn) Establish(time.Duration) bool { return true }

// SetContext implements Conn.
func (c *plainConn) SetContext(ctx any) { c.ctx = ctx }

// Context implements Conn.
func (c *plainConn) Context() any { return c.ctx }

// turnLoop is an event loop that turns when it is told to.
type turnLoop struct {
	decoder *protocol.Decoder
	mu      sync.Mutex // a gate's timer calls Execute too
	fns     []func()
	spare   []func()
	over    bool
}

// Execute implements Loop.
func (l *turnLoop) Execute(fn func()) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return errors.New("ended")
	}
	l.fns = append(l.fns, fn)
	return nil
}

// Decoder implements Loop.
func (l *turnLoop) Decoder() *protocol.Decoder { return l.decoder }

func (l *turnLoop) turn() {
	for {
		l.mu.Lock()
		fns := l.fns
		l.fns, l.spare = l.spare[:0], nil
		l.mu.Unlock()
		for i := range fns {
			fns[i]()
			fns[i] = nil
		}
		l.spare = fns[:0]
		if len(fns) == 0 {
			return
		}
	}
}

// end has Execute refuse.
func (l *turnLoop) end() {
	l.turn()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
}

// hop is what one job costs on an event loop: its delivery from a shard's batch to
// the node's frame, and the node's result to the shard's batch, with the
// acknowledgement of the one before.
func hop(t testing.TB, jobs int) func() {
	loop := &turnLoop{decoder: protocol.NewDecoder()}
	door := NewDoor(&Config{
		Member: "m", Partitions: 1, Heartbeat: time.Second, Stats: &Stats{}, NowMs: func() int64 { return 1 },
		Shards: sendFunc(func(_ uint32, b *actors.FromGate) bool { b.Release(); return true }),
	}, 0, loop)
	system := quietSystem()
	pid := system.Root.Spawn(door.Props(actor.DefaultSupervisorStrategy()))
	loop.turn()
	t.Cleanup(func() {
		loop.end()
		require.NoError(t, system.Root.StopFuture(pid).Wait())
		system.Shutdown()
	})
	c := &plainConn{enc: protocol.NewEncoder()}
	frame := func(m protocol.Message) []byte {
		b, err := protocol.NewEncoder().Append(nil, m)
		require.NoError(t, err)
		return b[protocol.HeaderBytes:]
	}
	hello := helloOf("n")
	hello.Credit = 4
	require.NoError(t, door.Frame(c, protocol.TypeHello, frame(hello)))
	result := frame(resultOf("the-job"))
	b := &actors.ToGate{}
	for range jobs {
		b.Deliveries = append(b.Deliveries, actors.Delivery{Node: "n", JobID: "the-job", Kind: "ping", Attempt: 1, Args: []byte{0xc0}, TimeoutMs: 1000})
		b.Acks = append(b.Acks, actors.Ack{Node: "n", JobID: "the-job", Attempt: 1})
	}
	return func() {
		door.gate.take(b)
		for range jobs {
			if err := door.Frame(c, protocol.TypeResult, result); err != nil {
				panic(err)
			}
		}
		loop.turn()
	}
}

func TestTheHopThroughGateAndSessionAllocatesNothing(t *testing.T) {
	run := hop(t, 1)
	for range 100 {
		run()
	}
	require.Zero(t, testing.AllocsPerRun(200, run))
}

func BenchmarkHop(b *testing.B) {
	run := hop(b, 64)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		run()
		n += 64
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/job")
}
