package probe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// TracerouteArgs are the arguments of the traceroute kind: which routers lead to a host.
type TracerouteArgs struct {
	// Host is a name or an address.
	Host string `msgpack:"host" json:"host"`
	// Method is udp (the default) or icmp (echo requests), for hosts behind filters.
	Method string `msgpack:"method,omitempty" json:"method,omitempty"`
	// Port is the destination of UDP probes; the default is 33434, where nothing should listen.
	Port int `msgpack:"port,omitempty" json:"port,omitempty"`
	// MaxHops is how far to look, up to MaxHops; the default is 30.
	MaxHops int `msgpack:"max_hops,omitempty" json:"max_hops,omitempty"`
	// Probes for each hop, up to MaxProbesPerHop; the default is 3.
	Probes int `msgpack:"probes,omitempty" json:"probes,omitempty"`
	// TimeoutMs is the wait for the answers of one hop; the default is 1000.
	TimeoutMs int64 `msgpack:"timeout_ms,omitempty" json:"timeout_ms,omitempty"`
	// IPVersion is 4 or 6 to use only that, 0 for either.
	IPVersion int `msgpack:"ip_version,omitempty" json:"ip_version,omitempty"`
}

// Validate says what is wrong with the arguments.
func (a *TracerouteArgs) Validate() error {
	d := a.withDefaults()
	if err := checkHost(a.Host); err != nil {
		return fmt.Errorf("host: %w", err)
	}
	if d.Method != "udp" && d.Method != "icmp" {
		return fmt.Errorf("method: %q is not udp or icmp", cut(d.Method, 20))
	}
	return errors.Join(
		checkRange("port", int64(d.Port), 1, 65535),
		checkRange("max_hops", int64(d.MaxHops), 1, MaxHops),
		checkRange("probes", int64(d.Probes), 1, MaxProbesPerHop),
		checkRange("timeout_ms", d.TimeoutMs, 1, MaxReplyWaitMs),
		checkIPVersion(a.IPVersion),
	)
}

func (a *TracerouteArgs) withDefaults() TracerouteArgs {
	d := *a
	if d.Method == "" {
		d.Method = "udp"
	}
	if d.Port == 0 {
		d.Port = 33434
	}
	if d.MaxHops == 0 {
		d.MaxHops = 30
	}
	if d.Probes == 0 {
		d.Probes = 3
	}
	if d.TimeoutMs == 0 {
		d.TimeoutMs = 1000
	}
	return d
}

// TracerouteOutput is what the traceroute kind measured.
type TracerouteOutput struct {
	Addr   string `msgpack:"addr" json:"addr"`
	Method string `msgpack:"method" json:"method"`
	// Reached is whether the host itself answered.
	Reached bool  `msgpack:"reached" json:"reached"`
	Hops    []Hop `msgpack:"hops" json:"hops"`
}

// Hop is what answered to the probes of one TTL.
type Hop struct {
	TTL int `msgpack:"ttl" json:"ttl"`
	// Addr of what answered first; empty when nothing did.
	Addr string `msgpack:"addr,omitempty" json:"addr,omitempty"`
	// OtherAddrs answered to later probes of the same TTL.
	OtherAddrs []string `msgpack:"other_addrs,omitempty" json:"other_addrs,omitempty"`
	// RTTMs are the round trips of the probes that were answered, in the order of the answers.
	RTTMs []float64 `msgpack:"rtt_ms" json:"rtt_ms"`
	Sent  int       `msgpack:"sent" json:"sent"`
	// Reached is whether the host itself answered here.
	Reached bool `msgpack:"reached" json:"reached"`
	// Unreachable is what a router said if it will not pass packets on.
	Unreachable string `msgpack:"unreachable,omitempty" json:"unreachable,omitempty"`
}

type traceProbe struct {
	dial *dialer
	can  icmpAccess
}

func (p *traceProbe) run(ctx context.Context, given *TracerouteArgs) (Outcome, error) {
	a := given.withDefaults()
	addrs, err := p.dial.resolve(ctx, a.Host, a.IPVersion)
	if err != nil {
		return failed(ctx, phaseDNS, err, nil)
	}
	addr, err := p.dial.route(ctx, a.Host, addrs)
	if err != nil {
		return failed(ctx, "traceroute", err, nil)
	}
	if err := p.can.raw(addr.Is6()); err != nil {
		return Outcome{}, refusef("traceroute: this node cannot receive ICMP for %s: %s", addr, cause(err))
	}
	t := &tracer{a: &a, dst: addr, out: &TracerouteOutput{Addr: addr.String(), Method: a.Method, Hops: []Hop{}}}
	if err := t.run(ctx); err != nil {
		return failed(ctx, "traceroute", timedOut(ctx, err), t.out)
	}
	if !t.out.Reached {
		return Outcome{Reason: t.reason(), Output: t.out}, nil
	}
	return Outcome{OK: true, Output: t.out}, nil
}

// tracer is one job. Only the goroutine of run touches it; those that read sockets send answers.
type tracer struct {
	a      *TracerouteArgs
	dst    netip.Addr
	out    *TracerouteOutput
	wire   *traceWire
	sentAt []time.Time // by number of probe, which is (ttl-1)*Probes + n
	seen   []bool
}

func (t *tracer) run(ctx context.Context) error {
	wire, err := openTraceWire(t.a, t.dst)
	if err != nil {
		return err
	}
	t.wire = wire
	defer wire.close()
	for ttl := 1; ttl <= t.a.MaxHops; ttl++ {
		t.out.Hops = append(t.out.Hops, Hop{TTL: ttl, RTTMs: []float64{}})
		if err := t.probe(ctx, ttl); err != nil {
			return err
		}
		if h := t.out.Hops[ttl-1]; h.Reached || h.Unreachable != "" {
			return nil
		}
	}
	return nil
}

// probe sends the packets of one TTL and takes answers until all are there or the time is up. Late
// answers to earlier packets count for their hop.
func (t *tracer) probe(ctx context.Context, ttl int) error {
	for range t.a.Probes {
		t.sentAt = append(t.sentAt, time.Now())
		t.seen = append(t.seen, false)
		if err := t.wire.send(ttl, len(t.sentAt)-1); err != nil {
			return err
		}
		t.out.Hops[ttl-1].Sent++
	}
	timer := time.NewTimer(time.Duration(t.a.TimeoutMs) * time.Millisecond)
	defer timer.Stop()
	for len(t.out.Hops[ttl-1].RTTMs) < t.a.Probes {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return nil
		case err := <-t.wire.failed:
			return err
		case r := <-t.wire.answers:
			t.take(r)
		}
	}
	return nil
}

func (t *tracer) take(r traceAnswer) {
	if r.probe == firstOpenProbe {
		r.probe = t.firstOpen()
	}
	if r.probe < 0 || r.probe >= len(t.sentAt) || t.seen[r.probe] {
		return
	}
	t.seen[r.probe] = true
	h := &t.out.Hops[r.probe/t.a.Probes]
	h.RTTMs = append(h.RTTMs, millis(max(0, r.at.Sub(t.sentAt[r.probe]))))
	if from := r.from.String(); h.Addr == "" {
		h.Addr = from
	} else if h.Addr != from && !slices.Contains(h.OtherAddrs, from) {
		h.OtherAddrs = append(h.OtherAddrs, from)
	}
	if r.arrived || r.from == t.dst {
		h.Reached, t.out.Reached = true, true
	} else if r.unreachable != "" {
		h.Unreachable = r.unreachable
	}
}

// firstOpen is the oldest probe of the hop that runs which has no answer.
func (t *tracer) firstOpen() int {
	for i := (len(t.out.Hops) - 1) * t.a.Probes; i < len(t.seen); i++ {
		if !t.seen[i] {
			return i
		}
	}
	return len(t.seen)
}

func (t *tracer) reason() string {
	last := Hop{}
	for _, h := range t.out.Hops {
		if h.Addr != "" {
			last = h
		}
	}
	switch {
	case last.Addr == "":
		return fmt.Sprintf("traceroute: %s not reached: no answer from any of %d hops", t.dst, len(t.out.Hops))
	case last.Unreachable != "":
		return fmt.Sprintf("traceroute: %s not reached: %s says at hop %d: %s", t.dst, last.Addr, last.TTL, last.Unreachable)
	}
	return fmt.Sprintf("traceroute: %s not reached within %d hops; the last answer came from %s at hop %d", t.dst, len(t.out.Hops), last.Addr, last.TTL)
}
