package probe

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// HTTPOutput is what the http kind measured. The phases are those of the last request, total_ms is
// the whole: from the first name lookup to the last byte of the body, over all redirects.
type HTTPOutput struct {
	Status     int    `msgpack:"status" json:"status"`
	Protocol   string `msgpack:"protocol,omitempty" json:"protocol,omitempty"`
	RemoteAddr string `msgpack:"remote_addr,omitempty" json:"remote_addr,omitempty"`
	// Redirects is how many were followed.
	Redirects int `msgpack:"redirects" json:"redirects"`
	// URL is where the last redirect led, without user name and password.
	URL string `msgpack:"url,omitempty" json:"url,omitempty"`
	// Location is where a redirect that was not followed points.
	Location string `msgpack:"location,omitempty" json:"location,omitempty"`

	// Bytes is how much of the body was read; Truncated is whether there was more.
	Bytes       int64  `msgpack:"bytes" json:"bytes"`
	Truncated   bool   `msgpack:"truncated,omitempty" json:"truncated,omitempty"`
	BodySHA256  string `msgpack:"body_sha256,omitempty" json:"body_sha256,omitempty"`
	BodyExcerpt string `msgpack:"body_excerpt,omitempty" json:"body_excerpt,omitempty"`

	// DNSMs is absent when the host is an address.
	DNSMs     *float64 `msgpack:"dns_ms,omitempty" json:"dns_ms,omitempty"`
	ConnectMs *float64 `msgpack:"connect_ms,omitempty" json:"connect_ms,omitempty"`
	TLSMs     *float64 `msgpack:"tls_ms,omitempty" json:"tls_ms,omitempty"`
	// FirstByteMs is from the ready connection to the first byte of the response.
	FirstByteMs *float64 `msgpack:"first_byte_ms,omitempty" json:"first_byte_ms,omitempty"`
	TotalMs     float64  `msgpack:"total_ms" json:"total_ms"`

	TLSVersion  string       `msgpack:"tls_version,omitempty" json:"tls_version,omitempty"`
	Certificate *Certificate `msgpack:"certificate,omitempty" json:"certificate,omitempty"`
}

// Certificate is the leaf certificate of a server, verified or not.
type Certificate struct {
	Subject string `msgpack:"subject" json:"subject"`
	Issuer  string `msgpack:"issuer" json:"issuer"`
	// DNSNames are at most MaxCertificateNames of them.
	DNSNames        []string `msgpack:"dns_names" json:"dns_names"`
	NotBeforeUnixMs int64    `msgpack:"not_before_unix_ms" json:"not_before_unix_ms"`
	NotAfterUnixMs  int64    `msgpack:"not_after_unix_ms" json:"not_after_unix_ms"`
	// DaysLeft until it expires; negative when it has.
	DaysLeft float64 `msgpack:"days_left" json:"days_left"`
}

type httpProbe struct {
	o    Options
	dial *dialer
}

func (p *httpProbe) run(parent context.Context, a *HTTPArgs) (Outcome, error) {
	ctx, cancel := withTimeoutMs(parent, a.TimeoutMs)
	defer cancel()
	t := &trip{ctx: ctx, dial: p.dial, args: a, phase: phaseHTTP}
	client, transport := p.client(t)
	defer func() {
		cancel()
		t.close()
		transport.CloseIdleConnections()
	}()
	req, err := p.request(ctx, t, a)
	if err != nil {
		return Outcome{}, refusef("http: request: %v", err)
	}
	began := time.Now()
	out := &HTTPOutput{}
	resp, err := client.Do(req)
	if err != nil {
		t.fill(out, began)
		return p.failed(parent, t, err, out)
	}
	body, err := p.read(resp, out)
	t.fill(out, began)
	describe(out, resp)
	if err != nil {
		return p.failed(parent, t, fmt.Errorf("reading the body: %w", err), out)
	}
	excerpt := body[:min(len(body), a.BodyExcerptBytes)]
	out.BodyExcerpt = cut(string(excerpt), MaxBodyExcerptBytes)
	if problems := checkResponse(a, out, body); len(problems) > 0 {
		return Outcome{Reason: "http: " + strings.Join(problems, "; "), Output: out}, nil
	}
	return Outcome{OK: true, Output: out}, nil
}

func (p *httpProbe) request(ctx context.Context, t *trip, a *HTTPArgs) (*http.Request, error) {
	method := a.Method
	if method == "" {
		method = http.MethodGet
	}
	var body io.Reader
	if a.Body != "" {
		body = strings.NewReader(a.Body)
	}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, t.trace()), method, a.URL, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", p.o.UserAgent)
	for name, value := range a.Headers {
		if strings.EqualFold(name, "host") {
			req.Host = value
			continue
		}
		req.Header.Set(name, value)
	}
	return req, nil
}

// read takes the body up to the limit.
func (p *httpProbe) read(resp *http.Response, out *HTTPOutput) ([]byte, error) {
	defer func() { _ = resp.Body.Close() }()
	var buf bytes.Buffer
	n, err := buf.ReadFrom(io.LimitReader(resp.Body, p.o.MaxBodyBytes+1))
	if n > p.o.MaxBodyBytes {
		out.Truncated = true
		n = p.o.MaxBodyBytes
		buf.Truncate(int(n))
		err = nil
	}
	out.Bytes = n
	if err == nil && !out.Truncated {
		sum := sha256.Sum256(buf.Bytes())
		out.BodySHA256 = hex.EncodeToString(sum[:])
	}
	return buf.Bytes(), err
}

// failed names the phase that an error belongs to, and keeps a certificate that was not accepted.
func (p *httpProbe) failed(parent context.Context, t *trip, err error, out *HTTPOutput) (Outcome, error) {
	var uerr *url.Error
	if errors.As(err, &uerr) {
		err = uerr.Err
	}
	var verify *tls.CertificateVerificationError
	if errors.As(err, &verify) && len(verify.UnverifiedCertificates) > 0 {
		out.Certificate = certificate(verify.UnverifiedCertificates[0])
		err = verify.Err
	}
	phase, _ := t.state()
	if errors.Is(err, errRedirect) {
		phase = phaseHTTP
		err = errors.New(strings.TrimPrefix(err.Error(), errRedirect.Error()+": "))
	}
	return failed(parent, phase, timedOut(t.ctx, err), out)
}

// fill copies the times; it may be called while the transport still works.
func (t *trip) fill(out *HTTPOutput, began time.Time) {
	_, h := t.state()
	out.RemoteAddr = h.remote
	set := func(to **float64, known bool, d time.Duration) {
		if known {
			ms := millis(d)
			*to = &ms
		}
	}
	set(&out.DNSMs, h.resolved, h.dns)
	set(&out.ConnectMs, h.remote != "", h.connect)
	set(&out.TLSMs, h.secured, h.tls)
	set(&out.FirstByteMs, h.responding, h.firstByte)
	out.TotalMs = millis(time.Since(began))
}

// describe copies what the response says about itself.
func describe(out *HTTPOutput, resp *http.Response) {
	out.Status, out.Protocol = resp.StatusCode, resp.Proto
	for r := resp.Request.Response; r != nil; r = r.Request.Response {
		out.Redirects++
	}
	if out.Redirects > 0 {
		u := *resp.Request.URL
		u.User = nil
		out.URL = cut(u.String(), MaxURLBytes)
	}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		out.Location = cut(resp.Header.Get("Location"), MaxURLBytes)
	}
	if resp.TLS != nil {
		out.TLSVersion = tls.VersionName(resp.TLS.Version)
		if len(resp.TLS.PeerCertificates) > 0 {
			out.Certificate = certificate(resp.TLS.PeerCertificates[0])
		}
	}
}

func certificate(c *x509.Certificate) *Certificate {
	const maxName = 1024 // a distinguished name has no limit of its own
	names := make([]string, 0, min(len(c.DNSNames), MaxCertificateNames))
	for _, n := range c.DNSNames[:min(len(c.DNSNames), MaxCertificateNames)] {
		names = append(names, cut(n, MaxHostBytes))
	}
	return &Certificate{
		Subject:         cut(c.Subject.String(), maxName),
		Issuer:          cut(c.Issuer.String(), maxName),
		DNSNames:        names,
		NotBeforeUnixMs: c.NotBefore.UnixMilli(),
		NotAfterUnixMs:  c.NotAfter.UnixMilli(),
		DaysLeft:        float64(int64(time.Until(c.NotAfter).Hours()/24*100)) / 100,
	}
}

// checkResponse lists what is not as expected.
func checkResponse(a *HTTPArgs, out *HTTPOutput, body []byte) []string {
	var bad []string
	want := a.Status
	if len(want) == 0 {
		want = defaultStatus
	}
	if !want.Has(out.Status) {
		bad = append(bad, fmt.Sprintf("status %d, expected %s", out.Status, want))
	}
	if a.MaxLatencyMs > 0 && out.TotalMs > float64(a.MaxLatencyMs) {
		bad = append(bad, fmt.Sprintf("took %.1f ms, more than max_latency_ms %d", out.TotalMs, a.MaxLatencyMs))
	}
	where := "the body"
	if out.Truncated {
		where = fmt.Sprintf("the first %d bytes of the body", out.Bytes)
	}
	if a.BodyContains != "" && !bytes.Contains(body, []byte(a.BodyContains)) {
		bad = append(bad, fmt.Sprintf("body_contains: %q is not in %s", cut(a.BodyContains, 100), where))
	}
	if a.BodyRegex != "" {
		re, err := regexp.Compile(a.BodyRegex)
		if err != nil || !re.Match(body) {
			bad = append(bad, fmt.Sprintf("body_regex: %q does not match %s", cut(a.BodyRegex, 100), where))
		}
	}
	if a.JSONPath != "" {
		if out.Truncated {
			bad = append(bad, fmt.Sprintf("json_path: the body is longer than the %d bytes that are read", out.Bytes))
		} else if s := checkJSONBody(body, a.JSONPath, a.JSONEquals); s != "" {
			bad = append(bad, s)
		}
	}
	return bad
}
