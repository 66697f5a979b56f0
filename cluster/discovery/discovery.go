// Package discovery finds the addresses at which other members of the cluster may be
// heard: from a list ([Static]), from DNS ([DNS]), or from a board that all members write
// on ([Kafka]). It knows nothing of who answers there: an address may be this member's
// own, stale, or of another cluster, and the membership sorts that out.
//
// Sources never give up: what fails is logged at a bounded rate and tried again, and what
// was found last stands meanwhile.
package discovery

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
)

// Source finds addresses of members.
type Source interface {
	// Name says which source this is, for logs: "static", "dns NAME" or "kafka".
	Name() string
	// Run calls found with the whole current list, sorted IP:PORT, whenever it has changed,
	// from one goroutine; the slice is the callee's. It blocks until ctx ends and returns
	// ctx's cause then. Any other error means that the source is of no more use. It may be
	// called once.
	Run(ctx context.Context, found func(addresses []string)) error
}

// Announcer is a Source that others find this member by as well.
type Announcer interface {
	Source
	// Announce says under which name and address this member is to be found. Until it is
	// called nothing is announced. Before or during Run, from any goroutine.
	Announce(name, address string)
}

const (
	// DefaultInterval is how often names are looked up again: in the order of the TTLs that
	// Consul and Kubernetes give to names of services (0 to 30 s).
	DefaultInterval = 10 * time.Second
	// lookupTimeout bounds one lookup; resolvers try a server that is silent for 5 s.
	lookupTimeout = 5 * time.Second
	// backoffMin is the wait after a first failed lookup; it doubles up to the interval.
	backoffMin = 500 * time.Millisecond
	// jitter is the part of each wait that is random, so that members started together
	// do not ask together.
	jitter = 0.2
	// complainEvery is the least time between two log lines about one name.
	complainEvery = time.Minute
	// maxAddresses of one name are taken; more is a mistake.
	maxAddresses = 1024
)

// Options are common to the sources; the zero value is usable.
type Options struct {
	// Interval between two lookups of a name; 0 is DefaultInterval.
	Interval time.Duration
	// Resolver is the HOST:PORT of the DNS server to ask; empty: what the system is set to.
	Resolver string
	Log      *zap.Logger
}

func (o Options) filled() (Options, error) {
	if o.Interval == 0 {
		o.Interval = DefaultInterval
	}
	if o.Interval < 0 {
		return o, fmt.Errorf("discovery: Interval is %s: want more than 0, or 0 for %s", o.Interval, DefaultInterval)
	}
	if o.Resolver != "" {
		if _, _, err := splitAddress(o.Resolver); err != nil {
			return o, fmt.Errorf("discovery: Resolver: %w", err)
		}
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	return o, nil
}

// splitAddress takes HOST:PORT apart; the host is an IP address or a name.
func splitAddress(s string) (host string, port uint16, err error) {
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, fmt.Errorf("%q: want HOST:PORT, such as roost-2.example.net:7946 or [2001:db8::2]:7946: %w", s, err)
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("%q: port %q: want 1 to 65535", s, p)
	}
	if err := checkHost(host); err != nil {
		return "", 0, fmt.Errorf("%q: %w", s, err)
	}
	return host, uint16(n), nil
}

// checkHost accepts an IP address that can be dialled, or a name by the rules of DNS; an
// underscore is allowed, for SRV and since many zones have it.
func checkHost(host string) error {
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.IsUnspecified() || ip.IsMulticast() {
			return fmt.Errorf("%s is not an address that can be dialled", ip)
		}
		return nil
	}
	name := strings.TrimSuffix(host, ".")
	if name == "" || len(name) > 253 {
		return errors.New("want a host: an IP address or a name of 1 to 253 characters")
	}
	if strings.Trim(name, "0123456789.") == "" {
		return fmt.Errorf("%q is neither an IP address nor a name", host)
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			return fmt.Errorf("host name %q: each part has 1 to 63 characters and neither begins nor ends with '-'", host)
		}
		for _, c := range label {
			if c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
				return fmt.Errorf("host name %q: allowed are letters, digits, '-', '_' and '.'", host)
			}
		}
	}
	return nil
}

// jittered is d, a fifth more or less.
func jittered(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (1 - jitter + 2*jitter*rand.Float64()))
}

// sorted orders and removes duplicates.
func sorted(addresses []string) []string {
	slices.Sort(addresses)
	return slices.Compact(addresses)
}
