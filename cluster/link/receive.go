package link

import "fmt"

// Receive takes a packet that came from the peer. New messages are delivered in order,
// each once; they lie in the packet's bytes and are the callee's. deliver may call Send
// and Consumed, nothing else of the link. A Flush should follow, after this packet or several.
//
// Errors say why nothing, or not all of the packet was taken; only [ErrReset] asks for
// something to be done.
func (l *Link) Receive(nowMs int64, p *Packet, deliver func(body []byte)) error {
	switch {
	case l.closed:
		return ErrClosed
	case p.Kind != KindLink || p.From != l.cfg.Peer || p.To != l.cfg.Self:
		return ErrOther
	}
	if err := l.pair(p); err != nil {
		return err
	}
	if p.flags&flagAnswer != 0 {
		l.answer = true
	}
	switch p.toLink {
	case l.cfg.ID:
	case 0: // it does not know this link yet
		return nil
	default: // it knows an earlier one
		return ErrStale
	}
	if err := l.acknowledged(nowMs, p); err != nil {
		return err
	}
	return l.take(nowMs, p, deliver)
}

// pair finds out whether the packet is of the peer's latest link, and pairs with one that
// knows this link.
func (l *Link) pair(p *Packet) error {
	switch {
	case p.fromLink < l.peerLink:
		return ErrStale
	case p.fromLink > l.peerLink && l.paired:
		return ErrReset
	}
	l.peerLink = p.fromLink // the latest that was heard of, whatever that knows of this side
	if p.toLink == l.cfg.ID && !l.paired {
		l.paired, l.ask = true, false
		l.resendAtMs, l.resendMs = 0, l.cfg.ResendMs
	}
	return nil
}

// acknowledged takes what the peer says of this side's messages.
func (l *Link) acknowledged(nowMs int64, p *Packet) error {
	if p.ack > l.highest {
		return fmt.Errorf("%w: acknowledges message %d, sent are %d", ErrProtocol, p.ack, l.highest)
	}
	l.limit = max(l.limit, p.limit)
	if p.ack < l.base-1 { // overtaken
		return nil
	}
	if p.ack >= l.base {
		l.release(nowMs, p.ack)
	}
	if p.flags&flagGap != 0 && l.inflight > 0 && l.rewoundAt != l.base {
		l.rewoundAt = l.base
		l.rewind(max(minBurstBytes, l.inflight/2))
	}
	return nil
}

// release forgets the messages up to a number.
func (l *Link) release(nowMs int64, ack uint64) {
	var done int64
	for ; l.base <= ack; l.base++ {
		c := cost(l.queue.pop())
		done += c
		if l.next > 0 { // else it was about to be sent again
			l.next--
			l.inflight -= c
		}
	}
	l.queued -= done
	l.passed += uint64(done)
	l.sinceMs = nowMs
	if l.burst != unbounded {
		if l.burst += done; l.burst >= int64(l.cfg.WindowBytes) {
			l.burst = unbounded
		}
	}
	if l.rttSeq != 0 && ack >= l.rttSeq {
		l.measured(nowMs - l.rttAtMs)
	}
	l.resendMs = l.patience()
	l.resendAtMs = 0
	l.arm(nowMs)
}

func (l *Link) measured(ms int64) {
	l.rttSeq = 0
	ms = max(ms, 1)
	if l.rttMs == 0 {
		l.rttMs = ms
	}
	l.rttMs = max(1, (7*l.rttMs+ms)/8)
}

// patience is how long an acknowledgement is waited for at first.
func (l *Link) patience() int64 {
	return min(max(l.cfg.ResendMs, 3*l.rttMs+2*l.cfg.AckDelayMs), l.cfg.MaxResendMs)
}

// take delivers the messages of a packet that are next.
func (l *Link) take(nowMs int64, p *Packet, deliver func(body []byte)) error {
	if p.count == 0 {
		return nil
	}
	if p.seq > l.got+1 {
		l.stats.Gaps++
		l.gap, l.answer = true, true
		return nil
	}
	l.gap = false
	seq := p.seq - 1
	before := l.got
	for body := range p.Bodies() {
		if seq++; seq <= l.got {
			continue
		}
		if l.received >= l.advertised {
			l.answer = true
			return fmt.Errorf("%w: message %d is beyond the %d bytes that it was allowed", ErrProtocol, seq, l.advertised)
		}
		l.got = seq
		c := cost(body)
		l.received += uint64(c)
		if !l.cfg.ManualCredit {
			l.consumed = l.received
		}
		l.unacked += int(c)
		l.stats.Delivered++
		deliver(body)
	}
	if l.got == before { // its acknowledgement was lost
		l.stats.Duplicates++
		l.answer = true
		return nil
	}
	if l.ackAtMs == 0 {
		l.ackAtMs = nowMs + l.cfg.AckDelayMs
	}
	return nil
}
