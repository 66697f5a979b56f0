// Package client talks to the HTTP API of a Roost member. It uses the types of package api, and may be
// used from any goroutine.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/roost-server/roost/cmd/roost/internal/api"
)

// maxBodyBytes caps an answer: a job with the most results that a member shows.
const maxBodyBytes = 64 << 20

// Client of one member's API.
type Client struct {
	base  *url.URL
	token string
	http  *http.Client
}

// New makes a client for the API at base, such as http://127.0.0.1:7480. The token may be empty.
func New(base, token string) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("API address %q is not a URL such as http://%s", base, api.DefaultListen)
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	return &Client{base: u, token: token, http: &http.Client{
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			TLSHandshakeTimeout:   5 * time.Second,
			ResponseHeaderTimeout: 30 * time.Second,
			IdleConnTimeout:       time.Minute,
			ForceAttemptHTTP2:     true,
		},
		// A redirect would take the token elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Close closes connections that are idle.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Unreachable is an error before any answer came.
type Unreachable struct {
	Base string // where the API was looked for
	Err  error
}

// Error implements error.
func (e *Unreachable) Error() string {
	return fmt.Sprintf("the API at %s cannot be reached: %v", e.Base, e.Err)
}

// Unwrap returns the cause.
func (e *Unreachable) Unwrap() error { return e.Err }

// Problem is an answer of the API that says what is wrong (RFC 9457).
type Problem struct {
	Type       string        `json:"type"` // such as api.ProblemRebuilding; may be empty
	Status     int           `json:"status"`
	Title      string        `json:"title"`
	Detail     string        `json:"detail"`
	Errors     []ProblemItem `json:"errors"`
	RetryAfter time.Duration `json:"-"` // 0 when the API did not say
	// Rebuilding is how far the partitions are, with the type api.ProblemRebuilding.
	Rebuilding []api.RebuildingView `json:"rebuilding"`
	// MissingMembers did not answer, with the type api.ProblemMissingMembers.
	MissingMembers []string `json:"missing_members"`
}

// ProblemItem is one of the things that are wrong.
type ProblemItem struct {
	Location string `json:"location"` // such as body.target.node
	Message  string `json:"message"`
}

// Error implements error.
func (p *Problem) Error() string {
	text := p.Detail
	if text == "" {
		text = fmt.Sprintf("HTTP status %d %s", p.Status, p.Title)
	}
	parts := make([]string, 0, len(p.Errors))
	for _, e := range p.Errors {
		where := strings.TrimPrefix(e.Location, "body.")
		if where != "" {
			where += ": "
		}
		parts = append(parts, where+e.Message)
	}
	if len(parts) > 0 {
		text += ": " + strings.Join(parts, "; ")
	}
	return text
}

// IsNotFound is whether the API said that there is no such thing.
func IsNotFound(err error) bool {
	var p *Problem
	return errors.As(err, &p) && p.Status == http.StatusNotFound
}

// IsEnded is whether the API said that the job has ended already, so that there is nothing to look at
// or to cancel any more.
func IsEnded(err error) bool {
	var p *Problem
	return errors.As(err, &p) && p.Type == api.ProblemEnded
}

// IsRebuilding is whether what was asked for may be in partitions that are being rebuilt. The problem
// tells how far they are.
func IsRebuilding(err error) (*Problem, bool) {
	var p *Problem
	ok := errors.As(err, &p) && p.Type == api.ProblemRebuilding
	return p, ok
}

// Submit submits a job and returns when the member has accepted it. One whose id is known already is
// not submitted: the error is an [*api.Duplicate] with the first job.
func (c *Client) Submit(ctx context.Context, job *api.JobRequest) (api.Accepted, error) {
	b, err := json.Marshal(job)
	if err != nil {
		return api.Accepted{}, fmt.Errorf("job: %w", err)
	}
	var answer struct {
		api.Known
		Key string `json:"key"`
	}
	if err := c.call(ctx, http.MethodPost, "/v1/jobs", b, &answer); err != nil {
		return api.Accepted{}, err
	}
	if answer.Duplicate {
		return api.Accepted{}, &api.Duplicate{Job: answer.JobView}
	}
	return api.Accepted{ID: answer.ID, Key: answer.Key}, nil
}

// Cancel asks for the end of a job and returns it as it is when Kafka has the request; the reason may be
// empty. Of a job that has ended the error is one of [IsEnded].
func (c *Client) Cancel(ctx context.Context, id, reason string) (api.JobView, error) {
	var v api.JobView
	b, err := json.Marshal(api.CancelRequest{Reason: reason})
	if err != nil {
		return v, fmt.Errorf("reason: %w", err)
	}
	err = c.call(ctx, http.MethodPost, "/v1/jobs/"+url.PathEscape(id)+"/cancel", b, &v)
	return v, err
}

// Job returns one job with its results.
func (c *Client) Job(ctx context.Context, id string) (api.JobView, error) {
	var v api.JobView
	err := c.call(ctx, http.MethodGet, "/v1/jobs/"+url.PathEscape(id), nil, &v)
	return v, err
}

// Jobs returns the most recent jobs first, without results and assignments.
func (c *Client) Jobs(ctx context.Context, f api.JobFilter) (api.JobList, error) {
	q := url.Values{}
	set(q, "state", f.State)
	set(q, "tenant", f.Tenant)
	set(q, "node", f.Node)
	setInt(q, "limit", int64(f.Limit))
	var list api.JobList
	err := c.call(ctx, http.MethodGet, "/v1/jobs?"+q.Encode(), nil, &list)
	return list, err
}

// Watermarks returns how far each partition is done.
func (c *Client) Watermarks(ctx context.Context) (api.WatermarkList, error) {
	var list api.WatermarkList
	err := c.call(ctx, http.MethodGet, "/v1/watermarks", nil, &list)
	return list, err
}

// Nodes returns a page of the connected nodes.
func (c *Client) Nodes(ctx context.Context, f api.NodeFilter) (api.NodePage, error) {
	q := url.Values{}
	set(q, "country", f.Country)
	set(q, "city", f.City)
	setInt(q, "asn", int64(f.ASN))
	set(q, "tag", f.Tag)
	set(q, "kind", f.Kind)
	set(q, "platform", f.Platform)
	set(q, "prefix", f.Prefix)
	setInt(q, "limit", int64(f.Limit))
	set(q, "cursor", f.Cursor)
	var page api.NodePage
	err := c.call(ctx, http.MethodGet, "/v1/nodes?"+q.Encode(), nil, &page)
	return page, err
}

// Node returns one connected node.
func (c *Client) Node(ctx context.Context, id string) (api.NodeView, error) {
	var v api.NodeView
	err := c.call(ctx, http.MethodGet, "/v1/nodes/"+url.PathEscape(id), nil, &v)
	return v, err
}

// Status returns the state of the member and its cluster.
func (c *Client) Status(ctx context.Context) (api.StatusView, error) {
	var v api.StatusView
	err := c.call(ctx, http.MethodGet, "/v1/status", nil, &v)
	return v, err
}

func set(q url.Values, key, value string) {
	if value != "" {
		q.Set(key, value)
	}
}

func setInt(q url.Values, key string, value int64) {
	if value != 0 {
		q.Set(key, strconv.FormatInt(value, 10))
	}
}

// call sends one request and decodes its answer into out.
func (c *Client) call(ctx context.Context, method, path string, body []byte, out any) error {
	res, err := c.send(ctx, method, path, body, "application/json")
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxBodyBytes+1))
	if err != nil {
		return fmt.Errorf("the answer of the API at %s broke off: %w", c.base, err)
	}
	if len(b) > maxBodyBytes {
		return fmt.Errorf("the answer of the API at %s is larger than %d bytes", c.base, maxBodyBytes)
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("the answer of the API at %s is not what was expected: %w", c.base, err)
	}
	return nil
}

// send sends one request; an answer other than success is a *[Problem].
func (c *Client) send(ctx context.Context, method, path string, body []byte, accept string) (*http.Response, error) {
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base.String()+path, r)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	req.Header.Set("Accept", accept)
	req.Header.Set("User-Agent", "roost-cli")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		var ue *url.Error // repeats the method and the URL
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, &Unreachable{Base: c.base.String(), Err: err}
	}
	if res.StatusCode/100 == 2 {
		return res, nil
	}
	defer func() { _ = res.Body.Close() }()
	return nil, problemOf(res)
}

func problemOf(res *http.Response) error {
	const most = 1 << 20
	p := &Problem{}
	b, err := io.ReadAll(io.LimitReader(res.Body, most))
	isProblem := strings.HasPrefix(res.Header.Get("Content-Type"), "application/problem+json")
	if err != nil || !isProblem || json.Unmarshal(b, p) != nil {
		*p = Problem{Title: http.StatusText(res.StatusCode), Detail: ""}
	}
	p.Status = res.StatusCode
	if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && s > 0 {
		p.RetryAfter = time.Duration(s) * time.Second
	}
	return p
}
