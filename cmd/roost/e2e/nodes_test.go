//go:build linux

package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/protocol"
	roost "github.com/roost-server/roost/sdk/go"
)

// echoKind is a kind of job that answers with the job's id.
const echoKind = "e2e.echo"

// fleet is a number of nodes in the test's process.
type fleet struct {
	t testing.TB

	mu           sync.Mutex
	runs         map[string]int // handlers begun, by job and node
	clients      []*roost.Client
	disconnected int
	hold         chan struct{} // handlers wait until it is closed; may be nil
}

// node starts one more node, which ends with the test at the latest.
func (f *fleet) node(id string, pace time.Duration, servers ...string) (ended <-chan error, stop func()) {
	f.t.Helper()
	return f.nodeWith(protocol.Attributes{}, id, pace, servers...)
}

// nodeWith starts a node that says of itself where and what it is.
func (f *fleet) nodeWith(at protocol.Attributes, id string, pace time.Duration, servers ...string) (ended <-chan error, stop func()) {
	f.t.Helper()
	c, err := roost.New(roost.Config{Servers: servers, NodeID: id, Attributes: at, Concurrency: 8, DrainTimeout: time.Second, OnEvent: f.event})
	require.NoError(f.t, err)
	f.mu.Lock()
	f.clients = append(f.clients, c)
	f.mu.Unlock()
	c.Handle(echoKind, func(ctx context.Context, j roost.Job) (roost.Result, error) {
		f.mu.Lock()
		f.runs[j.ID+" on "+id]++
		hold := f.hold
		f.mu.Unlock()
		wait := time.NewTimer(pace)
		defer wait.Stop()
		due := wait.C
		if hold != nil {
			due = nil
		}
		select {
		case <-hold: // never, when it is nil
		case <-due:
		case <-ctx.Done():
		}
		return roost.OK(map[string]any{"id": j.ID, "node": id}), nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		done <- c.Run(ctx)
	}()
	stop = once(func() { cancel(); <-finished })
	f.t.Cleanup(func() {
		if f.t.Failed() {
			f.t.Logf("%s: %+v", id, c.Stats())
		}
		stop()
	})
	return done, stop
}

func newFleet(t testing.TB) *fleet { return &fleet{t: t, runs: map[string]int{}} }

// nodes starts nodes named node-0, node-1 and so on.
func (f *fleet) nodes(n int, pace time.Duration, servers ...string) {
	f.t.Helper()
	for i := range n {
		f.node(nodeID(i), pace, servers...)
	}
}

func nodeID(i int) string { return fmt.Sprintf("node-%d", i) }

func (f *fleet) event(e roost.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := e.(roost.Disconnected); ok {
		f.disconnected++
	}
}

// awaitDrained waits until every result is acknowledged: nothing is left in any outbox. When
// a member has lost the acknowledgements, nodes ask for them again after a minute.
func (f *fleet) awaitDrained() {
	f.t.Helper()
	f.mu.Lock()
	clients := slices.Clone(f.clients)
	f.mu.Unlock()
	held := 0
	eventually(f.t, 3*patience, func() string { return fmt.Sprintf("nodes hold %d results unacknowledged", held) }, func() bool {
		held = 0
		for _, c := range clients {
			held += c.Stats().Held
		}
		return held == 0
	})
}

// ran tells how many assignments were begun, and how many of them more than once.
func (f *fleet) ran() (assignments, again int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.runs {
		if n > 1 {
			again++
		}
	}
	return len(f.runs), again
}

func (f *fleet) disconnections() int { f.mu.Lock(); defer f.mu.Unlock(); return f.disconnected }

// socket is a node written by hand.
type socket struct {
	t testing.TB
	net.Conn
}

func dial(t testing.TB, addr string) *socket {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, patience)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(2*patience)))
	return &socket{t, conn}
}

// encode makes a frame.
func encode(t testing.TB, m protocol.Message) []byte {
	t.Helper()
	b, err := protocol.NewEncoder().Append(nil, m)
	require.NoError(t, err)
	return b
}

// frame makes a frame with any body.
func frame(t protocol.Type, body []byte) []byte {
	n := len(body)
	return append([]byte{byte(n >> 16), byte(n >> 8), byte(n), byte(t)}, body...)
}

// hello is the first bytes of a node.
func hello(t testing.TB, id, token string) []byte {
	t.Helper()
	return append([]byte(protocol.Preface), encode(t, &protocol.Hello{Version: 1, NodeID: id, Credential: []byte(token), Credit: 4096,
		Attributes: protocol.Attributes{Kinds: []string{echoKind}}})...)
}

// write sends bytes; the other side may be gone already.
func (s *socket) write(b []byte) {
	_, _ = s.Write(b)
}

// next reads a frame, or reports why there is none.
func (s *socket) next() (protocol.Type, []byte, error) {
	var head [protocol.HeaderBytes]byte
	if _, err := io.ReadFull(s, head[:]); err != nil {
		return 0, nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(append([]byte{0}, head[:3]...)))
	if _, err := io.ReadFull(s, body); err != nil {
		return 0, nil, err
	}
	return protocol.Type(head[3]), body, nil
}

// expect reads frames until one of m's type, and decodes it.
func (s *socket) expect(m protocol.Message) {
	s.t.Helper()
	for {
		kind, body, err := s.next()
		require.NoError(s.t, err, "waiting for %v", m.Type())
		if kind == m.Type() {
			require.NoError(s.t, protocol.NewDecoder().Decode(body, m))
			return
		}
	}
}

// closed reads until CLOSE and then the end of the connection.
func (s *socket) closed() *protocol.Close {
	s.t.Helper()
	m := &protocol.Close{}
	s.expect(m)
	_, _, err := s.next()
	require.Error(s.t, err, "a frame after CLOSE")
	var ne net.Error
	require.False(s.t, errors.As(err, &ne) && ne.Timeout(), "the connection stays open after CLOSE")
	return m
}

// open shakes hands.
func (s *socket) open(id, token string) *protocol.Welcome {
	s.t.Helper()
	s.write(hello(s.t, id, token))
	w := &protocol.Welcome{}
	s.expect(w)
	return w
}

// ping asks for an answer.
func (s *socket) ping() {
	s.t.Helper()
	nonce := uint64(serial.Add(1))
	s.write(encode(s.t, &protocol.Ping{Nonce: nonce}))
	p := &protocol.Pong{}
	s.expect(p)
	require.Equal(s.t, nonce, p.Nonce)
}

// acked reads the acknowledgement of the result of one job, which has to be the next.
func (s *socket) acked(jobID string) {
	s.t.Helper()
	ack := &protocol.ResultAck{}
	s.expect(ack)
	require.Equal(s.t, []protocol.Ack{{JobID: []byte(jobID), Attempt: 1}}, ack.Acks)
}
