package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Static is a source of the seeds, each a HOST:PORT. Host names are looked up again and
// again, so a member that came back with another address is found. A name that cannot be
// looked up is tried again, and its addresses of the last time stand.
func Static(seeds []string, o Options) (Source, error) {
	o, err := o.filled()
	if err != nil {
		return nil, err
	}
	if len(seeds) == 0 {
		return nil, errors.New("discovery: no seeds: want a list of HOST:PORT")
	}
	l := newLooker("static", o)
	for _, s := range seeds {
		host, port, err := splitAddress(strings.TrimSpace(s))
		if err != nil {
			return nil, fmt.Errorf("discovery: seed %w", err)
		}
		l.add(&question{host: host, port: port})
	}
	return l, nil
}

// DNS is a source of what name stands for: HOST:PORT for the addresses of a host name, or
// _SERVICE._PROTO.NAME for its SRV records, which bring ports of their own.
func DNS(name string, o Options) (Source, error) {
	o, err := o.filled()
	if err != nil {
		return nil, err
	}
	l := newLooker("dns "+name, o)
	if strings.HasPrefix(name, "_") && !strings.Contains(name, ":") {
		if err := checkService(name); err != nil {
			return nil, fmt.Errorf("discovery: DNS name %w", err)
		}
		l.add(&question{host: name, srv: true})
		return l, nil
	}
	host, port, err := splitAddress(name)
	if err != nil {
		return nil, fmt.Errorf("discovery: DNS name %w; or _SERVICE._PROTO.NAME for SRV records", err)
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return nil, fmt.Errorf("discovery: DNS name %q is an IP address: give it as a seed", name)
	}
	l.add(&question{host: host, port: port})
	return l, nil
}

func checkService(name string) error {
	parts := strings.SplitN(name, ".", 3)
	if len(parts) < 3 || len(parts[0]) < 2 || !strings.HasPrefix(parts[1], "_") || len(parts[1]) < 2 {
		return fmt.Errorf("%q: want _SERVICE._PROTO.NAME, such as _roost._tcp.example.net", name)
	}
	if err := checkHost(name); err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	return nil
}

// question is one name that is looked up again and again.
type question struct {
	host string
	port uint16
	srv  bool

	answer []string // the last one
	due    time.Time
	wait   time.Duration // after the last failure; 0: it went well
	fixed  bool          // an IP address

	failures   int       // since the last success
	complained time.Time // when a failure was logged last
}

func (q *question) String() string {
	if q.srv {
		return q.host
	}
	return net.JoinHostPort(q.host, strconv.Itoa(int(q.port)))
}

// looker is the source for names.
type looker struct {
	name      string
	o         Options
	resolver  *net.Resolver
	questions []*question
}

func newLooker(name string, o Options) *looker {
	l := &looker{name: name, o: o, resolver: net.DefaultResolver}
	if o.Resolver != "" {
		l.resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, network, o.Resolver)
			if err == nil { // the resolver itself reads on until its own timeout
				context.AfterFunc(ctx, func() { _ = c.Close() })
			}
			return c, err
		}}
	}
	return l
}

func (l *looker) add(q *question) {
	if ip, err := netip.ParseAddr(q.host); err == nil {
		q.fixed, q.answer = true, []string{netip.AddrPortFrom(ip.Unmap(), q.port).String()}
	}
	l.questions = append(l.questions, q)
}

// Name implements Source.
func (l *looker) Name() string { return l.name }

// Run implements Source.
func (l *looker) Run(ctx context.Context, found func(addresses []string)) error {
	var last []string
	l.tell(&last, found) // what needs no lookup need not wait for one that hangs
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
		}
		l.askAll(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		l.tell(&last, found)
		next := time.Now().Add(l.o.Interval)
		for _, q := range l.questions {
			if !q.fixed && q.due.Before(next) {
				next = q.due
			}
		}
		timer.Reset(time.Until(next))
	}
}

// askAll looks up what is due, at once, so that a name that takes its time delays the
// others no longer than that.
func (l *looker) askAll(ctx context.Context) {
	var asking sync.WaitGroup
	for _, q := range l.questions {
		if !q.fixed && !q.due.After(time.Now()) {
			asking.Go(func() { l.ask(ctx, q) })
		}
	}
	asking.Wait()
}

// tell calls found when the list is another than the last.
func (l *looker) tell(last *[]string, found func([]string)) {
	var all []string
	for _, q := range l.questions {
		all = append(all, q.answer...)
	}
	all = sorted(all)
	if slices.Equal(all, *last) {
		return
	}
	*last = all
	found(slices.Clone(all))
}

// ask looks one name up and says when to do so again.
func (l *looker) ask(ctx context.Context, q *question) {
	bounded, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	var answer []string
	var err error
	if q.srv {
		answer, err = l.services(bounded, q.host)
	} else {
		answer, err = l.addresses(bounded, q.host, q.port)
	}
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		l.failed(q, err)
		return
	}
	if q.failures > 0 {
		l.o.Log.Info("discovery: the name is found again", zap.String("source", l.name), zap.Stringer("name", q), zap.Int("failures", q.failures))
	}
	q.failures, q.wait, q.complained = 0, 0, time.Time{}
	q.answer = sorted(answer)
	q.due = time.Now().Add(jittered(l.o.Interval))
}

func (l *looker) failed(q *question, err error) {
	q.failures++
	q.wait = min(max(2*q.wait, min(backoffMin, l.o.Interval)), l.o.Interval)
	now := time.Now()
	q.due = now.Add(jittered(q.wait))
	if !q.complained.IsZero() && now.Sub(q.complained) < complainEvery {
		return
	}
	q.complained = now
	l.o.Log.Warn("discovery: a name cannot be looked up; its last addresses stand, and it is tried again",
		zap.String("source", l.name), zap.Stringer("name", q), zap.Strings("addresses", q.answer),
		zap.Int("failures", q.failures), zap.Error(err))
}

// addresses looks a host up. Of a host with IPv4 and IPv6 addresses it takes those of
// IPv4: both would be one member twice.
func (l *looker) addresses(ctx context.Context, host string, port uint16) ([]string, error) {
	ips, err := l.resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var v4, v6 []string
	for _, ip := range ips[:min(len(ips), maxAddresses)] {
		if ip = ip.Unmap(); ip.Is4() {
			v4 = append(v4, netip.AddrPortFrom(ip, port).String())
		} else {
			v6 = append(v6, netip.AddrPortFrom(ip, port).String())
		}
	}
	if len(v4) > 0 {
		return v4, nil
	}
	return v6, nil
}

// services looks SRV records up, and the hosts they name. One host that cannot be found
// does not hide the others; with none found it is an error.
func (l *looker) services(ctx context.Context, name string) ([]string, error) {
	_, records, err := l.resolver.LookupSRV(ctx, "", "", name)
	if err != nil && len(records) == 0 {
		return nil, err
	}
	var all []string
	var failed []error
	for _, r := range records[:min(len(records), maxAddresses)] {
		if r.Port == 0 {
			failed = append(failed, fmt.Errorf("the record for %s has port 0", r.Target))
			continue
		}
		found, err := l.addresses(ctx, r.Target, r.Port)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		all = append(all, found...)
	}
	if len(all) == 0 {
		return nil, errors.Join(failed...)
	}
	return all, nil
}
