//go:build linux

package e2e

import (
	"net/http"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/protocol"
)

// requireNoAck checks that the member answers, and has acknowledged nothing until then.
func (s *socket) requireNoAck() {
	s.t.Helper()
	nonce := uint64(serial.Add(1))
	s.write(encode(s.t, &protocol.Ping{Nonce: nonce}))
	for {
		kind, body, err := s.next()
		require.NoError(s.t, err)
		require.NotEqual(s.t, protocol.TypeResultAck, kind, "a result was acknowledged before it was committed")
		if kind == protocol.TypePong {
			p := &protocol.Pong{}
			require.NoError(s.t, protocol.NewDecoder().Decode(body, p))
			require.Equal(s.t, nonce, p.Nonce)
			return
		}
	}
}

// untilAcked answers the job again whenever it is delivered again, until the result is
// acknowledged.
func (s *socket) untilAcked(r *protocol.Result) {
	s.t.Helper()
	for {
		kind, body, err := s.next()
		require.NoError(s.t, err, "waiting for the acknowledgement of %s", r.JobID)
		switch kind {
		case protocol.TypeJob:
			s.write(encode(s.t, r))
		case protocol.TypeResultAck:
			ack := &protocol.ResultAck{}
			require.NoError(s.t, protocol.NewDecoder().Decode(body, ack))
			require.Equal(s.t, []protocol.Ack{{JobID: r.JobID, Attempt: r.Attempt}}, ack.Acks)
			return
		}
	}
}

// TestResultsAreAcknowledgedAfterTheCommit takes the broker away while results come: the
// node is told only when they are committed, and has to send them again to a member
// that was killed before.
func TestResultsAreAcknowledgedAfterTheCommit(t *testing.T) {
	t.Parallel()
	b := startBroker(t, filepath.Join(t.TempDir(), "data"), freeAddr(t))
	c := newCluster(t, b.broker())
	addrs := []string{"--nodes-listen", freeAddr(t), "--api-listen", freeAddr(t)}
	m := c.serve(addrs...)
	node := dial(t, m.nodes)
	node.open("n", "")
	p, results := c.producer(), c.read("results")

	// begin gives the node a job, takes the broker away before it answers, and waits.
	begin := func(id string, until func(since time.Duration) bool) *protocol.Result {
		p.send(p.json(job(id, "n", echoKind, nil, "timeout_ms", 600_000)))
		j := &protocol.Job{}
		node.expect(j)
		require.Equal(t, id, string(j.JobID))
		b.signal(syscall.SIGSTOP)
		r := &protocol.Result{JobID: j.JobID, Shard: j.Shard, Attempt: j.Attempt}
		node.write(encode(t, r))
		m.awaitMetric(1, "roost_outcomes_uncommitted")
		started := time.Now()
		eventually(t, patience, text("nothing comes of it that the broker is away"), func() bool {
			node.requireNoAck()
			return until(time.Since(started))
		})
		return r
	}
	short := func(since time.Duration) bool { return since > time.Second } // many commit intervals
	r := begin("waits", short)
	b.signal(syscall.SIGCONT)
	node.untilAcked(r)
	results.once(1)

	r = begin("given-up", func(time.Duration) bool { // the transaction, and the partitions
		return m.metric("roost_transactions_aborted_total") > 0 && m.get("/readyz", nil) == http.StatusServiceUnavailable
	})
	b.signal(syscall.SIGCONT)
	node.untilAcked(r)
	results.once(2)

	r = begin("again", short)
	m.kill()
	b.signal(syscall.SIGCONT)
	results.once(2)
	m = c.serve(addrs...)
	node = dial(t, m.nodes)
	node.write(append([]byte(protocol.Preface), encode(t, &protocol.Hello{Version: 1, NodeID: "n", Credit: 16,
		Attributes: protocol.Attributes{Kinds: []string{echoKind}},
		Held:       []protocol.Ref{{JobID: string(r.JobID), Shard: r.Shard, Attempt: r.Attempt}}})...))
	node.expect(&protocol.Welcome{})
	node.write(encode(t, r))
	node.untilAcked(r)
	all := results.once(3)
	require.Equal(t, "ok", all["again/0"].Outcome)
	require.Equal(t, 1, all["again/0"].Attempt)

	node.write(encode(t, r)) // as after a lost acknowledgement
	node.untilAcked(r)
	m.stop(interrupt)
	results.once(3)
}
