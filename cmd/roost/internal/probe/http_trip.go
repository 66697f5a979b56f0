package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"time"
)

// trip is one job's way through one or more requests. The transport calls it from its goroutines.
type trip struct {
	ctx  context.Context
	dial *dialer
	args *HTTPArgs
	open sync.WaitGroup // dials that run

	mu     sync.Mutex
	closed bool
	phase  string
	conns  []net.Conn
	hop    hop
}

// hop is what is known of the request that runs, or ran last.
type hop struct {
	remote                        string
	dns, connect, tls, firstByte  time.Duration
	tlsStart, ready               time.Time
	resolved, secured, responding bool
}

const (
	phaseDNS     = "dns"
	phaseConnect = "connect"
	phaseTLS     = "tls"
	phaseHTTP    = "http"
)

func (t *trip) update(phase string, change func(h *hop)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.phase = phase
	if change != nil {
		change(&t.hop)
	}
}

func (t *trip) state() (string, hop) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.phase, t.hop
}

// dialContext is the transport's way to a connection. It uses the job's context: the transport's own
// may outlive the request.
func (t *trip) dialContext(_ context.Context, network, address string) (net.Conn, error) {
	if !t.enter() {
		return nil, context.Canceled
	}
	defer t.open.Done()
	t.update(phaseDNS, func(h *hop) { *h = hop{} })
	host, port, err := splitHostPort(address)
	if err != nil {
		return nil, &Refused{Reason: err.Error()}
	}
	began := time.Now()
	addrs, err := t.dial.resolve(t.ctx, host, t.args.IPVersion)
	if err != nil {
		return nil, err
	}
	t.update(phaseConnect, func(h *hop) {
		if _, isLiteral := literal(host); !isLiteral {
			h.resolved, h.dns = true, time.Since(began)
		}
	})
	c, took, err := t.dial.connect(t.ctx, network, host, addrs, port)
	if err != nil {
		return nil, err
	}
	t.update(phaseHTTP, func(h *hop) { h.connect, h.remote, h.ready = took, c.RemoteAddr().String(), time.Now() })
	t.mu.Lock()
	t.conns = append(t.conns, c)
	t.mu.Unlock()
	return c, nil
}

// enter counts a dial, unless the job is over: the transport may start one late.
func (t *trip) enter() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.open.Add(1)
	}
	return !t.closed
}

// close ends everything that the job has opened; its context is done by then.
func (t *trip) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.open.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.conns {
		_ = c.Close()
	}
}

func (t *trip) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		TLSHandshakeStart: func() { t.update(phaseTLS, func(h *hop) { h.tlsStart = time.Now() }) },
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
			if err != nil {
				return // the phase stays: this is where it ends
			}
			t.update(phaseHTTP, func(h *hop) {
				h.secured, h.ready = true, time.Now()
				h.tls = h.ready.Sub(h.tlsStart)
			})
		},
		GotFirstResponseByte: func() {
			t.update(phaseHTTP, func(h *hop) { h.responding, h.firstByte = true, time.Since(h.ready) })
		},
	}
}

// client has a transport of its own, without proxies, without cookies, and with a new connection for
// each request: the times are then those of a first visit.
func (p *httpProbe) client(t *trip) (*http.Client, *http.Transport) {
	tr := &http.Transport{
		Proxy:       nil,
		DialContext: t.dialContext,
		TLSClientConfig: &tls.Config{
			RootCAs:            p.o.RootCAs,
			InsecureSkipVerify: t.args.InsecureSkipVerify, //nolint:gosec // the job asks for it
		},
		DisableKeepAlives:      true,
		DisableCompression:     true, // bytes and excerpts are those of the wire
		ForceAttemptHTTP2:      true,
		MaxResponseHeaderBytes: MaxResponseHeaderBytes,
	}
	return &http.Client{Transport: tr, CheckRedirect: t.checkRedirect}, tr
}

var errRedirect = errors.New("redirect refused")

// checkRedirect decides about a redirect; whether its target may be dialled is decided there.
func (t *trip) checkRedirect(req *http.Request, via []*http.Request) error {
	if !t.args.FollowRedirects {
		return http.ErrUseLastResponse
	}
	if len(via) > MaxRedirects {
		return fmt.Errorf("%w: more than %d redirects", errRedirect, MaxRedirects)
	}
	if req.URL.Scheme != "http" && req.URL.Scheme != "https" {
		return fmt.Errorf("%w: redirect to scheme %q, which is not http or https", errRedirect, cut(req.URL.Scheme, 20))
	}
	first := via[0].URL
	sameHost := strings.EqualFold(first.Hostname(), req.URL.Hostname())
	sameOrigin := first.Scheme == req.URL.Scheme && strings.EqualFold(first.Host, req.URL.Host)
	upgraded := sameHost && first.Scheme == "http" && req.URL.Scheme == "https"
	if !sameOrigin && !upgraded {
		// Headers may carry secrets of the first origin.
		for name := range t.args.Headers {
			n := strings.ToLower(name)
			if n != "user-agent" && !strings.HasPrefix(n, "accept") {
				req.Header.Del(name)
			}
		}
		req.Host = ""
	}
	return nil
}
