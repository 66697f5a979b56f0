//go:build linux

package main

import (
	"bytes"
	"fmt"
	"strconv"
)

// nats is the client protocol of NATS, core subjects: node 7 subscribes to node.7 and
// publishes to results. docs.nats.io, "NATS Protocol".
type nats struct{}

var (
	crlf    = []byte("\r\n")
	natsMsg = []byte("MSG ")
)

func natsOpen(dst []byte, subject string) []byte {
	dst = append(dst, "CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB "...)
	return append(append(dst, subject...), " 1\r\nPING\r\n"...)
}

func natsBody(dst, body []byte) []byte {
	dst = append(strconv.AppendInt(append(dst, ' '), int64(len(body)), 10), crlf...)
	return append(append(dst, body...), crlf...)
}

func (nats) hello(dst []byte, node int) []byte { return natsOpen(dst, "node."+strconv.Itoa(node)) }
func (nats) greet(dst []byte) []byte           { return natsOpen(dst, resultTopic) }
func (nats) pong(dst []byte) []byte            { return append(dst, "PONG\r\n"...) }

func (nats) answer(dst, body []byte) []byte {
	return natsBody(append(dst, "PUB "+resultTopic...), body)
}

func (nats) job(dst []byte, node int, body []byte) []byte {
	return natsBody(strconv.AppendInt(append(dst, "PUB node."...), int64(node), 10), body)
}

func (nats) next(b []byte, dispatcher bool) (f frame, err error) {
	end := bytes.Index(b, crlf)
	if end < 0 {
		if len(b) > maxFrame {
			err = fmt.Errorf("a line of more than %d bytes", len(b))
		}
		return f, err
	}
	line := b[:end]
	f.size = end + len(crlf)
	switch {
	case bytes.HasPrefix(line, natsMsg): // MSG subject sid [reply] size
		size, err := strconv.Atoi(string(line[bytes.LastIndexByte(line, ' ')+1:]))
		if err != nil || size < 0 || size > maxFrame {
			return f, fmt.Errorf("the line %q", line)
		}
		if len(b) < f.size+size+len(crlf) {
			return frame{}, nil
		}
		f.kind, f.body = jobIn, b[f.size:f.size+size]
		if dispatcher {
			f.kind = result
		}
		f.size += size + len(crlf)
	case bytes.Equal(line, []byte("PONG")):
		f.kind = ready
	case bytes.Equal(line, []byte("PING")):
		f.kind = ping
	case bytes.HasPrefix(line, []byte("-ERR")):
		return f, fmt.Errorf("%s", line)
	}
	return f, nil
}
