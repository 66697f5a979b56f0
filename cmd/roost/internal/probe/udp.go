package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// UDPArgs are the arguments of the udp kind: send one datagram, perhaps wait for a reply.
type UDPArgs struct {
	// Address is HOST:PORT.
	Address string `msgpack:"address" json:"address"`
	// Send is the datagram as text, SendHex as hexadecimal digits. Not both; neither is an empty one.
	Send    string `msgpack:"send,omitempty" json:"send,omitempty"`
	SendHex string `msgpack:"send_hex,omitempty" json:"send_hex,omitempty"`
	// ExpectReply wants any reply.
	ExpectReply bool `msgpack:"expect_reply,omitempty" json:"expect_reply,omitempty"`
	// Expect is a text that has to be in a reply.
	Expect string `msgpack:"expect,omitempty" json:"expect,omitempty"`
	// MaxLatencyMs is the limit of rtt_ms.
	MaxLatencyMs int64 `msgpack:"max_latency_ms,omitempty" json:"max_latency_ms,omitempty"`
	// TimeoutMs is the wait for the reply; the default is DefaultUDPTimeoutMs.
	TimeoutMs int64 `msgpack:"timeout_ms,omitempty" json:"timeout_ms,omitempty"`
	// IPVersion is 4 or 6 to use only that, 0 for either.
	IPVersion int `msgpack:"ip_version,omitempty" json:"ip_version,omitempty"`
}

// Validate says what is wrong with the arguments.
func (a *UDPArgs) Validate() error {
	if _, _, err := splitHostPort(a.Address); err != nil {
		return fmt.Errorf("address: %w", err)
	}
	if _, err := payload(a.Send, a.SendHex, MaxUDPSendBytes); err != nil {
		return err
	}
	if len(a.Expect) > MaxExpectBytes {
		return fmt.Errorf("expect: longer than %d bytes", MaxExpectBytes)
	}
	return checkTimes(a.TimeoutMs, a.MaxLatencyMs, a.IPVersion)
}

func (a *UDPArgs) wantsReply() bool { return a.ExpectReply || a.Expect != "" }

// UDPOutput is what the udp kind measured. Without an expected reply, replied says whether one came
// anyway within a short wait.
type UDPOutput struct {
	RemoteAddr string   `msgpack:"remote_addr,omitempty" json:"remote_addr,omitempty"`
	DNSMs      *float64 `msgpack:"dns_ms,omitempty" json:"dns_ms,omitempty"`
	Replied    bool     `msgpack:"replied" json:"replied"`
	// RTTMs is from the datagram to the reply that counted, else the last one.
	RTTMs           *float64 `msgpack:"rtt_ms,omitempty" json:"rtt_ms,omitempty"`
	ReceivedBytes   int      `msgpack:"received_bytes" json:"received_bytes"`
	ReceivedExcerpt string   `msgpack:"received_excerpt,omitempty" json:"received_excerpt,omitempty"`
}

type udpProbe struct{ dial *dialer }

func (p *udpProbe) run(parent context.Context, a *UDPArgs) (Outcome, error) {
	timeout := a.TimeoutMs
	if timeout == 0 {
		timeout = DefaultUDPTimeoutMs
	}
	ctx, cancel := withTimeoutMs(parent, timeout)
	defer cancel()
	out := &UDPOutput{}
	host, port, err := splitHostPort(a.Address)
	if err != nil {
		return Outcome{}, &Refused{Reason: err.Error()}
	}
	began := time.Now()
	addrs, err := p.dial.resolve(ctx, host, a.IPVersion)
	if err != nil {
		return failed(parent, phaseDNS, err, out)
	}
	if _, isLiteral := literal(host); !isLiteral {
		out.DNSMs = new(millis(time.Since(began)))
	}
	c, _, err := p.dial.connect(ctx, "udp", host, addrs, port)
	if err != nil {
		return failed(parent, "udp", err, out)
	}
	defer func() { _ = c.Close() }()
	out.RemoteAddr = c.RemoteAddr().String()
	if err := p.talk(ctx, c, a, out); err != nil {
		return failed(parent, "udp", timedOut(ctx, err), out)
	}
	if a.MaxLatencyMs > 0 && out.RTTMs != nil && *out.RTTMs > float64(a.MaxLatencyMs) {
		return Outcome{Reason: fmt.Sprintf("udp: took %.1f ms, more than max_latency_ms %d", *out.RTTMs, a.MaxLatencyMs), Output: out}, nil
	}
	return Outcome{OK: true, Output: out}, nil
}

// talk sends the datagram and reads what comes. The socket is connected: nobody else's datagrams
// arrive, and an ICMP "port unreachable" shows as an error.
func (p *udpProbe) talk(ctx context.Context, c net.Conn, a *UDPArgs, out *UDPOutput) error {
	send, err := payload(a.Send, a.SendHex, MaxUDPSendBytes)
	if err != nil {
		return &Refused{Reason: err.Error()}
	}
	if !a.wantsReply() {
		wait := udpErrorWait
		if deadline, ok := ctx.Deadline(); ok {
			wait = min(wait, time.Until(deadline)/2) // a short timeout is no failure here
		}
		if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return err
		}
	}
	stop := interruptible(ctx, c)
	defer stop()
	sent := time.Now()
	if _, err := c.Write(send); err != nil {
		return fmt.Errorf("sending: %w", err)
	}
	buf := make([]byte, 64<<10)
	for range MaxUDPReplies {
		n, err := c.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) && !a.wantsReply() && ended(ctx) == nil {
			return nil
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			return errors.New("port unreachable: nothing listens there")
		}
		if err != nil {
			return err
		}
		out.Replied = true
		out.RTTMs = new(millis(time.Since(sent)))
		out.ReceivedBytes = n
		out.ReceivedExcerpt = cut(string(buf[:min(n, MaxReceivedExcerptBytes)]), MaxReceivedExcerptBytes)
		if strings.Contains(string(buf[:n]), a.Expect) {
			return nil
		}
	}
	return fmt.Errorf("%q is in none of the first %d replies", cut(a.Expect, 100), MaxUDPReplies)
}
