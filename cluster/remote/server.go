package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"

	protoremote "github.com/asynkron/protoactor-go/remote"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

func newServer(r *Remote) *grpc.Server {
	s := grpc.NewServer(
		grpc.Creds(&handshaker{r: r}),
		grpc.ConnectionTimeout(r.tuning.connect),
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(maxMessageBytes), grpc.MaxSendMsgSize(maxControlBytes),
		grpc.MaxConcurrentStreams(1), grpc.MaxHeaderListSize(maxControlBytes),
		grpc.InitialWindowSize(windowBytes), grpc.InitialConnWindowSize(windowBytes),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: serverPing, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: clientPing / 2, PermitWithoutStream: true}),
		grpc.StreamInterceptor(r.guard),
		grpc.WaitForHandlers(true),
	)
	protoremote.RegisterRemotingServer(s, service{r: r})
	return s
}

// service is the receiving end. What protoactor's service offers besides streams, to look into a
// system's processes, is not there.
type service struct {
	protoremote.UnimplementedRemotingServer
	r *Remote
}

// guard turns a panic into the end of the stream, and logs why streams of peers are ended.
func (r *Remote) guard(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	who, from := identity(stream.Context())
	defer func() {
		if p := recover(); p != nil {
			r.log.Error("receiving from a member panicked; its stream is ended", zap.String("peer", who), zap.String("from", from),
				zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
			err = status.Error(codes.Internal, "panic")
		}
	}()
	r.counters.inbound.Add(1)
	defer r.counters.inbound.Add(-1)
	err = handler(srv, stream)
	var refused *refusal
	if errors.As(err, &refused) {
		r.counters.refusedStreams.Add(1)
		r.warn("stream", host(from), "stream of a peer ended: it sent what members do not send", zap.String("peer", who),
			zap.String("from", from), zap.Error(refused.err))
		err = status.Error(codes.InvalidArgument, refused.Error())
	}
	return err
}

// refusal is an error by the peer.
type refusal struct{ err error }

func (e *refusal) Error() string { return "refused: " + e.err.Error() }
func (e *refusal) Unwrap() error { return e.err }

// Receive serves the stream of one peer: a connect request, then batches.
func (s service) Receive(stream protoremote.Remoting_ReceiveServer) error {
	who, from := identity(stream.Context())
	connected := false
	for {
		var in incoming
		switch err := stream.RecvMsg(&in); {
		case errors.Is(err, io.EOF):
			return nil
		case status.Code(err) == codes.ResourceExhausted:
			return &refusal{err} // too long
		case err != nil:
			return err
		case in.err != nil:
			return &refusal{in.err}
		}
		switch {
		case in.kind == fieldConnect && !connected:
			if err := s.connect(stream, in.control); err != nil {
				return err
			}
			connected = true
		case in.kind == fieldBatch && connected:
			for _, body := range in.bodies {
				s.r.counters.receivedBytes.Add(uint64(len(body)))
				s.r.cfg.Receive(Inbound{Peer: who, From: from, Body: body})
			}
		default:
			return &refusal{fmt.Errorf("message %d, connected: %t", in.kind, connected)}
		}
	}
}

func (s service) connect(stream protoremote.Remoting_ReceiveServer, control []byte) error {
	m, err := readControl(control)
	if err != nil {
		return &refusal{err}
	}
	if m.GetConnectRequest().GetServerConnection() == nil {
		return &refusal{errors.New("a connect request that is not of a member")}
	}
	return stream.Send(&protoremote.RemoteMessage{MessageType: &protoremote.RemoteMessage_ConnectResponse{
		ConnectResponse: &protoremote.ConnectResponse{MemberId: s.r.memberID},
	}})
}

func identity(ctx context.Context) (name, from string) {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return "", ""
	}
	if info, ok := p.AuthInfo.(authInfo); ok {
		name = info.name
	}
	return name, p.Addr.String()
}

func host(address string) string {
	if h, _, err := net.SplitHostPort(address); err == nil {
		return h
	}
	return address
}
