package tcp

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Against a map of ticks: every connection is given to expire at exactly its time,
// whatever is moved, removed, or done from within expire, across the wrap of 32 bits.
func TestWheelAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const conns = 12
		now := rapid.SampledFrom([]uint32{0, 5, 1<<31 - 700, ^uint32(0) - 2000}).Draw(t, "start")
		w := &wheel{now: now}
		pool := make([]*Conn, conns)
		for i := range pool {
			pool[i] = &Conn{slot: noSlot}
		}
		due := map[*Conn]uint32{}
		index := rapid.IntRange(0, conns-1)
		delay := rapid.OneOf(rapid.IntRange(-3, 20), rapid.IntRange(wheelSlots-3, wheelSlots+3), rapid.IntRange(0, 5*wheelSlots))

		schedule := func(c *Conn) {
			d := w.now + uint32(delay.Draw(t, "delay"))
			w.schedule(c, d)
			if !after(d, w.now) {
				d = w.now + 1
			}
			due[c] = d
		}
		expire := func(c *Conn) {
			d, ok := due[c]
			require.True(t, ok, "expired, but is not scheduled")
			require.False(t, after(w.now, d), "late")
			if after(d, w.now) { // only because it was further off than a turn
				w.schedule(c, d)
				return
			}
			delete(due, c)
			switch rapid.IntRange(0, 3).Draw(t, "then") {
			case 0:
				schedule(c)
			case 1:
				schedule(pool[index.Draw(t, "other")])
			case 2:
				other := pool[index.Draw(t, "gone")]
				w.remove(other)
				delete(due, other)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"schedule": func(t *rapid.T) { schedule(pool[index.Draw(t, "conn")]) },
			"remove": func(t *rapid.T) {
				c := pool[index.Draw(t, "conn")]
				w.remove(c)
				delete(due, c)
			},
			"advance": func(t *rapid.T) {
				to := w.now + uint32(delay.Draw(t, "by"))
				w.advance(to, expire)
				for c, d := range due {
					require.True(t, after(d, w.now), "missed")
					require.NotEqual(t, noSlot, c.slot)
				}
			},
			"": func(t *rapid.T) {
				require.Equal(t, len(due), w.count)
				require.Len(t, w.all(), len(due))
				for c, d := range due {
					seen := w.due(c)
					require.True(t, after(seen, w.now) && !after(seen, d), "looked at in time")
				}
			},
		})
	})
}

func TestWheelEverySlotAndDistance(t *testing.T) {
	for _, begin := range []uint32{0, 1, wheelSlots - 1, ^uint32(0) - 1500} {
		for d := uint32(1); d <= 3*wheelSlots; d++ {
			w := &wheel{now: begin}
			c := &Conn{slot: noSlot}
			w.schedule(c, begin+d)
			var at uint32
			w.advance(begin+4*wheelSlots, func(c *Conn) {
				if at = w.now; after(begin+d, w.now) {
					w.schedule(c, begin+d)
				}
			})
			require.Equal(t, begin+d, at, "from %d by %d", begin, d)
			require.Zero(t, w.count)
		}
	}
}

func TestWheelAllocatesNothing(t *testing.T) {
	w := &wheel{}
	conns := make([]Conn, 100)
	for i := range conns {
		conns[i].slot = noSlot
	}
	expire := func(c *Conn) { w.schedule(c, w.now+7) }
	require.Zero(t, testing.AllocsPerRun(100, func() {
		for i := range conns {
			w.schedule(&conns[i], w.now+uint32(i))
		}
		w.advance(w.now+50, expire)
	}))
}
