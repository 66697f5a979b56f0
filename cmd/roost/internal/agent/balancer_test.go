package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"io"
	"math/big"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/transport/tcp"
)

// selfSigned makes a certificate for an address, and the pool that trusts it.
func selfSigned(t *testing.T, ip net.IP) (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "balancer"},
		IPAddresses: []net.IP{ip}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// balancer terminates TLS and passes connections on, saying whose they are.
type balancer struct {
	t  *testing.T
	ln net.Listener
	to string
	wg sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
	from  netip.AddrPort // the latest one's
}

func startBalancer(t *testing.T, cert tls.Certificate, to string) *balancer {
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}})
	require.NoError(t, err)
	b := &balancer{t: t, ln: ln, to: to}
	b.wg.Go(b.accept)
	t.Cleanup(func() {
		_ = ln.Close()
		b.mu.Lock()
		for _, c := range b.conns {
			_ = c.Close()
		}
		b.mu.Unlock()
		b.wg.Wait()
	})
	return b
}

func (b *balancer) accept() {
	for {
		front, err := b.ln.Accept()
		if err != nil {
			return
		}
		back, err := net.Dial("tcp", b.to)
		if err != nil {
			b.t.Error(err)
			_ = front.Close()
			continue
		}
		from := front.RemoteAddr().(*net.TCPAddr).AddrPort()
		b.mu.Lock()
		b.conns, b.from = append(b.conns, front, back), from
		b.mu.Unlock()
		ip := from.Addr().Unmap().As4()
		h := append([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"), ip[:]...)
		h = append(h, 127, 0, 0, 1)
		h = binary.BigEndian.AppendUint16(h, from.Port())
		if _, err := back.Write(binary.BigEndian.AppendUint16(h, 443)); err != nil {
			b.t.Error(err)
		}
		pass := func(to, from net.Conn) {
			_, _ = io.Copy(to, from)
			_ = to.Close()
			_ = from.Close()
		}
		b.wg.Go(func() { pass(back, front) })
		b.wg.Go(func() { pass(front, back) })
	}
}

func TestANodeBehindABalancer(t *testing.T) {
	m := startMember(t, "m", func(c *tcp.Config) { c.ProxyProtocol = true })
	cert, pool := selfSigned(t, net.IPv4(127, 0, 0, 1))
	b := startBalancer(t, cert, m.addr())
	logs := runAgent(t, Config{Servers: []string{b.ln.Addr().String()}, TLS: &tls.Config{RootCAs: pool}})
	m.connected(1)
	b.mu.Lock()
	from := b.from.String()
	b.mu.Unlock()
	m.eventually("the member sees the node, not the balancer", func() bool { return m.from == from })

	// The member's own port takes nothing but balancers: sent there, the node goes on to the next.
	require.Equal(t, 1, m.drain(m.addr(), b.ln.Addr().String()))
	m.connected(0)
	m.server.RefuseWith(nil)
	m.connected(1)
	require.Empty(t, logs.FilterMessage("left").All())
}
