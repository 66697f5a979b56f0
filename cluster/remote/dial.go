package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	protoremote "github.com/asynkron/protoactor-go/remote"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/roost-server/roost/cluster/certs"
)

const (
	// windowBytes is the flow control window of a stream, both ways: a longest body fits, so that
	// gRPC need not widen it, and a peer that is not read from costs us no more.
	windowBytes = MaxBodyBytes + 64<<10
	// Dead peers are found by whoever waits for them: a server asks after some seconds of silence;
	// gRPC allows a client no less than 10 s, but its writes are limited in time besides.
	serverPing, clientPing, pingTimeout = 2 * time.Second, 10 * time.Second, 3 * time.Second
)

// connection is a stream to a peer that has answered.
type connection struct {
	name   string // in the peer's certificate
	stream grpc.ClientStream
	cc     *grpc.ClientConn
	raw    net.Conn
	cancel context.CancelCauseFunc
	gone   chan struct{} // closed when reading ended
	err    error         // why; set before gone is closed
}

// dial makes a connection with TLS and waits until the peer has answered.
func (r *Remote) dial(parent context.Context, address string) (*connection, *connectError) {
	ctx, cancel := context.WithCancelCause(parent)
	// Ends the attempt; what became a connection lasts until parent ends.
	timeout := time.AfterFunc(r.tuning.connect, func() {
		cancel(fmt.Errorf("no answer from a member within %v", r.tuning.connect))
	})
	defer timeout.Stop()
	defer context.AfterFunc(r.closing, func() { cancel(context.Canceled) })()

	c := &connection{cancel: cancel, gone: make(chan struct{})}
	if err := c.open(ctx, r, address); err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w (%w)", cause, err)
		}
		c.close()
		return nil, &connectError{peer: c.name, err: err}
	}
	go c.read()
	return c, nil
}

func (c *connection) open(ctx context.Context, r *Remote, address string) error {
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	watched := &watchedConn{Conn: raw, timeout: r.tuning.stuck}
	c.raw = watched
	if err := setUserTimeout(raw, r.tuning.stuck); err != nil {
		return err
	}
	if r.cfg.TLS == nil && !r.cfg.Insecure && !isLoopback(raw.RemoteAddr()) {
		return errNotLoopback
	}
	if r.cfg.TLS != nil {
		if err := c.handshake(ctx, r.cfg.TLS); err != nil {
			return explainClient(err, r.cfg.TLS, c.name, watched)
		}
	}
	if err := c.connect(ctx, r); err != nil {
		return explainClient(err, r.cfg.TLS, c.name, watched)
	}
	return nil
}

func (c *connection) handshake(ctx context.Context, store *certs.Store) error {
	config := store.Client()
	config.NextProtos = []string{"h2"}
	verify := config.VerifyConnection
	config.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) > 0 {
			c.name = certs.PeerName(cs.PeerCertificates[0])
		}
		return verify(cs)
	}
	secured := tls.Client(c.raw, config)
	c.raw = secured
	return secured.HandshakeContext(ctx)
}

// connect opens the stream and says hello as protoactor does.
func (c *connection) connect(ctx context.Context, r *Remote) error {
	var once sync.Once
	cc, err := grpc.NewClient("passthrough:///member",
		grpc.WithContextDialer(func(context.Context, string) (conn net.Conn, err error) {
			err = errors.New("the connection ended") // gRPC would connect again; peer does, in its own time
			once.Do(func() { conn, err = c.raw, nil })
			return conn, err
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // c.raw has TLS already
		grpc.WithNoProxy(), grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(), grpc.WithIdleTimeout(0),
		grpc.WithMaxHeaderListSize(maxControlBytes),
		grpc.WithInitialWindowSize(windowBytes), grpc.WithInitialConnWindowSize(windowBytes),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: clientPing, Timeout: pingTimeout, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{}), grpc.MaxCallRecvMsgSize(maxControlBytes), grpc.MaxCallSendMsgSize(maxMessageBytes)))
	if err != nil {
		return err
	}
	c.cc = cc
	stream, err := protoremote.NewRemotingClient(cc).Receive(ctx)
	if err != nil {
		return err
	}
	c.stream = stream
	hello := &protoremote.RemoteMessage{MessageType: &protoremote.RemoteMessage_ConnectRequest{
		ConnectRequest: &protoremote.ConnectRequest{ConnectionType: &protoremote.ConnectRequest_ServerConnection{
			ServerConnection: &protoremote.ServerConnection{MemberId: r.memberID, Address: r.advertised},
		}},
	}}
	if err := stream.Send(hello); err != nil && !errors.Is(err, io.EOF) {
		return err // else the answer says why it ended
	}
	var answer incoming
	if err := stream.RecvMsg(&answer); err != nil {
		return err
	}
	if answer.err != nil || answer.kind != fieldConnected {
		return errors.Join(errors.New("it answers, but not as a member does"), answer.err)
	}
	m, err := readControl(answer.control)
	if err == nil && m.GetConnectResponse().GetBlocked() {
		err = errors.New("it has blocked this member")
	}
	return err
}

// read waits for the end: a peer says nothing on our stream but that it leaves.
func (c *connection) read() {
	defer close(c.gone)
	var in incoming
	err := c.stream.RecvMsg(&in)
	switch {
	case err == nil && in.err == nil && in.kind == fieldDisconnect, errors.Is(err, io.EOF):
		c.err = errLeft
	case err == nil:
		c.err = errors.New("the peer sent on a stream that is not for it to send on")
	default:
		c.err = err
		if cause := context.Cause(c.stream.Context()); cause != nil && errors.Is(cause, errStuck) {
			c.err = cause
		}
	}
	c.cancel(c.err)
}

// giveUp ends a connection that takes nothing.
func (c *connection) giveUp() { c.cancel(errStuck) }

func (c *connection) close() {
	c.cancel(context.Canceled)
	if c.cc != nil {
		c.cc.Close() //nolint:errcheck // only says that it was closed before
	}
	if c.raw != nil {
		c.raw.Close()
	}
}

// watchedConn limits how long a write may take, and keeps what tells afterwards what the peer speaks.
type watchedConn struct {
	net.Conn
	timeout time.Duration
	first   atomic.Int32 // first byte that was read, plus one
}

// Read implements net.Conn.
func (c *watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && c.first.Load() == 0 {
		c.first.Store(int32(b[0]) + 1)
	}
	return n, err
}

// Write implements net.Conn. Without the deadline a peer that does not read would hold gRPC's writer,
// and what it holds, until the system gives up.
func (c *watchedConn) Write(b []byte) (int, error) {
	if err := c.Conn.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}
