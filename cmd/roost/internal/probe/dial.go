package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"
)

// attemptDelay is the head start of an address before the next one is tried as well (RFC 8305 §5).
const attemptDelay = 250 * time.Millisecond

// dialer resolves and dials targets under the guard.
type dialer struct {
	guard    guard
	resolver Resolver
}

func newDialer(o Options) *dialer {
	return &dialer{guard: guard{allowPrivate: o.AllowPrivate}, resolver: o.Resolver}
}

// resolve returns the addresses of host (a literal or a name), in the order to try them. One that is
// forbidden among them refuses the host as a whole: such a name is either an attack or a view of DNS
// that depends on where one stands, and neither can be measured.
func (d *dialer) resolve(ctx context.Context, host string, ipVersion int) ([]netip.Addr, error) {
	if err := checkHost(host); err != nil {
		return nil, &Refused{Reason: err.Error()}
	}
	var addrs []netip.Addr
	if a, ok := literal(host); ok {
		addrs = []netip.Addr{a}
	} else {
		network := "ip"
		if ipVersion != 0 {
			network = fmt.Sprintf("ip%d", ipVersion)
		}
		var err error
		if addrs, err = d.resolver.LookupNetIP(ctx, network, host); err != nil {
			return nil, timedOut(ctx, err)
		}
	}
	addrs = slices.Clone(addrs)
	for i, a := range addrs {
		addrs[i] = a.Unmap()
		if err := d.guard.check(host, addrs[i]); err != nil {
			return nil, err
		}
	}
	addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool { return ipVersion == 4 && !a.Is4() || ipVersion == 6 && a.Is4() })
	if len(addrs) == 0 {
		family := ""
		if ipVersion != 0 {
			family = fmt.Sprintf("IPv%d ", ipVersion)
		}
		return nil, fmt.Errorf("%s has no %saddress", host, family)
	}
	return addrs[:min(len(addrs), MaxDialAddrs)], nil
}

type attempt struct {
	conn net.Conn
	took time.Duration
	err  error
}

// connect dials the first of addrs that answers (RFC 8305 without its sorting, which the resolver has
// done). took is the time of the attempt that won. The caller closes the connection.
func (d *dialer) connect(ctx context.Context, network, host string, addrs []netip.Addr, port uint16) (net.Conn, time.Duration, error) {
	actx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan attempt)
	timer := time.NewTimer(attemptDelay)
	defer timer.Stop()
	var won attempt
	var errs []error
	next, running := 0, 0
	start := func() {
		a := netip.AddrPortFrom(addrs[next], port)
		next++
		running++
		go func() { results <- d.connectOne(actx, network, host, a) }()
		timer.Reset(attemptDelay)
	}
	start()
	for running > 0 {
		select {
		case <-timer.C:
			if next < len(addrs) && won.conn == nil && actx.Err() == nil {
				start()
			}
		case r := <-results:
			running--
			switch {
			case r.err == nil && won.conn == nil:
				won = r
				cancel()
			case r.err == nil:
				_ = r.conn.Close()
			default:
				errs = append(errs, r.err)
				if next < len(addrs) && won.conn == nil && ended(actx) == nil {
					start()
				}
			}
		}
	}
	if won.conn != nil {
		return won.conn, won.took, nil
	}
	return nil, 0, timedOut(ctx, errors.Join(errs...))
}

func (d *dialer) connectOne(ctx context.Context, network, host string, to netip.AddrPort) attempt {
	nd := net.Dialer{
		KeepAlive: -1,
		// The check of the address that the kernel gets, whatever came before.
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return refusef("target %s is not an address", cut(address, MaxHostBytes))
			}
			return d.guard.check(host, ap.Addr().Unmap())
		},
	}
	began := time.Now()
	c, err := nd.DialContext(ctx, network, to.String())
	return attempt{conn: c, took: time.Since(began), err: err}
}

// route returns the first of addrs that this machine has a route to, for kinds that send packets of
// their own. It connects a datagram socket, which sends nothing.
func (d *dialer) route(ctx context.Context, host string, addrs []netip.Addr) (netip.Addr, error) {
	const discard = 9 // any port does
	c, _, err := d.connect(ctx, "udp", host, addrs, discard)
	if err != nil {
		return netip.Addr{}, err
	}
	defer func() { _ = c.Close() }()
	ap, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}, fmt.Errorf("remote address: %w", err)
	}
	return ap.Addr().Unmap(), nil
}

// cause is the text of an error without the layers that say what was tried: the reasons name the
// phase themselves.
func cause(err error) string {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		parts := make([]string, 0, 4)
		for _, e := range many.Unwrap() {
			if s := cause(e); !slices.Contains(parts, s) {
				parts = append(parts, s)
			}
		}
		return strings.Join(parts, "; ")
	}
	var timeout *timeoutError
	if errors.As(err, &timeout) {
		return timeout.Error()
	}
	var dnsErr *net.DNSError
	if errors.As(err, &dnsErr) {
		return dnsErr.Name + ": " + dnsErr.Err
	}
	var op *net.OpError
	if errors.As(err, &op) {
		text := op.Err.Error()
		var errno syscall.Errno
		if errors.As(op.Err, &errno) {
			text = errno.Error()
		} else if op.Timeout() {
			text = "timed out"
		}
		if op.Op == "dial" && op.Addr != nil {
			return op.Addr.String() + ": " + text
		}
		return text
	}
	return strings.TrimPrefix(err.Error(), "tls: ")
}
