package link

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// pair is two links with a transport that the test has in its hands.
type pair struct {
	t     *testing.T
	a, b  *Link
	toA   [][]byte
	toB   [][]byte
	gotA  []string
	gotB  []string
	nowMs int64
}

func newPair(t *testing.T, cfg Config) *pair {
	p := unpaired(t, cfg)
	p.settle()
	require.True(t, p.a.Stats().Paired && p.b.Stats().Paired)
	return p
}

func unpaired(t *testing.T, cfg Config) *pair {
	p := &pair{t: t, nowMs: 1000}
	cfg.ID, cfg.Self, cfg.Peer = 5, 1, 2
	p.a = New(cfg)
	cfg.Self, cfg.Peer = 2, 1
	p.b = New(cfg)
	return p
}

func (p *pair) flush() {
	p.a.Flush(p.nowMs, func(b []byte) { p.toB = append(p.toB, b) })
	p.b.Flush(p.nowMs, func(b []byte) { p.toA = append(p.toA, b) })
}

func (p *pair) tick(ms int64) {
	p.nowMs += ms
	p.a.Tick(p.nowMs, func(b []byte) { p.toB = append(p.toB, b) })
	p.b.Tick(p.nowMs, func(b []byte) { p.toA = append(p.toA, b) })
}

// carry lets what is under way arrive.
func (p *pair) carry() {
	toA, toB := p.toA, p.toB
	p.toA, p.toB = nil, nil
	arrives := func(l *Link, b []byte, got *[]string) {
		if err := p.receive(l, b, got); !errors.Is(err, ErrStale) {
			require.NoError(p.t, err)
		}
	}
	for _, b := range toA {
		arrives(p.a, b, &p.gotA)
	}
	for _, b := range toB {
		arrives(p.b, b, &p.gotB)
	}
}

func (p *pair) receive(l *Link, b []byte, got *[]string) error {
	var packet Packet
	require.NoError(p.t, packet.Parse(b))
	return l.Receive(p.nowMs, &packet, func(body []byte) { *got = append(*got, string(body)) })
}

// settle lets arrive all that goes without time passing.
func (p *pair) settle() {
	for p.flush(); len(p.toA)+len(p.toB) > 0; p.flush() {
		p.carry()
	}
}

func (p *pair) send(bodies ...string) {
	for _, b := range bodies {
		require.True(p.t, p.a.Send(p.nowMs, []byte(b)))
	}
}

func TestMessagesTravelTogetherAndAcksWait(t *testing.T) {
	p := newPair(t, Config{})
	p.send("one", "", "three")
	p.flush()
	require.Len(t, p.toB, 1, "one packet")
	p.carry()
	p.flush()
	require.Equal(t, []string{"one", "", "three"}, p.gotB)
	require.Empty(t, p.toA, "the acknowledgement waits for company")
	require.Equal(t, p.nowMs+20, p.b.NextMs())
	require.Equal(t, p.nowMs+500, p.a.NextMs())
	p.tick(20)
	require.Len(t, p.toA, 1)
	p.carry()
	require.Zero(t, p.a.Stats().Queued)
	require.EqualValues(t, math.MaxInt64, p.a.NextMs())
	require.EqualValues(t, math.MaxInt64, p.b.NextMs())
	require.EqualValues(t, 20, p.a.Stats().RTTMs)
}

func TestManyBytesAreAcknowledgedAtOnce(t *testing.T) {
	p := newPair(t, Config{})
	p.send(strings.Repeat("x", 64<<10))
	p.settle()
	require.Zero(t, p.a.Stats().Queued)
}

func TestNoMessageBeforePairing(t *testing.T) {
	p := unpaired(t, Config{})
	p.send("early")
	p.flush()
	require.Len(t, p.toB, 1)
	p.toA, p.toB = nil, nil // both lost: each asks again in time
	p.tick(499)
	require.Empty(t, p.toB)
	p.tick(1)
	p.carry()
	p.settle()
	require.Equal(t, []string{"early"}, p.gotB)
}

func TestLostPacketsAreSentAgain(t *testing.T) {
	p := newPair(t, Config{})
	p.send("lost")
	p.flush()
	p.toB = nil
	for _, ms := range []int64{500, 1000, 2000, 4000, 5000, 5000} {
		require.Equal(t, p.nowMs+ms, p.a.NextMs(), "it is waited longer each time")
		p.tick(ms)
		require.Len(t, p.toB, 1)
		p.toB = nil
	}
	p.a.Reconnected()
	p.settle()
	require.Equal(t, []string{"lost"}, p.gotB)
	require.Zero(t, p.a.Stats().Queued, "who asks again gets an answer at once")
	require.EqualValues(t, 6, p.a.Stats().Timeouts)
	require.EqualValues(t, 7, p.a.Stats().Resent)
	require.Zero(t, p.a.Stats().RTTMs, "which of them was acknowledged is not known")
}

func TestAGapIsSentAgainAtOnce(t *testing.T) {
	p := newPair(t, Config{})
	for i := range 4 {
		p.send(string(rune('a' + i)))
		p.flush()
	}
	var said [][]byte // each of those after the gap is answered
	for _, b := range p.toB[1:] {
		require.NoError(t, p.receive(p.b, b, &p.gotB))
		p.b.Flush(p.nowMs, func(b []byte) { said = append(said, b) })
	}
	require.Len(t, said, 3)
	p.toB = nil
	for _, b := range said {
		require.NoError(t, p.receive(p.a, b, &p.gotA))
		p.flush()
	}
	p.settle()
	require.Equal(t, []string{"a", "b", "c", "d"}, p.gotB)
	require.EqualValues(t, 4, p.a.Stats().Resent, "but sent again once")
	require.EqualValues(t, 3, p.b.Stats().Gaps)
	require.Zero(t, p.a.Stats().Timeouts)
}

func TestAfterALossLittleIsSent(t *testing.T) {
	p := newPair(t, Config{WindowBytes: 512 << 10})
	for range 100 {
		p.send(strings.Repeat("x", 10<<10))
	}
	p.flush()
	require.Greater(t, p.a.Stats().InflightBytes, int64(512<<10))
	p.toB = nil
	p.tick(500)
	require.Less(t, p.a.Stats().InflightBytes, int64(minBurstBytes+11<<10))
	p.settle()
	p.tick(20)
	p.carry()
	require.Len(t, p.gotB, 100)
	require.Zero(t, p.a.Stats().Queued)
	require.EqualValues(t, unbounded, p.a.burst, "as much as before, once all goes well")
}

func TestWindow(t *testing.T) {
	p := newPair(t, Config{WindowBytes: 1000, ManualCredit: true})
	for range 10 {
		p.send(strings.Repeat("x", 236)) // 300 with overhead
	}
	p.settle()
	require.Len(t, p.gotB, 4, "the window and a message")
	p.tick(20)
	p.carry()
	p.settle()
	require.Len(t, p.gotB, 4)

	p.b.Consumed(1, 236)
	p.flush()
	require.Empty(t, p.toA, "too little to say")
	p.b.Consumed(1, 236)
	late := Packet{Kind: KindLink, From: 2, To: 1, fromLink: 5, toLink: 5, ack: 4, limit: 1000}
	p.flush()
	p.carry()
	require.NoError(t, p.a.Receive(p.nowMs, &late, nil), "what was overtaken takes nothing back")
	p.settle()
	require.Len(t, p.gotB, 6)

	p.b.Consumed(4, 4*236)
	p.flush()
	p.toA = nil // nobody heard it
	p.settle()
	require.Len(t, p.gotB, 6)
	p.tick(500)
	p.carry()
	p.settle()
	require.Len(t, p.gotB, 10, "who is held back asks in time")
}

func TestQueueIsBounded(t *testing.T) {
	p := newPair(t, Config{QueueBytes: 300})
	p.send(strings.Repeat("x", 100))
	require.False(t, p.a.Send(p.nowMs, make([]byte, 100)))
	require.True(t, p.a.Send(p.nowMs, make([]byte, 300-164-64)))
	require.False(t, p.a.Send(p.nowMs, nil))
	require.False(t, p.b.Send(p.nowMs, make([]byte, MaxMessageBytes+1)))
	require.True(t, p.b.Send(p.nowMs, make([]byte, MaxMessageBytes)), "one message always fits")
	p.flush()
	require.Len(t, p.toA[0], MaxPacketBytes)
	p.carry()
	require.Len(t, p.gotA, 1)
	require.EqualValues(t, 2, p.a.Stats().Refused)
}

func TestCloseGivesBack(t *testing.T) {
	p := newPair(t, Config{})
	p.send("a", "b")
	p.settle()
	p.tick(20)
	p.carry()
	p.send("c")
	p.settle()
	p.send("d")
	var back []string
	for _, b := range p.a.Close() {
		back = append(back, string(b))
	}
	require.Equal(t, []string{"c", "d"}, back, "c came, but who knows")
	require.Empty(t, p.a.Close())
	require.False(t, p.a.Send(p.nowMs, nil))
	require.EqualValues(t, math.MaxInt64, p.a.NextMs())
	p.a.Reconnected()
	p.tick(20)
	require.Empty(t, p.toB)
	require.ErrorIs(t, p.receive(p.a, p.toA[0], nil), ErrClosed)
}

func TestANewLinkResetsThePeers(t *testing.T) {
	p := newPair(t, Config{})
	p.send("old")
	p.flush()
	old := p.toB
	p.toB = nil
	p.a.Close()
	p.a = New(Config{ID: 6, Self: 1, Peer: 2})
	p.flush()
	require.ErrorIs(t, p.receive(p.b, p.toB[0], nil), ErrReset)
	p.b.Close()
	p.b = New(Config{ID: 6, Self: 2, Peer: 1})
	require.ErrorIs(t, p.receive(p.b, old[0], &p.gotB), ErrStale)
	p.toB = nil
	p.settle()
	p.send("new")
	p.settle()
	require.Equal(t, []string{"new"}, p.gotB)
	require.ErrorIs(t, p.receive(p.b, old[0], &p.gotB), ErrStale)
}

func TestReceiveRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Packet)
		want   error
	}{
		"another sender":        {func(p *Packet) { p.From = 3 }, ErrOther},
		"another receiver":      {func(p *Packet) { p.To = 3 }, ErrOther},
		"loose":                 {func(p *Packet) { p.Kind = KindLoose }, ErrOther},
		"ack of nothing sent":   {func(p *Packet) { p.ack = 1 }, ErrProtocol},
		"beyond the limit":      {func(p *Packet) { p.seq = 1 }, ErrProtocol},
		"another link":          {func(p *Packet) { p.fromLink = 6 }, ErrReset},
		"an earlier link":       {func(p *Packet) { p.fromLink = 4 }, ErrStale},
		"to an earlier link":    {func(p *Packet) { p.toLink = 4 }, ErrStale},
		"to nobody":             {func(p *Packet) { p.toLink = 0 }, nil},
		"ahead by a great deal": {func(p *Packet) { p.seq = math.MaxUint64 }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			pr := newPair(t, Config{WindowBytes: 100})
			p := Packet{Kind: KindLink, From: 2, To: 1, fromLink: 5, toLink: 5, seq: 2,
				bodies: appendBody(appendBody(appendBody(nil, make([]byte, 90)), []byte("b")), []byte("c")), count: 3}
			c.change(&p)
			delivered := 0
			err := pr.a.Receive(1000, &p, func([]byte) { delivered++ })
			if c.want == nil {
				require.NoError(t, err)
			}
			require.ErrorIs(t, err, c.want)
			require.LessOrEqual(t, delivered, 1)
		})
	}
}

func TestPacketBytes(t *testing.T) {
	p := Packet{Kind: KindLink, flags: flagAnswer, From: 0x1122, To: 0x3344, fromLink: 7, toLink: 8, seq: 9, ack: 10, limit: 11}
	b := appendBody(appendBody(p.appendHeader(nil), []byte("hello")), bytes.Repeat([]byte{0xee}, 130))
	require.Equal(t, "02"+"33"+"01"+"2211000000000000"+"4433000000000000"+"07000000"+"08000000"+
		"0900000000000000"+"0a00000000000000"+"0b00000000000000"+"05"+"68656c6c6f"+"8201"+strings.Repeat("ee", 130), hex.EncodeToString(b))
	var q Packet
	require.NoError(t, q.Parse(b))
	require.Equal(t, 2, q.Len())
	require.Equal(t, p.limit, q.limit)

	loose := AppendLoose([]byte("x"), 1, 0, []byte("hi"))
	require.NoError(t, q.Parse(loose[1:]))
	require.Equal(t, KindLoose, q.Kind)
	require.Equal(t, uint64(1), q.From)
	for body := range q.Bodies() {
		require.Equal(t, "hi", string(body))
	}

	longer := append(append([]byte{2, headerBytes + 2, 0}, b[3:headerBytes]...), append([]byte("??"), b[headerBytes:]...)...)
	require.NoError(t, q.Parse(longer), "a later version's header")
	require.Equal(t, 2, q.Len())
}

func TestMalformed(t *testing.T) {
	good := AppendLoose(nil, 1, 0, []byte("hi"))
	link := (&Packet{Kind: KindLink, From: 1}).appendHeader(nil)
	change := func(b []byte, at int, v byte) []byte {
		b = bytes.Clone(b)
		b[at] = v
		return b
	}
	for name, b := range map[string][]byte{
		"empty":               nil,
		"short":               good[:headerBytes-1],
		"long":                AppendLoose(nil, 1, 0, make([]byte, MaxPacketBytes)),
		"unknown kind":        change(good, 0, 9),
		"short header":        change(good, 1, 3),
		"header beyond it":    change(good, 1, 200),
		"message beyond it":   change(good, headerBytes, 100),
		"length in the air":   change(good, headerBytes, 0x80)[:headerBytes+1],
		"huge length":         append(good[:headerBytes:headerBytes], bytes.Repeat([]byte{0xff}, 9)...),
		"length of 2^64-1":    append(good[:headerBytes:headerBytes], append(bytes.Repeat([]byte{0xff}, 9), 1)...),
		"no sender":           change(good, 3, 0),
		"link without number": link,
		"messages without":    appendBody(change(link, 19, 1), nil),
	} {
		t.Run(name, func(t *testing.T) {
			var p Packet
			require.ErrorIs(t, p.Parse(b), ErrMalformed)
			require.Zero(t, p)
		})
	}
}

func TestTheQueueGivesMemoryBack(t *testing.T) {
	var q queue
	for i := range 5000 {
		q.push([]byte{byte(i)})
		if i%3 == 0 {
			q.pop()
		}
	}
	for i := q.count; i > 0; i-- {
		require.Equal(t, byte(5000-i), q.at(0)[0])
		q.pop()
	}
	require.Empty(t, q.ring)
}

// FuzzPacket: whatever comes, nothing panics, nothing is allocated, no more than the window is
// delivered, and the link goes on.
func FuzzPacket(f *testing.F) {
	var seeds [][]byte
	a, b := New(Config{ID: 1, Self: 1, Peer: 2}), New(Config{ID: 1, Self: 2, Peer: 1})
	a.Send(0, []byte("hello"))
	for range 3 {
		exchange(f, a, b, &seeds)
		exchange(f, b, a, &seeds)
	}
	for _, s := range append(seeds, AppendLoose(nil, 1, 2, []byte("x"))) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var p Packet
		if err := p.Parse(raw); err != nil {
			require.ErrorIs(t, err, ErrMalformed)
			return
		}
		n, bytes := 0, 0
		for body := range p.Bodies() {
			n, bytes = n+1, bytes+len(body)
		}
		require.Equal(t, p.Len(), n)
		require.LessOrEqual(t, n+bytes, len(raw))
		p.From, p.To = 1, 2
		l := New(Config{ID: 1, Self: 2, Peer: 1, WindowBytes: 200})
		l.Send(0, []byte("mine"))
		out := func([]byte) {}
		l.Flush(0, out)
		delivered := 0
		for now := range int64(3) {
			err := l.Receive(now, &p, func(body []byte) { delivered += len(body) })
			if errors.Is(err, ErrOther) {
				require.Equal(t, KindLoose, p.Kind)
			}
			l.Tick(now*1000, out)
		}
		require.LessOrEqual(t, delivered, bytes, "nothing twice")
		require.Len(t, l.Close(), l.Stats().Queued+1-int(l.base-1))
	})
}

func exchange(f *testing.F, from, to *Link, seeds *[][]byte) {
	from.Flush(0, func(raw []byte) {
		*seeds = append(*seeds, raw)
		var p Packet
		require.NoError(f, p.Parse(raw))
		require.NoError(f, to.Receive(0, &p, func([]byte) {}))
	})
}
