package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// end is one side of the model: a link, and those before it.
type end struct {
	link    *Link
	id      uint32
	sent    map[uint32]int    // messages that a link of this side took
	got     map[uint32]uint32 // by link of the peer: messages delivered
	by      map[uint32]uint32 // link of the peer -> the link here that took its messages
	pending int               // delivered and not consumed
	bytes   int
	largest int
}

// flight is a packet under way.
type flight struct {
	to    int
	bytes []byte
}

// world is two ends and a transport that loses, doubles, delays and reorders.
type world struct {
	*rapid.T
	now    int64
	cfg    Config
	ends   [2]*end
	wire   []flight
	resets int
}

func newWorld(t *rapid.T) *world {
	w := &world{T: t, now: 1000, cfg: Config{
		WindowBytes:  rapid.SampledFrom([]int{1, 300, 4 << 10}).Draw(t, "window"),
		QueueBytes:   rapid.SampledFrom([]int{1, 2 << 10, 32 << 10}).Draw(t, "queue"),
		PacketBytes:  1 << 10,
		ManualCredit: rapid.Bool().Draw(t, "manual"),
	}}
	for i := range w.ends {
		w.ends[i] = &end{sent: map[uint32]int{}, got: map[uint32]uint32{}, by: map[uint32]uint32{}}
		w.begin(i)
	}
	return w
}

func (w *world) begin(i int) {
	e := w.ends[i]
	e.id++
	cfg := w.cfg
	cfg.ID, cfg.Self, cfg.Peer = e.id, uint64(10+i), uint64(11-i)
	e.link = New(cfg)
	e.pending, e.bytes = 0, 0
}

// restart ends a link: what it gives back has to be the end of what it took, and with
// what the peer got of it there is everything.
func (w *world) restart(i int) {
	e := w.ends[i]
	unacked := e.link.Close()
	n := e.sent[e.id]
	for k, body := range unacked {
		from, seq := decode(w.T, body)
		require.Equal(w, e.id, from)
		require.Equal(w, uint32(n-len(unacked)+k+1), seq)
	}
	require.GreaterOrEqual(w, int(w.ends[1-i].got[e.id])+len(unacked), n, "a message is neither delivered nor given back")
	w.begin(i)
}

func encode(link, seq uint32, size int) []byte {
	b := binary.BigEndian.AppendUint32(nil, link)
	return append(binary.BigEndian.AppendUint32(b, seq), make([]byte, size)...)
}

func decode(t require.TestingT, b []byte) (link, seq uint32) {
	require.GreaterOrEqual(t, len(b), 8)
	return binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
}

func (w *world) send(i, size int) {
	e := w.ends[i]
	before := e.link.Stats().QueuedBytes
	body := encode(e.id, uint32(e.sent[e.id]+1), size)
	if e.link.Send(w.now, body) {
		e.sent[e.id]++
		e.largest = max(e.largest, len(body))
		require.True(w, before == 0 || before+cost(body) <= int64(w.cfg.QueueBytes))
	} else {
		require.Positive(w, before)
		require.Greater(w, before+cost(body), int64(w.cfg.QueueBytes))
	}
}

func (w *world) arrive(f flight) {
	i := f.to
	e, peer := w.ends[i], w.ends[1-i]
	var p Packet
	require.NoError(w, p.Parse(f.bytes))
	err := e.link.Receive(w.now, &p, func(body []byte) {
		from, seq := decode(w.T, body)
		require.Equal(w, e.got[from]+1, seq, "in order, each once")
		e.got[from] = seq
		if e.by[from] == 0 {
			e.by[from] = e.id
		}
		require.Equal(w, e.by[from], e.id, "a link's messages go to one link")
		e.pending++
		e.bytes += len(body)
	})
	if w.cfg.ManualCredit {
		most := w.cfg.WindowBytes + peer.largest + MessageOverheadBytes
		require.LessOrEqual(w, e.bytes+e.pending*MessageOverheadBytes, most, "more than the window")
	}
	switch {
	case err == nil, errors.Is(err, ErrStale):
	case errors.Is(err, ErrReset):
		w.resets++
		w.restart(i)
	default:
		require.NoError(w, err)
	}
}

func (w *world) out(i int) func([]byte) {
	return func(packet []byte) {
		require.LessOrEqual(w, len(packet), MaxPacketBytes)
		w.wire = append(w.wire, flight{1 - i, packet})
	}
}

func (w *world) consume(i, messages int) {
	e := w.ends[i]
	if n := min(messages, e.pending); n > 0 {
		bytes := e.bytes
		if n < e.pending {
			bytes = bytes * n / e.pending
		}
		e.pending -= n
		e.bytes -= bytes
		e.link.Consumed(n, bytes)
	}
}

// step does one thing that may happen.
func (w *world) step() {
	i := rapid.IntRange(0, 1).Draw(w.T, "side")
	switch rapid.SampledFrom([]string{"send", "send", "send", "flush", "flush", "arrive", "arrive", "arrive", "late",
		"lose", "twice", "time", "time", "consume", "reconnect", "restart"}).Draw(w.T, "step") {
	case "send":
		w.send(i, rapid.SampledFrom([]int{0, 1, 100, 1500}).Draw(w.T, "size"))
	case "flush":
		w.ends[i].link.Flush(w.now, w.out(i))
	case "arrive":
		w.first(func(f flight) { w.arrive(f) })
	case "late":
		if n := len(w.wire); n > 0 {
			w.wire = append(w.wire[1:n:n], w.wire[0])
		}
	case "lose":
		w.first(func(flight) {})
	case "twice":
		if len(w.wire) > 0 {
			w.wire = append(w.wire, w.wire[0])
		}
	case "time":
		w.now += int64(rapid.SampledFrom([]int{1, 20, 600, 6000}).Draw(w.T, "ms"))
		w.ends[i].link.Tick(w.now, w.out(i))
	case "consume":
		w.consume(i, 1+rapid.IntRange(0, 5).Draw(w.T, "messages"))
	case "reconnect":
		w.wire = nil
		w.ends[0].link.Reconnected()
		w.ends[1].link.Reconnected()
	case "restart":
		if rapid.IntRange(0, 3).Draw(w.T, "really") == 0 {
			w.restart(i)
		}
	}
}

func (w *world) first(do func(flight)) {
	if len(w.wire) > 0 {
		f := w.wire[0]
		w.wire = w.wire[1:]
		do(f)
	}
}

// heal lets all that is under way arrive, and time pass only when nothing else happens, until both
// have all.
func (w *world) heal() {
	for range 5000 {
		for i, e := range w.ends {
			w.consume(i, e.pending)
			e.link.Flush(w.now, w.out(i))
		}
		if len(w.wire) > 0 {
			w.first(func(f flight) { w.arrive(f) })
			continue
		}
		a, b := w.ends[0].link, w.ends[1].link
		if a.Stats().Paired && b.Stats().Paired && a.Stats().Queued+b.Stats().Queued == 0 {
			return
		}
		next := min(a.NextMs(), b.NextMs())
		require.NotZero(w, next, "something can go that Flush did not give out")
		require.Less(w, next, w.now+6000, "nothing is going to happen")
		w.now = max(w.now, next)
		a.Tick(w.now, w.out(0))
		b.Tick(w.now, w.out(1))
	}
	w.Fatalf("not settled: %+v %+v", w.ends[0].link.Stats(), w.ends[1].link.Stats())
}

// TestModel: over a transport that does what it likes, with links that end and begin,
// each message is delivered once and in order, or given back; and all of them, once the
// transport behaves.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(0, 150).Draw(t, "steps") {
			w.step()
		}
		w.heal()
		resets := w.resets
		for i := range w.ends {
			for range 3 {
				w.send(i, 10)
			}
		}
		w.heal()
		require.Equal(w, resets, w.resets, "links that are paired stay so")
		for i, e := range w.ends {
			require.Equal(w, e.sent[e.id], int(w.ends[1-i].got[e.id]), fmt.Sprint("side ", i))
		}
	})
}
