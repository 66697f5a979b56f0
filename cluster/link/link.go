package link

import (
	"errors"
	"math"
	"sync/atomic"
)

// Config describes one link. Zero values become the defaults.
type Config struct {
	Self, Peer uint64 // instances, not 0

	// ID is the link's number. It has to be higher than that of every link that this
	// process has had to the peer; 0 takes the next one of the process.
	ID uint32

	WindowBytes int   // how much may have been delivered but not Consumed, and a message more; 2 MiB
	QueueBytes  int   // how much of this side's is kept at most, sent or not; 16 MiB
	PacketBytes int   // how full packets with more than one message become; 128 KiB
	ResendMs    int64 // how long an acknowledgement may take at least; doubles with each failure; 500
	MaxResendMs int64 // up to this; 5000
	AckDelayMs  int64 // how long an acknowledgement waits for company; 20
	AckBytes    int   // and how much comes in meanwhile; 64 KiB

	// ManualCredit: what was delivered counts against WindowBytes until the owner calls
	// Consumed. Without it a message is done with when it was delivered.
	ManualCredit bool
}

func orDefault[T int | int64](v, def, least T) T {
	if v == 0 {
		return def
	}
	return max(v, least)
}

func (c Config) withDefaults() Config {
	if c.ID == 0 {
		c.ID = lastID.Add(1)
	}
	c.WindowBytes = orDefault(c.WindowBytes, 2<<20, 1)
	c.QueueBytes = orDefault(c.QueueBytes, 16<<20, 1)
	c.PacketBytes = min(orDefault(c.PacketBytes, 128<<10, 1<<10), MaxPacketBytes)
	c.ResendMs = orDefault(c.ResendMs, 500, 1)
	c.MaxResendMs = max(orDefault(c.MaxResendMs, 5000, 1), c.ResendMs)
	c.AckDelayMs = orDefault(c.AckDelayMs, 20, 1)
	c.AckBytes = min(orDefault(c.AckBytes, 64<<10, 1), (c.WindowBytes+1)/2)
	return c
}

var lastID atomic.Uint32

// What Receive may say of a packet. Only ErrReset asks for something.
var (
	// ErrOther: the packet is of other instances, or loose.
	ErrOther = errors.New("link: the packet is not of this link's instances")
	// ErrStale: the packet is of an earlier link of the same instances.
	ErrStale = errors.New("link: the packet is of an earlier link")
	// ErrReset: the peer has ended its link and begun another; this one is to be closed.
	ErrReset = errors.New("link: the peer has begun a new link, it thought this member down")
	// ErrProtocol is wrapped when the peer acknowledges what it did not get, or sends more
	// than it was allowed to; what is wrong in the packet is not taken.
	ErrProtocol = errors.New("link: the peer breaks the protocol")
	// ErrClosed: Close was called.
	ErrClosed = errors.New("link: closed")
)

// unbounded is the burst of a link that has lost nothing lately.
const (
	unbounded     = math.MaxInt64
	minBurstBytes = 64 << 10
)

// Link is one side of a stream of messages between two instances.
type Link struct {
	cfg    Config
	closed bool

	// Pairing.
	peerLink uint32 // number of the peer's link; 0: not known
	paired   bool   // the peer has said that it knows this link

	// What goes out. The queue begins with the first message not acknowledged.
	queue     queue
	queued    int64  // bytes of the queue, with overhead
	base      uint64 // number of the queue's first message
	passed    uint64 // bytes of all messages before the queue's first
	next      int    // how many of the queue are under way
	inflight  int64  // their bytes
	highest   uint64 // the highest number ever sent
	limit     uint64 // bytes that the peer takes in total
	burst     int64  // how many bytes may be under way: little after a loss
	rewoundAt uint64 // base when a gap was answered: once is enough
	sinceMs   int64  // since when the first of the queue has been the first

	// What comes in.
	got        uint64 // the last message that came in order
	received   uint64 // bytes of all that came
	consumed   uint64 // bytes of all that is done with
	advertised uint64 // the limit that the peer was told
	unacked    int    // bytes that came since the last acknowledgement
	gap        bool   // to be told: something is missing

	// Time.
	answer     bool  // a packet has to go now
	ask        bool  // and has to be answered
	ackAtMs    int64 // 0: nothing to acknowledge
	resendAtMs int64 // 0: nothing to wait for
	resendMs   int64
	rttSeq     uint64 // message by which the round trip is measured; 0: none
	rttAtMs    int64
	rttMs      int64 // smoothed; 0: not measured
	stats      Stats
}

// Stats is what a link has done and holds.
type Stats struct {
	Paired         bool  // messages can travel
	Queued         int   // messages not acknowledged, sent or not
	QueuedBytes    int64 // with overhead
	InflightBytes  int64
	WaitingSinceMs int64 // since when the first of them is the first; 0: there is none
	RTTMs          int64 // smoothed, of packets with messages; 0: not measured
	Sent           uint64
	Resent         uint64 // messages
	Delivered      uint64
	Duplicates     uint64 // packets that brought nothing new
	Gaps           uint64 // packets that came after a loss
	Timeouts       uint64
	Refused        uint64 // messages that Send did not take
}

// New returns a link that will ask its peer to pair with the first Flush.
func New(cfg Config) *Link {
	l := &Link{cfg: cfg.withDefaults(), base: 1, burst: unbounded, ask: true}
	l.resendMs = l.cfg.ResendMs
	return l
}

// ID is the link's number.
func (l *Link) ID() uint32 { return l.cfg.ID }

// Peer is the instance that the link leads to.
func (l *Link) Peer() uint64 { return l.cfg.Peer }

// Send queues a message and takes it over: it is kept, and must not be changed, until
// the peer has it. False, and the message stays the caller's: the queue is full, the
// link is closed, or the message is longer than [MaxMessageBytes]. One message fits into an
// empty queue however small that is.
func (l *Link) Send(nowMs int64, body []byte) bool {
	c := cost(body)
	if l.closed || len(body) > MaxMessageBytes || l.queue.count > 0 && l.queued+c > int64(l.cfg.QueueBytes) {
		l.stats.Refused++
		return false
	}
	if l.queue.count == 0 {
		l.sinceMs = nowMs
	}
	l.queue.push(body)
	l.queued += c
	l.stats.Sent++
	return true
}

func cost(body []byte) int64 { return int64(len(body) + MessageOverheadBytes) }

// Consumed says that the owner is done with delivered messages, of so many bytes in total. Only
// for links with ManualCredit.
func (l *Link) Consumed(messages, bytes int) {
	if !l.cfg.ManualCredit {
		return
	}
	l.consumed = min(l.received, l.consumed+uint64(messages*MessageOverheadBytes+bytes))
	if l.limitNow()-l.advertised >= uint64(l.cfg.WindowBytes+1)/2 {
		l.answer = true
	}
}

func (l *Link) limitNow() uint64 { return l.consumed + uint64(l.cfg.WindowBytes) }

// Close ends the link and gives back, in order, what the peer may not have got. It may
// have got some of it.
func (l *Link) Close() (unacked [][]byte) {
	if l.closed {
		return nil
	}
	l.closed = true
	unacked = make([][]byte, 0, l.queue.count)
	for l.queue.count > 0 {
		unacked = append(unacked, l.queue.pop())
	}
	l.queued, l.inflight, l.next = 0, 0, 0
	return unacked
}

// Stats returns what the link has done and holds.
func (l *Link) Stats() Stats {
	s := l.stats
	s.Paired, s.RTTMs = l.paired && !l.closed, l.rttMs
	s.Queued, s.QueuedBytes, s.InflightBytes = l.queue.count, l.queued, l.inflight
	if l.queue.count > 0 {
		s.WaitingSinceMs = l.sinceMs
	}
	return s
}
