package roost

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/protocol"
)

// FuzzServerBytes feeds a node whatever a member may send. It must neither panic
// nor hang: once the bytes are taken and the connection is closed, the session ends.
func FuzzServerBytes(f *testing.F) {
	seed := func(msgs ...protocol.Message) {
		var b []byte
		var err error
		enc := protocol.NewEncoder()
		for _, m := range msgs {
			b, err = enc.Append(b, m)
			require.NoError(f, err)
		}
		f.Add(b)
	}
	w := quietWelcome
	seed(&w, newJob(f, "j", 1, "k", 1), newJob(f, "j", 2, "k", 1), &protocol.Cancel{JobID: []byte("j"), Attempt: 2})
	seed(&w, newJob(f, "x", 1, "none", 1), &protocol.Ping{Nonce: 1}, &protocol.Pong{})
	seed(&w, newJob(f, "held", 1, "k", 1), &protocol.ResultAck{Acks: []protocol.Ack{{JobID: []byte("held"), Attempt: 1}}})
	seed(&w, newJob(f, "p", 1, "panic", nil), &protocol.GoAway{Reason: 1001, JitterMs: 1, Addresses: []string{"b:1", "::"}})
	seed(&protocol.Challenge{Method: "m", Nonce: []byte("n")}, &w, &protocol.Close{Reason: 3002, Message: "x", RetryAfterMs: 1})
	seed(&protocol.Close{Reason: 2003})
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		box := NewMemoryOutbox(0, 0)
		require.NoError(t, box.Put(Entry{JobID: "held", Attempt: 1}))
		c, err := New(Config{
			Servers: []string{"a:1"}, NodeID: "n", Outbox: box, Concurrency: 2, Queue: 2, HandshakeTimeout: 5 * time.Second,
			DrainTimeout: time.Nanosecond,
			Prove:        func(context.Context, string, []byte) ([]byte, error) { return []byte("p"), nil },
		})
		require.NoError(t, err)
		c.Handle("k", echo)
		c.Handle("panic", func(context.Context, Job) (Result, error) { panic("x") })
		node, member := net.Pipe()
		c.cfg.Dial = func(context.Context, string, string) (net.Conn, error) { return node, nil }
		taken := make(chan struct{})
		go func() { // the member: reads everything, writes the data, closes
			defer close(taken)
			go func() {
				buf := make([]byte, 4096)
				for {
					if _, err := member.Read(buf); err != nil {
						return
					}
				}
			}()
			_, _ = member.Write(data)
			_ = member.Close()
		}()
		end := c.connect(context.Background(), "a:1")
		require.False(t, end.bye)
		<-taken
		require.NoError(t, c.drain(nil))
		c.endBase(ErrShutdown)
	})
}
