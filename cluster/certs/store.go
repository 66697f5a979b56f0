package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// DefaultReload is how often Watch looks at the files when nothing else is said: much more often
// than certificates change, and three small reads cost nothing.
const DefaultReload = 5 * time.Second

// warnBefore is how long before a certificate expires Watch begins to warn, once a day.
const warnBefore = 14 * 24 * time.Hour

// Store holds the certificate of this member and the authorities that it trusts. All methods may
// be called from any goroutine.
type Store struct {
	caFile, certFile, keyFile string
	now                       func() time.Time

	current atomic.Pointer[pair]

	mu      sync.Mutex // one reload at a time; guards what follows
	seen    [3][]byte  // content of the files at the last reload, good or not
	bad     error      // what is wrong with that content
	stop    chan struct{}
	stopped chan struct{}
}

// pair is one good content of the files.
type pair struct {
	cert     *tls.Certificate
	roots    *x509.CertPool
	name     string
	notAfter time.Time
}

// Option changes how a Store works.
type Option func(*Store)

// WithClock gives the store another clock than the system's.
func WithClock(now func() time.Time) Option { return func(s *Store) { s.now = now } }

// Load reads the certificates of the authorities (one or more, while one replaces another), this
// member's certificate (with intermediate ones, if any) and its private key, all PEM. It refuses
// what peers would refuse: a chain that does not lead to an authority, or has expired.
func Load(caFile, certFile, keyFile string, opts ...Option) (*Store, error) {
	s := &Store{caFile: caFile, certFile: certFile, keyFile: keyFile, now: time.Now}
	for _, o := range opts {
		o(s)
	}
	if _, err := s.Reload(); err != nil {
		return nil, err
	}
	return s, nil
}

// Name is this member's name in its certificate.
func (s *Store) Name() string { return s.current.Load().name }

// NotAfter is when the certificate in use expires, or one of the chain to the authority before it.
func (s *Store) NotAfter() time.Time { return s.current.Load().notAfter }

// Reload reads the files again if they changed. When they are broken the store keeps what it has and
// the error says why; it says so until they are good again, or what they were.
func (s *Store) Reload() (changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var content [3][]byte
	for i, file := range []string{s.caFile, s.certFile, s.keyFile} {
		if content[i], err = os.ReadFile(file); err != nil {
			return false, fmt.Errorf("certificates: %w", err)
		}
	}
	if s.current.Load() != nil && bytes.Equal(content[0], s.seen[0]) && bytes.Equal(content[1], s.seen[1]) &&
		bytes.Equal(content[2], s.seen[2]) {
		return false, s.bad
	}
	p, err := s.parse(content)
	s.seen, s.bad = content, err
	if err != nil {
		return false, err
	}
	s.current.Store(p)
	return true, nil
}

func (s *Store) parse(content [3][]byte) (*pair, error) {
	p := &pair{roots: x509.NewCertPool()}
	if err := addAuthorities(p.roots, content[0]); err != nil {
		return nil, fmt.Errorf("certificates: %s: %w", s.caFile, err)
	}
	cert, err := tls.X509KeyPair(content[1], content[2])
	if err != nil {
		return nil, fmt.Errorf("certificates: %s with the key %s: %w", s.certFile, s.keyFile, err)
	}
	p.cert, p.name = &cert, PeerName(cert.Leaf)
	chain := make([]*x509.Certificate, 0, len(cert.Certificate))
	for _, der := range cert.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificates: %s: %w", s.certFile, err)
		}
		chain = append(chain, c)
	}
	if p.notAfter, err = verify(chain, p.roots, s.now()); err != nil {
		return nil, fmt.Errorf("certificates: %s is of no use with the authority %s: %w", s.certFile, s.caFile, err)
	}
	return p, nil
}

// addAuthorities refuses what cannot be read, which x509.CertPool would pass over.
func addAuthorities(pool *x509.CertPool, rest []byte) error {
	for n := 0; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if n == 0 {
				return errors.New("no PEM certificate in it")
			}
			return nil
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("a PEM block of %q; certificates of authorities are expected", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return err
		}
		if !c.IsCA {
			return fmt.Errorf("the certificate of %q is not that of an authority", PeerName(c))
		}
		pool.AddCert(c)
	}
}

// Watch looks at the files at intervals (zero: DefaultReload) on a goroutine of its own until Close.
// It logs what it took over, what it could not, and a certificate that expires soon. Only the first
// call starts it.
func (s *Store) Watch(every time.Duration, log *zap.Logger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil {
		return
	}
	if every <= 0 {
		every = DefaultReload
	}
	s.stop, s.stopped = make(chan struct{}), make(chan struct{})
	go s.watch(every, log, s.stop, s.stopped)
}

// Close ends Watch and waits for it. The store can be used on, with what it has.
func (s *Store) Close() {
	s.mu.Lock()
	stop, stopped := s.stop, s.stopped
	if stop != nil {
		select {
		case <-stop:
		default:
			close(stop)
		}
	}
	s.mu.Unlock()
	if stop != nil {
		<-stopped
	}
}

func (s *Store) watch(every time.Duration, log *zap.Logger, stop, stopped chan struct{}) {
	defer close(stopped)
	tick := time.NewTicker(every)
	defer tick.Stop()
	var before, said string
	var warned time.Time
	for {
		changed, err := s.Reload()
		if changed {
			log.Info("member certificate replaced", zap.String("name", s.Name()), zap.Time("not_after", s.NotAfter()))
		}
		now := ""
		if err != nil {
			now = err.Error()
		}
		// Files are replaced one after the other: only what is still wrong at the next look is.
		if now != "" && now == before && now != said {
			log.Warn("member certificate not replaced, the old one stays in use", zap.Error(err), zap.Time("not_after", s.NotAfter()))
		}
		if now == before {
			said = now
		}
		before = now
		if left := s.NotAfter().Sub(s.now()); left < warnBefore && s.now().Sub(warned) >= 24*time.Hour {
			warned = s.now()
			log.Warn("member certificate expires soon; make a new one with \"roost certs member\" and replace the files: no restart is needed",
				zap.String("name", s.Name()), zap.Duration("left", left.Truncate(time.Second)))
		}
		select {
		case <-stop:
			return
		case <-tick.C:
		}
	}
}
