package roost

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/protocol"
)

// authority signs certificates of members.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	a := &authority{t: t, pool: x509.NewCertPool()}
	var err error
	a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	require.NoError(t, err)
	a.cert, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	a.pool.AddCert(a.cert)
	return a
}

// member is a member on loopback that speaks TLS with a certificate for these names.
func (a *authority) member(names []string, ips ...net.IP) *member {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(a.t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: names, IPAddresses: ips, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	require.NoError(a.t, err)
	m := newMember(a.t)
	m.tls = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	return m
}

var loopback = net.IPv4(127, 0, 0, 1)

func TestTLS(t *testing.T) {
	ca := newAuthority(t)
	m, other := ca.member(nil, loopback), ca.member(nil, loopback)
	h := newCounted()
	startNode(t, Config{Servers: []string{m.addr()}, Dial: DialTLS(&tls.Config{RootCAs: ca.pool})}, func(c *Client) { c.Handle("k", h.handle) })
	p, _ := m.session()
	require.Equal(t, uint16(tls.VersionTLS13), p.conn.(*tls.Conn).ConnectionState().Version)
	p.job("a", 1, "k", nil)
	<-h.started
	p.send(&protocol.GoAway{Reason: protocol.ReasonDrain, Addresses: []string{other.addr()}})
	require.Equal(t, protocol.ReasonBye, expect[*protocol.Close](p).Reason)
	require.Nil(t, p.next(), "it says goodbye in TLS too")
	require.NoError(t, p.conn.Close())
	p, hello := other.session()
	require.Equal(t, []protocol.Ref{{JobID: "a", Shard: 3, Attempt: 1}}, hello.Running)
	h.let <- OK(nil)
	p.result("a", 1, protocol.OutcomeOK)
	require.EqualValues(t, 1, h.runs.Load())
}

// Whoever a GOAWAY names has to prove who it is like any other, and is passed over when
// it cannot.
func TestTLSIsVerifiedWhereverItLeads(t *testing.T) {
	ca, forger := newAuthority(t), newAuthority(t)
	m, wrongName, stranger := ca.member(nil, loopback), ca.member([]string{"elsewhere.example.net"}), forger.member(nil, loopback)
	n := startNode(t, Config{Servers: []string{m.addr()}, Dial: DialTLS(&tls.Config{RootCAs: ca.pool})}, func(c *Client) { c.rand = fixed(0) })
	for _, bad := range []*member{wrongName, stranger} {
		go bad.refuse()
	}
	p, _ := m.session()
	p.send(&protocol.GoAway{Reason: protocol.ReasonDrain, Addresses: []string{wrongName.addr(), stranger.addr()}})
	p.gone()
	require.NoError(t, p.conn.Close())
	require.Equal(t, protocol.ReasonDrain, awaitEvent[Disconnected](n).Reason)
	var host x509.HostnameError
	require.ErrorAs(t, awaitEvent[Disconnected](n).Err, &host)
	var unknown x509.UnknownAuthorityError
	require.ErrorAs(t, awaitEvent[Disconnected](n).Err, &unknown)
	m.session()
}

func TestTLSToAPlainServer(t *testing.T) {
	m := newMember(t)
	go func() {
		if conn, err := m.ln.Accept(); err == nil {
			_, _ = conn.Write([]byte("\x00\x00\x06\x41\x93\xcd\x03\xeb\xa0\x00"))
			_ = conn.Close()
		}
	}()
	n := startNode(t, Config{Servers: []string{m.addr()}, Dial: DialTLS(&tls.Config{RootCAs: x509.NewCertPool()})}, nil)
	var record tls.RecordHeaderError
	require.ErrorAs(t, awaitEvent[Disconnected](n).Err, &record)
}

func TestTLSStopsWhileItDials(t *testing.T) {
	m := newMember(t) // accepts and says nothing
	n := startNode(t, Config{Servers: []string{m.addr()}, Dial: DialTLS(&tls.Config{RootCAs: x509.NewCertPool()})}, nil)
	conn, err := m.ln.Accept()
	require.NoError(t, err)
	n.stop()
	require.NoError(t, n.wait())
	require.NoError(t, conn.Close())
}

// refuse takes one connection, whose handshake fails.
func (m *member) refuse() {
	conn, err := m.ln.Accept()
	if err != nil {
		return
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if tls.Server(conn, m.tls).HandshakeContext(ctx) == nil {
		m.t.Error("the node trusts whom it must not")
	}
}
