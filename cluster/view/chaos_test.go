package view

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whatever happened, when it is over all come to agree: on who is up, on the sessions, and
// on the owners.
func TestAgreementAfterFaults(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { chaos(t, seed) })
	}
}

func chaos(t *testing.T, seed uint64) {
	w := newWorld(t, seed)
	f := &faults{w: w, rnd: rand.New(rand.NewPCG(seed, 2)), all: w.start(5)}
	for _, m := range f.all {
		m.skew = f.rnd.Int64N(1800) - 900
	}
	w.run(f.rnd.Int64N(3000))
	w.lost = func(from, to string) bool { return f.cut[from+">"+to] || f.rnd.Float64() < f.loss }
	w.delayMs = func(string, string) int64 { return 1 + f.rnd.Int64N(f.delay+1) }
	for range 25 {
		f.next()
		w.run(f.rnd.Int64N(2500))
	}
	f.cut, f.loss, f.delay = nil, 0, 3
	w.run(30_000)
	for _, m := range f.all {
		require.NoError(t, m.conflict)
	}
	w.agree(f.all...)
	changes := 0
	for _, m := range f.all {
		changes += len(m.history)
	}
	w.run(30_000)
	for _, m := range f.all {
		changes -= len(m.history)
	}
	require.Zero(t, changes, "it does not settle")
}

// faults is what is wrong with a world.
type faults struct {
	w     *world
	rnd   *rand.Rand
	all   []*member
	cut   map[string]bool
	loss  float64
	delay int64
	moves int
}

// next is one more thing that goes wrong, or right again.
func (f *faults) next() {
	i := f.rnd.IntN(len(f.all))
	m, other := f.all[i], f.all[f.rnd.IntN(len(f.all))]
	switch f.rnd.IntN(8) {
	case 0:
		f.loss = f.rnd.Float64() * 0.7
	case 1:
		f.delay = f.rnd.Int64N(900)
	case 2:
		if f.cut == nil {
			f.cut = map[string]bool{}
		}
		f.cut[m.address+">"+other.address] = true
		if f.rnd.IntN(2) == 0 {
			f.cut[other.address+">"+m.address] = true
		}
	case 3:
		f.cut, f.loss, f.delay = nil, 0, 0
	case 4:
		f.restart(i)
	case 5:
		m.paused = true
		f.w.run(f.rnd.Int64N(6000))
		m.paused, m.nextTick = false, f.w.now
	default:
		for range 1 + f.rnd.IntN(10) {
			m.Claim(m.act(), f.rnd.Uint32N(64))
			m.Disclaim(m.act(), f.rnd.Uint32N(64))
		}
	}
}

// restart ends a member without a word, and begins another of its name, here or elsewhere.
func (f *faults) restart(i int) {
	m := f.all[i]
	f.w.kill(m)
	address := m.address
	if i > 0 && f.rnd.IntN(2) == 0 {
		f.moves++
		address = fmt.Sprintf("moved-%d:1", f.moves)
	}
	f.w.run(f.rnd.Int64N(5000))
	cfg := f.w.config(m.cfg.Name, address)
	cfg.StartMs += m.skew + 2000 // a clock is not that wrong over a restart
	f.all[i] = f.w.add(cfg, "m0:1")
	f.all[i].skew = m.skew
}
