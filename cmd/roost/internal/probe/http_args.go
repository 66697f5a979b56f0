package probe

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// HTTPArgs are the arguments of the http kind: one request and what to expect of its response.
// Zero values mean the default.
type HTTPArgs struct {
	// URL is absolute, with http or https.
	URL string `msgpack:"url" json:"url"`
	// Method is GET (the default), HEAD, POST, PUT, PATCH, DELETE or OPTIONS.
	Method string `msgpack:"method,omitempty" json:"method,omitempty"`
	// Headers of the request; Host sets the virtual host. A redirect to another origin gets none of
	// them but User-Agent and those that begin with Accept.
	Headers map[string]string `msgpack:"headers,omitempty" json:"headers,omitempty"`
	// Body of the request.
	Body string `msgpack:"body,omitempty" json:"body,omitempty"`

	// Status that the response may have: a number, a range as "200-299", or a list of those.
	// The default is 200-399.
	Status StatusSet `msgpack:"status,omitempty" json:"status,omitempty"`
	// BodyContains is a text that has to be in the body.
	BodyContains string `msgpack:"body_contains,omitempty" json:"body_contains,omitempty"`
	// BodyRegex is a pattern (RE2) that has to match somewhere in the body.
	BodyRegex string `msgpack:"body_regex,omitempty" json:"body_regex,omitempty"`
	// JSONPath (RFC 9535) has to select at least one node of the body. It may have one descendant
	// segment ("..") at most and "$" only as its first character.
	JSONPath string `msgpack:"json_path,omitempty" json:"json_path,omitempty"`
	// JSONEquals has to equal at least one of the nodes that JSONPath selects; numbers compare by
	// value. nil means that nothing is compared: look for a null with a filter ($[?@.x == null]).
	JSONEquals any `msgpack:"json_equals,omitempty" json:"json_equals,omitempty"`
	// MaxLatencyMs is the limit of total_ms.
	MaxLatencyMs int64 `msgpack:"max_latency_ms,omitempty" json:"max_latency_ms,omitempty"`

	// FollowRedirects follows up to MaxRedirects redirects; by default the first response counts.
	FollowRedirects bool `msgpack:"follow_redirects,omitempty" json:"follow_redirects,omitempty"`
	// InsecureSkipVerify accepts any certificate; it is still reported.
	InsecureSkipVerify bool `msgpack:"insecure_skip_verify,omitempty" json:"insecure_skip_verify,omitempty"`
	// BodyExcerptBytes is how much of the start of the body to report, up to MaxBodyExcerptBytes.
	BodyExcerptBytes int `msgpack:"body_excerpt_bytes,omitempty" json:"body_excerpt_bytes,omitempty"`
	// TimeoutMs fails the check when the whole of it takes longer; 0 leaves that to the job.
	TimeoutMs int64 `msgpack:"timeout_ms,omitempty" json:"timeout_ms,omitempty"`
	// IPVersion is 4 or 6 to use only that, 0 for either.
	IPVersion int `msgpack:"ip_version,omitempty" json:"ip_version,omitempty"`
}

var httpMethods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

// connectionHeaders belong to the connection, which the client handles.
var connectionHeaders = []string{
	"connection", "content-length", "expect", "keep-alive", "proxy-authorization", "proxy-connection",
	"te", "trailer", "transfer-encoding", "upgrade",
}

// Validate says what is wrong with the arguments.
func (a *HTTPArgs) Validate() error {
	if err := checkURL(a.URL); err != nil {
		return fmt.Errorf("url: %w", err)
	}
	if a.Method != "" && !slices.Contains(httpMethods, a.Method) {
		return fmt.Errorf("method: %q is not one of %s", cut(a.Method, 20), strings.Join(httpMethods, ", "))
	}
	if err := checkHeaders(a.Headers); err != nil {
		return fmt.Errorf("headers: %w", err)
	}
	if len(a.Body) > MaxRequestBodyBytes {
		return fmt.Errorf("body: %d bytes, more than %d", len(a.Body), MaxRequestBodyBytes)
	}
	if err := a.Status.validate(); err != nil {
		return fmt.Errorf("status: %w", err)
	}
	if len(a.BodyContains) > MaxExpectBytes {
		return fmt.Errorf("body_contains: longer than %d bytes", MaxExpectBytes)
	}
	if len(a.BodyRegex) > MaxExpectBytes {
		return fmt.Errorf("body_regex: longer than %d bytes", MaxExpectBytes)
	}
	if _, err := regexp.Compile(a.BodyRegex); err != nil {
		return fmt.Errorf("body_regex: %w", err)
	}
	if err := checkJSONArgs(a.JSONPath, a.JSONEquals); err != nil {
		return err
	}
	if err := checkRange("body_excerpt_bytes", int64(a.BodyExcerptBytes), 0, MaxBodyExcerptBytes); err != nil {
		return err
	}
	return checkTimes(a.TimeoutMs, a.MaxLatencyMs, a.IPVersion)
}

func checkURL(raw string) error {
	if len(raw) > MaxURLBytes {
		return fmt.Errorf("longer than %d bytes", MaxURLBytes)
	}
	u, err := url.Parse(raw)
	if err != nil {
		var uerr *url.Error
		if errors.As(err, &uerr) {
			err = uerr.Err // the rest repeats the URL, which may hold a password
		}
		return err
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("scheme %q is not http or https", cut(u.Scheme, 20))
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("port %q is not a number from 1 to 65535", cut(p, 20))
		}
	}
	host := u.Hostname()
	if !isASCII(host) {
		return nil // the HTTP client turns it into xn--..., which is checked when it is dialled
	}
	return checkHost(host)
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0
}

func checkHeaders(h map[string]string) error {
	if len(h) > MaxHeaders {
		return fmt.Errorf("%d of them, more than %d", len(h), MaxHeaders)
	}
	size := 0
	for name, value := range h {
		size += len(name) + len(value)
		if size > MaxHeaderBytes {
			return fmt.Errorf("more than %d bytes together", MaxHeaderBytes)
		}
		if name == "" || strings.IndexFunc(name, func(r rune) bool { return !isToken(r) }) >= 0 {
			return fmt.Errorf("%q is not a header's name (RFC 9110 §5.6.2)", cut(name, 100))
		}
		if strings.IndexFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) >= 0 {
			return fmt.Errorf("the value of %s has a control character", name)
		}
		if slices.Contains(connectionHeaders, strings.ToLower(name)) {
			return fmt.Errorf("%s is set by the node and not by arguments", name)
		}
	}
	return nil
}

// isToken is tchar of RFC 9110 §5.6.2.
func isToken(r rune) bool {
	return r < 0x80 && (isAlnum(byte(r)) || strings.ContainsRune("!#$%&'*+-.^_`|~", r))
}
