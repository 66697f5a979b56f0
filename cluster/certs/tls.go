package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// PeerError tells why the certificate of a peer was not accepted.
type PeerError struct {
	Name string // that the certificate gives; nobody vouches for it
	Err  error
}

// Error implements error.
func (e *PeerError) Error() string {
	if e.Name == "" {
		return "the peer's certificate: " + e.Err.Error()
	}
	return fmt.Sprintf("the certificate of %q: %v", e.Name, e.Err)
}

// Unwrap returns the cause.
func (e *PeerError) Unwrap() error { return e.Err }

// Server returns the configuration for accepting members: TLS 1.3, a client certificate that leads
// to the authority. It uses what the store holds when a handshake happens, so it lasts through
// reloads. A refused certificate is a *PeerError.
func (s *Store) Server() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Time:                   s.now,
		ClientAuth:             tls.RequireAnyClientCert, // verified below, with the authorities of that moment
		SessionTicketsDisabled: true,                     // so that every connection is verified anew
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.current.Load().cert, nil },
		VerifyConnection:       s.verifyPeer,
	}
}

// Client returns the configuration for dialling members, as Server does for accepting them.
func (s *Store) Client() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		Time:       s.now,
		// Members are dialled by address, and known by the name in the certificate: the chain is
		// verified below, the host name has no part in it.
		InsecureSkipVerify: true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return s.current.Load().cert, nil
		},
		VerifyConnection: s.verifyPeer,
	}
}

func (s *Store) verifyPeer(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return &PeerError{Err: errors.New("none was sent")}
	}
	if _, err := verify(cs.PeerCertificates, s.current.Load().roots, s.now()); err != nil {
		return &PeerError{Name: PeerName(cs.PeerCertificates[0]), Err: err}
	}
	return nil
}

// verify checks a chain of certificates, the member's first, and returns when it ends.
func verify(chain []*x509.Certificate, roots *x509.CertPool, now time.Time) (time.Time, error) {
	leaf := chain[0]
	switch {
	case now.After(leaf.NotAfter):
		return time.Time{}, fmt.Errorf("expired on %s, it is %s: make a new one with \"roost certs member\"", date(leaf.NotAfter), date(now))
	case now.Before(leaf.NotBefore):
		return time.Time{}, fmt.Errorf("valid only from %s, it is %s: is a clock wrong?", date(leaf.NotBefore), date(now))
	case PeerName(leaf) == "":
		return time.Time{}, errors.New("it gives no name: a DNS name NAME" + DNSSuffix + " or a common name is expected")
	}
	opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), CurrentTime: now}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	// A member both dials and is dialled: its certificate must be good for both.
	var chains [][]*x509.Certificate
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		opts.KeyUsages = []x509.ExtKeyUsage{usage}
		found, err := leaf.Verify(opts)
		if err != nil {
			return time.Time{}, explain(err, leaf)
		}
		chains = found
	}
	var until time.Time
	for _, c := range chains {
		end := c[0].NotAfter
		for _, cert := range c[1:] {
			if cert.NotAfter.Before(end) {
				end = cert.NotAfter
			}
		}
		if end.After(until) {
			until = end
		}
	}
	return until, nil
}

func explain(err error, leaf *x509.Certificate) error {
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("signed by %q, which is not the authority of this cluster: %w", leaf.Issuer.CommonName, err)
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return fmt.Errorf("it must allow both TLS server and client authentication: %w", err)
	}
	return err
}
