package probe

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"go.uber.org/zap"
)

// Outcome is what a kind says about its target.
type Outcome struct {
	// OK is whether the check holds.
	OK bool
	// Reason says, when it does not, in which phase and why, for a person to act on.
	Reason string
	// Output points to the kind's output struct (HTTPOutput, ...); nil when nothing was measured.
	Output any
}

// Bind decodes a job's arguments into v, a pointer to a struct with msgpack and json tags. It should
// refuse unknown fields.
type Bind func(v any) error

// Kind runs one kind of job. Run may be called from any number of goroutines.
//
// The error is a *[Refused] when the node cannot or may not run the job; it wraps ctx.Err() when the
// context ended first, and the Outcome then holds what was measured so far. Any other error is one of
// the node itself. A target that fails its check is no error.
type Kind interface {
	Name() string
	Run(ctx context.Context, bind Bind) (Outcome, error)
}

// Refused says why the node cannot or may not run a job: wrong arguments, a forbidden target, or
// something this machine lacks. The same job would be refused again.
type Refused struct{ Reason string }

// Error implements error.
func (r *Refused) Error() string { return r.Reason }

func refusef(format string, args ...any) error {
	return &Refused{Reason: cut(fmt.Sprintf(format, args...), MaxReasonBytes)}
}

// Resolver finds addresses of a name; *net.Resolver is one. The network is "ip", "ip4" or "ip6".
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Options are the same for all kinds of a process.
type Options struct {
	// AllowPrivate permits targets that are not public: this machine, its networks, multicast.
	AllowPrivate bool
	// Resolver finds the addresses of targets; nil is the system's resolver.
	Resolver Resolver
	// ResolvConf is where the dns kind finds the system's servers; empty is /etc/resolv.conf.
	ResolvConf string
	// MaxBodyBytes is how much of an HTTP body is read; 0 is DefaultMaxBodyBytes.
	MaxBodyBytes int64
	// UserAgent of HTTP requests; empty is "roost-node".
	UserAgent string
	// RootCAs verify HTTPS servers; nil is the system's set.
	RootCAs *x509.CertPool
	// Log receives what is not part of an outcome; nil is silence.
	Log *zap.Logger
}

func (o Options) withDefaults() Options {
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	if o.ResolvConf == "" {
		o.ResolvConf = "/etc/resolv.conf"
	}
	if o.MaxBodyBytes <= 0 {
		o.MaxBodyBytes = DefaultMaxBodyBytes
	}
	if o.UserAgent == "" {
		o.UserAgent = "roost-node"
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	return o
}

// Kinds returns the kinds that this process can run here, and for each other one why it cannot and
// what would change that. It opens (and closes) the sockets that ping and traceroute need.
func Kinds(o Options) (ok []Kind, missing map[string]string) {
	o = o.withDefaults()
	d := newDialer(o)
	ok = []Kind{
		newKind("http", o.Log, (&httpProbe{o: o, dial: d}).run),
		newKind("tcp", o.Log, (&tcpProbe{dial: d}).run),
		newKind("udp", o.Log, (&udpProbe{dial: d}).run),
		newKind("dns", o.Log, (&dnsProbe{dial: d, resolvConf: o.ResolvConf}).run),
	}
	missing = make(map[string]string)
	can := findICMP()
	if why := can.pingMissing(); why != "" {
		missing["ping"] = why
	} else {
		ok = append(ok, newKind("ping", o.Log, (&pingProbe{dial: d, can: can}).run))
	}
	if why := can.tracerouteMissing(); why != "" {
		missing["traceroute"] = why
	} else {
		ok = append(ok, newKind("traceroute", o.Log, (&traceProbe{dial: d, can: can}).run))
	}
	return ok, missing
}

// args is what an arguments struct A offers through its pointer.
type args[A any] interface {
	*A
	Validate() error
}

type kind[A any, P args[A]] struct {
	name string
	log  *zap.Logger
	run  func(ctx context.Context, a *A) (Outcome, error)
}

func newKind[A any, P args[A]](name string, log *zap.Logger, run func(context.Context, P) (Outcome, error)) Kind {
	return &kind[A, P]{name: name, log: log, run: func(ctx context.Context, a *A) (Outcome, error) { return run(ctx, a) }}
}

func (k *kind[A, P]) Name() string { return k.name }

func (k *kind[A, P]) Run(ctx context.Context, bind Bind) (out Outcome, err error) {
	// The last net: bytes of a hostile target go through parsers that are not ours, and one job
	// must not end the others.
	defer func() {
		if r := recover(); r != nil {
			k.log.Error("panic in a job kind", zap.String("kind", k.name), zap.Any("panic", r), zap.ByteString("stack", debug.Stack()))
			out, err = Outcome{}, fmt.Errorf("%s: internal error: %v", k.name, r)
		}
	}()
	var a A
	if err := bind(&a); err != nil {
		return Outcome{}, refusef("%s: arguments: %v", k.name, err)
	}
	if err := P(&a).Validate(); err != nil {
		return Outcome{}, refusef("%s: %v", k.name, err)
	}
	if err := ctx.Err(); err != nil {
		return Outcome{}, fmt.Errorf("%s: before the start: %w", k.name, err)
	}
	out, err = k.run(ctx, &a)
	out.Reason = cut(out.Reason, MaxReasonBytes)
	return out, err
}

// failed turns an error of a phase into what Run returns. parent is the job's context; the error may
// also come from a shorter timeout of the arguments, which is a failed check and not the job's end.
func failed(parent context.Context, phase string, err error, output any) (Outcome, error) {
	var refused *Refused
	if errors.As(err, &refused) {
		return Outcome{}, refused
	}
	if cerr := ended(parent); cerr != nil {
		return Outcome{Output: output}, fmt.Errorf("%s: %w", phase, cerr)
	}
	return Outcome{Reason: phase + ": " + cause(err), Output: output}, nil
}

// ended is ctx.Err, and also true when the deadline has passed but its timer has not fired yet:
// sockets notice deadlines by timers of their own.
func ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if t, ok := ctx.Deadline(); ok && !time.Now().Before(t) {
		return context.DeadlineExceeded
	}
	return nil
}

// timeoutError is the cause of a context that a timeout of the arguments ended.
type timeoutError struct{ ms int64 }

func (e *timeoutError) Error() string { return fmt.Sprintf("no answer within %d ms", e.ms) }

// withTimeoutMs bounds ctx by a timeout of the arguments; 0 is none.
func withTimeoutMs(ctx context.Context, ms int64) (context.Context, context.CancelFunc) {
	if ms <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, time.Duration(ms)*time.Millisecond, &timeoutError{ms: ms})
}

// timedOut replaces the error of a socket by the timeout that ended ctx, if one did.
func timedOut(ctx context.Context, err error) error {
	if ended(ctx) == nil {
		return err
	}
	var refused *Refused
	if errors.As(err, &refused) {
		return err
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// cut shortens s to at most n bytes of valid UTF-8.
func cut(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	// A rune that was cut in two is dropped by this as well.
	s = strings.ToValidUTF8(s, "\uFFFD")
	for len(s) > n {
		s = strings.ToValidUTF8(s[:n], "")
	}
	return s
}
