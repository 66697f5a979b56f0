package tcp

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"time"

	"github.com/roost-server/roost/protocol"
)

// Config says where the server listens and what it allows. Start from
// [DefaultConfig].
type Config struct {
	// Listen is host:port. Port 0 lets the kernel choose, see [Server.Addr].
	Listen string

	// Loops is the number of event loops; 0 means GOMAXPROCS.
	Loops int

	// MaxConns is the most connections that are admitted; the next one is refused
	// with CLOSE overloaded. 0 derives it: the file limit, which is raised to the hard
	// limit, less FileReserve and the files that refusals take.
	MaxConns int

	// FileReserve is how many files are left to the rest of the process: Kafka, HTTP,
	// logs, listeners. accept must never reach the limit, since that ends the engine.
	FileReserve int

	// MaxHandshakes is the most connections that may be open without being
	// established; the next one is refused with CLOSE overloaded. It bounds what
	// strangers can hold to MaxHandshakes × [protocol.MaxHelloBodyBytes]. 0 means no bound but MaxConns.
	MaxHandshakes int

	// AcceptRate is the most connections admitted in one second, with bursts of the
	// same size; more are refused with CLOSE overloaded. 0 means no bound. A storm of
	// reconnects thus costs established nodes a known share of the processor.
	AcceptRate int

	// HelloTimeout is how long a connection may take from accept to [Conn.Establish].
	HelloTimeout time.Duration

	// FrameTimeout is how long an established node may take from the first byte of a
	// frame to its last. The largest frame, 512 KiB, in 60 s is 70 kbit/s.
	FrameTimeout time.Duration

	// OutboundMaxBytes is how much may wait unsent for one connection. More means the
	// node does not read: it is closed with slow reader.
	OutboundMaxBytes int

	// CloseLinger is how long a CLOSE frame may take to leave and be read before the
	// socket is cut.
	CloseLinger time.Duration

	// RetryAfter is said when refusing for overload. Each refusal says a random time
	// between half of it and one and a half, so that the refused do not return together.
	RetryAfter time.Duration

	// Tick is the granularity of all timeouts: one may be late by up to two ticks,
	// never early.
	Tick time.Duration

	// ProxyProtocol requires a header of HAProxy's PROXY protocol, version 2, before the
	// preface: balancers put it there to say whose connection they pass on. What the
	// header says is what [Conn.RemoteAddr] returns. A connection without it is refused.
	ProxyProtocol bool

	// ProxyFrom are the networks of the balancers; what connects from elsewhere is
	// refused, since it could claim any address. Empty: any.
	ProxyFrom []netip.Prefix
}

// DefaultConfig returns the defaults: all interfaces, port 7700. AcceptRate lets the nodes
// of a lost member, a few hundred thousand, come back within its half minute of jitter.
func DefaultConfig() Config {
	return Config{
		Listen:           ":7700",
		FileReserve:      512,
		MaxHandshakes:    16384,
		AcceptRate:       20_000,
		HelloTimeout:     10 * time.Second,
		FrameTimeout:     60 * time.Second,
		OutboundMaxBytes: 1 << 20,
		CloseLinger:      2 * time.Second,
		RetryAfter:       5 * time.Second,
		Tick:             250 * time.Millisecond,
	}
}

// The ranges of Config. Timeouts are counted in 32 bits of ticks: at the smallest
// tick that is over a year before two times can be mistaken for each other.
const (
	minTick    = 10 * time.Millisecond
	maxTick    = 10 * time.Second
	maxTimeout = 24 * time.Hour
	maxLoops   = 1024
)

// Validate returns an error that names the key and the allowed values.
func (c Config) Validate() error {
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return fmt.Errorf("tcp: listen is %q; it has to be host:port, such as :7700 or 127.0.0.1:0: %w", c.Listen, err)
	}
	ints := []struct {
		key            string
		v, least, most int
	}{
		{"loops", c.Loops, 0, maxLoops},
		{"max_conns", c.MaxConns, 0, 1 << 30},
		{"file_reserve", c.FileReserve, 16, 1 << 20},
		{"max_handshakes", c.MaxHandshakes, 0, 1 << 30},
		{"accept_rate", c.AcceptRate, 0, 1 << 30},
		{"outbound_max_bytes", c.OutboundMaxBytes, protocol.HeaderBytes + protocol.MaxBodyBytes, 1 << 30},
	}
	for _, k := range ints {
		if k.v < k.least || k.v > k.most {
			return fmt.Errorf("tcp: %s is %d; it has to be from %d to %d", k.key, k.v, k.least, k.most)
		}
	}
	times := []struct {
		key            string
		v, least, most time.Duration
	}{
		{"tick", c.Tick, minTick, maxTick},
		{"hello_timeout", c.HelloTimeout, c.Tick, maxTimeout},
		{"frame_timeout", c.FrameTimeout, c.Tick, maxTimeout},
		{"close_linger", c.CloseLinger, c.Tick, time.Minute},
		{"retry_after", c.RetryAfter, 0, time.Hour},
	}
	for _, k := range times {
		if k.v < k.least || k.v > k.most {
			return fmt.Errorf("tcp: %s is %v; it has to be from %v to %v", k.key, k.v, k.least, k.most)
		}
	}
	if len(c.ProxyFrom) > 0 && !c.ProxyProtocol {
		return fmt.Errorf("tcp: proxy_from is %v; it has to be empty unless proxy_protocol is on", c.ProxyFrom)
	}
	for _, p := range c.ProxyFrom {
		if !p.IsValid() {
			return fmt.Errorf("tcp: proxy_from is %v; it has to be networks such as 10.0.0.0/8", c.ProxyFrom)
		}
	}
	return nil
}

func (c Config) loops() int {
	if c.Loops > 0 {
		return c.Loops
	}
	return min(runtime.GOMAXPROCS(0), maxLoops)
}

// ticks rounds d up to ticks, and adds one for the part of the running tick that has
// passed: a timeout is never early.
func (c Config) ticks(d time.Duration) uint32 {
	return uint32((d+c.Tick-1)/c.Tick) + 1
}
