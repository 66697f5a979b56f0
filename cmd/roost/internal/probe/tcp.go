package probe

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// TCPArgs are the arguments of the tcp kind: connect, perhaps send, perhaps wait for a text.
type TCPArgs struct {
	// Address is HOST:PORT.
	Address string `msgpack:"address" json:"address"`
	// Send is a text to send after connecting; SendHex the same as hexadecimal digits. Not both.
	Send    string `msgpack:"send,omitempty" json:"send,omitempty"`
	SendHex string `msgpack:"send_hex,omitempty" json:"send_hex,omitempty"`
	// Expect is a text that has to come within the first MaxTCPReadBytes. Empty waits for nothing.
	Expect string `msgpack:"expect,omitempty" json:"expect,omitempty"`
	// MaxLatencyMs is the limit of total_ms.
	MaxLatencyMs int64 `msgpack:"max_latency_ms,omitempty" json:"max_latency_ms,omitempty"`
	// TimeoutMs fails the check when the whole of it takes longer; 0 leaves that to the job.
	TimeoutMs int64 `msgpack:"timeout_ms,omitempty" json:"timeout_ms,omitempty"`
	// IPVersion is 4 or 6 to use only that, 0 for either.
	IPVersion int `msgpack:"ip_version,omitempty" json:"ip_version,omitempty"`
}

// Validate says what is wrong with the arguments.
func (a *TCPArgs) Validate() error {
	if _, _, err := splitHostPort(a.Address); err != nil {
		return fmt.Errorf("address: %w", err)
	}
	if _, err := payload(a.Send, a.SendHex, MaxTCPSendBytes); err != nil {
		return err
	}
	if len(a.Expect) > MaxExpectBytes {
		return fmt.Errorf("expect: longer than %d bytes", MaxExpectBytes)
	}
	return checkTimes(a.TimeoutMs, a.MaxLatencyMs, a.IPVersion)
}

// payload is what send or send_hex say.
func payload(text, hexText string, limit int) ([]byte, error) {
	if text != "" && hexText != "" {
		return nil, errors.New("send and send_hex: only one of them may be given")
	}
	b, field := []byte(text), "send"
	if hexText != "" {
		field = "send_hex"
		if len(hexText) > 2*limit {
			return nil, fmt.Errorf("send_hex: more than %d bytes", limit)
		}
		var err error
		if b, err = hex.DecodeString(hexText); err != nil {
			return nil, errors.New("send_hex: not an even number of hexadecimal digits")
		}
	}
	if len(b) > limit {
		return nil, fmt.Errorf("%s: %d bytes, more than %d", field, len(b), limit)
	}
	return b, nil
}

// TCPOutput is what the tcp kind measured.
type TCPOutput struct {
	RemoteAddr string `msgpack:"remote_addr,omitempty" json:"remote_addr,omitempty"`
	// DNSMs is absent when the host is an address.
	DNSMs     *float64 `msgpack:"dns_ms,omitempty" json:"dns_ms,omitempty"`
	ConnectMs *float64 `msgpack:"connect_ms,omitempty" json:"connect_ms,omitempty"`
	// FirstByteMs is from the open connection to the first byte that came.
	FirstByteMs *float64 `msgpack:"first_byte_ms,omitempty" json:"first_byte_ms,omitempty"`
	TotalMs     float64  `msgpack:"total_ms" json:"total_ms"`
	// ReceivedBytes counts what came until the expectation was met; ReceivedExcerpt is its start.
	ReceivedBytes   int    `msgpack:"received_bytes" json:"received_bytes"`
	ReceivedExcerpt string `msgpack:"received_excerpt,omitempty" json:"received_excerpt,omitempty"`
}

type tcpProbe struct{ dial *dialer }

func (p *tcpProbe) run(parent context.Context, a *TCPArgs) (Outcome, error) {
	ctx, cancel := withTimeoutMs(parent, a.TimeoutMs)
	defer cancel()
	began := time.Now()
	out := &TCPOutput{}
	fail := func(phase string, err error) (Outcome, error) {
		out.TotalMs = millis(time.Since(began))
		return failed(parent, phase, err, out)
	}
	c, phase, err := p.open(ctx, a, out)
	if err != nil {
		return fail(phase, err)
	}
	defer func() { _ = c.Close() }()
	stop := interruptible(ctx, c)
	defer stop()
	if err := p.talk(c, a, out); err != nil {
		return fail("tcp", timedOut(ctx, err))
	}
	out.TotalMs = millis(time.Since(began))
	if a.MaxLatencyMs > 0 && out.TotalMs > float64(a.MaxLatencyMs) {
		return Outcome{Reason: fmt.Sprintf("tcp: took %.1f ms, more than max_latency_ms %d", out.TotalMs, a.MaxLatencyMs), Output: out}, nil
	}
	return Outcome{OK: true, Output: out}, nil
}

func (p *tcpProbe) open(ctx context.Context, a *TCPArgs, out *TCPOutput) (net.Conn, string, error) {
	host, port, err := splitHostPort(a.Address)
	if err != nil {
		return nil, phaseDNS, &Refused{Reason: err.Error()}
	}
	began := time.Now()
	addrs, err := p.dial.resolve(ctx, host, a.IPVersion)
	if err != nil {
		return nil, phaseDNS, err
	}
	if _, isLiteral := literal(host); !isLiteral {
		out.DNSMs = new(millis(time.Since(began)))
	}
	c, took, err := p.dial.connect(ctx, "tcp", host, addrs, port)
	if err != nil {
		return nil, phaseConnect, err
	}
	out.ConnectMs = new(millis(took))
	out.RemoteAddr = c.RemoteAddr().String()
	return c, "", nil
}

// interruptible makes reads and writes of c fail when ctx ends, until stop is called.
func interruptible(ctx context.Context, c net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
}

// talk sends and waits for the expected text.
func (p *tcpProbe) talk(c net.Conn, a *TCPArgs, out *TCPOutput) error {
	send, err := payload(a.Send, a.SendHex, MaxTCPSendBytes)
	if err != nil {
		return &Refused{Reason: err.Error()}
	}
	opened := time.Now()
	if len(send) > 0 {
		if _, err := c.Write(send); err != nil {
			return fmt.Errorf("sending: %w", err)
		}
	}
	if a.Expect == "" {
		return nil
	}
	want := []byte(a.Expect)
	buf := make([]byte, 0, 4<<10)
	defer func() {
		out.ReceivedBytes = len(buf)
		out.ReceivedExcerpt = cut(string(buf[:min(len(buf), MaxReceivedExcerptBytes)]), MaxReceivedExcerptBytes)
	}()
	for len(buf) < MaxTCPReadBytes {
		if len(buf) == cap(buf) {
			buf = append(make([]byte, 0, 2*cap(buf)), buf...)
		}
		n, err := c.Read(buf[len(buf):min(cap(buf), MaxTCPReadBytes)])
		if n > 0 && out.FirstByteMs == nil {
			out.FirstByteMs = new(millis(time.Since(opened)))
		}
		// Only the new bytes, and what before them may be the start of a match, can hold it.
		from := max(0, len(buf)-len(want)+1)
		buf = buf[:len(buf)+n]
		if bytes.Contains(buf[from:], want) {
			return nil
		}
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("closed by the other side after %d bytes without %q", len(buf), cut(a.Expect, 100))
		}
		if err != nil {
			return fmt.Errorf("waiting for %q: %w", cut(a.Expect, 100), err)
		}
	}
	return fmt.Errorf("%q is not in the first %d bytes", cut(a.Expect, 100), MaxTCPReadBytes)
}
