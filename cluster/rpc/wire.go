package rpc

import (
	"encoding/binary"
	"errors"
	"strings"
)

// A message is KindRPC, what it is, the call's number as its caller counts, and what the
// comments say. Numbers are uvarints; a text comes after its length; "rest" is all that is left.
const (
	opCall   = 1 // timeout in ms (0: none), length of the whole body, text: method, rest: body or its begin
	opMore   = 2 // rest: of the body
	opCancel = 3 // the caller does not wait any more
	opCredit = 4 // bytes: so many more may come
	opItem   = 5 // rest: an item, or part of an answer
	opLast   = 6 // rest: the answer or its end; nothing follows
	opEnd    = 7 // the stream is complete
	opError  = 8 // text: code, text: text; nothing follows
)

var errShort = errors.New("it ends in the middle of a field")

// maxCodeBytes bounds a RemoteError's code.
const maxCodeBytes = 64

func appendOp(dst []byte, op byte, id uint64) []byte {
	return binary.AppendUvarint(append(dst, KindRPC, op), id)
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// message makes a message that ends with part of a body.
func message(op byte, id uint64, rest []byte) []byte {
	return append(appendOp(make([]byte, 0, 12+len(rest)), op, id), rest...)
}

func errorMessage(id uint64, e *RemoteError) []byte {
	return appendText(appendText(appendOp(nil, opError, id), cut(e.Code, maxCodeBytes)), cut(e.Text, MaxErrorBytes))
}

// cut shortens a text without leaving half of a character.
func cut(s string, most int) string {
	return strings.ToValidUTF8(s[:min(len(s), most)], "")
}

// reader takes a message apart; after an error everything is empty.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) fail() {
	r.rest, r.err = nil, errShort
}

func (r *reader) byte() byte {
	if len(r.rest) == 0 {
		r.fail()
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

func (r *reader) number() uint64 {
	n, used := binary.Uvarint(r.rest)
	if used <= 0 {
		r.fail()
		return 0
	}
	r.rest = r.rest[used:]
	return n
}

func (r *reader) text() []byte {
	n := r.number()
	if n > uint64(len(r.rest)) {
		r.fail()
		return nil
	}
	s := r.rest[:n]
	r.rest = r.rest[n:]
	return s
}
