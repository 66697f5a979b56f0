package probe

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func httpHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "all is well") })
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %s|%s|%s|%s|%s", r.Method, r.Host, r.Header.Get("X-Key"), r.UserAgent(), r.Header.Get("Accept-Encoding"), b)
	})
	mux.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.PathValue("code"))
		w.WriteHeader(code)
	})
	mux.HandleFunc("/json", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `{"status":"up","n":3,"big":9007199254740993,"f":1.50,"null":null,"parts":[{"name":"db","ok":true},{"name":"mq","ok":false}]}`)
	})
	mux.HandleFunc("/big", func(w http.ResponseWriter, r *http.Request) {
		for range 64 {
			_, _ = w.Write(make([]byte, 1<<10))
		}
		_, _ = io.WriteString(w, "the end")
	})
	mux.HandleFunc("/bytes", func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("a\xff\xfeb" + strings.Repeat("é", 20<<10)))
	})
	mux.HandleFunc("/redirect", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Query().Get("to"), http.StatusFound)
	})
	mux.HandleFunc("/headers", func(w http.ResponseWriter, r *http.Request) {
		for i := range 1000 {
			w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 200))
		}
	})
	mux.HandleFunc("/broken", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "short")
	})
	return mux
}

func TestHTTPChecks(t *testing.T) {
	srv := httptest.NewServer(httpHandler())
	defer srv.Close()
	o := Options{AllowPrivate: true, MaxBodyBytes: 16 << 10}
	up := func(v any) HTTPArgs { return HTTPArgs{URL: "/json", JSONPath: "$.status", JSONEquals: v} }
	for name, tc := range map[string]struct {
		args   HTTPArgs
		reason string // empty: holds
	}{
		"plain":              {HTTPArgs{URL: "/"}, ""},
		"head":               {HTTPArgs{URL: "/", Method: "HEAD"}, ""},
		"redirect is a 3xx":  {HTTPArgs{URL: "/redirect?to=/"}, ""},
		"default status":     {HTTPArgs{URL: "/status/503"}, "http: status 503, expected 200-399"},
		"one status":         {HTTPArgs{URL: "/status/404", Status: StatusSet{{404, 404}}}, ""},
		"list of status":     {HTTPArgs{URL: "/status/500", Status: StatusSet{{200, 200}, {400, 499}}}, "http: status 500, expected 200, 400-499"},
		"contains":           {HTTPArgs{URL: "/", BodyContains: "is well"}, ""},
		"contains not":       {HTTPArgs{URL: "/", BodyContains: "is bad"}, `http: body_contains: "is bad" is not in the body`},
		"beyond the limit":   {HTTPArgs{URL: "/big", BodyContains: "the end"}, `http: body_contains: "the end" is not in the first 16384 bytes of the body`},
		"regex":              {HTTPArgs{URL: "/", BodyRegex: "^all (is|was) well$"}, ""},
		"regex not":          {HTTPArgs{URL: "/", BodyRegex: "^well"}, `http: body_regex: "^well" does not match the body`},
		"two things":         {HTTPArgs{URL: "/status/500", BodyContains: "x"}, `http: status 500, expected 200-399; body_contains: "x" is not in the body`},
		"json exists":        {up(nil), ""},
		"json string":        {up("up"), ""},
		"json string not":    {up("down"), `http: json_path: $.status is "up", expected "down"`},
		"json other type":    {up(1), `http: json_path: $.status is "up", expected 1`},
		"json missing":       {HTTPArgs{URL: "/json", JSONPath: "$.none"}, "http: json_path: $.none selects nothing"},
		"json number":        {HTTPArgs{URL: "/json", JSONPath: "$.n", JSONEquals: 3.0}, ""},
		"json float":         {HTTPArgs{URL: "/json", JSONPath: "$.f", JSONEquals: 1.5}, ""},
		"json exact":         {HTTPArgs{URL: "/json", JSONPath: "$.big", JSONEquals: int64(9007199254740993)}, ""},
		"json exact not":     {HTTPArgs{URL: "/json", JSONPath: "$.big", JSONEquals: int64(9007199254740992)}, "http: json_path: $.big is 9007199254740993, expected 9007199254740992"},
		"json any node":      {HTTPArgs{URL: "/json", JSONPath: "$..ok", JSONEquals: false}, ""},
		"json no node":       {HTTPArgs{URL: "/json", JSONPath: "$..ok", JSONEquals: "x"}, `http: json_path: $..ok is true, expected "x" (the first of 2 nodes, none equals)`},
		"json filter":        {HTTPArgs{URL: "/json", JSONPath: "$.parts[?@.name=='db'].ok", JSONEquals: true}, ""},
		"json null filter":   {HTTPArgs{URL: "/json", JSONPath: "$[?@ == null]"}, ""},
		"json object":        {HTTPArgs{URL: "/json", JSONPath: "$.parts[0]", JSONEquals: map[string]any{"ok": true, "name": "db"}}, ""},
		"json list":          {HTTPArgs{URL: "/json", JSONPath: "$.parts", JSONEquals: []any{map[string]any{"ok": true, "name": "db"}}}, `http: json_path: $.parts is [{"name":"db","ok":true},{"name":"mq","ok":false}], expected [{"name":"db","ok":true}]`},
		"json not json":      {HTTPArgs{URL: "/", JSONPath: "$.a"}, "http: json_path: the body is not JSON: invalid character 'a' looking for beginning of value"},
		"json cut":           {HTTPArgs{URL: "/big", JSONPath: "$.a"}, "http: json_path: the body is longer than the 16384 bytes that are read"},
		"closed in the body": {HTTPArgs{URL: "/broken"}, "http: reading the body: unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.args.URL = srv.URL + tc.args.URL
			out := run(t, o, "http", tc.args)
			require.Equal(t, tc.reason, out.Reason)
			require.NotZero(t, out.Output.(*HTTPOutput).Status)
		})
	}
	require.Contains(t, run(t, o, "http", HTTPArgs{URL: srv.URL + "/headers"}).Reason, "server response headers exceeded 65536 bytes")
}

func TestHTTPOutput(t *testing.T) {
	srv := httptest.NewServer(httpHandler())
	defer srv.Close()
	z := newZone(t, map[string][][]string{"web.example. A": {{"127.0.0.1"}}})
	o := Options{AllowPrivate: true, Resolver: z.resolver(), UserAgent: "probe-test"}
	url := "http://web.example:" + portOf(t, srv.Listener.Addr().String())
	t.Setenv("HTTP_PROXY", "http://"+closedTCP(t))
	res := run(t, o, "http", HTTPArgs{
		URL: url + "/echo", Method: "POST", Body: "hello", BodyExcerptBytes: 1024,
		Headers: map[string]string{"X-Key": "k", "Host": "virtual.example"},
	})
	require.True(t, res.OK, res.Reason)
	out := res.Output.(*HTTPOutput)
	require.Equal(t, "POST virtual.example|k|probe-test||hello", out.BodyExcerpt)
	require.Equal(t, 200, out.Status)
	require.Equal(t, "HTTP/1.1", out.Protocol)
	require.Equal(t, srv.Listener.Addr().String(), out.RemoteAddr)
	require.EqualValues(t, len(out.BodyExcerpt), out.Bytes)
	require.False(t, out.Truncated)
	require.Len(t, out.BodySHA256, 64)
	require.NotNil(t, out.DNSMs)
	require.NotNil(t, out.ConnectMs)
	require.NotNil(t, out.FirstByteMs)
	require.Nil(t, out.TLSMs)
	require.Nil(t, out.Certificate)
	require.GreaterOrEqual(t, out.TotalMs, *out.DNSMs)
	require.GreaterOrEqual(t, out.TotalMs, *out.FirstByteMs)

	out = run(t, o, "http", HTTPArgs{URL: srv.URL}).Output.(*HTTPOutput)
	require.Nil(t, out.DNSMs, "an address needs no lookup")
	require.Empty(t, out.BodyExcerpt)

	out = run(t, o, "http", HTTPArgs{URL: srv.URL + "/bytes", BodyExcerptBytes: MaxBodyExcerptBytes}).Output.(*HTTPOutput)
	require.LessOrEqual(t, len(out.BodyExcerpt), MaxBodyExcerptBytes)
	require.True(t, strings.HasPrefix(out.BodyExcerpt, "a\uFFFDb"), out.BodyExcerpt[:10])

	out = run(t, Options{AllowPrivate: true, MaxBodyBytes: 1000}, "http", HTTPArgs{URL: srv.URL + "/big"}).Output.(*HTTPOutput)
	require.EqualValues(t, 1000, out.Bytes)
	require.True(t, out.Truncated)
	require.Empty(t, out.BodySHA256)
}

func TestHTTPRedirects(t *testing.T) {
	srv := httptest.NewServer(httpHandler())
	defer srv.Close()
	other := httptest.NewServer(httpHandler())
	defer other.Close()
	key := map[string]string{"X-Key": "secret", "Authorization": "Bearer secret", "Host": "virtual.example", "Accept": "x/y"}
	args := HTTPArgs{URL: srv.URL + "/redirect?to=/redirect%3Fto=/echo", Headers: key, FollowRedirects: true, BodyExcerptBytes: 100}
	out := run(t, private, "http", args).Output.(*HTTPOutput)
	require.Equal(t, 2, out.Redirects)
	require.Equal(t, srv.URL[len("http:"):], strings.TrimSuffix(out.URL[len("http:"):], "/echo"))
	require.Equal(t, "GET virtual.example|secret|roost-node||", out.BodyExcerpt)

	args.URL = srv.URL + "/redirect?to=" + other.URL + "/echo"
	out = run(t, private, "http", args).Output.(*HTTPOutput)
	require.Equal(t, 1, out.Redirects)
	require.Equal(t, "GET "+other.Listener.Addr().String()+"||roost-node||", out.BodyExcerpt, "headers stay with their origin")
	require.Equal(t, other.Listener.Addr().String(), out.RemoteAddr)

	args.FollowRedirects = false
	out = run(t, private, "http", args).Output.(*HTTPOutput)
	require.Equal(t, 302, out.Status)
	require.Equal(t, other.URL+"/echo", out.Location)
	require.Zero(t, out.Redirects)
}

func TestHTTPTLS(t *testing.T) {
	srv := httptest.NewUnstartedServer(httpHandler())
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())

	res := run(t, Options{AllowPrivate: true, RootCAs: pool}, "http", HTTPArgs{URL: srv.URL, BodyContains: "well"})
	require.True(t, res.OK, res.Reason)
	out := res.Output.(*HTTPOutput)
	require.Equal(t, "HTTP/2.0", out.Protocol)
	require.Equal(t, "TLS 1.3", out.TLSVersion)
	require.NotNil(t, out.TLSMs)
	require.NotNil(t, out.FirstByteMs)
	require.Contains(t, out.Certificate.DNSNames, "example.com")
	require.Equal(t, srv.Certificate().NotAfter.UnixMilli(), out.Certificate.NotAfterUnixMs)
	require.Equal(t, srv.Certificate().Subject.String(), out.Certificate.Subject)
	require.Equal(t, srv.Certificate().Issuer.String(), out.Certificate.Issuer)
	require.Positive(t, out.Certificate.DaysLeft)

	res = run(t, private, "http", HTTPArgs{URL: srv.URL})
	require.Equal(t, "tls: x509: certificate signed by unknown authority", res.Reason)
	out = res.Output.(*HTTPOutput)
	require.Nil(t, out.TLSMs)
	require.NotNil(t, out.ConnectMs)
	require.NotNil(t, out.Certificate, "what was not accepted is shown")

	res = run(t, private, "http", HTTPArgs{URL: srv.URL, InsecureSkipVerify: true})
	require.True(t, res.OK, res.Reason)
	require.NotNil(t, res.Output.(*HTTPOutput).Certificate)

	plain := httptest.NewServer(httpHandler())
	defer plain.Close()
	res = run(t, private, "http", HTTPArgs{URL: "https" + strings.TrimPrefix(plain.URL, "http")})
	require.Equal(t, "tls: http: server gave HTTP response to HTTPS client", res.Reason)
}

// A body that is not read to its end must not leave an HTTP/2 connection behind; goleak sees it.
func TestHTTP2BodyIsCut(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 32<<10)); err != nil {
				return
			}
		}
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	out := run(t, private, "http", HTTPArgs{URL: srv.URL, InsecureSkipVerify: true})
	require.True(t, out.OK, out.Reason)
	require.True(t, out.Output.(*HTTPOutput).Truncated)
	require.EqualValues(t, DefaultMaxBodyBytes, out.Output.(*HTTPOutput).Bytes)
}

func expiredCertificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: strings.Repeat("long", 1000)},
		NotBefore: time.Now().Add(-72 * time.Hour), NotAfter: time.Now().Add(-48 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	for i := range 500 {
		tmpl.DNSNames = append(tmpl.DNSNames, fmt.Sprintf("%d.%s.example", i, strings.Repeat("a", 60)))
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func TestHTTPExpiredCertificate(t *testing.T) {
	cert := expiredCertificate(t)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("\xff", 64<<10))
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	srv.StartTLS()
	defer srv.Close()
	pool := x509.NewCertPool()
	pool.AddCert(cert.Leaf)
	res := run(t, Options{AllowPrivate: true, RootCAs: pool}, "http", HTTPArgs{URL: srv.URL})
	require.Contains(t, res.Reason, "tls: x509: certificate has expired or is not yet valid")
	require.InDelta(t, -2, res.Output.(*HTTPOutput).Certificate.DaysLeft, 0.1)
	require.Len(t, res.Output.(*HTTPOutput).Certificate.DNSNames, MaxCertificateNames)
	// The largest output that there is: run checks its size.
	run(t, private, "http", HTTPArgs{URL: srv.URL, InsecureSkipVerify: true, BodyExcerptBytes: MaxBodyExcerptBytes})
}

func TestHTTPFailuresNamePhase(t *testing.T) {
	z := newZone(t, map[string][][]string{"web.example. A": {{"127.0.0.1"}}})
	o := Options{AllowPrivate: true, Resolver: z.resolver()}
	closed := closedTCP(t)
	require.Equal(t, "connect: "+closed+": connection refused", run(t, o, "http", HTTPArgs{URL: "http://" + closed}).Reason)
	require.Equal(t, "connect: "+closed+": connection refused", run(t, o, "http", HTTPArgs{URL: "https://web.example:" + portOf(t, closed)}).Reason)
	require.Equal(t, "dns: none.example: no such host", run(t, o, "http", HTTPArgs{URL: "http://user:pass@none.example/"}).Reason)
	require.Equal(t, "dns: 127.0.0.1 has no IPv6 address", run(t, o, "http", HTTPArgs{URL: "http://127.0.0.1/", IPVersion: 6}).Reason)
	silent, _ := listenTCP(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	require.Equal(t, "http: no answer within 50 ms", run(t, o, "http", HTTPArgs{URL: "http://" + silent, TimeoutMs: 50}).Reason)
	require.Equal(t, "tls: no answer within 50 ms", run(t, o, "http", HTTPArgs{URL: "https://" + silent, TimeoutMs: 50}).Reason)
	garbage, _ := listenTCP(t, func(c net.Conn) { _, _ = io.WriteString(c, "\x00\x01 nonsense\r\n\r\n") })
	require.Contains(t, run(t, o, "http", HTTPArgs{URL: "http://" + garbage}).Reason, "http: ")
	hangup, _ := listenTCP(t, func(c net.Conn) {})
	require.Contains(t, run(t, o, "http", HTTPArgs{URL: "http://" + hangup}).Reason, "http: ")
	require.Contains(t, run(t, o, "http", HTTPArgs{URL: "https://" + hangup}).Reason, "tls: ")
}

func TestHTTPLatency(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-r.Context().Done():
		}
	}))
	defer srv.Close()
	out := run(t, private, "http", HTTPArgs{URL: srv.URL, MaxLatencyMs: 1})
	require.Contains(t, out.Reason, "more than max_latency_ms 1")
	require.GreaterOrEqual(t, *out.Output.(*HTTPOutput).FirstByteMs, 19.0, "the server waits for 20 ms")
	require.True(t, run(t, private, "http", HTTPArgs{URL: srv.URL, MaxLatencyMs: MaxTimeoutMs}).OK)
}

func TestHTTPEndsWithContext(t *testing.T) {
	reached := make(chan struct{}, 10)
	note := func(r *http.Request) { reached <- struct{}{}; <-r.Context().Done() }
	for name, h := range map[string]http.HandlerFunc{
		"no header": func(w http.ResponseWriter, r *http.Request) { note(r) },
		"no body": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush()
			note(r)
		},
		"in a redirect": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/" {
				http.Redirect(w, r, "/next", http.StatusFound)
				return
			}
			note(r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(h)
			defer srv.Close()
			endsWithContext(t, private, "http", HTTPArgs{URL: srv.URL, FollowRedirects: true}, reached)
		})
	}
	t.Run("in the lookup", func(t *testing.T) {
		endsWithContext(t, Options{Resolver: silentResolver{reached}}, "http", HTTPArgs{URL: "http://a.example"}, reached)
		endsWithContext(t, Options{Resolver: silentResolver{reached}}, "tcp", TCPArgs{Address: "a.example:1"}, reached)
	})
}

// A new connection for each job, also to the same server.
func TestHTTPConnectionsAreNotReused(t *testing.T) {
	var conns atomic.Int32
	srv := httptest.NewUnstartedServer(httpHandler())
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	k := kindOf(t, private, "http")
	for range 3 {
		out, err := k.Run(context.Background(), binder(t, HTTPArgs{URL: srv.URL}))
		require.NoError(t, err)
		require.True(t, out.OK)
		require.NotNil(t, out.Output.(*HTTPOutput).ConnectMs)
	}
	require.EqualValues(t, 3, conns.Load())
}

func TestHTTPArgsValidate(t *testing.T) {
	many := make(map[string]string)
	for i := range MaxHeaders + 1 {
		many[fmt.Sprint("X-", i)] = ""
	}
	for want, a := range map[string]HTTPArgs{
		"url: has no host":                       {URL: "http:///x"},
		`url: scheme ""`:                         {URL: "example.com"},
		`url: scheme "ftp" is not http or https`: {URL: "ftp://example.com"},
		`url: port "65536" is not`:               {URL: "http://a:65536"},
		"url: longer than":                       {URL: "http://a/" + strings.Repeat("x", MaxURLBytes)},
		"url: invalid port":                      {URL: "http://user:secret@a:b/"},
		`method: "get" is not one of GET, HEAD`:  {URL: "http://a", Method: "get"},
		"headers: 65 of them, more than 64":      {URL: "http://a", Headers: many},
		`headers: "a b" is not a header's name`:  {URL: "http://a", Headers: map[string]string{"a b": ""}},
		"headers: the value of A has a control":  {URL: "http://a", Headers: map[string]string{"A": "x\r\nB: y"}},
		"headers: Content-Length is set":         {URL: "http://a", Headers: map[string]string{"Content-Length": "1"}},
		"headers: more than 8192 bytes":          {URL: "http://a", Headers: map[string]string{"A": strings.Repeat("x", 9000)}},
		"body: 65537 bytes, more than 65536":     {URL: "http://a", Body: strings.Repeat("x", MaxRequestBodyBytes+1)},
		"status: 99 is not a code":               {URL: "http://a", Status: StatusSet{{99, 99}}},
		"status: 300-200 is not":                 {URL: "http://a", Status: StatusSet{{300, 200}}},
		"status: 33 entries":                     {URL: "http://a", Status: make(StatusSet, 33)},
		"body_contains: longer":                  {URL: "http://a", BodyContains: strings.Repeat("x", MaxExpectBytes+1)},
		"body_regex: error parsing":              {URL: "http://a", BodyRegex: "("},
		"body_regex: longer":                     {URL: "http://a", BodyRegex: strings.Repeat("x", MaxExpectBytes+1)},
		"json_equals: needs json_path":           {URL: "http://a", JSONEquals: 1},
		"json_path: jsonpath":                    {URL: "http://a", JSONPath: "status"},
		"json_path: more than one descendant":    {URL: "http://a", JSONPath: "$..a..b"},
		`json_path: "$" within a filter`:         {URL: "http://a", JSONPath: "$[?@.a == $.b]"},
		"json_path: longer":                      {URL: "http://a", JSONPath: "$." + strings.Repeat("x", MaxJSONPathBytes)},
		"json_equals: a []uint8 is not a JSON":   {URL: "http://a", JSONPath: "$", JSONEquals: []any{[]byte("x")}},
		"body_excerpt_bytes: 16385 is not":       {URL: "http://a", BodyExcerptBytes: MaxBodyExcerptBytes + 1},
		"timeout_ms: -1 is not within 0 and":     {URL: "http://a", TimeoutMs: -1},
		"max_latency_ms: 600001 is not":          {URL: "http://a", MaxLatencyMs: MaxTimeoutMs + 1},
		"ip_version: 5 is not 0 (either), 4":     {URL: "http://a", IPVersion: 5},
	} {
		err := a.Validate()
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "secret")
		require.Contains(t, refused(t, private, "http", a), "http: ")
	}
	require.NoError(t, (&HTTPArgs{URL: "http://a", JSONPath: `$['a..b..c$'].x[?@.y == "$.."]`}).Validate())
}
