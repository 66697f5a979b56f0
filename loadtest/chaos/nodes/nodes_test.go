package nodes

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"
	"go.uber.org/goleak"

	"github.com/roost-server/roost/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// member is a listener where a test says what a member says.
type member struct {
	t  *testing.T
	ln net.Listener
}

// seat is a node's session on it.
type seat struct {
	t     *testing.T
	conn  net.Conn
	hello protocol.Hello
	buf   []byte
}

func newMember(t *testing.T) *member {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return &member{t, ln}
}

// accept takes a node's next connection and opens the session.
func (m *member) accept() *seat {
	m.t.Helper()
	require.NoError(m.t, m.ln.(*net.TCPListener).SetDeadline(time.Now().Add(patience)))
	conn, err := m.ln.Accept()
	require.NoError(m.t, err)
	m.t.Cleanup(func() { conn.Close() })
	require.NoError(m.t, conn.SetDeadline(time.Now().Add(patience)))
	preface := make([]byte, len(protocol.Preface))
	_, err = io.ReadFull(conn, preface)
	require.NoError(m.t, err)
	require.Equal(m.t, protocol.Preface, string(preface))
	s := &seat{t: m.t, conn: conn}
	require.Equal(m.t, protocol.TypeHello, s.read(&s.hello))
	s.send(&protocol.Welcome{Version: 1, Incarnation: 1, HeartbeatMs: 60_000, AcceptAfterMs: 60_000})
	s.opened()
	return s
}

func (s *seat) send(m protocol.Message) {
	s.t.Helper()
	b, err := protocol.NewEncoder().Append(nil, m)
	require.NoError(s.t, err)
	_, err = s.conn.Write(b)
	require.NoError(s.t, err)
}

// opened waits until the node has the session; what it says before is kept.
func (s *seat) opened() {
	s.t.Helper()
	s.send(&protocol.Ping{Nonce: 9})
	var before []byte
	for {
		typ, _, size, err := protocol.NextFrame(s.buf, protocol.MaxBodyBytes)
		require.NoError(s.t, err)
		if size == 0 {
			s.fill()
			continue
		}
		frame := s.buf[:size]
		s.buf = s.buf[size:]
		if typ == protocol.TypePong {
			s.buf = append(before, s.buf...)
			return
		}
		before = append(before, frame...)
	}
}

func (s *seat) fill() {
	s.t.Helper()
	b := make([]byte, 4096)
	n, err := s.conn.Read(b)
	require.NoError(s.t, err)
	s.buf = append(s.buf, b[:n]...)
}

// read takes the next frame.
func (s *seat) read(m protocol.Message) protocol.Type {
	s.t.Helper()
	for {
		typ, body, size, err := protocol.NextFrame(s.buf, protocol.MaxBodyBytes)
		require.NoError(s.t, err)
		if size > 0 {
			if typ == m.Type() {
				require.NoError(s.t, protocol.NewDecoder().Decode(append([]byte(nil), body...), m))
			}
			s.buf = s.buf[size:]
			return typ
		}
		s.fill()
	}
}

func (s *seat) job(id string, attempt uint32, kind string, args Args) {
	s.t.Helper()
	b, err := msgpack.Marshal(args)
	require.NoError(s.t, err)
	s.send(&protocol.Job{JobID: []byte(id), Shard: 3, Attempt: attempt, Kind: []byte(kind), TimeoutMs: 60_000, Args: b})
}

// result awaits the result of a job.
func (s *seat) result(id string) *protocol.Result {
	s.t.Helper()
	r := &protocol.Result{}
	require.Equal(s.t, protocol.TypeResult, s.read(r))
	require.Equal(s.t, id, string(r.JobID))
	require.EqualValues(s.t, 3, r.Shard)
	return r
}

func (s *seat) ack(id string, attempt uint32) {
	s.t.Helper()
	s.send(&protocol.ResultAck{Acks: []protocol.Ack{{JobID: []byte(id), Attempt: attempt}}})
}

// run starts one node of members, of a normal character.
func run(t *testing.T, members ...*member) (runs string) {
	cfg := Config{Prefix: "n-", Count: 1, Seed: 1, Runs: filepath.Join(t.TempDir(), "runs")}
	for _, m := range members {
		cfg.Members = append(cfg.Members, m.ln.Addr().String())
	}
	ctx, cancel := context.WithCancel(context.Background())
	in, stop := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg, in, io.Discard) }()
	t.Cleanup(func() {
		stop.Close() // its input ends
		require.NoError(t, <-done)
		cancel()
	})
	return cfg.Runs
}

func ran(t *testing.T, path string) []string {
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

// TestOneNode has a job come by two members: it runs once, and each gets the result.
func TestOneNode(t *testing.T) {
	a, b := newMember(t), newMember(t)
	runs := run(t, a, b)
	first, second := a.accept(), b.accept()
	require.Equal(t, "n-0000", first.hello.NodeID)
	require.Equal(t, "n-0000", second.hello.NodeID)
	first.job("j", 1, Echo, Args{Echo: 5})
	r := first.result("j")
	require.Equal(t, protocol.OutcomeOK, r.Outcome)
	require.EqualValues(t, 1, r.Attempt)
	second.job("j", 2, Echo, Args{Echo: 5})
	r = second.result("j")
	require.EqualValues(t, 2, r.Attempt)
	var out map[string]any
	require.NoError(t, msgpack.Unmarshal(r.Output, &out))
	require.EqualValues(t, 5, out["echo"])
	require.Equal(t, []string{"j n-0000 ok"}, ran(t, runs))
}

// TestOutbox loses a session, and then acknowledges.
func TestOutbox(t *testing.T) {
	m := newMember(t)
	run(t, m)
	s := m.accept()
	s.job("held", 1, Echo, Args{})
	s.result("held")
	s.job("runs", 1, Echo, Args{Ms: 3_600_000})
	s.job("last", 1, Echo, Args{})
	s.result("last")
	s.ack("last", 1)
	s.job("after", 1, Echo, Args{}) // the ack has been read when its result is there
	s.result("after")
	s.conn.Close()

	s = m.accept()
	ids := func(refs []protocol.Ref) (list []string) {
		for _, r := range refs {
			list = append(list, fmt.Sprintf("%s %d %d", r.JobID, r.Shard, r.Attempt))
		}
		return list
	}
	require.Equal(t, []string{"runs 3 1"}, ids(s.hello.Running))
	require.Equal(t, []string{"held 3 1", "after 3 1"}, ids(s.hello.Held))
	require.Equal(t, "held", string(s.result("held").JobID))
	s.result("after")
}

func TestDeeds(t *testing.T) {
	m := newMember(t)
	runs := run(t, m)
	s := m.accept()
	s.deed("fails", Args{Do: DoFail}, protocol.OutcomeFailed)
	s.deed("late", Args{Do: DoTimeout}, protocol.OutcomeTimeout)
	s.job("unknown", 1, "other", Args{})
	require.Equal(t, protocol.OutcomeRefused, s.result("unknown").Outcome)
	s.job("long", 1, Echo, Args{Ms: 3_600_000})
	s.send(&protocol.Cancel{JobID: []byte("long"), Attempt: 1})
	require.Equal(t, protocol.OutcomeCancelled, s.result("long").Outcome)
	// What ended, but neither ok nor failed, runs again with a higher attempt.
	s.job("late", 2, Echo, Args{})
	require.Equal(t, protocol.OutcomeOK, s.result("late").Outcome)

	s.job("silent", 1, Echo, Args{Do: DoNothing})
	s.job("once", 1, Echo, Args{Do: DoOnce})
	s.job("once", 2, Echo, Args{Do: DoOnce})
	require.Equal(t, protocol.TypeAccepted, s.read(&protocol.Accepted{}))
	r := s.result("once")
	require.EqualValues(t, 2, r.Attempt)
	require.Equal(t, []string{"fails n-0000 failed", "late n-0000 timeout", "late n-0000 ok", "once n-0000 ok"}, ran(t, runs))
}

// deed has the node do something.
func (s *seat) deed(id string, args Args, want protocol.Outcome) {
	s.t.Helper()
	s.job(id, 1, Echo, args)
	require.Equal(s.t, want, s.result(id).Outcome)
}
