//go:build linux

package fleet

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/roost-server/roost/loadtest/internal/nodes"
	"github.com/roost-server/roost/loadtest/internal/stamp"
	"github.com/roost-server/roost/protocol"
)

// maxReads bounds how long one node keeps the loop before others have their turn; the
// socket stays ready for the next round.
const maxReads = 4

// onReadable reads what has arrived, handles every whole frame, and writes all answers
// with one write.
func (f *Fleet) onReadable(n *node, i int) {
	gen := n.gen
	for range maxReads {
		m, err := unix.Read(int(n.fd), f.buf)
		switch {
		case err == unix.EAGAIN || err == unix.EINTR:
			return
		case err != nil || m == 0:
			f.lost(n, i, err)
			return
		}
		f.out = f.out[:0]
		f.consume(n, i, f.buf[:m])
		if n.gen != gen || n.fd < 0 {
			return // the connection ended in one of the frames
		}
		if len(f.out) > 0 && !f.write(n, i, f.out) {
			return
		}
		if m < len(f.buf) {
			return
		}
	}
}

// lost handles a connection that failed or ended. A write may fail before the CLOSE
// that explains it was read, so that is looked for first.
func (f *Fleet) lost(n *node, i int, err error) {
	if gen := n.gen; err != nil && !f.parting {
		f.parting = true
		if m, e := unix.Read(int(n.fd), f.buf); e == nil && m > 0 {
			f.consume(n, i, f.buf[:m])
		}
		f.parting = false
		if n.gen != gen {
			return
		}
	}
	f.st.Dropped++
	if err != nil {
		f.st.LastError = fmt.Sprintf("connection to %v: %v", f.addrs[n.addr], err)
	} else {
		f.st.LastError = fmt.Sprintf("connection closed by %v without CLOSE", f.addrs[n.addr])
	}
	f.retry(n, i, protocol.ReconnectBackoff, 0)
}

// consume handles the frames of what was read now, after what was kept before, and
// keeps what is left of a frame that is not whole yet.
func (f *Fleet) consume(n *node, i int, data []byte) {
	kept := len(n.in) > 0
	if kept {
		n.in = append(n.in, data...)
		data = n.in
	}
	for len(data) > 0 {
		t, body, size, err := protocol.NextFrame(data, protocol.MaxBodyBytes)
		if err == nil && size == 0 {
			break
		}
		if err == nil {
			err = f.handle(n, i, t, body)
		}
		if err != nil {
			f.broken(n, i, err)
			return
		}
		if n.fd < 0 {
			return
		}
		data = data[size:]
	}
	switch {
	case len(data) == 0:
		n.in = nil
	case kept:
		n.in = n.in[:copy(n.in, data)]
	default:
		n.in = append([]byte(nil), data...)
	}
}

// broken ends a connection on which the member broke the protocol.
func (f *Fleet) broken(n *node, i int, err error) {
	f.st.BadFrames++
	f.st.LastError = fmt.Sprintf("from %v: %v", f.addrs[n.addr], err)
	gen := n.gen
	f.say(n, i, &protocol.Close{Reason: protocol.ReasonOf(err), Message: err.Error()})
	if n.gen == gen && n.fd >= 0 {
		f.retry(n, i, protocol.ReconnectBackoff, 0)
	}
}

// handle acts on one frame; answers are appended to f.out. An error means that the
// member broke the protocol. Afterwards the node may have no socket any more.
func (f *Fleet) handle(n *node, i int, t protocol.Type, body []byte) error {
	m := &f.msg
	switch t {
	case protocol.TypeJob:
		return f.onJob(n, i, body)
	case protocol.TypeResultAck:
		if err := f.dec.Decode(body, &m.acks); err != nil {
			return err
		}
		f.st.Acks += uint64(len(m.acks.Acks))
		k := min(n.unacked, uint32(len(m.acks.Acks)))
		n.unacked -= k
		f.st.Unacked -= int64(k)
	case protocol.TypePing:
		if err := f.dec.Decode(body, &m.ping); err != nil {
			return err
		}
		m.pong.Nonce = m.ping.Nonce
		f.answer(&m.pong)
	case protocol.TypePong:
		f.st.Pongs++
	case protocol.TypeCancel:
		f.st.Cancels++ // jobs run to their end
	case protocol.TypeWelcome:
		return f.onWelcome(n, i, body)
	case protocol.TypeGoAway:
		return f.onGoAway(n, i, body)
	case protocol.TypeClose:
		return f.onClose(n, i, body)
	case protocol.TypeChallenge:
		f.fatal(n, "the member asks for PROOF; the simulator has a --credential at most: let the server take bearer credentials")
	}
	return nil // unknown types are skipped
}

// onJob answers a job: ok, with its args as output, at once or when it has run.
func (f *Fleet) onJob(n *node, i int, body []byte) error {
	j, r := &f.msg.job, &f.msg.result
	if err := f.dec.Decode(body, j); err != nil {
		return err
	}
	if n.state != stateOpen {
		return protocol.Errorf(protocol.ReasonUnexpected, "JOB before WELCOME")
	}
	f.st.Jobs++
	runFor := stamp.Receive(j.Args, f.cfg.Stamp)
	if runFor == 0 {
		runFor = f.cfg.RunFor
	}
	*r = protocol.Result{JobID: j.JobID, Shard: j.Shard, Attempt: j.Attempt, Output: j.Args}
	if runFor > 0 {
		f.runJob(n, i, runFor)
	} else if f.answer(r) {
		f.answered(n)
	}
	return nil
}

func (f *Fleet) answered(n *node) {
	f.st.Results++
	f.st.Unacked++
	n.unacked++
}

// runJob keeps the answer to the job at hand until it is due.
func (f *Fleet) runJob(n *node, i int, runFor time.Duration) {
	j, r := &f.msg.job, &f.msg.result
	if timeout := time.Duration(j.TimeoutMs) * time.Millisecond; timeout > 0 && runFor > timeout {
		runFor, r.Outcome, r.Output = timeout, protocol.OutcomeTimeout, nil
	}
	if runFor.Milliseconds() >= f.minAccept {
		f.answer(&protocol.Accepted{JobID: j.JobID, Shard: j.Shard, Attempt: j.Attempt})
	}
	r.DurationUs = uint64(runFor.Microseconds())
	frame, err := f.enc.Append(nil, r)
	if err != nil {
		f.st.LastError = err.Error()
		return
	}
	f.answers.push(answer{timer{f.nowMs + runFor.Milliseconds(), int32(i), n.gen}, frame})
}

// answerDue sends the results of jobs that have run to their end.
func (f *Fleet) answerDue() {
	for len(f.answers) > 0 && f.answers[0].dueMs <= f.nowMs {
		a := f.answers.pop()
		n := &f.nodes[a.idx]
		if n.gen == a.gen && n.state == stateOpen {
			f.answered(n)
			f.write(n, int(a.idx), a.frame)
		}
	}
}

// answer appends a message to the output of this read.
func (f *Fleet) answer(m protocol.Message) bool {
	out, err := f.enc.Append(f.out, m)
	f.out = out
	if err != nil { // what was received within the limits fits them again
		f.st.LastError = err.Error()
		return false
	}
	return true
}

func (f *Fleet) onWelcome(n *node, i int, body []byte) error {
	w := &f.msg.welcome
	if err := f.dec.Decode(body, w); err != nil {
		return err
	}
	if n.state != stateHello {
		return protocol.Errorf(protocol.ReasonUnexpected, "WELCOME in an open session")
	}
	n.state, n.tries = stateOpen, 0
	n.heartbeatMs, n.incarnation = w.HeartbeatMs, w.Incarnation
	f.opening--
	f.st.Connected++
	f.st.Sessions++
	if a := int64(w.AcceptAfterMs); f.st.Sessions == 1 || a < f.minAccept {
		f.minAccept = a
	}
	if f.slow > 0 && nodes.Hit(f.cfg.Seed, nodes.OfSlow, f.cfg.First+i, f.slow) {
		f.setDeaf(n, i, true)
	}
	if hb := int64(w.HeartbeatMs); hb > 0 && (f.minHeartbeat == 0 || hb < f.minHeartbeat) {
		f.minHeartbeat = hb
	}
	return nil
}

// onGoAway plans to leave after the jitter. Jobs are answered until then.
func (f *Fleet) onGoAway(n *node, i int, body []byte) error {
	g := &f.msg.goAway
	if err := f.dec.Decode(body, g); err != nil {
		return err
	}
	if n.state != stateOpen {
		return protocol.Errorf(protocol.ReasonUnexpected, "GOAWAY before WELCOME")
	}
	f.st.GoAways++
	if a := f.learn(g.Addresses); a >= 0 {
		n.addr = uint16(a)
	} else {
		n.addr = f.elsewhere(n)
	}
	f.later.push(timer{f.nowMs + f.rng.Int64N(int64(g.JitterMs)+1), int32(i), n.gen})
	return nil
}

func (f *Fleet) onClose(n *node, i int, body []byte) error {
	c := &f.msg.close
	if err := f.dec.Decode(body, c); err != nil {
		return err
	}
	f.closes[c.Reason]++
	f.closesChanged = true
	f.st.LastError = fmt.Sprintf("CLOSE from %v: %v (%d) %s", f.addrs[n.addr], c.Reason, uint16(c.Reason), c.Message)
	f.retry(n, i, c.Reason.Policy(), int64(c.RetryAfterMs))
	return nil
}

// say writes one message at once, outside of a read.
func (f *Fleet) say(n *node, i int, m protocol.Message) {
	out, err := f.enc.Append(f.out[:0], m)
	f.out = out
	if err == nil {
		f.write(n, i, out)
	}
}

// write sends b, keeping what the kernel does not take. It reports whether the
// connection is still there.
func (f *Fleet) write(n *node, i int, b []byte) bool {
	n.sentMs = f.nowMs
	if len(n.out) > 0 { // order: behind what waits already
		n.out = append(n.out, b...)
		return f.checkOut(n, i)
	}
	w, err := unix.Write(int(n.fd), b)
	if err == unix.EAGAIN || err == unix.EINTR {
		w, err = 0, nil
	}
	if err != nil {
		f.lost(n, i, err)
		return false
	}
	if w < len(b) {
		n.out = append(n.out, b[w:]...)
		f.listen(n, i)
		return f.checkOut(n, i)
	}
	return true
}

func (f *Fleet) checkOut(n *node, i int) bool {
	if len(n.out) <= maxOutBytes {
		return true
	}
	f.st.SlowServer++
	f.st.LastError = fmt.Sprintf("%v does not read: %d bytes wait for it", f.addrs[n.addr], len(n.out))
	f.retry(n, i, protocol.ReconnectBackoff, 0)
	return false
}

// flush writes output that waited for the kernel.
func (f *Fleet) flush(n *node, i int) bool {
	if len(n.out) == 0 {
		return true
	}
	w, err := unix.Write(int(n.fd), n.out)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return true
	case err != nil:
		f.lost(n, i, err)
		return false
	case w == len(n.out):
		n.out = nil
		f.listen(n, i)
	default:
		n.out = n.out[:copy(n.out, n.out[w:])]
	}
	return true
}

// listen has the loop told of what the node waits for.
func (f *Fleet) listen(n *node, i int) {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: n.fd, Pad: int32(i)}
	if n.deaf {
		ev.Events = 0 // errors are told all the same
	}
	if len(n.out) > 0 {
		ev.Events |= unix.EPOLLOUT
	}
	if err := unix.EpollCtl(f.ep, unix.EPOLL_CTL_MOD, int(n.fd), &ev); err != nil {
		f.st.LastError = sysError("epoll_ctl", err)
	}
}

// heartbeats sends PING for nodes that have been silent for half of their heartbeat.
// The sweep passes over all nodes four times in the shortest heartbeat, so a node
// speaks after three quarters of it at the latest, and the PINGs of nodes that
// connected together are spread.
func (f *Fleet) heartbeats() {
	if f.minHeartbeat == 0 {
		f.sweepMs = f.nowMs
		return
	}
	total := float64(len(f.nodes))
	f.sweepDebt = min(total, f.sweepDebt+total*4*float64(f.nowMs-f.sweepMs)/float64(f.minHeartbeat))
	f.sweepMs = f.nowMs
	for ; f.sweepDebt >= 1; f.sweepDebt-- {
		i := f.sweepAt
		if f.sweepAt++; f.sweepAt == len(f.nodes) {
			f.sweepAt = 0
		}
		n := &f.nodes[i]
		if n.state == stateOpen && n.heartbeatMs > 0 && f.nowMs-n.sentMs >= int64(n.heartbeatMs)/2 {
			f.msg.ping.Nonce = uint64(f.nowMs)
			f.st.Pings++
			f.say(n, i, &f.msg.ping)
		}
	}
}
