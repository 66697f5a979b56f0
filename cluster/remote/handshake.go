package remote

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/credentials"

	"github.com/roost-server/roost/cluster/certs"
)

// listener bounds how many connections there are, and ends them with the Remote.
type listener struct {
	net.Listener
	r *Remote
	n atomic.Int64
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.n.Add(1) > l.r.tuning.inbound {
			l.n.Add(-1)
			l.r.counters.refusedHandshakes.Add(1)
			l.r.warn("many", "", "connection to the members' listener refused: too many",
				zap.Stringer("from", raw.RemoteAddr()), zap.Int64("max", l.r.tuning.inbound))
			raw.Close()
			continue
		}
		if err := setUserTimeout(raw, l.r.tuning.stuck); err != nil {
			l.r.log.Debug("accepted connection without a limit for unacknowledged data", zap.Error(err))
		}
		c := &acceptedConn{watchedConn: watchedConn{Conn: raw, timeout: l.r.tuning.stuck}}
		stop := context.AfterFunc(l.r.ctx, func() { raw.Close() })
		c.leave = sync.OnceFunc(func() {
			stop()
			l.n.Add(-1)
		})
		return c, nil
	}
}

// acceptedConn makes room for another connection when it is closed.
type acceptedConn struct {
	watchedConn
	leave func()
}

// Close implements net.Conn.
func (c *acceptedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}

// lingerTime is how long a refused connection is read from before it is closed: closed with bytes
// unread, the system would reset it, and the peer might never see the alert that tells why.
const lingerTime = 200 * time.Millisecond

// unexpectedMessage is a fatal TLS alert (RFC 8446, section 6), for one who does not speak TLS to tell
// by that this is what is spoken here.
var unexpectedMessage = []byte{recordAlert, 3, 3, 0, 2, 2, 10}

func (c *acceptedConn) linger() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok && tcp.CloseWrite() == nil && c.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
		io.CopyN(io.Discard, c, windowBytes) //nolint:errcheck // ends by the deadline, or by the peer
	}
}

// handshaker is the server's side of gRPC's credentials: TLS with the certificates of the moment, or
// a look at whether the other speaks HTTP/2 at all. It logs failures, which gRPC does not.
type handshaker struct{ r *Remote }

type authInfo struct {
	credentials.CommonAuthInfo
	name string // of the peer's certificate
}

// AuthType implements credentials.AuthInfo.
func (authInfo) AuthType() string { return "roost" }

// ServerHandshake implements credentials.TransportCredentials. gRPC has set a deadline on raw, and
// closes it after an error.
func (h *handshaker) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	var conn net.Conn
	var info authInfo
	var err error
	if store := h.r.cfg.TLS; store != nil {
		conn, info, err = handshakeTLS(raw, store)
	} else {
		conn, info, err = handshakePlain(raw)
	}
	if err == nil {
		return conn, info, nil
	}
	accepted, ok := raw.(*acceptedConn)
	if ok {
		accepted.linger()
	}
	if h.r.ctx.Err() == nil {
		h.r.counters.refusedHandshakes.Add(1)
		if !ok || accepted.first.Load() != 0 { // else a health check, or a scan
			from := raw.RemoteAddr().String()
			h.r.warn("handshake", host(from), "connection to the members' listener refused", zap.String("from", from), zap.Error(err))
		}
	}
	return nil, nil, err
}

func handshakeTLS(conn net.Conn, store *certs.Store) (net.Conn, authInfo, error) {
	config := store.Server()
	config.NextProtos = []string{"h2"}
	secured := tls.Server(conn, config)
	if err := secured.Handshake(); err != nil {
		var record tls.RecordHeaderError
		if errors.As(err, &record) && record.Conn != nil {
			record.Conn.Write(unexpectedMessage) //nolint:errcheck // a courtesy; the connection is given up anyway
		}
		return nil, authInfo{}, explainServer(err, store)
	}
	state := secured.ConnectionState()
	if state.NegotiatedProtocol != "h2" {
		return nil, authInfo{}, errors.New("it speaks TLS but not HTTP/2: is it a member?")
	}
	info := authInfo{name: certs.PeerName(state.PeerCertificates[0])}
	info.SecurityLevel = credentials.PrivacyAndIntegrity
	return secured, info, nil
}

func handshakePlain(conn net.Conn) (net.Conn, authInfo, error) {
	preface := make([]byte, 3)
	if _, err := io.ReadFull(conn, preface); err != nil {
		return nil, authInfo{}, fmt.Errorf("it does not say what a member says: %w", err)
	}
	switch {
	case preface[0] == recordHandshake:
		return nil, authInfo{}, errors.New("it speaks TLS, this member has no certificate: give --cluster-tls-ca, --cluster-tls-cert and --cluster-tls-key")
	case !bytes.Equal(preface, []byte("PRI")): // RFC 9113, section 3.4
		return nil, authInfo{}, fmt.Errorf("it begins with %q, which no member does", preface)
	}
	info := authInfo{}
	info.SecurityLevel = credentials.NoSecurity
	return &replayConn{Conn: conn, before: preface}, info, nil
}

// ClientHandshake implements credentials.TransportCredentials; servers do not call it.
func (h *handshaker) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("only for servers")
}

// Info implements credentials.TransportCredentials.
func (h *handshaker) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "roost"}
}

// Clone implements credentials.TransportCredentials.
func (h *handshaker) Clone() credentials.TransportCredentials { return h }

// OverrideServerName implements credentials.TransportCredentials; members are not known by host names.
func (h *handshaker) OverrideServerName(string) error { return nil }

// replayConn gives again what was looked at.
type replayConn struct {
	net.Conn
	before []byte
}

// Read implements net.Conn.
func (c *replayConn) Read(b []byte) (int, error) {
	if len(c.before) > 0 {
		n := copy(b, c.before)
		c.before = c.before[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}
