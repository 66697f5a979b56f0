package discovery

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

const patience = 20 * time.Second

// zone is a DNS server on loopback whose records can be changed.
type zone struct {
	addr    string
	mu      sync.Mutex
	records map[string][]string // "A name." and the like to values in zone file form
	broken  bool                // answers SERVFAIL
	asked   int
}

func newZone(t *testing.T) *zone {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	z := &zone{addr: pc.LocalAddr().String(), records: map[string][]string{}}
	started := make(chan struct{})
	s := &dns.Server{PacketConn: pc, Handler: z, NotifyStartedFunc: func() { close(started) }}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.ActivateAndServe() }()
	<-started
	t.Cleanup(func() { _ = s.Shutdown(); <-done })
	return z
}

func (z *zone) set(key string, values ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.records[key] = values
}

func (z *zone) breaks(b bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.broken = b
}

func (z *zone) questions() int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.asked
}

// ServeDNS implements dns.Handler.
func (z *zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.asked++
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = true
	name, kind := q.Question[0].Name, dns.TypeToString[q.Question[0].Qtype]
	switch {
	case z.broken:
		m.Rcode = dns.RcodeServerFailure
	default:
		for _, v := range z.records[kind+" "+name] {
			rr, err := dns.NewRR(name + " 0 IN " + kind + " " + v)
			if err != nil {
				panic(err)
			}
			m.Answer = append(m.Answer, rr)
		}
		if len(m.Answer) == 0 && len(z.records["A "+name])+len(z.records["AAAA "+name]) == 0 {
			m.Rcode = dns.RcodeNameError
		}
	}
	_ = w.WriteMsg(m)
}

// finder keeps what a source found.
type finder struct {
	mu  sync.Mutex
	all [][]string
}

func run(t *testing.T, s Source) *finder {
	t.Helper()
	f := &finder{}
	ctx, cancel := context.WithCancelCause(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- s.Run(ctx, func(a []string) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.all = append(f.all, a)
		})
	}()
	over := errors.New("the test is over")
	t.Cleanup(func() { cancel(over); require.ErrorIs(t, <-ended, over) })
	return f
}

func (f *finder) last() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.all) == 0 {
		return nil
	}
	return f.all[len(f.all)-1]
}

func (f *finder) calls() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.all)
}

func (f *finder) await(t *testing.T, want ...string) {
	t.Helper()
	require.Eventually(t, func() bool {
		got := f.last()
		return len(got) == len(want) && equal(got, want)
	}, patience, time.Millisecond, "want %v", want)
}

func equal(a, b []string) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestStatic(t *testing.T) {
	z := newZone(t)
	z.set("A b.test.", "10.0.0.2")
	log, logs := observer.New(zapcore.InfoLevel)
	s, err := Static([]string{"10.0.0.9:7946", "[2001:db8::1]:7946", "b.test.:7947", "c.test.:7946"},
		Options{Interval: 20 * time.Millisecond, Resolver: z.addr, Log: zap.New(log)})
	require.NoError(t, err)
	require.Equal(t, "static", s.Name())
	f := run(t, s)
	f.await(t, "10.0.0.2:7947", "10.0.0.9:7946", "[2001:db8::1]:7946") // c.test. holds up nobody
	z.set("A c.test.", "10.0.0.3")
	f.await(t, "10.0.0.2:7947", "10.0.0.3:7946", "10.0.0.9:7946", "[2001:db8::1]:7946")

	z.set("A b.test.", "10.0.0.22", "10.0.0.23") // it has moved
	f.await(t, "10.0.0.22:7947", "10.0.0.23:7947", "10.0.0.3:7946", "10.0.0.9:7946", "[2001:db8::1]:7946")

	// With DNS broken the last addresses stand, it is asked on, and the log is quiet.
	z.breaks(true)
	calls, asked := f.calls(), z.questions()
	require.Eventually(t, func() bool { return z.questions() > asked+20 }, patience, time.Millisecond)
	require.Equal(t, calls, f.calls())
	require.Len(t, logs.FilterMessageSnippet("c.test").All(), 0)
	z.breaks(false)
	z.set("A c.test.", "10.0.0.33")
	f.await(t, "10.0.0.22:7947", "10.0.0.23:7947", "10.0.0.33:7946", "10.0.0.9:7946", "[2001:db8::1]:7946")
	warnings := map[string]int{}
	for _, e := range logs.FilterMessageSnippet("cannot be looked up").All() {
		warnings[e.ContextMap()["name"].(string)]++
	}
	// c.test. was complained of at the start, found, and complained of once more.
	require.Equal(t, map[string]int{"b.test.:7947": 1, "c.test.:7946": 2}, warnings)
	require.Positive(t, logs.FilterMessageSnippet("found again").Len())
}

func TestDNSAddresses(t *testing.T) {
	z := newZone(t)
	z.set("A roost.test.", "10.0.0.1", "10.0.0.2", "10.0.0.1")
	z.set("AAAA roost.test.", "2001:db8::1")
	s, err := DNS("roost.test.:7946", Options{Interval: 20 * time.Millisecond, Resolver: z.addr})
	require.NoError(t, err)
	require.Equal(t, "dns roost.test.:7946", s.Name())
	f := run(t, s)
	f.await(t, "10.0.0.1:7946", "10.0.0.2:7946") // not the same member twice
	z.set("A roost.test.")
	f.await(t, "[2001:db8::1]:7946")
	z.set("AAAA roost.test.", "2001:db8::2", "2001:db8::3")
	f.await(t, "[2001:db8::2]:7946", "[2001:db8::3]:7946")
}

func TestDNSServices(t *testing.T) {
	z := newZone(t)
	z.set("SRV _roost._tcp.test.", "0 0 7946 a.test.", "0 0 7947 b.test.", "0 0 0 a.test.", "0 0 7948 missing.test.")
	z.set("A a.test.", "10.0.0.1")
	z.set("A b.test.", "10.0.0.1")
	s, err := DNS("_roost._tcp.test.", Options{Interval: 20 * time.Millisecond, Resolver: z.addr})
	require.NoError(t, err)
	f := run(t, s)
	f.await(t, "10.0.0.1:7946", "10.0.0.1:7947")
	z.set("SRV _roost._tcp.test.", "0 0 7946 missing.test.")
	asked := z.questions()
	require.Eventually(t, func() bool { return z.questions() > asked+10 }, patience, time.Millisecond)
	require.Equal(t, 1, f.calls(), "none that can be found: the last ones stand")
	z.set("SRV _roost._tcp.test.", "0 0 9000 b.test.")
	f.await(t, "10.0.0.1:9000")
}

// A resolver that does not answer does not keep Run from its end.
func TestEndsWhileResolverIsSilent(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer pc.Close()
	s, err := Static([]string{"10.0.0.9:1", "b.test.:2"}, Options{Resolver: pc.LocalAddr().String()})
	require.NoError(t, err)
	f := run(t, s)
	f.await(t, "10.0.0.9:1") // at once, not after the lookup
	_, _, err = pc.ReadFrom(make([]byte, 512))
	require.NoError(t, err) // it asks; the clean-up ends it
}

func TestRefusals(t *testing.T) {
	for seed, want := range map[string]string{
		"":                    "want HOST:PORT",
		"host":                "want HOST:PORT",
		":7946":               "want a host",
		"host:0":              "1 to 65535",
		"host:http":           "1 to 65535",
		"host:70000":          "1 to 65535",
		"0.0.0.0:1":           "cannot be dialled|is not an address that can be dialled",
		"[::]:1":              "is not an address that can be dialled",
		"224.0.0.1:1":         "is not an address that can be dialled",
		"10.0.0.256:1":        "neither an IP address nor a name",
		"a b:1":               "allowed are letters",
		"-a:1":                "neither begins nor ends",
		"a..b:1":              "1 to 63",
		"[2001:db8::1]7946":   "want HOST:PORT",
		"2001:db8::1:7946:zz": "want HOST:PORT",
	} {
		_, err := Static([]string{"10.0.0.1:1", seed}, Options{})
		require.Error(t, err, seed)
		require.Regexp(t, want, err.Error(), seed)
	}
	_, err := Static(nil, Options{})
	require.ErrorContains(t, err, "no seeds")
	for name, want := range map[string]string{
		"":                 "want HOST:PORT",
		"_roost.test":      "_SERVICE._PROTO.NAME",
		"_roost._tcp":      "_SERVICE._PROTO.NAME",
		"_roost._tcp.a b":  "allowed are letters",
		"10.0.0.1:7946":    "give it as a seed",
		"roost.test":       "SRV records",
		"_._tcp.test":      "_SERVICE._PROTO.NAME",
		"_roost._tcp.t..t": "1 to 63",
	} {
		_, err := DNS(name, Options{})
		require.ErrorContains(t, err, want, name)
	}
	_, err = DNS("a.test:1", Options{Interval: -1})
	require.ErrorContains(t, err, "Interval is -1ns")
	_, err = Static([]string{"a.test:1"}, Options{Resolver: "a"})
	require.ErrorContains(t, err, "Resolver")
	_, err = Kafka(nil, Options{})
	require.ErrorContains(t, err, "needs a Board")
}
