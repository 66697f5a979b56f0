package roost_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/vmihailenco/msgpack/v5"

	roost "github.com/roost-server/roost/sdk/go"

	"github.com/roost-server/roost/protocol"
)

// exampleJob is what the examples' member sends.
type exampleJob struct {
	id, kind string
	args     any
}

// startMember stands in for a Roost member: it serves one node on loopback, sends it
// the jobs one after the other, prints what comes back, and records each result.
func startMember(jobs ...exampleJob) (addr string, done <-chan struct{}) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		defer ln.Close()
		conn, err := ln.Accept()
		if err != nil {
			panic(err)
		}
		go func() {
			<-finished
			_, _ = io.Copy(io.Discard, conn) // until the node has said goodbye
			_ = conn.Close()
		}()
		if _, err := io.ReadFull(conn, make([]byte, len(protocol.Preface))); err != nil {
			panic(err)
		}
		serveNode(conn, jobs)
	}()
	return ln.Addr().String(), finished
}

func serveNode(conn net.Conn, jobs []exampleJob) {
	enc, dec := protocol.NewEncoder(), protocol.NewDecoder()
	send := func(m protocol.Message) {
		frame, err := enc.Append(nil, m)
		if err == nil {
			_, err = conn.Write(frame)
		}
		if err != nil {
			panic(err)
		}
	}
	sendJob := func() {
		args, err := msgpack.Marshal(jobs[0].args)
		if err != nil {
			panic(err)
		}
		send(&protocol.Job{JobID: []byte(jobs[0].id), Attempt: 1, Kind: []byte(jobs[0].kind), TimeoutMs: 5000, Args: args})
	}
	for len(jobs) > 0 {
		var head [protocol.HeaderBytes]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			panic(err)
		}
		body := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
		if _, err := io.ReadFull(conn, body); err != nil {
			panic(err)
		}
		switch protocol.Type(head[3]) {
		case protocol.TypeHello:
			send(&protocol.Welcome{Version: protocol.Version, Incarnation: 1, Member: "m1", HeartbeatMs: 30_000, AcceptAfterMs: 5000})
			sendJob()
		case protocol.TypeProgress:
			var m protocol.Progress
			if dec.Decode(body, &m) == nil {
				fmt.Printf("%s: progress %v\n", m.JobID, value(m.Data))
			}
		case protocol.TypeResult:
			var m protocol.Result
			if dec.Decode(body, &m) == nil {
				fmt.Println(strings.TrimSpace(fmt.Sprintf("%s: %v %v %s", m.JobID, m.Outcome, value(m.Output), m.Error)))
				send(&protocol.ResultAck{Acks: []protocol.Ack{{JobID: m.JobID, Attempt: m.Attempt}}})
			}
			if jobs = jobs[1:]; len(jobs) > 0 {
				sendJob()
			}
		}
	}
}

func value(raw []byte) (v any) {
	if err := msgpack.Unmarshal(raw, &v); err != nil {
		return err
	}
	return v
}

// runUntil runs the node until done is closed.
func runUntil(done <-chan struct{}, c *roost.Client) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-done
		cancel()
	}()
	if err := c.Run(ctx); err != nil {
		fmt.Println(err)
	}
}
