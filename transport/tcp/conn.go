package tcp

import (
	"errors"
	"time"

	"github.com/panjf2000/gnet/v2"
	"go.uber.org/zap"

	"github.com/roost-server/roost/protocol"
)

// ErrClosed is returned by [Conn.Append] once the connection is closing or closed.
var ErrClosed = errors.New("tcp: the connection is closed")

// state is where a connection is in its life; it only goes forward.
type state uint8

const (
	stateHandshake state = iota // until Establish
	stateOpen                   // established
	stateClosing                // nothing is read any more; CLOSE leaves
	stateClosed                 // there is no socket
)

type flags uint8

const (
	flagDirty   flags = 1 << iota // in the loop's dirty list
	flagRefused                   // was never admitted
	flagAbrupt                    // close the socket as soon as the output was handed over
	flagHalf                      // our half is shut down
	flagProxy                     // the PROXY header has not come yet
)

// earlyFlushBytes is how much output may pile up in a batch before it is written, so
// that a large batch does not hold much more than OutboundMaxBytes.
const earlyFlushBytes = 256 << 10

// Conn is a node's connection. All methods belong to the goroutine of its loop. After
// the end of a connection they are harmless: they do nothing, or return zero values
// or [ErrClosed].
//
// There are hundreds of thousands of these: 96 bytes, and no buffer while idle.
type Conn struct {
	gc   gnet.Conn // nil once the socket is gone
	loop *Loop
	ctx  any
	out  *buffer // output of the current batch

	next, prev *Conn // the wheel's

	in   input
	last uint32 // tick of the last read
	idle uint32 // ticks without a read that end an established connection

	slot   uint16 // the wheel's
	reason protocol.Reason
	state  state
	flags  flags
}

// Context returns what SetContext kept; nil at first.
func (c *Conn) Context() any { return c.ctx }

// SetContext keeps the caller's own state of the connection.
func (c *Conn) SetContext(ctx any) { c.ctx = ctx }

// Loop returns the loop that the connection belongs to. Any goroutine may ask.
func (c *Conn) Loop() *Loop { return c.loop }

// Established reports whether Establish was called and the connection is not ending.
func (c *Conn) Established() bool { return c.state == stateOpen }

// RemoteAddr returns the node's host:port, which is the one that the balancer names when
// there is one before this server; empty once the socket is gone.
func (c *Conn) RemoteAddr() string {
	if c.gc == nil {
		return ""
	}
	if a := c.gc.RemoteAddr(); a != nil {
		return a.String()
	}
	return ""
}

// Outbound returns how many bytes wait to be taken by the kernel.
func (c *Conn) Outbound() int {
	n := 0
	if c.out != nil {
		n = len(c.out.b)
	}
	if c.gc != nil {
		n += c.gc.OutboundBuffered()
	}
	return n
}

// Establish says that the handshake is done: the limit of a body is
// [protocol.MaxBodyBytes] from now on, and instead of HelloTimeout the connection
// ends with heartbeat timeout when nothing is read for idle (at least one tick, at
// most a day). It reports whether the connection is established now, which it is not
// when it ended in the meantime.
func (c *Conn) Establish(idle time.Duration) bool {
	l := c.loop
	if c.state != stateHandshake {
		return c.state == stateOpen
	}
	c.state = stateOpen
	l.server.handshaking.Add(-1)
	l.stats.handshaking.Add(-1)
	l.stats.established.Add(1)
	c.idle = l.server.cfg.ticks(min(max(idle, l.server.cfg.Tick), maxTimeout))
	c.last = l.tick
	c.in.until = l.tick + l.server.frameTicks
	l.wheel.schedule(c, c.due())
	return true
}

// Append encodes m behind the connection's output. It leaves with one write at the
// end of the current batch. m is not kept. The error is the encoder's, when a field
// is over its limit (the output is as before then), or [ErrClosed].
func (c *Conn) Append(m protocol.Message) error {
	if c.state >= stateClosing {
		return ErrClosed
	}
	if err := c.loop.append(c, m); err != nil {
		return err
	}
	if len(c.out.b) >= earlyFlushBytes {
		c.loop.flush(c)
	}
	return nil
}

// Close sends what is pending and then CLOSE with these words, half-closes, and cuts
// the socket when the peer closed too or CloseLinger passed. retryAfter, when not 0,
// tells the node not to come back earlier. Only the first end of a connection counts.
func (c *Conn) Close(reason protocol.Reason, message string, retryAfter time.Duration) {
	c.close(reason, message, retryAfter, nil)
}

func (c *Conn) close(reason protocol.Reason, message string, retryAfter time.Duration, cause error) {
	c.closeWith(&protocol.Close{Reason: reason, Message: message, RetryAfterMs: uint32(retryAfter.Milliseconds())}, cause)
}

func (c *Conn) closeWith(m *protocol.Close, cause error) {
	if c.state >= stateClosing {
		return
	}
	l := c.loop
	if c.state == stateHandshake { // nobody else ever hears of it
		if ce := l.server.log.Check(zap.DebugLevel, "handshake refused"); ce != nil {
			ce.Write(zap.String("address", c.RemoteAddr()), zap.Stringer("reason", m.Reason), zap.String("message", m.Message))
		}
	}
	l.leave(c, m.Reason, cause)
	l.closing = *m
	if err := l.append(c, &l.closing); err != nil {
		c.flags |= flagAbrupt // cannot be said
	}
}

// CloseSilently sends what is pending and closes the socket without CLOSE, because
// the peer has said it already. Only the first end of a connection counts.
func (c *Conn) CloseSilently(reason protocol.Reason) {
	if c.state >= stateClosing {
		return
	}
	c.flags |= flagAbrupt
	c.loop.leave(c, reason, nil)
}

// fail ends the connection because of err, which came from the peer's bytes, or from
// the handler.
func (c *Conn) fail(err error) {
	message := "internal error" // others' texts are for the log
	var wrong *protocol.Error
	if errors.As(err, &wrong) {
		message = wrong.Message
	}
	c.close(protocol.ReasonOf(err), message, 0, err)
}

// bodyLimit implements frames.
func (c *Conn) bodyLimit() int {
	if c.state == stateHandshake {
		return protocol.MaxHelloBodyBytes
	}
	return protocol.MaxBodyBytes
}

// reading implements frames.
func (c *Conn) reading() bool { return c.state < stateClosing }

// frame implements frames: it calls the handler. A panic there is this connection's
// error alone.
func (c *Conn) frame(t protocol.Type, body []byte) (err error) {
	l := c.loop
	l.frames++
	if c.state == stateHandshake {
		if no := l.server.no.Load(); no != nil {
			l.turnAway(c, no)
			return nil
		}
	}
	defer l.catch("Frame", &err)
	return l.handler.Frame(c, t, body)
}

// due returns the tick on which the connection has to be looked at.
func (c *Conn) due() uint32 {
	if c.state != stateOpen {
		return c.in.until
	}
	due := c.last + c.idle
	if c.in.part != nil && after(due, c.in.until) {
		due = c.in.until
	}
	return due
}
