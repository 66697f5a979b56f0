package link

import "math"

// Flush gives out the packets that can go now: messages within what the peer takes, and
// acknowledgements that are due. out gets each packet for good; it must not call the link.
func (l *Link) Flush(nowMs int64, out func(packet []byte)) {
	if l.closed {
		return
	}
	for l.sendable() {
		out(l.pack(nowMs))
	}
	if l.ask || l.ackDue(nowMs) {
		p := l.packet(0)
		out(p.appendHeader(make([]byte, 0, headerBytes)))
	}
	l.arm(nowMs)
}

// Tick does what is due by the clock, and flushes.
func (l *Link) Tick(nowMs int64, out func(packet []byte)) {
	if l.closed {
		return
	}
	if l.resendAtMs != 0 && nowMs >= l.resendAtMs {
		l.resendAtMs = 0
		l.resendMs = min(2*l.resendMs, l.cfg.MaxResendMs)
		if l.inflight > 0 {
			l.stats.Timeouts++
			l.rewind(minBurstBytes)
		} else {
			l.ask = true
		}
	}
	l.Flush(nowMs, out)
}

// NextMs is when Tick has to be called: 0 when there is something to do at once, which
// a Flush would do as well, and math.MaxInt64 when there is nothing to wait for.
func (l *Link) NextMs() int64 {
	next := int64(math.MaxInt64)
	switch {
	case l.closed:
		return next
	case l.ask || l.ackDue(0) || l.sendable():
		return 0
	}
	if l.ackAtMs != 0 {
		next = l.ackAtMs
	}
	if l.resendAtMs != 0 {
		next = min(next, l.resendAtMs)
	}
	return next
}

// Reconnected says that the transport has a new connection to the peer: what was under
// way on the old one is taken for lost.
func (l *Link) Reconnected() {
	if l.closed {
		return
	}
	if l.inflight > 0 {
		l.rewind(l.burst)
	}
	l.ask = true
	l.resendMs = l.patience()
	l.resendAtMs = 0
}

// rewind makes the first message that is not acknowledged the next to be sent, with so
// many bytes under way at most.
func (l *Link) rewind(burst int64) {
	l.next, l.inflight = 0, 0
	l.burst = burst
	l.rttSeq = 0
}

// arm sets the time after which something is taken for lost.
func (l *Link) arm(nowMs int64) {
	if l.resendAtMs == 0 && (!l.paired || l.inflight > 0 || l.queue.count > 0) {
		l.resendAtMs = nowMs + l.resendMs
	}
}

func (l *Link) ackDue(nowMs int64) bool {
	return l.answer || l.unacked >= l.cfg.AckBytes || l.ackAtMs != 0 && nowMs >= l.ackAtMs
}

// sendable reports whether there is a message that may go now.
func (l *Link) sendable() bool {
	return l.paired && l.next < l.queue.count && l.inflight < l.burst && l.passed+uint64(l.inflight) < l.limit
}

// pack makes a packet of the messages that are next.
func (l *Link) pack(nowMs int64) []byte {
	first, size := l.next, headerBytes
	for l.sendable() {
		body := l.queue.at(l.next)
		n := bodyBytes(len(body))
		if l.next > first && size+n > l.cfg.PacketBytes {
			break
		}
		size += n
		l.inflight += cost(body)
		l.next++
	}
	seq := l.base + uint64(first)
	last := l.base + uint64(l.next) - 1
	if seq <= l.highest {
		l.stats.Resent += min(last, l.highest) - seq + 1
	}
	if last > l.highest {
		l.highest = last
		if l.rttSeq == 0 {
			l.rttSeq, l.rttAtMs = last, nowMs
		}
	}
	p := l.packet(seq)
	dst := p.appendHeader(make([]byte, 0, size))
	for i := first; i < l.next; i++ {
		dst = appendBody(dst, l.queue.at(i))
	}
	return dst
}

// packet returns the header of a packet that goes now; all that waited to be said is
// said with it.
func (l *Link) packet(seq uint64) Packet {
	p := Packet{
		Kind: KindLink, From: l.cfg.Self, To: l.cfg.Peer,
		fromLink: l.cfg.ID, toLink: l.peerLink,
		seq: seq, ack: l.got, limit: l.limitNow(),
	}
	if l.ask || !l.paired {
		p.flags |= flagAnswer
	}
	if l.gap {
		p.flags |= flagGap
	}
	l.advertised = p.limit
	l.ask, l.answer, l.gap = false, false, false
	l.unacked, l.ackAtMs = 0, 0
	return p
}
