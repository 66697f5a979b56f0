package roost

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"time"

	"github.com/roost-server/roost/protocol"
)

// Version is the SDK's version, told to members in HELLO.
const Version = "0.1.0"

// Defaults of [Config].
const (
	DefaultConcurrency      = 16
	DefaultQueueFactor      = 4 // Queue is this times Concurrency
	DefaultRecent           = 4096
	DefaultResendAfter      = time.Minute
	DefaultDrainTimeout     = 10 * time.Second
	DefaultHandshakeTimeout = 10 * time.Second
	DefaultWriteTimeout     = 15 * time.Second
)

// Config says who the node is and where its members are. The zero value of every
// field but Servers and NodeID means its default. It is copied by [New].
type Config struct {
	// Servers are the members' addresses as host:port. They are tried in turn, in an
	// order drawn at random; one name with several addresses is fine too.
	Servers []string

	// NodeID names the node: the same over reconnects and restarts, and unique.
	// Printable, without spaces, at most protocol.MaxNodeIDBytes bytes.
	NodeID string

	// Attributes say where and what the node is. Kinds has to be empty: it is
	// filled from the handlers. An empty Platform becomes GOOS/GOARCH.
	Attributes protocol.Attributes

	// Agent is the program's name and version for operators, such as
	// "probe/1.4"; "roost-go/<version>" is put before it.
	Agent string

	// Credential returns the bearer token for HELLO, at most
	// protocol.MaxCredentialBytes. It is called for each connection; nil sends none.
	// An error counts as a failed connection.
	Credential func(ctx context.Context) ([]byte, error)

	// Prove answers a member's CHALLENGE with at most protocol.MaxProofBytes. nonce
	// is the callee's to keep. [ErrUnknownMethod] ends Run, as being challenged with
	// a nil Prove does; other errors count as a failed connection. See [ProveHMAC].
	Prove func(ctx context.Context, method string, nonce []byte) ([]byte, error)

	// Concurrency is how many jobs run at once, 1 to protocol.MaxCredit.
	Concurrency int

	// Queue is how many jobs may wait for a free slot. Members send no more than
	// Concurrency, so it only matters after that was lowered, or while handlers
	// that ignored their timeout hold slots. A job over it is refused.
	Queue int

	// Recent is how many acknowledged results (of at most RecentBytes of output and
	// error each) are remembered to answer late duplicates; negative: none.
	Recent int

	// ResendAfter is when a result that was sent and not acknowledged is sent again on the
	// same connection, at the next heartbeat. Members tell duplicates apart.
	ResendAfter time.Duration

	// Outbox keeps results until they are acknowledged; nil is a [MemoryOutbox].
	// The client never closes it; close it after Run returned.
	Outbox Outbox

	// Dial opens a connection; nil is TCP by net.Dialer. For TLS use [DialTLS]. A
	// member may send the node to other addresses (GOAWAY), so Dial has to verify
	// whom it reached.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// OnEvent is told what happens; see [Event]. It must not block.
	OnEvent func(Event)

	// DrainTimeout is how long Run waits, once its context ended, for running and
	// queued jobs to end and their results to be acknowledged.
	DrainTimeout time.Duration

	// HandshakeTimeout bounds dialling, and then HELLO to WELCOME.
	HandshakeTimeout time.Duration

	// WriteTimeout bounds each write to the socket.
	WriteTimeout time.Duration
}

// RecentBytes is the largest output plus error text that is remembered after its
// acknowledgement. It keeps the memory of [Config.Recent] at a few megabytes.
const RecentBytes = 1 << 10

// DialTLS returns a [Config].Dial for TLS with conf; its ServerName defaults to the
// host that is dialled.
func DialTLS(conf *tls.Config) func(ctx context.Context, network, addr string) (net.Conn, error) {
	d := &tls.Dialer{Config: conf}
	return d.DialContext
}

// ProveHMAC returns a [Config].Prove for the method "hmac-sha256": the HMAC-SHA-256,
// keyed with secret, over the nonce followed by the node id.
func ProveHMAC(nodeID string, secret []byte) func(ctx context.Context, method string, nonce []byte) ([]byte, error) {
	secret = bytes.Clone(secret)
	return func(_ context.Context, method string, nonce []byte) ([]byte, error) {
		if method != "hmac-sha256" {
			return nil, ErrUnknownMethod
		}
		mac := hmac.New(sha256.New, secret)
		mac.Write(nonce)
		mac.Write([]byte(nodeID))
		return mac.Sum(nil), nil
	}
}

func (cfg Config) withDefaults() Config {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	if cfg.Concurrency == 0 {
		cfg.Concurrency = DefaultConcurrency
	}
	if cfg.Queue == 0 {
		cfg.Queue = DefaultQueueFactor * cfg.Concurrency
	}
	if cfg.ResendAfter == 0 {
		cfg.ResendAfter = DefaultResendAfter
	}
	if cfg.Recent == 0 {
		cfg.Recent = DefaultRecent
	}
	set(&cfg.DrainTimeout, DefaultDrainTimeout)
	set(&cfg.HandshakeTimeout, DefaultHandshakeTimeout)
	set(&cfg.WriteTimeout, DefaultWriteTimeout)
	if cfg.Attributes.Platform == "" {
		cfg.Attributes.Platform = runtime.GOOS + "/" + runtime.GOARCH
	}
	if cfg.Outbox == nil {
		cfg.Outbox = NewMemoryOutbox(0, 0)
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	if cfg.OnEvent == nil {
		cfg.OnEvent = func(Event) {}
	}
	cfg.Agent = strings.TrimSpace("roost-go/" + Version + " " + cfg.Agent)
	cfg.Servers = append([]string(nil), cfg.Servers...)
	return cfg
}

func (cfg *Config) validate() error {
	bad := func(key, format string, args ...any) error {
		return fmt.Errorf("roost: Config.%s %s", key, fmt.Sprintf(format, args...))
	}
	if len(cfg.Servers) == 0 {
		return bad("Servers", "is empty; name at least one member as host:port")
	}
	for i, s := range cfg.Servers {
		if err := checkAddr(s); err != nil {
			return bad(fmt.Sprintf("Servers[%d]", i), "is %q: %v", s, err)
		}
	}
	if len(cfg.NodeID) > protocol.MaxNodeIDBytes || !protocol.ValidID(cfg.NodeID) {
		return bad("NodeID", "is %q; allowed are 1 to %d bytes of printable UTF-8 without spaces", cfg.NodeID, protocol.MaxNodeIDBytes)
	}
	if err := checkAttributes(&cfg.Attributes); err != nil {
		return bad("Attributes", "%v", err)
	}
	if len(cfg.Agent) > protocol.MaxTextBytes {
		return bad("Agent", "makes %d bytes with the SDK's name before it; at most %d are allowed", len(cfg.Agent), protocol.MaxTextBytes)
	}
	if cfg.Concurrency < 1 || cfg.Concurrency > protocol.MaxCredit {
		return bad("Concurrency", "is %d; allowed is 1 to %d", cfg.Concurrency, protocol.MaxCredit)
	}
	if cfg.Queue < 1 {
		return bad("Queue", "is %d; allowed is 1 or more", cfg.Queue)
	}
	for key, d := range map[string]time.Duration{
		"DrainTimeout": cfg.DrainTimeout, "HandshakeTimeout": cfg.HandshakeTimeout, "WriteTimeout": cfg.WriteTimeout,
		"ResendAfter": cfg.ResendAfter,
	} {
		if d < 0 {
			return bad(key, "is %v; allowed is more than 0, or 0 for the default", d)
		}
	}
	return nil
}

func checkAddr(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	switch {
	case err != nil:
		return fmt.Errorf("not host:port: %w", err)
	case host == "" || port == "":
		return errors.New("not host:port: both parts are needed")
	case len(addr) > protocol.MaxAddressBytes:
		return fmt.Errorf("longer than %d bytes", protocol.MaxAddressBytes)
	}
	return nil
}

// checkAttributes refuses what the encoder would, so that it is found at the start
// and not at the first connection.
func checkAttributes(a *protocol.Attributes) error {
	if len(a.Kinds) > 0 {
		return errors.New("has Kinds; leave it empty, it is filled from Client.Handle")
	}
	_, err := protocol.NewEncoder().Append(nil, &protocol.AttributesUpdate{Attributes: *a})
	var pe *protocol.Error
	if errors.As(err, &pe) {
		return errors.New(pe.Message)
	}
	return err
}
