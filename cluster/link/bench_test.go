package link

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// rig is two links that are joined in memory.
type rig struct {
	a, b      *Link
	delivered int
	packets   int
	p         Packet
	toA, toB  func([]byte)
}

func newRig() *rig {
	r := &rig{a: New(Config{Self: 1, Peer: 2}), b: New(Config{Self: 2, Peer: 1})}
	deliver := func([]byte) { r.delivered++ }
	joined := func(to *Link) func([]byte) {
		return func(raw []byte) {
			r.packets++
			if err := r.p.Parse(raw); err != nil {
				panic(err)
			}
			if err := to.Receive(0, &r.p, deliver); err != nil {
				panic(err)
			}
		}
	}
	r.toA, r.toB = joined(r.a), joined(r.b)
	r.a.Flush(0, r.toB)
	r.b.Flush(0, r.toA)
	r.a.Flush(0, r.toB)
	return r
}

// round sends so many messages and lets all acknowledgements arrive.
func (r *rig) round(body []byte, messages int) {
	for range messages {
		if !r.a.Send(0, body) {
			panic("full")
		}
	}
	r.a.Flush(0, r.toB)
	r.b.Tick(20, r.toA)
}

// BenchmarkLink measures a message of 128 bytes from Send through two links until it is
// delivered and acknowledged, alone and in batches; the body itself is not counted.
func BenchmarkLink(b *testing.B) {
	for name, batch := range map[string]int{"alone": 1, "batches of 100": 100} {
		b.Run(name, func(b *testing.B) {
			r, body := newRig(), make([]byte, 128)
			b.ReportAllocs()
			b.SetBytes(128)
			for n := 0; n < b.N; n += batch {
				r.round(body, batch)
			}
			b.ReportMetric(float64(r.packets)/b.Elapsed().Seconds(), "packets/s")
		})
	}
}

// TestAllocations: a batch costs its packet and the acknowledgement, a message nothing.
func TestAllocations(t *testing.T) {
	r, body := newRig(), make([]byte, 128)
	r.round(body, 100)
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() { r.round(body, 100) }), 2.0)
	require.Equal(t, int(r.a.Stats().Sent), r.delivered)
}
