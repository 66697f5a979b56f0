package workload

import (
	"crypto/rand"
	"encoding/hex"
	"strconv"
	"strings"
)

// NewRunID returns a new name for a run: the start of the ids of its jobs.
func NewRunID() string {
	var id [6]byte
	_, _ = rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}

// appendID appends the id of a job, "run-slot-seq", in hexadecimal of fixed width. seq is
// the number of its first assignment; the others follow.
func appendID(dst []byte, run string, slot int32, seq int64) []byte {
	dst = append(append(dst, run...), '-')
	dst = appendHex(dst, uint64(slot), 6)
	return appendHex(append(dst, '-'), uint64(seq), 10)
}

func appendHex(dst []byte, v uint64, digits int) []byte {
	const hex = "0123456789abcdef"
	for i := digits - 1; i >= 0; i-- {
		dst = append(dst, hex[v>>(4*i)&15])
	}
	return dst
}

// parseID is the inverse of appendID; ok is false for ids of other runs and producers.
func parseID(run, id string) (slot int32, seq int64, ok bool) {
	rest, ok := strings.CutPrefix(id, run)
	if !ok || len(rest) != 18 || rest[0] != '-' || rest[7] != '-' {
		return 0, 0, false
	}
	a, err1 := strconv.ParseUint(rest[1:7], 16, 31)
	b, err2 := strconv.ParseUint(rest[8:], 16, 63)
	return int32(a), int64(b), err1 == nil && err2 == nil
}

// idBytes is the length of what appendID appends.
func idBytes(run string) int { return len(run) + 1 + 6 + 1 + 10 }

// Names are the ids of nodes, by number. [nodes.Spec] is one.
type Names interface {
	// AppendID appends the id of a node. All have the same length.
	AppendID(dst []byte, number int) []byte
}

// list is ids one by one.
type list []string

func (l list) AppendID(dst []byte, number int) []byte { return append(dst, l[number]...) }
