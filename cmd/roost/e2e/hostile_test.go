//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/roost-server/roost/protocol"
)

// token is what nodes have to give in these tests.
const token = "open-sesame"

// hostile is one way to misbehave, and the reason with which it ends.
type hostile struct {
	name   string
	reason protocol.Reason
	act    func(t *testing.T, s *socket)
}

// says is an attack that consists of some bytes.
func says(b ...[]byte) func(*testing.T, *socket) {
	return func(_ *testing.T, s *socket) { s.write(bytes.Join(b, nil)) }
}

// inSession is an attack by a node that was let in.
func inSession(b ...[]byte) func(*testing.T, *socket) {
	return func(t *testing.T, s *socket) {
		s.open(unique("bad"), token)
		s.write(bytes.Join(b, nil))
	}
}

// helloBody is a HELLO with some fields replaced: each is encoded msgpack.
func helloBody(t *testing.T, fields map[int][]byte) []byte {
	t.Helper()
	values := []any{1, "node", []byte(token), 1, "agent", []any{}, []any{}, []any{}}
	b := []byte{0x90 | byte(len(values))}
	for i, v := range values {
		enc, err := msgpack.Marshal(v)
		require.NoError(t, err)
		if replaced, ok := fields[i]; ok {
			enc = replaced
		}
		b = append(b, enc...)
	}
	return b
}

func hostiles(t *testing.T) []hostile {
	preface := []byte(protocol.Preface)
	text := func(s string) []byte {
		b, err := msgpack.Marshal(s)
		require.NoError(t, err)
		return b
	}
	helloWith := func(fields map[int][]byte) []byte { return frame(protocol.TypeHello, helloBody(t, fields)) }
	result := encode(t, &protocol.Result{JobID: []byte("j"), Attempt: 1})
	nested := bytes.Repeat([]byte{0x91}, 1_000_000)
	huge := []byte{0xc6, 0x7f, 0xff, 0xff, 0xff} // a bin32 that claims 2 GB
	return []hostile{
		{"garbage", protocol.ReasonBadPreface, says([]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03garbage"))},
		{"HTTP request", protocol.ReasonBadPreface, says([]byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"))},
		{"framing of another version", protocol.ReasonBadPreface, says([]byte("ROOST/9\n"))},
		{"oversized frame before HELLO", protocol.ReasonFrameTooLarge, says(preface, []byte{0xff, 0xff, 0xff, byte(protocol.TypeHello)})},
		{"oversized frame in a session", protocol.ReasonFrameTooLarge, inSession([]byte{0xff, 0xff, 0xff, byte(protocol.TypeResult)})},
		{"HELLO that claims 2 GB", protocol.ReasonMalformed, says(preface, frame(protocol.TypeHello, huge))},
		{"credential that claims 2 GB", protocol.ReasonMalformed, says(preface, helloWith(map[int][]byte{2: huge}))},
		{"HELLO of nested arrays", protocol.ReasonMalformed, says(preface, frame(protocol.TypeHello, nested[:protocol.MaxHelloBodyBytes]))},
		{"RESULT of nested arrays", protocol.ReasonMalformed, inSession(frame(protocol.TypeResult, nested[:protocol.MaxBodyBytes]))},
		{"a million nested arrays", protocol.ReasonFrameTooLarge, inSession(frame(protocol.TypeResult, nested))},
		{"nothing", protocol.ReasonHelloTimeout, says(nil)},
		{"truncated frame", protocol.ReasonHelloTimeout, says(preface, []byte{0, 1, 0, byte(protocol.TypeHello), 0x98})},
		{"one byte at a time", protocol.ReasonHelloTimeout, drip},
		{"RESULT before HELLO", protocol.ReasonUnexpected, says(preface, result)},
		{"JOB from a node", protocol.ReasonUnexpected, inSession(encode(t, &protocol.Job{JobID: []byte("j"), Kind: []byte("k"), Attempt: 1}))},
		{"HELLO twice", protocol.ReasonUnexpected, inSession(hello(t, "bad", token)[len(preface):])},
		{"no token", protocol.ReasonUnauthenticated, says(hello(t, "bad", ""))},
		{"wrong token", protocol.ReasonUnauthenticated, says(hello(t, "bad", token+"!"))},
		{"version 0", protocol.ReasonUnsupportedVersion, says(preface, helloWith(map[int][]byte{0: {0}}))},
		{"control characters in the id", protocol.ReasonMalformed, says(preface, helloWith(map[int][]byte{1: text("a\x1b[31mb")}))},
		{"id that is not UTF-8", protocol.ReasonMalformed, says(preface, helloWith(map[int][]byte{1: text("\xff\xfe")}))},
		{"long id", protocol.ReasonMalformed, says(preface, helloWith(map[int][]byte{1: text(strings.Repeat("x", 129))}))},
		{"empty HELLO", protocol.ReasonMalformed, says(preface, frame(protocol.TypeHello, nil))},
		{"RESULT with an outcome of the server's", protocol.ReasonMalformed, inSession(badOutcome(t))},
	}
}

// drip sends a valid HELLO so slowly that it is not complete in time.
func drip(t *testing.T, s *socket) {
	b := hello(t, "bad", token)
	gap := 3 * time.Second / time.Duration(len(b))
	stop := time.NewTicker(gap)
	defer stop.Stop()
	for i := range b {
		if _, err := s.Write(b[i : i+1]); err != nil {
			return
		}
		<-stop.C
	}
}

// badOutcome is a RESULT that says what only a server may say.
func badOutcome(t *testing.T) []byte {
	body, err := msgpack.Marshal([]any{"j", 0, 1, 7, 0, "", nil})
	require.NoError(t, err)
	return frame(protocol.TypeResult, body)
}

// TestHostileSockets checks that each way to misbehave ends in its numbered CLOSE and
// is counted, that nobody else notices, and that memory stays bounded.
func TestHostileSockets(t *testing.T) {
	t.Parallel()
	b := startBroker(t, t.TempDir()+"/data", "127.0.0.1:0")
	c := newCluster(t, b.broker())
	m := serving(startWith(t, built.plain, nil, "serve",
		c.args("--hello-timeout", "1s", "--node-token", token, "--log-level", "error")...))
	good := dial(t, m.nodes)
	good.open("good", token)
	producer := c.producer()
	results := c.read("results")
	warmUp(t, m)
	before := m.residentKB()
	for _, h := range hostiles(t) {
		t.Run(h.name, func(t *testing.T) {
			closed := m.metric("roost_connections_closed_total", fmt.Sprintf("reason=%q", h.reason))
			s := dial(t, m.nodes)
			s.t = t
			h.act(t, s)
			got := s.closed()
			require.Equal(t, h.reason, got.Reason, got.Message)
			require.NotEmpty(t, got.Message)
			require.True(t, protocol.ValidID(strings.ReplaceAll(got.Message, " ", "")), "%q", got.Message)
			eventually(t, patience, text("the metric does not count it"), func() bool {
				return m.metric("roost_connections_closed_total", fmt.Sprintf("reason=%q", h.reason)) == closed+1
			})
			good.t = t
			good.ping()
		})
	}
	good.t = t
	t.Run("many at once", func(t *testing.T) { manyAtOnce(t, m) })
	growth := m.residentKB() - before
	t.Logf("resident memory: %d KB, then %d KB more", before, growth)
	require.Less(t, growth, 64<<10, "resident memory in KB")

	t.Run("slow reader", func(t *testing.T) { slowReader(t, m, producer, results) })
	producer.send(producer.json(job("still-works", "good", echoKind, nil)))
	j := &protocol.Job{}
	good.expect(j)
	good.write(encode(t, &protocol.Result{JobID: j.JobID, Shard: j.Shard, Attempt: j.Attempt}))
	require.Equal(t, "ok", results.result("still-works")["outcome"])
	require.Zero(t, m.metric("roost_panics_total"))
	require.Zero(t, m.metric("roost_actor_failures_total"))
	m.stop(interrupt)
}

// warmUp has the member do once what it does in the tests.
func warmUp(t *testing.T, m *member) {
	for i := range 50 {
		s := dial(t, m.nodes)
		s.open(fmt.Sprintf("warm-%d", i), token)
		require.NoError(t, s.Close())
		m.metric("roost_sessions")
	}
}

// manyAtOnce has many strangers each claim as much as they can, and stay.
func manyAtOnce(t *testing.T, m *member) {
	head := frame(protocol.TypeHello, make([]byte, protocol.MaxHelloBodyBytes))
	half := append([]byte(protocol.Preface), head[:len(head)/2]...)
	var all []*socket
	for range 300 {
		s := dial(t, m.nodes)
		s.write(half)
		all = append(all, s)
	}
	for _, s := range all {
		require.Equal(t, protocol.ReasonHelloTimeout, s.closed().Reason)
	}
}

// slowReader is sent far more than it reads. What waits for it in the member is
// bounded, however much the jobs are.
func slowReader(t *testing.T, m *member, p *producer, results *reader) {
	const jobs = 60
	closed := m.metric("roost_connections_closed_total", `reason="slow reader"`)
	d := net.Dialer{Timeout: patience, Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
	}}
	conn, err := d.Dial("tcp", m.nodes)
	require.NoError(t, err)
	defer conn.Close()
	s := &socket{t, conn}
	s.open("slow", token)
	before := m.residentKB()
	args := strings.Repeat("x", 400<<10)
	for i := range jobs {
		p.send(p.json(job(fmt.Sprintf("slow-%d", i), "slow", echoKind, args, "ttl_ms", 5000, "timeout_ms", 4000, "attempts", 1)))
	}
	m.awaitMetric(closed+1, "roost_connections_closed_total", `reason="slow reader"`)
	// What it reads now ends in the middle of a frame, or with CLOSE; never with more
	// than was allowed to wait for it, and the kernel's buffers.
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
	n, _ := io.Copy(io.Discard, conn)
	growth := m.residentKB() - before
	t.Logf("it was sent %d KB of %d KB; resident memory: %d KB, then %d KB more", n>>10, jobs*400, before, growth)
	require.Less(t, growth, 128<<10, "resident memory in KB; the jobs themselves are a part of it")
	require.Less(t, n, int64(jobs*len(args)/2))
	for i := range jobs { // its jobs are not forgotten: it went away with some, and never came back for the rest
		id := fmt.Sprintf("slow-%d", i)
		require.Contains(t, []any{"lost", "expired"}, results.result(id)["outcome"], id)
	}
}
