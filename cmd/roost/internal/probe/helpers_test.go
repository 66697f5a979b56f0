package probe

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
)

// patience is how long a test waits for what has to happen; nothing is measured against it.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	if role := os.Getenv(labRole); role != "" && role != roleClient {
		os.Exit(playRole(role))
	}
	goleak.VerifyTestMain(m)
}

// binder decodes as a node does: from msgpack, unknown fields refused.
func binder(t testing.TB, args any) Bind {
	t.Helper()
	b, err := msgpack.Marshal(args)
	require.NoError(t, err)
	return func(v any) error {
		d := msgpack.NewDecoder(bytes.NewReader(b))
		d.DisallowUnknownFields(true)
		return d.Decode(v)
	}
}

func kindOf(t testing.TB, o Options, name string) Kind {
	t.Helper()
	kinds, missing := Kinds(o)
	for _, k := range kinds {
		if k.Name() == name {
			return k
		}
	}
	require.Failf(t, "kind is missing", "%s: %s", name, missing[name])
	return nil
}

// run runs a kind that is expected to come to an outcome.
func run(t testing.TB, o Options, name string, args any) Outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	o.Log = zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel))
	out, err := kindOf(t, o, name).Run(ctx, binder(t, args))
	require.NoError(t, err)
	require.Equal(t, out.OK, out.Reason == "", "a reason, and only for what does not hold: %q", out.Reason)
	checkOutputSize(t, out)
	return out
}

// refused runs a kind that is expected to refuse, and returns why.
func refused(t testing.TB, o Options, name string, args any) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := kindOf(t, o, name).Run(ctx, binder(t, args))
	var r *Refused
	require.ErrorAs(t, err, &r, "outcome %+v", out)
	require.False(t, out.OK)
	return r.Reason
}

func checkOutputSize(t testing.TB, out Outcome) {
	t.Helper()
	b, err := msgpack.Marshal(out.Output)
	require.NoError(t, err)
	require.Less(t, len(b), MaxOutputBytes)
}

var private = Options{AllowPrivate: true}

// zone is a DNS server on loopback whose answers change from query to query.
type zone struct {
	addr string

	mu      sync.Mutex
	answers map[string][][]string // name and type, to a list of answers; the last one stays
	asked   map[string]int
}

// newZone serves records over UDP and TCP on the same port. A key is "name. TYPE".
func newZone(t testing.TB, answers map[string][][]string) *zone {
	t.Helper()
	z := &zone{answers: answers, asked: make(map[string]int)}
	z.addr = serveDNS(t, z.serve)
	return z
}

func (z *zone) serve(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = true
	name := strings.ToLower(q.Question[0].Name)
	key := name + " " + dns.Type(q.Question[0].Qtype).String()
	z.mu.Lock()
	n := z.asked[key]
	z.asked[key]++
	list, known := z.answers[key]
	z.mu.Unlock()
	if !known {
		m.Rcode = dns.RcodeNameError
		for k := range z.answers {
			if strings.HasPrefix(k, name+" ") {
				m.Rcode = dns.RcodeSuccess
			}
		}
	}
	if len(list) > 0 {
		for _, data := range list[min(n, len(list)-1)] {
			rr, err := dns.NewRR(name + " 60 IN " + dns.Type(q.Question[0].Qtype).String() + " " + data)
			if err != nil {
				m.Rcode = dns.RcodeServerFailure
				break
			}
			m.Answer = append(m.Answer, rr)
		}
	}
	if _, isUDP := w.RemoteAddr().(*net.UDPAddr); isUDP {
		m.Truncate(dnsUDPSize)
	}
	_ = w.WriteMsg(m)
}

func (z *zone) count(key string) int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.asked[key]
}

// resolver is a resolver of the standard library that asks the zone alone.
func (z *zone) resolver() Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, z.addr)
	}}
}

// serveDNS serves on one port of loopback over UDP and TCP and returns its address.
func serveDNS(t testing.TB, h dns.HandlerFunc) string {
	t.Helper()
	var pc net.PacketConn
	var ln net.Listener
	for range 50 { // a port that is free for UDP may not be for TCP
		var err error
		pc, err = net.ListenPacket("udp", "127.0.0.1:0")
		require.NoError(t, err)
		if ln, err = net.Listen("tcp", pc.LocalAddr().String()); err == nil {
			break
		}
		_ = pc.Close()
	}
	require.NotNil(t, ln)
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: h}, {Listener: ln, Handler: h}} {
		started, ended := make(chan struct{}), make(chan error, 1)
		s.NotifyStartedFunc = func() { close(started) }
		go func() { ended <- s.ActivateAndServe() }()
		select {
		case <-started:
		case err := <-ended:
			require.NoError(t, err)
		}
		t.Cleanup(func() {
			_ = s.Shutdown()
			<-ended
		})
	}
	return pc.LocalAddr().String()
}

// resolvConf writes a resolv.conf(5); DNS servers there have port 53, so it serves for errors and for
// servers that nobody has to reach.
func resolvConf(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// listenTCP serves every connection with handle and counts them.
func listenTCP(t testing.TB, handle func(net.Conn)) (address string, count func() int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return ln.Addr().String(), serveTCP(t, ln, handle)
}

func serveTCP(t testing.TB, ln net.Listener, handle func(net.Conn)) (count func() int) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	n := 0
	open := make(map[net.Conn]bool)
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			n++
			open[c] = true
			mu.Unlock()
			wg.Go(func() {
				handle(c)
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

// listenUDP answers every datagram with what reply returns.
func listenUDP(t testing.TB, reply func([]byte) [][]byte) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			for _, b := range reply(buf[:n]) {
				_, _ = pc.WriteTo(b, from)
			}
		}
	})
	t.Cleanup(func() {
		_ = pc.Close()
		wg.Wait()
	})
	return pc.LocalAddr().String()
}

// closedTCP is an address of loopback where nothing listens.
func closedTCP(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, ln.Close())
	return ln.Addr().String()
}

func closedUDP(t testing.TB) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, pc.Close())
	return pc.LocalAddr().String()
}

func portOf(t testing.TB, address string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	return port
}

// endsWithContext checks that a kind whose target stays silent ends with its context, in both ways
// that a context ends. waiting tells when the kind has reached its target.
func endsWithContext(t *testing.T, o Options, name string, args any, waiting <-chan struct{}) {
	t.Helper()
	k := kindOf(t, o, name)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := k.Run(ctx, binder(t, args))
		ended <- err
	}()
	select {
	case <-waiting:
	case err := <-ended:
		require.Failf(t, "ended before it was cancelled", "%v", err)
	case <-time.After(patience):
		require.Fail(t, "never reached the target")
	}
	cancel()
	select {
	case err := <-ended:
		require.ErrorIs(t, err, context.Canceled)
		var r *Refused
		require.NotErrorAs(t, err, &r)
	case <-time.After(patience):
		require.Fail(t, "did not end with its context")
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := k.Run(ctx, binder(t, args))
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func addrs(list ...string) []netip.Addr {
	out := make([]netip.Addr, len(list))
	for i, s := range list {
		out[i] = netip.MustParseAddr(s)
	}
	return out
}

func ipAddr(s string) *net.IPAddr { return &net.IPAddr{IP: net.ParseIP(s)} }
