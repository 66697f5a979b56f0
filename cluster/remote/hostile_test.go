package remote

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	protoremote "github.com/asynkron/protoactor-go/remote"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func rawClient(t *testing.T, address string) protoremote.RemotingClient {
	t.Helper()
	cc, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { cc.Close() })
	return protoremote.NewRemotingClient(cc)
}

func connectMessage() *protoremote.RemoteMessage {
	return &protoremote.RemoteMessage{MessageType: &protoremote.RemoteMessage_ConnectRequest{
		ConnectRequest: &protoremote.ConnectRequest{ConnectionType: &protoremote.ConnectRequest_ServerConnection{
			ServerConnection: &protoremote.ServerConnection{MemberId: "raw", Address: "127.0.0.1:1"}}}}}
}

func batchMessage(change func(*protoremote.MessageBatch)) *protoremote.RemoteMessage {
	data, err := proto.Marshal(wrapperspb.Bytes([]byte("body")))
	if err != nil {
		panic(err)
	}
	b := &protoremote.MessageBatch{TypeNames: []string{typeName}, Targets: []string{targetName},
		Envelopes: []*protoremote.MessageEnvelope{{MessageData: data}}}
	change(b)
	return &protoremote.RemoteMessage{MessageType: &protoremote.RemoteMessage_MessageBatch{MessageBatch: b}}
}

// Whatever a peer sends besides bodies for the link ends its stream, says so, and hurts nobody else.
func TestHostileMessages(t *testing.T) {
	m, friend := startMember(t, Config{}), startMember(t, Config{})
	keepSending(t, friend, m, "before")
	batch := batchMessage
	stop, err := proto.Marshal(&actor.Stop{})
	require.NoError(t, err)
	for name, message := range map[string]*protoremote.RemoteMessage{
		"type beyond the list":       batch(func(b *protoremote.MessageBatch) { b.Envelopes[0].TypeId = 1 << 30 }),
		"negative type":              batch(func(b *protoremote.MessageBatch) { b.Envelopes[0].TypeId = -1 }),
		"target beyond the list":     batch(func(b *protoremote.MessageBatch) { b.Envelopes[0].Target = 7 }),
		"negative target":            batch(func(b *protoremote.MessageBatch) { b.Envelopes[0].Target = -7 }),
		"sender that is not there":   batch(func(b *protoremote.MessageBatch) { b.Envelopes[0].Sender = 3 }),
		"senders":                    batch(func(b *protoremote.MessageBatch) { b.Senders = []*actor.PID{{Id: "x"}} }),
		"another serializer":         batch(func(b *protoremote.MessageBatch) { b.Envelopes[0].SerializerId = 1 }),
		"a header":                   batch(func(b *protoremote.MessageBatch) { b.Envelopes[0].MessageHeader = &protoremote.MessageHeader{} }),
		"no types":                   batch(func(b *protoremote.MessageBatch) { b.TypeNames = nil }),
		"no targets":                 batch(func(b *protoremote.MessageBatch) { b.Targets = nil }),
		"another target":             batch(func(b *protoremote.MessageBatch) { b.Targets[0] = "activator" }),
		"two targets":                batch(func(b *protoremote.MessageBatch) { b.Targets = []string{"link", "link"} }),
		"two types":                  batch(func(b *protoremote.MessageBatch) { b.TypeNames = []string{typeName, typeName} }),
		"stop":                       batch(func(b *protoremote.MessageBatch) { b.TypeNames[0] = "actor.Stop"; b.Envelopes[0].MessageData = stop }),
		"terminated":                 batch(func(b *protoremote.MessageBatch) { b.TypeNames[0] = "actor.Terminated" }),
		"data that is not protobuf":  batch(func(b *protoremote.MessageBatch) { b.Envelopes[0].MessageData = []byte{0xff, 0xff} }),
		"body that is longer than b": batch(func(b *protoremote.MessageBatch) { b.Envelopes[0].MessageData = []byte{0x0a, 0xff, 0xff, 0x03, 0} }),
		"a body too long": batch(func(b *protoremote.MessageBatch) {
			b.Envelopes[0].MessageData, _ = proto.Marshal(wrapperspb.Bytes(make([]byte, MaxBodyBytes+1)))
		}),
		"a message too long": batch(func(b *protoremote.MessageBatch) {
			b.Envelopes[0].MessageData, _ = proto.Marshal(wrapperspb.Bytes(make([]byte, maxMessageBytes)))
		}),
		"too many bodies": batch(func(b *protoremote.MessageBatch) {
			b.Envelopes = make([]*protoremote.MessageEnvelope, maxBatchBodies+1)
			for i := range b.Envelopes {
				b.Envelopes[i] = &protoremote.MessageEnvelope{}
			}
		}),
		"connects again": connectMessage(),
		"disconnects":    {MessageType: &protoremote.RemoteMessage_DisconnectRequest{DisconnectRequest: &protoremote.DisconnectRequest{}}},
		"answers":        {MessageType: &protoremote.RemoteMessage_ConnectResponse{ConnectResponse: &protoremote.ConnectResponse{}}},
		"nothing":        {},
	} {
		t.Run(name, func(t *testing.T) {
			m.limiter.reset()
			m.logs.TakeAll()
			refused := m.Stats().RefusedStreams
			requireRefused(t, m, connectMessage(), message)
			require.Equal(t, refused+1, m.Stats().RefusedStreams)
			require.Contains(t, m.logged(), "it sent what members do not send")
		})
	}
	require.Equal(t, uint64(1), friend.Stats().Connects)
	require.Equal(t, []string{"before"}, uniq(m.bodies()))
}

func TestHostileConnects(t *testing.T) {
	m := startMember(t, Config{})
	client := &protoremote.ConnectRequest{ConnectionType: &protoremote.ConnectRequest_ClientConnection{
		ClientConnection: &protoremote.ClientConnection{MemberId: "x"}}}
	long := connectMessage()
	long.GetConnectRequest().GetServerConnection().BlockList = make([]string, maxControlBytes)
	requireRefused(t, m, batchMessage(func(*protoremote.MessageBatch) {}))
	requireRefused(t, m, &protoremote.RemoteMessage{MessageType: &protoremote.RemoteMessage_ConnectRequest{ConnectRequest: client}})
	requireRefused(t, m, &protoremote.RemoteMessage{MessageType: &protoremote.RemoteMessage_ConnectRequest{}})
	requireRefused(t, m, long)
	require.Empty(t, m.bodies())
}

func requireRefused(t *testing.T, m *member, messages ...*protoremote.RemoteMessage) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	stream, err := rawClient(t, m.Addr()).Receive(ctx)
	require.NoError(t, err)
	for _, message := range messages {
		require.NoError(t, stream.Send(message))
	}
	for err == nil {
		_, err = stream.Recv()
	}
	require.Contains(t, []codes.Code{codes.InvalidArgument, codes.ResourceExhausted}, status.Code(err), "%v", err)
}

func uniq(in []string) []string {
	seen := map[string]bool{}
	var out []string
	for _, s := range in {
		if !seen[s] {
			seen[s], out = true, append(out, s)
		}
	}
	return out
}

// What protoactor's service offers to look into a system is not there.
func TestOtherMethodsAreNotThere(t *testing.T) {
	m := startMember(t, Config{})
	c := rawClient(t, m.Addr())
	_, err := c.ListProcesses(t.Context(), &protoremote.ListProcessesRequest{})
	require.Equal(t, codes.Unimplemented, status.Code(err), "%v", err)
	_, err = c.GetProcessDiagnostics(t.Context(), &protoremote.GetProcessDiagnosticsRequest{Pid: &actor.PID{Id: "link"}})
	require.Equal(t, codes.Unimplemented, status.Code(err), "%v", err)
}

// A receiver that panics loses that stream alone.
func TestReceiverPanics(t *testing.T) {
	a := startMember(t, Config{})
	m := startMember(t, Config{Receive: func(in Inbound) { panic(string(in.Body)) }})
	eventually(t, "twice", func() bool {
		a.Send(m.Addr(), []byte("boom"))
		return m.logs.FilterMessageSnippet("panicked").Len() >= 2
	})
	require.Contains(t, m.logged(), "boom")
}

// A server that answers otherwise than a member does is not sent anything.
func TestHostileServer(t *testing.T) {
	for name, answer := range map[string]*protoremote.RemoteMessage{
		"a batch":  batchMessage(func(*protoremote.MessageBatch) {}),
		"blocked":  {MessageType: &protoremote.RemoteMessage_ConnectResponse{ConnectResponse: &protoremote.ConnectResponse{Blocked: true}}},
		"nothing":  {},
		"too long": batchMessage(func(b *protoremote.MessageBatch) { b.Envelopes[0].MessageData = make([]byte, maxControlBytes) }),
	} {
		t.Run(name, func(t *testing.T) {
			lis, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			s := grpc.NewServer()
			bad := &badServer{answer: answer}
			protoremote.RegisterRemotingServer(s, bad)
			go s.Serve(lis)
			defer s.Stop()
			a := startMember(t, Config{})
			eventually(t, "refusals", func() bool {
				a.Send(lis.Addr().String(), []byte("x"))
				return a.Stats().ConnectFailures >= 2
			})
			require.Zero(t, a.Stats().Connects)
			require.Zero(t, a.Stats().SentBytes)
		})
	}
}

type badServer struct {
	protoremote.UnimplementedRemotingServer
	answer *protoremote.RemoteMessage
}

func (s *badServer) Receive(stream protoremote.Remoting_ReceiveServer) error {
	if err := stream.Send(s.answer); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

// More connections than are allowed are closed at once, and make room again.
func TestTooManyConnections(t *testing.T) {
	few := quick
	few.inbound, few.connect = 3, time.Hour
	got := make(chan string, 1)
	core, logs := observer.New(zapcore.DebugLevel)
	r, err := start(Config{Listen: "127.0.0.1:0", Receive: func(in Inbound) {
		select {
		case got <- string(in.Body):
		default:
		}
	}, Log: zap.New(core)}, few)
	require.NoError(t, err)
	defer r.Close(t.Context())
	var conns []net.Conn
	for range 4 {
		c, err := net.Dial("tcp", r.Addr())
		require.NoError(t, err)
		defer c.Close()
		conns = append(conns, c)
	}
	_, err = conns[3].Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, 1, logs.FilterMessageSnippet("too many").Len())
	conns[0].Close()
	friend := startMember(t, Config{})
	eventually(t, "room again", func() bool {
		friend.Send(r.Addr(), []byte("room again"))
		return len(got) > 0
	})
}

// The bytes are those that protoactor's generated code makes, and are read as it reads them.
func TestBatchIsProtoactors(t *testing.T) {
	long := make([]byte, copyBelow+1)
	for _, bodies := range [][][]byte{{{}}, {[]byte("a")}, {long}, {[]byte("a"), long, {}, long, []byte("b")}, {make([]byte, MaxBodyBytes)}} {
		want := batchMessage(func(b *protoremote.MessageBatch) {
			b.Envelopes = nil
			for _, body := range bodies {
				data := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), body)
				b.Envelopes = append(b.Envelopes, &protoremote.MessageEnvelope{MessageData: data})
			}
		})
		got, err := codec{}.Marshal(&batch{bodies: bodies})
		require.NoError(t, err)
		require.LessOrEqual(t, got.Len(), maxMessageBytes)
		m := new(protoremote.RemoteMessage)
		require.NoError(t, proto.Unmarshal(got.Materialize(), m))
		require.True(t, proto.Equal(want, m))
		var in incoming
		require.NoError(t, codec{}.Unmarshal(got, &in))
		require.Equal(t, bodies, in.bodies)
	}
}

func FuzzIncoming(f *testing.F) {
	for _, m := range []*protoremote.RemoteMessage{connectMessage(), batchMessage(func(*protoremote.MessageBatch) {})} {
		b, err := proto.Marshal(m)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var in incoming
		if in.read(b) != nil {
			return
		}
		held := len(in.control)
		for _, body := range in.bodies {
			held += len(body)
		}
		require.LessOrEqual(t, held, len(b), "holds no more than was sent")
		if m := new(protoremote.RemoteMessage); proto.Unmarshal(b, m) == nil {
			require.Len(t, in.bodies, len(m.GetMessageBatch().GetEnvelopes()))
		}
	})
}
