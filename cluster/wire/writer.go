package wire

import (
	"encoding/binary"
	"sync"

	"github.com/roost-server/roost/actors"
)

// writer makes the bodies of one message. It is reused.
type writer struct {
	buf      []byte
	header   int // bytes of it, at the start of buf
	bodies   [][]byte
	record   int                        // where the payload of the record under way begins
	profiles map[*actors.Profile]uint64 // their numbers in the body under way
	last     *actors.Delivery           // the one before in the body under way, or nil
}

var writers = sync.Pool{New: func() any { return &writer{profiles: map[*actors.Profile]uint64{}} }}

// maxPooledProfiles is how large a map is used again: clearing it takes as long as it is large.
const maxPooledProfiles = 1024

// recordBytes is what a record has besides its texts and lists at most, generously.
const recordBytes = 128

func newWriter(bodies [][]byte, h Header) *writer {
	w := writers.Get().(*writer)
	w.bodies = bodies
	w.buf = h.append(w.buf[:0])
	w.header = len(w.buf)
	return w
}

// done returns all bodies, and gives the writer back.
func (w *writer) done() [][]byte {
	w.cut()
	bodies := w.bodies
	w.bodies = nil
	writers.Put(w)
	return bodies
}

// cut ends the body under way, unless there is nothing in it, and begins the next.
func (w *writer) cut() {
	w.last = nil
	if len(w.buf) > w.header {
		w.bodies = append(w.bodies, append(make([]byte, 0, len(w.buf)), w.buf...))
		w.buf = w.buf[:w.header]
	}
	if len(w.profiles) > maxPooledProfiles {
		w.profiles = map[*actors.Profile]uint64{}
	} else {
		clear(w.profiles)
	}
}

// room sees to it that records with so many bytes of texts and lists together go into
// the same body.
func (w *writer) room(bytes int) {
	if len(w.buf)+bytes+2*recordBytes > MaxBodyBytes {
		w.cut()
	}
}

func (w *writer) begin(tag byte) {
	w.buf = append(w.buf, tag, 0, 0, 0)
	w.record = len(w.buf)
}

func (w *writer) end() {
	n := len(w.buf) - w.record
	w.buf[w.record-3], w.buf[w.record-2], w.buf[w.record-1] = byte(n), byte(n>>8), byte(n>>16)
}

func (w *writer) uint(v uint64)  { w.buf = binary.AppendUvarint(w.buf, v) }
func (w *writer) fixed(v uint64) { w.buf = binary.LittleEndian.AppendUint64(w.buf, v) }
func (w *writer) bytes(b []byte) { w.uint(uint64(len(b))); w.buf = append(w.buf, b...) }
func (w *writer) text(s string)  { w.uint(uint64(len(s))); w.buf = append(w.buf, s...) }
func (w *writer) flag(yes bool)  { w.buf = append(w.buf, bit(yes)) }
func (w *writer) list(l []string) {
	w.uint(uint64(len(l)))
	for _, s := range l {
		w.text(s)
	}
}

func bit(yes bool) byte {
	if yes {
		return 1
	}
	return 0
}

// listBytes is about what a list takes.
func listBytes(l []string) (n int) {
	for _, s := range l {
		n += len(s) + 3
	}
	return n
}

func profileBytes(p *actors.Profile) int {
	if p == nil {
		return 0
	}
	return len(p.Country) + len(p.City) + len(p.Platform) + len(p.Agent) + listBytes(p.Tags) + listBytes(p.Kinds)
}

// profile returns the number of a profile, which it writes the first time.
func (w *writer) profile(p *actors.Profile) uint64 {
	if p == nil {
		return 0
	}
	if n, ok := w.profiles[p]; ok {
		return n
	}
	n := uint64(len(w.profiles)) + 1
	w.profiles[p] = n
	w.begin(tagProfile)
	w.text(p.Country)
	w.text(p.City)
	w.uint(uint64(p.ASN))
	w.text(p.Platform)
	w.text(p.Agent)
	w.list(p.Tags)
	w.list(p.Kinds)
	w.end()
	return n
}
