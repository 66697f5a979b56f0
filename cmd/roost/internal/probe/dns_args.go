package probe

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// DNSArgs are the arguments of the dns kind: one question to one server.
type DNSArgs struct {
	// Name to ask for, absolute with or without the last dot; for PTR also an IP address.
	Name string `msgpack:"name" json:"name"`
	// Type of the records: A (the default) or another of DNSTypes.
	Type string `msgpack:"type,omitempty" json:"type,omitempty"`
	// Server is HOST or HOST:PORT; the default are the servers of the node's resolv.conf, which may
	// be private ones and answer with names of the node's network.
	Server string `msgpack:"server,omitempty" json:"server,omitempty"`
	// Transport is udp (the default; asks again over TCP when the answer is truncated) or tcp.
	Transport string `msgpack:"transport,omitempty" json:"transport,omitempty"`
	// Expect are values that all have to be in the answer, in the text form of zone files: addresses,
	// "10 mail.example.com" for MX, the text itself for TXT. Letter case and a last dot of names do
	// not matter.
	Expect []string `msgpack:"expect,omitempty" json:"expect,omitempty"`
	// Rcode that the answer has to have, as NXDOMAIN. Without it, NOERROR and at least one record of
	// the type are expected; with NOERROR given, the answer may be empty.
	Rcode string `msgpack:"rcode,omitempty" json:"rcode,omitempty"`
	// MaxLatencyMs is the limit of time_ms.
	MaxLatencyMs int64 `msgpack:"max_latency_ms,omitempty" json:"max_latency_ms,omitempty"`
	// TimeoutMs is the wait for each try; the default is DefaultDNSTimeoutMs.
	TimeoutMs int64 `msgpack:"timeout_ms,omitempty" json:"timeout_ms,omitempty"`
	// IPVersion is 4 or 6 to reach a Server given by name only so, 0 for either.
	IPVersion int `msgpack:"ip_version,omitempty" json:"ip_version,omitempty"`
}

// DNSTypes are the types that may be asked for.
var DNSTypes = []string{
	"A", "AAAA", "CAA", "CNAME", "DNSKEY", "DS", "HTTPS", "MX", "NAPTR", "NS", "PTR", "SOA", "SRV",
	"SSHFP", "SVCB", "TLSA", "TXT",
}

// Validate says what is wrong with the arguments.
func (a *DNSArgs) Validate() error {
	if a.Type != "" && !slices.Contains(DNSTypes, a.Type) {
		return fmt.Errorf("type: %q is not one of %s", cut(a.Type, 20), strings.Join(DNSTypes, ", "))
	}
	if _, err := a.question(); err != nil {
		return fmt.Errorf("name: %w", err)
	}
	if a.Server != "" {
		if _, _, err := splitServer(a.Server); err != nil {
			return fmt.Errorf("server: %w", err)
		}
	}
	if a.Transport != "" && a.Transport != "udp" && a.Transport != "tcp" {
		return fmt.Errorf("transport: %q is not udp or tcp", cut(a.Transport, 20))
	}
	if len(a.Expect) > MaxDNSExpect {
		return fmt.Errorf("expect: %d values, more than %d", len(a.Expect), MaxDNSExpect)
	}
	for _, v := range a.Expect {
		if v == "" || len(v) > MaxExpectBytes {
			return fmt.Errorf("expect: a value is empty or longer than %d bytes", MaxExpectBytes)
		}
	}
	if _, known := dns.StringToRcode[a.Rcode]; a.Rcode != "" && !known {
		return fmt.Errorf("rcode: %q is not an rcode as NOERROR, NXDOMAIN, SERVFAIL or REFUSED", cut(a.Rcode, 20))
	}
	return checkTimes(a.TimeoutMs, a.MaxLatencyMs, a.IPVersion)
}

func (a *DNSArgs) qtype() string {
	if a.Type == "" {
		return "A"
	}
	return a.Type
}

// question is the query for the arguments.
func (a *DNSArgs) question() (*dns.Msg, error) {
	if a.Name == "" {
		return nil, errors.New("is empty")
	}
	name := a.Name
	if ip, ok := literal(name); ok {
		if a.qtype() != "PTR" {
			return nil, fmt.Errorf("%q is an address, which only PTR can ask for", name)
		}
		var err error
		if name, err = dns.ReverseAddr(ip.WithZone("").String()); err != nil {
			return nil, err
		}
	}
	// Text form escapes bytes as \DDD, so it may be four times as long.
	if _, ok := dns.IsDomainName(name); !ok || len(name) > 4*MaxHostBytes || !isASCII(name) {
		return nil, fmt.Errorf("%q is not a domain name (write other scripts as xn--...)", cut(name, MaxHostBytes))
	}
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), dns.StringToType[a.qtype()])
	m.SetEdns0(dnsUDPSize, false)
	return m, nil
}

// splitServer takes HOST or HOST:PORT.
func splitServer(s string) (host string, port uint16, err error) {
	const domain = 53
	if a, ok := literal(s); ok {
		return a.String(), domain, nil
	}
	if !strings.Contains(s, ":") {
		return s, domain, checkHost(s)
	}
	return splitHostPort(s)
}

// systemServers reads the servers of a resolv.conf(5).
func systemServers(path string) ([]netip.AddrPort, error) {
	conf, err := dns.ClientConfigFromFile(path)
	if err != nil {
		return nil, refusef("dns: no servers of this node: %v; give a server", err)
	}
	var list []netip.AddrPort
	for _, s := range conf.Servers[:min(len(conf.Servers), MaxDNSServers)] {
		ap, err := netip.ParseAddrPort(net.JoinHostPort(s, conf.Port))
		if err != nil {
			return nil, refusef("dns: %s: server %q is not an address", path, s)
		}
		list = append(list, ap)
	}
	if len(list) == 0 {
		return nil, refusef("dns: %s names no server; give a server", path)
	}
	return list, nil
}

// recordValue is the data of a record in the text form of zone files; of TXT the text, joined.
func recordValue(rr dns.RR) string {
	if txt, ok := rr.(*dns.TXT); ok {
		return unescape(strings.Join(txt.Txt, ""))
	}
	return strings.TrimPrefix(rr.String(), rr.Header().String())
}

// unescape turns the escapes \DDD and \X of a character string (RFC 1035 §5.1) into what they mean.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		if i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 10, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		i++
		b.WriteByte(s[i])
	}
	return b.String()
}

// normalValue makes values comparable.
func normalValue(qtype, v string) string {
	if qtype == "TXT" {
		return v
	}
	if a, err := netip.ParseAddr(v); err == nil {
		return a.String()
	}
	fields := strings.Fields(strings.ToLower(v))
	for i, f := range fields {
		if len(f) > 1 {
			fields[i] = strings.TrimSuffix(f, ".")
		}
	}
	return strings.Join(fields, " ")
}
