//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

func TestMain(m *testing.M) {
	// gnet's pool of goroutines starts with the process and stays; protoactor counts dead
	// letters for a second, on a goroutine that then ends.
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent(), goleak.IgnoreAnyFunction("github.com/asynkron/protoactor-go/actor.NewDeadLetter.NewThrottle.func4.1"))
}

const patience = 20 * time.Second

func startHop(t *testing.T, args ...string) *hop {
	t.Helper()
	cfg, err := flags(append([]string{"-partitions", "3"}, args...))
	require.NoError(t, err)
	h, err := start(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.stop()) })
	return h
}

// node is one end of a session.
type node struct {
	t    *testing.T
	conn net.Conn
	enc  *protocol.Encoder
	dec  *protocol.Decoder
}

func dial(t *testing.T, addr net.Addr) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr.String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	return conn
}

func connect(t *testing.T, h *hop, id string) *node {
	t.Helper()
	n := &node{t: t, conn: dial(t, h.server.Addr()), enc: protocol.NewEncoder(), dec: protocol.NewDecoder()}
	_, err := n.conn.Write([]byte(protocol.Preface))
	require.NoError(t, err)
	n.write(&protocol.Hello{Version: protocol.Version, NodeID: id, Credit: 8, Attributes: protocol.Attributes{Kinds: []string{"echo"}}})
	kind, _ := n.next()
	require.Equal(t, protocol.TypeWelcome, kind)
	return n
}

func (n *node) write(m protocol.Message) {
	b, err := n.enc.Append(nil, m)
	require.NoError(n.t, err)
	_, err = n.conn.Write(b)
	require.NoError(n.t, err)
}

// next reads one frame.
func (n *node) next() (protocol.Type, []byte) {
	n.t.Helper()
	head := make([]byte, protocol.HeaderBytes)
	_, err := io.ReadFull(n.conn, head)
	require.NoError(n.t, err)
	body := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
	_, err = io.ReadFull(n.conn, body)
	require.NoError(n.t, err)
	return protocol.Type(head[3]), body
}

// work answers so many jobs in the order in which they come, and returns how many
// results were acknowledged meanwhile.
func (n *node) work(jobs int) (acks int) {
	n.t.Helper()
	for jobs > 0 {
		switch kind, body := n.next(); kind {
		case protocol.TypeJob:
			var j protocol.Job
			require.NoError(n.t, n.dec.Decode(body, &j))
			n.write(&protocol.Result{JobID: j.JobID, Shard: j.Shard, Attempt: j.Attempt, Output: j.Args})
			jobs--
		case protocol.TypeResultAck:
			acks += n.acked(body)
		default:
			require.Fail(n.t, "unexpected "+kind.String())
		}
	}
	return acks
}

func (n *node) acked(body []byte) int {
	n.t.Helper()
	var a protocol.ResultAck
	require.NoError(n.t, n.dec.Decode(body, &a))
	return len(a.Acks)
}

// acks counts what is acknowledged until the server has answered a PING.
func (n *node) acks() (acks int) {
	n.t.Helper()
	n.write(&protocol.Ping{Nonce: 1})
	for {
		switch kind, body := n.next(); kind {
		case protocol.TypePong:
			return acks
		case protocol.TypeResultAck:
			acks += n.acked(body)
		default:
			require.Fail(n.t, "unexpected "+kind.String())
		}
	}
}

// frameOf is what the dispatcher sends for a job.
func frameOf(t *testing.T, id, node string) []byte {
	value, err := record.AppendJob(nil, &record.Job{ID: id, Kind: "echo", Target: record.Target{Node: node}, Args: []byte{0xa2, 'h', 'i'}})
	require.NoError(t, err)
	b := binary.BigEndian.AppendUint32(nil, uint32(jobHead+len(node)+len(value)))
	b = binary.BigEndian.AppendUint32(b, uint32(record.Partition(node, 3)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(node)))
	return append(append(b, node...), value...)
}

func readResult(t *testing.T, conn net.Conn) record.Result {
	t.Helper()
	head := make([]byte, frameHead)
	_, err := io.ReadFull(conn, head)
	require.NoError(t, err)
	value := make([]byte, binary.BigEndian.Uint32(head))
	_, err = io.ReadFull(conn, value)
	require.NoError(t, err)
	r, err := record.ParseResult(record.ContentMsgpack, value)
	require.NoError(t, err)
	return r
}

func TestHop(t *testing.T) {
	const nodes, each = 5, 20
	for _, acks := range []bool{false, true} {
		t.Run(fmt.Sprintf("acks=%v", acks), func(t *testing.T) {
			h := startHop(t, fmt.Sprintf("-acks=%v", acks))
			var conns []*node
			for i := range nodes {
				conns = append(conns, connect(t, h, fmt.Sprintf("node-%d", i)))
			}
			d := dial(t, h.kafka.Addr())
			want := map[string]string{}
			var all []byte
			for i := range nodes * each {
				job, node := fmt.Sprintf("job-%d", i), fmt.Sprintf("node-%d", i%nodes)
				want[job] = node
				all = append(all, frameOf(t, job, node)...)
			}
			for _, part := range [][]byte{all[:1001], all[1001:]} { // cut within a frame
				_, err := d.Write(part)
				require.NoError(t, err)
			}
			seen := 0
			for _, n := range conns {
				seen += n.work(each)
			}
			for range nodes * each {
				r := readResult(t, d)
				require.Equal(t, want[r.Job], r.Node, r.Job)
				require.Equal(t, protocol.OutcomeOK, r.Outcome)
				require.Equal(t, "\xa2hi", string(r.Output))
				delete(want, r.Job)
			}
			require.Empty(t, want)
			if !acks {
				for _, n := range conns {
					seen += n.acks()
				}
				require.Zero(t, seen)
				return
			}
			require.Eventually(t, func() bool {
				for _, n := range conns {
					seen += n.acks()
				}
				return seen == nodes*each
			}, patience, time.Millisecond)
		})
	}
}

func TestDispatcherLeavesAndAnotherComes(t *testing.T) {
	h := startHop(t)
	n := connect(t, h, "n")
	for i := range 3 {
		d := dial(t, h.kafka.Addr())
		_, err := d.Write(frameOf(t, fmt.Sprintf("job-%d", i), "n"))
		require.NoError(t, err)
		n.work(1)
		require.Equal(t, fmt.Sprintf("job-%d", i), readResult(t, d).Job)
		require.NoError(t, d.Close())
	}
}

func TestWhatTheDispatcherGetsWrongIsSaid(t *testing.T) {
	bad := frameOf(t, "job", "n")
	bad[frameHead+jobHead+1] = 0xc1 // which msgpack does not use
	for name, c := range map[string]struct {
		frame []byte
		says  string
	}{
		"length":    {[]byte{0xff, 0xff, 0xff, 0xff, 0}, "a frame of 4294967295 bytes; allowed are 6 to 1048576"},
		"partition": {append([]byte{0, 0, 0, 6, 0, 0, 0, 3}, 0, 0), "partition or key is out of bounds"},
		"key":       {append([]byte{0, 0, 0, 6, 0, 0, 0, 0}, 0, 1), "partition or key is out of bounds"},
		"record":    {bad, "a job record was refused"},
	} {
		t.Run(name, func(t *testing.T) {
			h := startHop(t)
			d := dial(t, h.kafka.Addr())
			_, err := d.Write(c.frame)
			require.NoError(t, err)
			select {
			case err := <-h.failed:
				require.ErrorContains(t, err, c.says)
			case <-time.After(patience):
				require.Fail(t, "nothing was said")
			}
		})
	}
}

func TestSettingsThatCannotWork(t *testing.T) {
	for _, args := range [][]string{{"-partitions", "0"}, {"-cut-interval", "-1s"}, {"-cut-outcomes", "0"}, {"-heartbeat", "1ms"}, {"more"}} {
		_, err := flags(args)
		require.Error(t, err, args)
		require.ErrorContains(t, err, args[0])
	}
	cfg, err := flags([]string{"-dispatch", "127.0.0.1:x"})
	require.NoError(t, err)
	_, err = start(t.Context(), cfg)
	require.ErrorContains(t, err, "-dispatch")
	cfg, err = flags([]string{"-listen", "127.0.0.1:x"})
	require.NoError(t, err)
	_, err = start(t.Context(), cfg)
	require.ErrorContains(t, err, "listen")
}
