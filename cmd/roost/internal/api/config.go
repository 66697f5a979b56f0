package api

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// DefaultListen is where the API listens, and where the CLI looks for it.
const DefaultListen = "127.0.0.1:7480"

// Config of a [Server]. Zero values mean the default.
type Config struct {
	// Listen is HOST:PORT; the default is DefaultListen. Other than loopback addresses are refused
	// unless there is a Token or AllowOpen is set.
	Listen string
	// Token that requests have to bear (RFC 6750), /healthz and /readyz excepted. Empty asks for none.
	Token string
	// AllowOpen lets the API listen on any address without a Token, for whoever can reach it.
	AllowOpen bool
	// Version of the software, for the OpenAPI document.
	Version string

	// ReadTimeout is for a whole request (10 s), WriteTimeout for a response or one write to a
	// stream of events (30 s), IdleTimeout for a connection between requests (2 min),
	// RequestTimeout for the backend's work on one request (20 s).
	ReadTimeout, WriteTimeout, IdleTimeout, RequestTimeout time.Duration
	// MaxHeaderBytes caps a request's headers (32 KiB), MaxBodyBytes its body (1 MiB, as Kafka's
	// usual limit of a record).
	MaxHeaderBytes int
	MaxBodyBytes   int64

	// KeepAlive is the interval of comments on a silent stream of events (15 s).
	KeepAlive time.Duration
	// MaxStreams caps the streams of events open at once (128).
	MaxStreams int
	// StreamEvents and StreamBytes cap what waits for a slow reader of one stream before it is cut.
	// The defaults fit what is known already of a job with the most targets (16,384; 16 MiB).
	StreamEvents, StreamBytes int
}

func (c Config) withDefaults() Config {
	setDefault(&c.Listen, DefaultListen)
	setDefault(&c.Version, "unknown")
	setDefault(&c.ReadTimeout, 10*time.Second)
	setDefault(&c.WriteTimeout, 30*time.Second)
	setDefault(&c.IdleTimeout, 2*time.Minute)
	setDefault(&c.RequestTimeout, 20*time.Second)
	setDefault(&c.MaxHeaderBytes, 32<<10)
	setDefault(&c.MaxBodyBytes, 1<<20)
	setDefault(&c.KeepAlive, 15*time.Second)
	setDefault(&c.MaxStreams, 128)
	setDefault(&c.StreamEvents, 16<<10)
	setDefault(&c.StreamBytes, 16<<20)
	return c
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// check refuses what cannot be meant, naming the key.
func (c *Config) check() error {
	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Errorf("api.listen: %q is not HOST:PORT, such as %s", c.Listen, DefaultListen)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return fmt.Errorf("api.listen: port %q is not a number from 0 to 65535", port)
	}
	if i := strings.IndexFunc(c.Token, func(r rune) bool { return r <= ' ' || r > '~' }); i >= 0 {
		return fmt.Errorf("api.token: the character at %d is a space or not ASCII; visible ASCII characters are allowed", i+1)
	}
	if !isLoopback(host) && c.Token == "" && !c.AllowOpen {
		return fmt.Errorf("api.listen: %q can be reached from other machines; set api.token, or listen on a loopback address such as %s, or set api.allow_open if everyone who can reach it may run jobs", c.Listen, DefaultListen)
	}
	for _, v := range []struct {
		key string
		bad bool
	}{
		{"api.read_timeout", c.ReadTimeout < 0}, {"api.write_timeout", c.WriteTimeout < 0},
		{"api.idle_timeout", c.IdleTimeout < 0}, {"api.request_timeout", c.RequestTimeout < 0},
		{"api.max_header_bytes", c.MaxHeaderBytes < 0}, {"api.max_body_bytes", c.MaxBodyBytes < 0},
		{"api.keep_alive", c.KeepAlive < 0}, {"api.max_streams", c.MaxStreams < 0},
		{"api.stream_events", c.StreamEvents < 0}, {"api.stream_bytes", c.StreamBytes < 0},
	} {
		if v.bad {
			return fmt.Errorf("%s: is negative; a positive value is expected, or 0 for the default", v.key)
		}
	}
	return nil
}

// isLoopback is whether host is this machine to itself alone. Names other than localhost are not
// resolved: what they mean may change.
func isLoopback(host string) bool {
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		return true
	}
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && a.Unmap().IsLoopback()
}
