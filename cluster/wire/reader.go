package wire

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
)

// fields reads the fields of a payload. One that is missing at the end is zero; after one
// that is wrong, bad is set and all others are zero.
type fields struct {
	b   []byte
	bad bool
}

func (f *fields) fail() uint64 {
	f.b, f.bad = nil, true
	return 0
}

// uint takes a number up to most.
func (f *fields) uint(most uint64) uint64 {
	if len(f.b) == 0 {
		return 0
	}
	if v := uint64(f.b[0]); v < 0x80 && v <= most {
		f.b = f.b[1:]
		return v
	}
	v, n := binary.Uvarint(f.b)
	if n <= 0 || v > most {
		return f.fail()
	}
	f.b = f.b[n:]
	return v
}

// fixed takes eight bytes.
func (f *fields) fixed() uint64 {
	if len(f.b) == 0 {
		return 0
	}
	if len(f.b) < 8 {
		return f.fail()
	}
	v := binary.LittleEndian.Uint64(f.b)
	f.b = f.b[8:]
	return v
}

// bytes takes up to most bytes, as a view into the body; nil for none.
func (f *fields) bytes(most int) []byte {
	n := f.uint(uint64(most))
	if n > uint64(len(f.b)) {
		f.fail()
		return nil
	}
	if n == 0 {
		return nil
	}
	b := f.b[:n:n]
	f.b = f.b[n:]
	return b
}

// view is bytes as a string, which lies in the body.
func (f *fields) view(most int) string { return viewOf(f.bytes(most)) }

// id is view for the id of a node or job, which is never empty.
func (f *fields) id(most int) string {
	s := f.view(most)
	if s == "" {
		f.fail()
	}
	return s
}

func (f *fields) node() string { return f.id(protocol.MaxNodeIDBytes) }
func (f *fields) job() string  { return f.id(protocol.MaxJobIDBytes) }

// attempt takes the number of an attempt.
func (f *fields) attempt() uint32 { return uint32(f.uint(1<<32 - 1)) }

// count takes the number of elements that follow, of at least one byte each.
func (f *fields) count(most int) int {
	n := f.uint(uint64(most))
	if n > uint64(len(f.b)) {
		return int(f.fail())
	}
	return int(n)
}

// list takes texts, which lie in the body.
func (f *fields) list(count, most int) []string {
	n := f.count(count)
	if n == 0 {
		return nil
	}
	out := make([]string, n)
	for i := range out {
		out[i] = f.view(most)
	}
	return out
}

// viewOf returns bytes that nobody may change as a string.
func viewOf(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// records takes a body apart. fn returns false for a payload that is wrong.
func records(b []byte, fn func(tag byte, f *fields) bool) error {
	var f fields
	for n := 0; len(b) > 0; n++ {
		if len(b) < 4 {
			return fmt.Errorf("%w: record %d has no length", ErrMalformed, n)
		}
		size := int(b[1]) | int(b[2])<<8 | int(b[3])<<16
		if size > len(b)-4 {
			return fmt.Errorf("%w: record %d with tag %d has %d bytes, and %d are left", ErrMalformed, n, b[0], size, len(b)-4)
		}
		f.b, f.bad = b[4:4+size:4+size], false
		if !fn(b[0], &f) || f.bad {
			return fmt.Errorf("%w: record %d, with tag %d and %d bytes", ErrMalformed, n, b[0], size)
		}
		b = b[4+size:]
	}
	return nil
}

// tally counts the records of a body by tag, those of a whole one at least: what they become is
// reserved at once, and nothing more.
func tally(b []byte) (of [16]int) {
	for len(b) >= 4 {
		size := int(b[1]) | int(b[2])<<8 | int(b[3])<<16
		if size > len(b)-4 {
			break
		}
		if b[0] < byte(len(of)) {
			of[b[0]]++
		}
		b = b[4+size:]
	}
	return of
}

// profiles are those of a body, by their numbers less one.
type profiles []*actors.Profile

// add reads a profile. All of its texts share one allocation.
func (p *profiles) add(f *fields) bool {
	own := fields{b: append(make([]byte, 0, len(f.b)), f.b...)}
	x := &actors.Profile{}
	x.Country = own.view(protocol.MaxCountryBytes)
	x.City = own.view(protocol.MaxTextBytes)
	x.ASN = uint32(own.uint(1<<32 - 1))
	x.Platform = own.view(protocol.MaxTextBytes)
	x.Agent = own.view(protocol.MaxTextBytes)
	x.Tags = own.list(protocol.MaxTags, protocol.MaxTagBytes)
	x.Kinds = own.list(protocol.MaxKinds, protocol.MaxKindBytes)
	*p = append(*p, x)
	return !own.bad
}

// noProfile stands for none: shards rely on there being one.
var noProfile = new(actors.Profile)

// take reads the number of a profile.
func (p profiles) take(f *fields) *actors.Profile {
	n := f.uint(uint64(len(p)))
	if n == 0 {
		return noProfile
	}
	return p[n-1]
}
