package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// DNSOutput is what the dns kind measured.
type DNSOutput struct {
	Name string `msgpack:"name" json:"name"`
	Type string `msgpack:"type" json:"type"`
	// Server that answered, or was asked last, and the transport that it took.
	Server    string `msgpack:"server,omitempty" json:"server,omitempty"`
	Transport string `msgpack:"transport,omitempty" json:"transport,omitempty"`
	// Tries counts the queries sent over all servers; one over TCP after a truncated answer counts.
	Tries int    `msgpack:"tries" json:"tries"`
	Rcode string `msgpack:"rcode,omitempty" json:"rcode,omitempty"`
	// Flags that are set: aa, tc, rd, ra, ad, cd.
	Flags   []string    `msgpack:"flags,omitempty" json:"flags,omitempty"`
	Answers []DNSAnswer `msgpack:"answers" json:"answers"`
	// AnswersTruncated is whether the answers here were cut to the limits of an output.
	AnswersTruncated bool `msgpack:"answers_truncated,omitempty" json:"answers_truncated,omitempty"`
	// TimeMs is from the first query to the answer that counts, tries and connecting included.
	TimeMs float64 `msgpack:"time_ms" json:"time_ms"`
}

// DNSAnswer is one record of the answer section.
type DNSAnswer struct {
	Name       string `msgpack:"name" json:"name"`
	Type       string `msgpack:"type" json:"type"`
	TTLSeconds uint32 `msgpack:"ttl_seconds" json:"ttl_seconds"`
	// Value in the text form of zone files; the text itself for TXT.
	Value string `msgpack:"value" json:"value"`
}

type dnsProbe struct {
	dial       *dialer
	resolvConf string
}

// dnsServer is one address to ask; trusted is one that the operator of the node has configured.
type dnsServer struct {
	addr    netip.AddrPort
	host    string
	trusted bool
}

func (p *dnsProbe) run(ctx context.Context, a *DNSArgs) (Outcome, error) {
	q, err := a.question()
	if err != nil {
		return Outcome{}, &Refused{Reason: err.Error()}
	}
	out := &DNSOutput{Name: q.Question[0].Name, Type: a.qtype(), Answers: []DNSAnswer{}}
	servers, err := p.servers(ctx, a)
	if err != nil {
		return failed(ctx, "dns: server", err, out)
	}
	began := time.Now()
	reply, err := p.ask(ctx, a, q, servers, out)
	out.TimeMs = millis(time.Since(began))
	if err != nil {
		return failed(ctx, "dns", err, out)
	}
	out.fill(reply)
	if problems := checkReply(a, out, reply); len(problems) > 0 {
		return Outcome{Reason: "dns: " + strings.Join(problems, "; "), Output: out}, nil
	}
	return Outcome{OK: true, Output: out}, nil
}

func (p *dnsProbe) servers(ctx context.Context, a *DNSArgs) ([]dnsServer, error) {
	if a.Server == "" {
		list, err := systemServers(p.resolvConf)
		if err != nil {
			return nil, err
		}
		servers := make([]dnsServer, len(list))
		for i, s := range list {
			servers[i] = dnsServer{addr: s, host: s.Addr().String(), trusted: true}
		}
		return servers, nil
	}
	host, port, err := splitServer(a.Server)
	if err != nil {
		return nil, &Refused{Reason: err.Error()}
	}
	addrs, err := p.dial.resolve(ctx, host, a.IPVersion)
	if err != nil {
		return nil, err
	}
	servers := make([]dnsServer, 0, MaxDNSServers)
	for _, addr := range addrs[:min(len(addrs), MaxDNSServers)] {
		servers = append(servers, dnsServer{addr: netip.AddrPortFrom(addr, port), host: host})
	}
	return servers, nil
}

// ask goes round the servers until one answers, whatever it answers.
func (p *dnsProbe) ask(ctx context.Context, a *DNSArgs, q *dns.Msg, servers []dnsServer, out *DNSOutput) (*dns.Msg, error) {
	transport := a.Transport
	if transport == "" {
		transport = "udp"
	}
	timeout := a.TimeoutMs
	if timeout == 0 {
		timeout = DefaultDNSTimeoutMs
	}
	var errs []error
	for range DNSTries {
		for _, s := range servers {
			out.Server, out.Transport = s.addr.String(), transport
			reply, err := p.exchange(ctx, s, transport, q, timeout, out)
			if err == nil && reply.Truncated && transport == "udp" {
				out.Transport = "tcp"
				reply, err = p.exchange(ctx, s, "tcp", q, timeout, out)
			}
			if err == nil {
				return reply, nil
			}
			if ended(ctx) != nil {
				return nil, err
			}
			errs = append(errs, fmt.Errorf("server %s (%s): %s", s.addr, out.Transport, cause(err)))
		}
	}
	return nil, errors.Join(errs...)
}

func (p *dnsProbe) exchange(parent context.Context, s dnsServer, transport string, q *dns.Msg, timeoutMs int64, out *DNSOutput) (*dns.Msg, error) {
	ctx, cancel := withTimeoutMs(parent, timeoutMs)
	defer cancel()
	out.Tries++
	d := p.dial
	if s.trusted {
		d = &dialer{guard: guard{allowPrivate: true}, resolver: d.resolver}
	}
	c, _, err := d.connect(ctx, transport, s.host, []netip.Addr{s.addr.Addr()}, s.addr.Port())
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	stop := interruptible(ctx, c)
	defer stop()
	q = q.Copy()
	q.Id = dns.Id()
	reply, err := converse(c, q)
	if err != nil {
		return nil, timedOut(ctx, err)
	}
	return reply, nil
}

// converse sends the query and waits for its answer. Over UDP, what does not answer this question
// (late or forged) is skipped.
func converse(c net.Conn, q *dns.Msg) (*dns.Msg, error) {
	co := &dns.Conn{Conn: c, UDPSize: dnsUDPSize}
	if err := co.WriteMsg(q); err != nil {
		return nil, err
	}
	_, isPacket := c.(net.PacketConn)
	for range maxStrayReplies {
		b, err := co.ReadMsgHeader(nil)
		if errors.Is(err, dns.ErrShortRead) && isPacket {
			continue
		}
		if err != nil {
			return nil, err
		}
		reply := new(dns.Msg)
		err = reply.Unpack(b)
		// A truncated message may end anywhere.
		if err != nil && !(reply.Truncated && reply.Id == q.Id) {
			if isPacket {
				continue
			}
			return nil, fmt.Errorf("malformed answer: %w", err)
		}
		if answers(reply, q) {
			return reply, nil
		}
		if !isPacket {
			return nil, errors.New("the answer is not to this question")
		}
	}
	return nil, fmt.Errorf("%d datagrams came, none answers the question", maxStrayReplies)
}

// answers is whether reply belongs to q. Servers may leave the question out of an error.
func answers(reply, q *dns.Msg) bool {
	if !reply.Response || reply.Id != q.Id {
		return false
	}
	if len(reply.Question) == 0 {
		return reply.Rcode != dns.RcodeSuccess || reply.Truncated
	}
	r, w := reply.Question[0], q.Question[0]
	return len(reply.Question) == 1 && r.Qtype == w.Qtype && r.Qclass == w.Qclass && strings.EqualFold(r.Name, w.Name)
}

// fill copies the reply within the limits of an output.
func (o *DNSOutput) fill(reply *dns.Msg) {
	o.Rcode = rcodeName(reply.Rcode)
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"aa", reply.Authoritative}, {"tc", reply.Truncated}, {"rd", reply.RecursionDesired},
		{"ra", reply.RecursionAvailable}, {"ad", reply.AuthenticatedData}, {"cd", reply.CheckingDisabled},
	} {
		if f.set {
			o.Flags = append(o.Flags, f.name)
		}
	}
	size := 0
	for _, rr := range reply.Answer {
		h := rr.Header()
		value := recordValue(rr)
		short := cut(value, MaxDNSValueBytes)
		size += len(h.Name) + len(short)
		if len(o.Answers) == MaxDNSAnswers || size > MaxDNSAnswerBytes {
			o.AnswersTruncated = true
			return
		}
		if len(value) > MaxDNSValueBytes {
			o.AnswersTruncated = true
		}
		o.Answers = append(o.Answers, DNSAnswer{Name: h.Name, Type: dns.Type(h.Rrtype).String(), TTLSeconds: h.Ttl, Value: short})
	}
}

func rcodeName(code int) string {
	if name, ok := dns.RcodeToString[code]; ok {
		return name
	}
	return fmt.Sprintf("RCODE%d", code)
}

// checkReply lists what is not as expected. It looks at all records, not only at those in the output.
func checkReply(a *DNSArgs, out *DNSOutput, reply *dns.Msg) []string {
	var bad []string
	want := a.Rcode
	if want == "" {
		want = "NOERROR"
	}
	if out.Rcode != want {
		bad = append(bad, fmt.Sprintf("rcode %s, expected %s", out.Rcode, want))
	}
	var values []string
	ofType := 0
	for _, rr := range reply.Answer {
		qtype := dns.Type(rr.Header().Rrtype).String()
		values = append(values, normalValue(qtype, recordValue(rr)))
		if qtype == out.Type {
			ofType++
		}
	}
	if a.Rcode == "" && out.Rcode == want && ofType == 0 {
		bad = append(bad, fmt.Sprintf("%s has no %s records", out.Name, out.Type))
	}
	for _, v := range a.Expect {
		if !slices.Contains(values, normalValue(out.Type, v)) {
			bad = append(bad, fmt.Sprintf("%q is not in the answer", cut(v, 100)))
		}
	}
	if a.MaxLatencyMs > 0 && out.TimeMs > float64(a.MaxLatencyMs) {
		bad = append(bad, fmt.Sprintf("took %.1f ms, more than max_latency_ms %d", out.TimeMs, a.MaxLatencyMs))
	}
	return bad
}
