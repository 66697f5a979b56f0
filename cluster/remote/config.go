package remote

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"
)

// checkPlaintext refuses to speak without TLS where others than this machine can hear or join in.
func checkPlaintext(cfg *Config) error {
	if cfg.TLS != nil || cfg.Insecure {
		return nil
	}
	for _, a := range []struct{ flag, address string }{{"--cluster-listen", cfg.Listen}, {"--cluster-advertise", cfg.Advertise}} {
		if a.address != "" && !loopback(a.address) {
			return fmt.Errorf("%s %s is reachable from other machines, but members have no certificates: give --cluster-tls-ca, "+
				"--cluster-tls-cert and --cluster-tls-key (\"roost certs\" makes them), listen on 127.0.0.1, "+
				"or accept with --cluster-insecure that whoever reaches the port can act as a member", a.flag, a.address)
		}
	}
	return nil
}

func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// advertise is the address that others dial: as configured, or what Listen became.
func advertise(configured string, lis net.Addr) (string, error) {
	listenHost, listenPort, err := net.SplitHostPort(lis.String())
	if err != nil {
		return "", fmt.Errorf("members' listener: %w", err)
	}
	if configured == "" {
		if ip := net.ParseIP(listenHost); ip != nil && ip.IsUnspecified() {
			return "", fmt.Errorf("members' listener: others cannot dial %s: say with --cluster-advertise HOST:PORT where they reach this member", lis)
		}
		return lis.String(), nil
	}
	host, port, err := net.SplitHostPort(configured)
	if err != nil {
		return "", fmt.Errorf("--cluster-advertise: %w; HOST:PORT is expected", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return "", fmt.Errorf("--cluster-advertise: others cannot dial %q; a host name or address of this member is expected", configured)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", fmt.Errorf("--cluster-advertise: port %q; 0 to 65535 is expected, 0 for that of --cluster-listen", port)
	}
	if n == 0 {
		port = listenPort
	}
	return net.JoinHostPort(host, port), nil
}

// isLoopback tells whether a connection leads to this machine.
func isLoopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

var errNotLoopback = errors.New("members have no certificates, so plaintext is sent to loopback addresses only: " +
	"give --cluster-tls-ca, --cluster-tls-cert and --cluster-tls-key, or --cluster-insecure")

// limiter lets one log line a minute through for each key.
type limiter struct {
	mu   sync.Mutex
	last map[string]time.Time
}

const (
	logEvery     = time.Minute
	maxLimitKeys = 1024
)

func newLimiter() *limiter { return &limiter{last: map[string]time.Time{}} }

func (l *limiter) allow(key string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at, ok := l.last[key]; ok && now.Sub(at) < logEvery {
		return false
	}
	if len(l.last) >= maxLimitKeys {
		for k, at := range l.last {
			if now.Sub(at) >= logEvery {
				delete(l.last, k)
			}
		}
		if len(l.last) >= maxLimitKeys {
			return false // so many that more lines would not help
		}
	}
	l.last[key] = now
	return true
}
