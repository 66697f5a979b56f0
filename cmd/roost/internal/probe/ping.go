package probe

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"time"

	probing "github.com/prometheus-community/pro-bing"
)

// PingArgs are the arguments of the ping kind: ICMP echo requests to a host.
type PingArgs struct {
	// Host is a name or an address.
	Host string `msgpack:"host" json:"host"`
	// Count of packets, up to MaxPingCount; the default is 3.
	Count int `msgpack:"count,omitempty" json:"count,omitempty"`
	// IntervalMs between packets; the default is 1000.
	IntervalMs int64 `msgpack:"interval_ms,omitempty" json:"interval_ms,omitempty"`
	// Size of the payload in bytes, from MinPingSize to MaxPingSize; the default is 56.
	Size int `msgpack:"size,omitempty" json:"size,omitempty"`
	// TimeoutMs is the wait for replies after the last packet; the default is 2000.
	TimeoutMs int64 `msgpack:"timeout_ms,omitempty" json:"timeout_ms,omitempty"`
	// MaxLoss is the share of packets (0 to below 1) that may stay without reply. The default is
	// none.
	MaxLoss float64 `msgpack:"max_loss,omitempty" json:"max_loss,omitempty"`
	// MaxLatencyMs is the limit of avg_ms.
	MaxLatencyMs int64 `msgpack:"max_latency_ms,omitempty" json:"max_latency_ms,omitempty"`
	// IPVersion is 4 or 6 to use only that, 0 for either.
	IPVersion int `msgpack:"ip_version,omitempty" json:"ip_version,omitempty"`
}

// Validate says what is wrong with the arguments.
func (a *PingArgs) Validate() error {
	d := a.withDefaults()
	if err := checkHost(a.Host); err != nil {
		return fmt.Errorf("host: %w", err)
	}
	if !(a.MaxLoss >= 0 && a.MaxLoss < 1) {
		return fmt.Errorf("max_loss: %v is not within 0 and 1 (1 excluded)", a.MaxLoss)
	}
	return errors.Join(
		checkRange("count", int64(d.Count), 1, MaxPingCount),
		checkRange("interval_ms", d.IntervalMs, MinPingIntervalMs, MaxPingIntervalMs),
		checkRange("size", int64(d.Size), MinPingSize, MaxPingSize),
		checkRange("timeout_ms", d.TimeoutMs, 1, MaxReplyWaitMs),
		checkRange("max_latency_ms", d.MaxLatencyMs, 0, MaxTimeoutMs),
		checkIPVersion(a.IPVersion),
	)
}

func (a *PingArgs) withDefaults() PingArgs {
	d := *a
	if d.Count == 0 {
		d.Count = 3
	}
	if d.IntervalMs == 0 {
		d.IntervalMs = 1000
	}
	if d.Size == 0 {
		d.Size = 56
	}
	if d.TimeoutMs == 0 {
		d.TimeoutMs = 2000
	}
	return d
}

// PingOutput is what the ping kind measured.
type PingOutput struct {
	Addr     string `msgpack:"addr" json:"addr"`
	Sent     int    `msgpack:"sent" json:"sent"`
	Received int    `msgpack:"received" json:"received"`
	// Loss is the share of packets without reply, from 0 to 1.
	Loss float64 `msgpack:"loss" json:"loss"`
	// The times are absent when nothing was received; stddev is that of the population.
	MinMs    *float64 `msgpack:"min_ms,omitempty" json:"min_ms,omitempty"`
	AvgMs    *float64 `msgpack:"avg_ms,omitempty" json:"avg_ms,omitempty"`
	MaxMs    *float64 `msgpack:"max_ms,omitempty" json:"max_ms,omitempty"`
	StddevMs *float64 `msgpack:"stddev_ms,omitempty" json:"stddev_ms,omitempty"`
	// TTL of the last reply as it arrived.
	TTL int `msgpack:"ttl,omitempty" json:"ttl,omitempty"`
}

type pingProbe struct {
	dial *dialer
	can  icmpAccess
}

func (p *pingProbe) run(ctx context.Context, given *PingArgs) (Outcome, error) {
	a := given.withDefaults()
	addrs, err := p.dial.resolve(ctx, a.Host, a.IPVersion)
	if err != nil {
		return failed(ctx, phaseDNS, err, nil)
	}
	addr, err := p.dial.route(ctx, a.Host, addrs)
	if err != nil {
		return failed(ctx, "ping", err, nil)
	}
	raw, err := p.can.privileged(addr.Is6())
	if err != nil {
		return Outcome{}, refusef("ping: this node cannot send ICMP to %s: %s", addr, cause(err))
	}
	s := &pingSeries{addr: addr, sentAt: make(map[int]time.Time, a.Count)}
	err = s.send(ctx, &a, raw)
	out := s.output()
	if err != nil {
		return failed(ctx, "ping", err, out)
	}
	switch {
	case out.Received == 0:
		return Outcome{Reason: fmt.Sprintf("ping: no reply from %s to %d packets", addr, out.Sent), Output: out}, nil
	case out.Loss > a.MaxLoss:
		return Outcome{Reason: fmt.Sprintf("ping: %d of %d packets lost, more than max_loss %v", out.Sent-out.Received, out.Sent, a.MaxLoss), Output: out}, nil
	case a.MaxLatencyMs > 0 && *out.AvgMs > float64(a.MaxLatencyMs):
		return Outcome{Reason: fmt.Sprintf("ping: took %.1f ms on average, more than max_latency_ms %d", *out.AvgMs, a.MaxLatencyMs), Output: out}, nil
	}
	return Outcome{OK: true, Output: out}, nil
}

// pingSeries counts one job's packets. The callbacks run on one goroutine of the library, which has
// ended when send returns.
type pingSeries struct {
	addr    netip.Addr
	sent    int
	sentAt  map[int]time.Time
	rtts    []time.Duration
	ttl     int
	sendErr error
}

func (s *pingSeries) send(ctx context.Context, a *PingArgs, raw bool) error {
	pinger := probing.New(s.addr.String())
	pinger.SetIPAddr(&net.IPAddr{IP: s.addr.AsSlice(), Zone: s.addr.Zone()})
	pinger.SetPrivileged(raw)
	pinger.SetLogger(probing.NoopLogger{}) // what it would log is counted below
	pinger.Count = a.Count
	pinger.Interval = time.Duration(a.IntervalMs) * time.Millisecond
	pinger.Timeout = time.Duration(a.Count-1)*pinger.Interval + time.Duration(a.TimeoutMs)*time.Millisecond
	pinger.Size = a.Size
	pinger.RecordRtts, pinger.RecordTTLs = false, false
	pinger.OnSend = func(p *probing.Packet) { s.sent++; s.sentAt[p.Seq] = time.Now() }
	pinger.OnSendError = func(_ *probing.Packet, err error) {
		if ctx.Err() == nil {
			s.sendErr = err
		} else {
			pinger.Stop()
		}
	}
	pinger.OnRecv = s.received
	err := pinger.RunWithContext(ctx)
	if err == nil && s.sent == 0 {
		err = s.sendErr
	}
	return err
}

// maxClockError is how far the library's time of a packet, a difference of wall clocks that travels
// in the packet, may exceed the time since the packet was handed to the kernel.
const maxClockError = 20 * time.Millisecond

func (s *pingSeries) received(p *probing.Packet) {
	from, ok := netip.AddrFromSlice(p.IPAddr.IP)
	sent, known := s.sentAt[p.Seq]
	if !ok || from.Unmap() != s.addr.WithZone("") || !known {
		return // not from the target
	}
	rtt := p.Rtt
	// The least that it can be, from the monotonic clock: the wall clock may have been set meanwhile,
	// and the target may have changed the time in the packet.
	if least := time.Since(sent); rtt < least-maxClockError || rtt > least+maxClockError || rtt < 0 {
		rtt = least
	}
	s.rtts = append(s.rtts, rtt)
	s.ttl = p.TTL
}

func (s *pingSeries) output() *PingOutput {
	out := &PingOutput{Addr: s.addr.String(), Sent: s.sent, Received: len(s.rtts), TTL: max(s.ttl, 0)}
	if s.sent > 0 {
		out.Loss = float64(s.sent-len(s.rtts)) / float64(s.sent)
	}
	if len(s.rtts) == 0 {
		return out
	}
	low, high, sum := s.rtts[0], s.rtts[0], time.Duration(0)
	for _, r := range s.rtts {
		low, high, sum = min(low, r), max(high, r), sum+r
	}
	mean := float64(sum) / float64(len(s.rtts))
	var squares float64
	for _, r := range s.rtts {
		squares += (float64(r) - mean) * (float64(r) - mean)
	}
	deviation := math.Sqrt(squares / float64(len(s.rtts)))
	out.MinMs, out.MaxMs = new(millis(low)), new(millis(high))
	out.AvgMs, out.StddevMs = new(millis(time.Duration(mean))), new(millis(time.Duration(deviation)))
	return out
}
