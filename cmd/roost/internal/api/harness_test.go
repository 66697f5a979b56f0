package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/cmd/roost/internal/api/apitest"
)

// seen is every endpoint and status of answers that were checked against the document, over all tests.
var seen sync.Map

func TestMain(m *testing.M) {
	flag.Parse()
	openapi3filter.RegisterBodyDecoder("text/event-stream", decodeEvents)
	openapi3filter.RegisterBodyDecoder("application/openmetrics-text", openapi3filter.PlainBodyDecoder)
	code := m.Run()
	if code == 0 && flag.Lookup("test.run").Value.String() == "" {
		code = checkCoverage()
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// checkCoverage fails when the document promises an answer that no test has got.
func checkCoverage() int {
	s, err := api.New(api.Config{}, apitest.New(nil), nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	b, err := s.Document()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	doc, err := openapi3.NewLoader().LoadFromData(b)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := 0
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			for status := range op.Responses.Map() {
				if _, ok := seen.Load(method + " " + path + " " + status); !ok {
					fmt.Fprintf(os.Stderr, "no test gets %s %s %s, which the document promises\n", method, path, status)
					code = 1
				}
			}
		}
	}
	return code
}

// decodeEvents makes of a stream of events what the document says: a list of objects.
func decodeEvents(body io.Reader, _ http.Header, _ *openapi3.SchemaRef, _ openapi3filter.EncodingFn) (any, error) {
	b, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	events := []any{}
	for block := range strings.SplitSeq(string(b), "\n\n") {
		ev := map[string]any{}
		for line := range strings.SplitSeq(block, "\n") {
			if line == "" || line[0] == ':' {
				continue
			}
			name, value, _ := strings.Cut(line, ": ")
			switch name {
			case "id":
				n, err := strconv.ParseFloat(value, 64)
				if err != nil {
					return nil, err
				}
				ev[name] = n
			case "data":
				var data any
				if err := json.Unmarshal([]byte(value), &data); err != nil {
					return nil, err
				}
				ev[name] = data
			default:
				ev[name] = value
			}
		}
		if len(ev) > 0 {
			events = append(events, ev)
		}
	}
	return events, nil
}

// harness is a server on loopback with a client that checks everything against the document served.
type harness struct {
	t       *testing.T
	backend *apitest.Backend
	server  *api.Server
	base    string
	router  routers.Router
	doc     *openapi3.T
	client  *http.Client
}

func nodes() []api.NodeView {
	kinds := []string{"dns", "http"}
	return []api.NodeView{
		{ID: "au-1", Country: "AU", City: "Sydney", ASN: 1221, Platform: "linux/arm64", Tags: []string{"home"}, Kinds: kinds, Member: "test", Incarnation: 3, ConnectedMs: 1_700_000_000_000},
		{ID: "au-2", Country: "AU", City: "Perth", ASN: 4_200_000_000, Platform: "linux/amd64", Kinds: kinds, Member: "test"},
		{ID: "de-1", Country: "DE", City: "Berlin", ASN: 3320, Platform: "linux/amd64", Tags: []string{"home"}, Kinds: []string{"http"}, Member: "test"},
		{ID: "rack/4", Member: "test"},
	}
}

func start(t *testing.T, cfg api.Config, b *apitest.Backend) *harness {
	t.Helper()
	h := startWith(t, cfg, b, zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel)))
	h.backend = b
	return h
}

func startWith(t *testing.T, cfg api.Config, b api.Backend, log *zap.Logger) *harness {
	t.Helper()
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	s, err := api.New(cfg, b, log)
	require.NoError(t, err)
	require.NoError(t, s.Start(t.Context()))
	h := &harness{t: t, server: s, base: "http://" + s.Addr().String()}
	h.client = &http.Client{Transport: &checked{h: h, next: &http.Transport{}}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(func() {
		h.client.Transport.(*checked).next.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, s.Close(ctx))
	})
	h.load(cfg.Token)
	return h
}

func (h *harness) load(token string) {
	req, err := http.NewRequest(http.MethodGet, h.base+"/openapi.json", nil)
	require.NoError(h.t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := (&http.Client{Transport: h.client.Transport.(*checked).next}).Do(req)
	require.NoError(h.t, err)
	b, err := io.ReadAll(res.Body)
	require.NoError(h.t, err)
	require.NoError(h.t, res.Body.Close())
	require.Equal(h.t, http.StatusOK, res.StatusCode, "%s", b)
	h.doc, err = openapi3.NewLoader().LoadFromData(b)
	require.NoError(h.t, err)
	require.NoError(h.t, h.doc.Validate(h.t.Context(), openapi3.EnableExamplesValidation()))
	h.doc.Servers = openapi3.Servers{{URL: h.base}}
	h.router, err = gorillamux.NewRouter(h.doc)
	require.NoError(h.t, err)
}

// checked checks each answer against the document, and each request that was not refused.
type checked struct {
	h    *harness
	next *http.Transport
}

func (c *checked) RoundTrip(r *http.Request) (*http.Response, error) {
	var sent []byte
	if r.Body != nil {
		var err error
		if sent, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
		r.Body = io.NopCloser(bytes.NewReader(sent))
	}
	res, err := c.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	known := r.Clone(r.Context())
	known.Host = "" // some tests lie about it
	known.Body = io.NopCloser(bytes.NewReader(sent))
	route, params, err := c.h.router.FindRoute(known)
	if err != nil {
		return res, nil // not an endpoint of the document; the test has its own opinion
	}
	in := &openapi3filter.RequestValidationInput{Request: known, PathParams: params, Route: route, Options: &openapi3filter.Options{
		AuthenticationFunc:    openapi3filter.NoopAuthenticationFunc,
		IncludeResponseStatus: true,
	}}
	res.Body = &checkedBody{ReadCloser: res.Body, done: func(got []byte) {
		c.h.t.Helper()
		seen.Store(r.Method+" "+route.Path+" "+strconv.Itoa(res.StatusCode), true)
		what := fmt.Sprintf("%s %s: %d %s", r.Method, r.URL, res.StatusCode, got)
		if err := openapi3filter.ValidateRequest(r.Context(), in); res.StatusCode < 400 {
			require.NoError(c.h.t, err, "the document refuses a request that was served: %s", what)
		}
		require.NoError(c.h.t, openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
			RequestValidationInput: in, Status: res.StatusCode, Header: res.Header, Options: in.Options,
			Body: io.NopCloser(bytes.NewReader(got)),
		}), what)
	}}
	return res, nil
}

type checkedBody struct {
	io.ReadCloser
	got  bytes.Buffer
	once sync.Once
	done func([]byte)
}

func (b *checkedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.got.Write(p[:n])
	return n, err
}

func (b *checkedBody) Close() error {
	_, _ = io.Copy(&b.got, b.ReadCloser)
	err := b.ReadCloser.Close()
	b.once.Do(func() { b.done(b.got.Bytes()) })
	return err
}

// do sends a request and returns the answer with its body read.
func (h *harness) do(method, path, body string, headers ...string) (*http.Response, []byte) {
	h.t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, h.base+path, r)
	require.NoError(h.t, err)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for pair := range slices.Chunk(headers, 2) {
		if pair[0] == "Host" {
			req.Host = pair[1]
		}
		req.Header.Set(pair[0], pair[1])
	}
	res, err := h.client.Do(req)
	require.NoError(h.t, err)
	b, err := io.ReadAll(res.Body)
	require.NoError(h.t, err)
	require.NoError(h.t, res.Body.Close())
	return res, b
}

// get decodes the answer to a GET.
func get[T any](h *harness, path string) T {
	h.t.Helper()
	res, b := h.do(http.MethodGet, path, "")
	require.Equal(h.t, http.StatusOK, res.StatusCode, "%s", b)
	var v T
	require.NoError(h.t, json.Unmarshal(b, &v))
	return v
}

type problem struct {
	Type, Title, Detail string
	Rebuilding          []api.RebuildingView
	MissingMembers      []string `json:"missing_members"`
	Status              int
	Errors              []struct {
		Location, Message string
		Value             any
	}
}

func problemOf(t *testing.T, res *http.Response, b []byte) problem {
	t.Helper()
	require.Equal(t, "application/problem+json", res.Header.Get("Content-Type"), "%s", b)
	var p problem
	require.NoError(t, json.Unmarshal(b, &p))
	require.Equal(t, res.StatusCode, p.Status)
	return p
}

// operation returns what the document says of a request.
func (h *harness) operation(method, path string) *openapi3.Operation {
	h.t.Helper()
	req, err := http.NewRequest(method, h.base+path, nil)
	require.NoError(h.t, err)
	route, _, err := h.router.FindRoute(req)
	require.NoError(h.t, err)
	return route.Operation
}
