package roost

import (
	"bufio"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/protocol"
)

// BenchmarkJobToResult is a job's whole way over loopback: JOB, handler, RESULT,
// RESULT_ACK, with up to 256 jobs on the way at once.
func BenchmarkJobToResult(b *testing.B) {
	const window = 256
	m := newMember(b)
	startNode(b, Config{Servers: []string{m.addr()}, Concurrency: window}, func(c *Client) { c.Handle("k", echo) })
	conn, err := m.ln.Accept()
	require.NoError(b, err)
	defer conn.Close()
	in := bufio.NewReaderSize(conn, 64<<10)
	_, err = io.ReadFull(in, make([]byte, len(protocol.Preface)))
	require.NoError(b, err)
	readFrame(b, in)
	enc, dec := protocol.NewEncoder(), protocol.NewDecoder()
	w := quietWelcome
	out, err := enc.Append(nil, &w)
	require.NoError(b, err)
	job := newJob(b, "job-0", 1, "k", map[string]string{"host": "a.example"})
	sent, done := 0, 0
	var res protocol.Result
	ack := protocol.ResultAck{Acks: make([]protocol.Ack, 1)}
	b.ReportAllocs()
	b.ResetTimer()
	for done < b.N {
		for sent < b.N && sent-done < window {
			sent++
			job.JobID = fmt.Appendf(job.JobID[:0], "job-%d", sent)
			out, _ = enc.Append(out, job)
		}
		if _, err := conn.Write(out); err != nil {
			b.Fatal(err)
		}
		out = out[:0]
		for more := true; more && done < sent; more = in.Buffered() > 0 {
			if t, body := readFrame(b, in); t == protocol.TypeResult {
				if err := dec.Decode(body, &res); err != nil {
					b.Fatal(err)
				}
				done++
				ack.Acks[0] = protocol.Ack{JobID: res.JobID, Attempt: res.Attempt}
				out, _ = enc.Append(out, &ack)
			}
		}
	}
}

func readFrame(b *testing.B, in *bufio.Reader) (protocol.Type, []byte) {
	var head [protocol.HeaderBytes]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		b.Fatal(err)
	}
	body := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
	if _, err := io.ReadFull(in, body); err != nil {
		b.Fatal(err)
	}
	return protocol.Type(head[3]), body
}

// BenchmarkRoundTrip is one job at a time over a pipe: the latency of the SDK itself.
func BenchmarkRoundTrip(b *testing.B) {
	d := newPipes(b)
	startNode(b, Config{Servers: []string{"a:1"}, Dial: d.dial}, func(c *Client) { c.Handle("k", echo) })
	p := newPeer(b, <-d.peers)
	p.open()
	job := newJob(b, "job-0", 1, "k", nil)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		job.JobID = fmt.Appendf(job.JobID[:0], "job-%d", i)
		p.send(job)
		r := expect[*protocol.Result](p)
		p.send(&protocol.ResultAck{Acks: []protocol.Ack{{JobID: r.JobID, Attempt: 1}}})
	}
}
