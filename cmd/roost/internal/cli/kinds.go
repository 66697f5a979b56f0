package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/roost-server/roost/cmd/roost/internal/probe"
)

// kindCommands are the kinds that have flags of their own.
func kindCommands(g *Globals, o *runOptions) []*cobra.Command {
	return []*cobra.Command{
		httpCommand(g, o), tcpCommand(g, o), udpCommand(g, o), dnsCommand(g, o), pingCommand(g, o), tracerouteCommand(g, o),
	}
}

// validated is what an arguments struct of package probe offers through its pointer.
type validated[A any] interface {
	*A
	Validate() error
}

// kindCommand makes the command of a kind: target takes the positional argument, set the flags that
// were given. Arguments begin with --args, if that is given.
func kindCommand[A any, P validated[A]](g *Globals, o *runOptions, cmd *cobra.Command, target func(a P, arg string), set func(f *pflag.FlagSet, a P) error) *cobra.Command {
	kind := cmd.Name()
	cmd.Args = func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) > 1:
			return fmt.Errorf("%d arguments are given; one is expected", len(args))
		case len(args) == 0 && o.args == "":
			_, what, _ := strings.Cut(cmd.Use, " ")
			what, _, _ = strings.Cut(what, " ")
			return fmt.Errorf("%s is missing", what)
		}
		return nil
	}
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var a A
		if o.args != "" {
			dec := json.NewDecoder(bytes.NewReader([]byte(o.args)))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&a); err != nil {
				return cannot(fmt.Errorf("--args: %w", err))
			}
			if dec.More() {
				return cannot(errors.New("--args: something follows the JSON value"))
			}
		}
		if len(args) == 1 {
			target(&a, args[0])
		}
		if err := set(cmd.Flags(), &a); err != nil {
			return cannot(err)
		}
		if err := P(&a).Validate(); err != nil {
			return cannot(fmt.Errorf("%s: %w", kind, err))
		}
		b, err := json.Marshal(P(&a))
		if err != nil {
			return cannot(fmt.Errorf("%s: %w", kind, err))
		}
		return runJob(cmd.Context(), g, o, kind, b)
	}
	return cmd
}

// given copies a flag's value when the flag was given, so that it goes before --args only then.
func given[T any](f *pflag.FlagSet, name string, to *T, value T) {
	if f.Changed(name) {
		*to = value
	}
}

// givenMs is given for durations, which arguments have in milliseconds.
func givenMs(f *pflag.FlagSet, name string, to *int64, value time.Duration) error {
	if !f.Changed(name) {
		return nil
	}
	if value < time.Millisecond {
		return fmt.Errorf("--%s: %s; at least 1ms is expected", name, value)
	}
	*to = value.Milliseconds()
	return nil
}

// common are the flags of most kinds.
type common struct {
	maxLatency time.Duration
	ip         int
}

func (c *common) bind(cmd *cobra.Command, latency string) {
	if latency != "" {
		cmd.Flags().DurationVar(&c.maxLatency, "max-latency", 0, "fail when "+latency+" takes longer")
		complete(cmd, "max-latency", cobra.NoFileCompletions)
	}
	cmd.Flags().IntVar(&c.ip, "ip", 0, "use only IP version 4 or 6")
	complete(cmd, "ip", fixed("4", "6"))
}

func (c *common) set(f *pflag.FlagSet, maxLatencyMs *int64, ipVersion *int) error {
	given(f, "ip", ipVersion, c.ip)
	return givenMs(f, "max-latency", maxLatencyMs, c.maxLatency)
}

func httpCommand(g *Globals, o *runOptions) *cobra.Command {
	var (
		c                                   common
		method, body, contains, regex, path string
		equals                              string
		headers, statuses                   []string
		redirects, insecure                 bool
		excerpt                             int
	)
	cmd := &cobra.Command{
		Use:   "http URL [FLAGS]",
		Short: "Send an HTTP request and check the response",
		Example: `  roost run http https://example.com
  roost run http https://api.example.com/health --expect-status 200 --json-path '$.status' --json-equals '"up"'
  roost run http https://example.com -X POST -H 'Content-Type: application/json' --body '{}' --expect-status 200-299 --expect-status 409`,
	}
	f := cmd.Flags()
	f.StringVarP(&method, "method", "X", "", "GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS (default GET)")
	f.StringArrayVarP(&headers, "header", "H", nil, "header as 'Name: value'; may be given more than once")
	f.StringVar(&body, "body", "", "body of the request")
	f.StringArrayVar(&statuses, "expect-status", nil, "status or range that is fine, such as 200 or 200-299; may be given more than once (default 200-399)")
	f.StringVar(&contains, "expect-body", "", "text that has to be in the body")
	f.StringVar(&regex, "expect-regex", "", "pattern (RE2) that has to match in the body")
	f.StringVar(&path, "json-path", "", "JSONPath (RFC 9535) that has to select something in the body")
	f.StringVar(&equals, "json-equals", "", "JSON value that --json-path has to select")
	f.BoolVar(&redirects, "follow-redirects", false, "follow redirects")
	f.BoolVar(&insecure, "insecure", false, "accept any certificate")
	f.IntVar(&excerpt, "excerpt", 0, "report this many bytes of the body")
	c.bind(cmd, "the whole of it")
	complete(cmd, "method", fixed("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
	for _, flag := range []string{"header", "body", "expect-status", "expect-body", "expect-regex", "json-path", "json-equals", "excerpt"} {
		complete(cmd, flag, cobra.NoFileCompletions)
	}
	return kindCommand(g, o, cmd, func(a *probe.HTTPArgs, arg string) { a.URL = arg }, func(f *pflag.FlagSet, a *probe.HTTPArgs) error {
		given(f, "method", &a.Method, strings.ToUpper(method))
		given(f, "body", &a.Body, body)
		given(f, "expect-body", &a.BodyContains, contains)
		given(f, "expect-regex", &a.BodyRegex, regex)
		given(f, "json-path", &a.JSONPath, path)
		given(f, "follow-redirects", &a.FollowRedirects, redirects)
		given(f, "insecure", &a.InsecureSkipVerify, insecure)
		given(f, "excerpt", &a.BodyExcerptBytes, excerpt)
		err := errors.Join(setHeaders(a, headers), setStatuses(a, statuses), setEquals(f, a, equals))
		return errors.Join(err, c.set(f, &a.MaxLatencyMs, &a.IPVersion))
	})
}

func setHeaders(a *probe.HTTPArgs, headers []string) error {
	for _, h := range headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return fmt.Errorf("--header: %q is not 'Name: value'", h)
		}
		if a.Headers == nil {
			a.Headers = map[string]string{}
		}
		a.Headers[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	return nil
}

func setStatuses(a *probe.HTTPArgs, statuses []string) error {
	if len(statuses) > 0 {
		a.Status = nil
	}
	for _, list := range statuses {
		for text := range strings.SplitSeq(list, ",") {
			r, err := probe.ParseStatus(text)
			if err != nil {
				return fmt.Errorf("--expect-status: %w", err)
			}
			a.Status = append(a.Status, r)
		}
	}
	return nil
}

func setEquals(f *pflag.FlagSet, a *probe.HTTPArgs, equals string) error {
	if !f.Changed("json-equals") {
		return nil
	}
	if err := json.Unmarshal([]byte(equals), &a.JSONEquals); err != nil {
		return fmt.Errorf("--json-equals: %q is not a JSON value; a text stands in quotes, as '\"up\"'", equals)
	}
	return nil
}

func tcpCommand(g *Globals, o *runOptions) *cobra.Command {
	var c common
	var send, sendHex, expect string
	cmd := &cobra.Command{
		Use:   "tcp HOST:PORT [FLAGS]",
		Short: "Connect over TCP, and check what comes",
		Example: `  roost run tcp example.com:443 --count 10
  roost run tcp mail.example.com:25 --expect '220 '`,
	}
	f := cmd.Flags()
	f.StringVar(&send, "send", "", "text to send after connecting")
	f.StringVar(&sendHex, "send-hex", "", "the same as hexadecimal digits")
	f.StringVar(&expect, "expect", "", "text that has to come")
	c.bind(cmd, "the whole of it")
	for _, flag := range []string{"send", "send-hex", "expect"} {
		complete(cmd, flag, cobra.NoFileCompletions)
	}
	return kindCommand(g, o, cmd, func(a *probe.TCPArgs, arg string) { a.Address = arg }, func(f *pflag.FlagSet, a *probe.TCPArgs) error {
		given(f, "send", &a.Send, send)
		given(f, "send-hex", &a.SendHex, sendHex)
		given(f, "expect", &a.Expect, expect)
		return c.set(f, &a.MaxLatencyMs, &a.IPVersion)
	})
}

func udpCommand(g *Globals, o *runOptions) *cobra.Command {
	var c common
	var send, sendHex, expect string
	var reply bool
	cmd := &cobra.Command{
		Use:     "udp HOST:PORT [FLAGS]",
		Short:   "Send a datagram, and check what comes back",
		Example: `  roost run udp ntp.example.com:123 --send-hex 1b0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000 --expect-reply`,
	}
	f := cmd.Flags()
	f.StringVar(&send, "send", "", "the datagram as text")
	f.StringVar(&sendHex, "send-hex", "", "the datagram as hexadecimal digits")
	f.BoolVar(&reply, "expect-reply", false, "fail without a reply")
	f.StringVar(&expect, "expect", "", "text that has to be in a reply")
	c.bind(cmd, "the reply")
	for _, flag := range []string{"send", "send-hex", "expect"} {
		complete(cmd, flag, cobra.NoFileCompletions)
	}
	return kindCommand(g, o, cmd, func(a *probe.UDPArgs, arg string) { a.Address = arg }, func(f *pflag.FlagSet, a *probe.UDPArgs) error {
		given(f, "send", &a.Send, send)
		given(f, "send-hex", &a.SendHex, sendHex)
		given(f, "expect-reply", &a.ExpectReply, reply)
		given(f, "expect", &a.Expect, expect)
		return c.set(f, &a.MaxLatencyMs, &a.IPVersion)
	})
}

func dnsCommand(g *Globals, o *runOptions) *cobra.Command {
	var c common
	var rtype, server, transport, rcode string
	var expect []string
	cmd := &cobra.Command{
		Use:   "dns NAME [FLAGS]",
		Short: "Ask for records of DNS, and check the answer",
		Example: `  roost run dns example.com --count 50
  roost run dns example.com --type MX --server 9.9.9.9 --expect '10 mail.example.com'
  roost run dns gone.example.com --rcode NXDOMAIN`,
	}
	f := cmd.Flags()
	f.StringVar(&rtype, "type", "", "type of the records (default A)")
	f.StringVar(&server, "server", "", "server to ask, HOST or HOST:PORT (default: those of the node)")
	f.StringVar(&transport, "transport", "", "udp or tcp (default udp)")
	f.StringArrayVar(&expect, "expect", nil, "value that has to be in the answer; may be given more than once")
	f.StringVar(&rcode, "rcode", "", "code that the answer has to have, such as NXDOMAIN")
	c.bind(cmd, "the answer")
	complete(cmd, "type", fixed(probe.DNSTypes...))
	complete(cmd, "transport", fixed("udp", "tcp"))
	complete(cmd, "rcode", fixed("NOERROR", "NXDOMAIN", "SERVFAIL", "REFUSED"))
	for _, flag := range []string{"server", "expect"} {
		complete(cmd, flag, cobra.NoFileCompletions)
	}
	return kindCommand(g, o, cmd, func(a *probe.DNSArgs, arg string) { a.Name = arg }, func(f *pflag.FlagSet, a *probe.DNSArgs) error {
		given(f, "type", &a.Type, strings.ToUpper(rtype))
		given(f, "server", &a.Server, server)
		given(f, "transport", &a.Transport, transport)
		given(f, "expect", &a.Expect, expect)
		given(f, "rcode", &a.Rcode, strings.ToUpper(rcode))
		return c.set(f, &a.MaxLatencyMs, &a.IPVersion)
	})
}

func pingCommand(g *Globals, o *runOptions) *cobra.Command {
	var c common
	var packets, size int
	var interval time.Duration
	var loss float64
	cmd := &cobra.Command{
		Use:   "ping HOST [FLAGS]",
		Short: "Send ICMP echo requests",
		Example: `  roost run ping example.com --count 20
  roost run ping example.com --packets 10 --max-loss 0.2 --max-latency 80ms --country NZ`,
	}
	f := cmd.Flags()
	f.IntVar(&packets, "packets", 0, "number of packets (default 3)")
	f.DurationVar(&interval, "interval", 0, "between packets (default 1s)")
	f.IntVar(&size, "size", 0, "bytes of payload (default 56)")
	f.Float64Var(&loss, "max-loss", 0, "share of packets that may be lost, from 0 to below 1")
	c.bind(cmd, "the average reply")
	for _, flag := range []string{"packets", "interval", "size", "max-loss"} {
		complete(cmd, flag, cobra.NoFileCompletions)
	}
	return kindCommand(g, o, cmd, func(a *probe.PingArgs, arg string) { a.Host = arg }, func(f *pflag.FlagSet, a *probe.PingArgs) error {
		given(f, "packets", &a.Count, packets)
		given(f, "size", &a.Size, size)
		given(f, "max-loss", &a.MaxLoss, loss)
		return errors.Join(givenMs(f, "interval", &a.IntervalMs, interval), c.set(f, &a.MaxLatencyMs, &a.IPVersion))
	})
}

func tracerouteCommand(g *Globals, o *runOptions) *cobra.Command {
	var c common
	var method string
	var port, hops, probes int
	cmd := &cobra.Command{
		Use:     "traceroute HOST [FLAGS]",
		Short:   "Find the routers on the way to a host",
		Example: `  roost run traceroute example.com --country JP --timeout 60s`,
	}
	f := cmd.Flags()
	f.StringVar(&method, "method", "", "udp or icmp (default udp)")
	f.IntVar(&port, "port", 0, "destination of UDP probes (default 33434)")
	f.IntVar(&hops, "max-hops", 0, "how far to look (default 30)")
	f.IntVar(&probes, "probes", 0, "probes for each hop (default 3)")
	c.bind(cmd, "")
	complete(cmd, "method", fixed("udp", "icmp"))
	for _, flag := range []string{"port", "max-hops", "probes"} {
		complete(cmd, flag, cobra.NoFileCompletions)
	}
	return kindCommand(g, o, cmd, func(a *probe.TracerouteArgs, arg string) { a.Host = arg }, func(f *pflag.FlagSet, a *probe.TracerouteArgs) error {
		given(f, "method", &a.Method, method)
		given(f, "port", &a.Port, port)
		given(f, "max-hops", &a.MaxHops, hops)
		given(f, "probes", &a.Probes, probes)
		given(f, "ip", &a.IPVersion, c.ip)
		return nil
	})
}
