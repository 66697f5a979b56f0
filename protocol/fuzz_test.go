package protocol

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/vmihailenco/msgpack/v5"
)

// fuzzMessage checks a decoder: no panic, no allocation beyond what was sent, and
// what it took is the same after encoding and decoding it again.
func fuzzMessage(f *testing.F, typ Type) {
	for _, set := range []map[Type]Message{minimalMessages(), sampleMessages(), limitMessages()} {
		f.Add(frameOf(f, set[typ])[HeaderBytes:])
	}
	fields := elements(f, frameOf(f, sampleMessages()[typ])[HeaderBytes:])
	f.Add(longForms(fields))
	f.Add(join(append(fields, []byte{0x91, 0x91, 0xc0})))
	f.Add(join(fields[:1]))
	d, e := NewDecoder(), NewEncoder()
	f.Fuzz(func(t *testing.T, body []byte) {
		m, again := newMessage(typ), newMessage(typ)
		var err error
		if n := allocated(func() { err = d.Decode(body, m) }); n > uint64(64*len(body)+256<<10) {
			t.Fatalf("%d bytes allocated for %d", n, len(body))
		}
		if err != nil {
			if ReasonOf(err) != ReasonMalformed {
				t.Fatal(err)
			}
			return
		}
		frame, err := e.Append(nil, m)
		if err != nil {
			t.Fatalf("decoded %+v, which cannot be encoded: %v", m, err)
		}
		if err := d.Decode(frame[HeaderBytes:], again); err != nil {
			t.Fatalf("encoded %+v, which cannot be decoded: %v", m, err)
		}
		second, err := e.Append(nil, again)
		if err != nil || !bytes.Equal(frame, second) {
			t.Fatalf("first % x\nthen  % x: %v", frame, second, err)
		}
	})
}

func FuzzHello(f *testing.F)      { fuzzMessage(f, TypeHello) }
func FuzzChallenge(f *testing.F)  { fuzzMessage(f, TypeChallenge) }
func FuzzProof(f *testing.F)      { fuzzMessage(f, TypeProof) }
func FuzzWelcome(f *testing.F)    { fuzzMessage(f, TypeWelcome) }
func FuzzJob(f *testing.F)        { fuzzMessage(f, TypeJob) }
func FuzzAccepted(f *testing.F)   { fuzzMessage(f, TypeAccepted) }
func FuzzProgress(f *testing.F)   { fuzzMessage(f, TypeProgress) }
func FuzzResult(f *testing.F)     { fuzzMessage(f, TypeResult) }
func FuzzResultAck(f *testing.F)  { fuzzMessage(f, TypeResultAck) }
func FuzzCancel(f *testing.F)     { fuzzMessage(f, TypeCancel) }
func FuzzCredit(f *testing.F)     { fuzzMessage(f, TypeCredit) }
func FuzzAttributes(f *testing.F) { fuzzMessage(f, TypeAttributes) }
func FuzzPing(f *testing.F)       { fuzzMessage(f, TypePing) }
func FuzzPong(f *testing.F)       { fuzzMessage(f, TypePong) }
func FuzzGoAway(f *testing.F)     { fuzzMessage(f, TypeGoAway) }
func FuzzClose(f *testing.F)      { fuzzMessage(f, TypeClose) }

// FuzzScan compares Scan with the reference, and what passed it with the msgpack
// library.
func FuzzScan(f *testing.F) {
	for _, m := range sampleMessages() {
		f.Add(frameOf(f, m)[HeaderBytes:])
	}
	f.Add(nested(MaxDepth))
	f.Add([]byte{0xc6, 0x7f, 0xff, 0xff, 0xff})
	f.Add([]byte{0x93, 0xd4, 1, 1, 0xc7, 0, 1, 0xcb, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		agree(t, b)
		end, err := Scan(b)
		if err != nil {
			return
		}
		r := bytes.NewReader(b)
		if err := msgpack.NewDecoder(r).Skip(); err == nil && len(b)-r.Len() != end {
			t.Fatalf("ends at %d, for the library at %d", end, len(b)-r.Len())
		}
	})
}

// FuzzNextFrame reads a stream in parts of every size and as a whole.
func FuzzNextFrame(f *testing.F) {
	var all []byte
	for _, typ := range allTypes() {
		all = append(all, frameOf(f, sampleMessages()[typ])...)
	}
	f.Add(all, uint16(7), uint32(MaxBodyBytes))
	f.Add([]byte{0, 0, 1, 0x7f, 0, 0, 0, 0, 0x30}, uint16(1), uint32(1))
	f.Add([]byte{0xff, 0xff, 0xff, 0}, uint16(1), uint32(MaxHelloBodyBytes))
	type frame struct {
		t    Type
		body string
	}
	read := func(stream []byte, step, limit int) (out []frame, rest int, failed bool) {
		var buf []byte
		for len(stream) > 0 {
			n := min(step, len(stream))
			buf, stream = append(buf, stream[:n]...), stream[n:]
			for {
				t, body, size, err := NextFrame(buf, limit)
				if err != nil {
					return out, 0, true
				}
				if size == 0 {
					break
				}
				out, buf = append(out, frame{t, string(body)}), buf[size:]
			}
		}
		return out, len(buf), false
	}
	f.Fuzz(func(t *testing.T, stream []byte, step uint16, limit uint32) {
		most := int(limit % (1 << 24))
		a, restA, failedA := read(stream, max(1, int(step)), most)
		b, restB, failedB := read(stream, len(stream), most)
		if !reflect.DeepEqual(a, b) || restA != restB || failedA != failedB {
			t.Fatalf("%v %d %v\n%v %d %v", a, restA, failedA, b, restB, failedB)
		}
		for _, x := range a {
			if len(x.body) > most {
				t.Fatalf("a body of %d bytes; %d allowed", len(x.body), most)
			}
		}
	})
}
