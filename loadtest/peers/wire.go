//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
)

// kind is what a frame means to the load.
type kind uint8

const (
	other  kind = iota
	ready       // the connection may be used
	jobIn       // on a node: body is to be sent back
	result      // on the dispatcher
	ping        // to be answered by pong
)

// frame is one frame as it was read.
type frame struct {
	size int // of the whole; 0: it is not all there yet
	kind kind
	body []byte // aliases what was read
}

// wire is how nodes and the dispatcher speak to one sort of server. It belongs to the
// load's goroutine. An error is the server's: it refused, or sent what nobody can read.
type wire interface {
	// hello is all that a node sends before it is ready.
	hello(dst []byte, node int) []byte
	// greet is the same for the dispatcher; nothing: it is ready at once.
	greet(dst []byte) []byte
	// next reads one frame at the start of b.
	next(b []byte, dispatcher bool) (frame, error)
	// answer is a node's result for the job that next has returned last.
	answer(dst, body []byte) []byte
	// job is a job for a node.
	job(dst []byte, node int, body []byte) []byte
	pong(dst []byte) []byte
}

// raw is the protocol of gnetraw, goroutines and the Erlang server; it is described in
// servers/goroutines.
type raw struct{}

func appendRaw(dst []byte, kind byte, parts ...[]byte) []byte {
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0, kind)
	for _, p := range parts {
		dst = append(dst, p...)
	}
	binary.BigEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
	return dst
}

func number(node int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(node)) }

func (raw) hello(dst []byte, node int) []byte { return appendRaw(dst, 'N', number(node)) }
func (raw) greet(dst []byte) []byte           { return appendRaw(dst, 'D') }
func (raw) answer(dst, body []byte) []byte    { return appendRaw(dst, 'R', body) }
func (raw) pong(dst []byte) []byte            { return dst }

func (raw) job(dst []byte, node int, body []byte) []byte {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(node))
	return appendRaw(dst, 'J', n[:], body)
}

func (raw) next(b []byte, _ bool) (f frame, err error) {
	if len(b) < 5 {
		return f, nil
	}
	size := 4 + int(binary.BigEndian.Uint32(b))
	if size < 5 || size > maxFrame {
		return f, fmt.Errorf("a frame of %d bytes", size)
	}
	if len(b) < size {
		return f, nil
	}
	f = frame{size: size, body: b[5:size]}
	switch b[4] {
	case 'O':
		f.kind = ready
	case 'J':
		f.kind = jobIn
	case 'R':
		f.kind = result
	}
	return f, nil
}

// maxFrame is far more than any frame of this load has.
const maxFrame = 64 << 10
