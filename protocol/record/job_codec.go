package record

import (
	"encoding/json"
	"fmt"
	"unsafe"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/roost-server/roost/protocol"
)

// ParseJob reads a record of the jobs topic and fills in the defaults. contentType
// is the record's header or empty. The job's strings and Args may alias value, which
// must not be changed afterwards. The error says which field is wrong and what is
// allowed; where the id could be read, the job that comes with the error has it.
func ParseJob(contentType string, value []byte) (Job, error) {
	enc, err := Detect(contentType, value)
	if err != nil {
		return Job{}, err
	}
	var j Job
	if enc == JSON {
		j, err = parseJSON(value)
	} else {
		j, err = parseMsgpack(value)
	}
	if err != nil {
		return j, err
	}
	return j, j.Validate()
}

// AppendJob appends the job as a record value in its encoding.
func AppendJob(dst []byte, j *Job) ([]byte, error) {
	if j.Encoding == JSON {
		f, err := j.fields()
		if err != nil {
			return dst, err
		}
		b, err := json.Marshal(f)
		return append(dst, b...), err
	}
	return appendJobMsgpack(dst, j), nil
}

func parseMsgpack(value []byte) (Job, error) {
	r := reader{b: value}
	n, err := r.open()
	defer r.close()
	if err != nil {
		return Job{}, err
	}
	j := Job{Encoding: Msgpack}
	for range n {
		key := r.str("a field's name")
		switch key {
		case "id":
			j.ID = r.str(key)
		case "kind":
			j.Kind = r.str(key)
		case "target":
			r.target(&j.Target)
		case "args":
			j.Args = r.raw()
		case "timeout_ms":
			j.Timeout = millis(r.int(key))
		case "deadline_ms":
			j.DeadlineMs = r.int(key)
		case "ttl_ms":
			j.TTL = millis(r.int(key))
		case "not_before_ms":
			j.NotBeforeMs = r.int(key)
		case "attempts":
			if j.Attempts = uint32(r.uint(key, 1<<32-1)); j.Attempts == 0 {
				r.fail("attempts: 0; allowed are 1 to %d", protocol.MaxAttempts)
			}
		case "priority":
			j.Priority = uint8(r.uint(key, 255))
		case "tenant":
			j.Tenant = r.str(key)
		default:
			r.fail("unknown field %q", key)
		}
		if r.err != nil {
			return j, r.err
		}
	}
	return j, nil
}

func (r *reader) target(t *Target) {
	for range r.mapLen("target") {
		switch key := r.str("a field's name in target"); key {
		case "node":
			t.Node = r.str("target.node")
		case "nodes":
			t.Nodes = r.strs("target.nodes", MaxTargets)
		case "select":
			t.Select = &Selector{}
			r.selector(t.Select)
		default:
			r.fail("target: unknown field %q; allowed are node, nodes and select", key)
		}
		if r.err != nil {
			return
		}
	}
}

func (r *reader) selector(s *Selector) {
	for range r.mapLen("target.select") {
		switch key := r.str("a field's name in target.select"); key {
		case "country":
			s.Country = r.str(key)
		case "city":
			s.City = r.str(key)
		case "asn":
			s.ASN = uint32(r.uint("target.select.asn", 1<<32-1))
		case "platform":
			s.Platform = r.str(key)
		case "tags":
			s.Tags = r.strs("target.select.tags", protocol.MaxTags)
		case "count":
			if s.Count = uint32(r.uint("target.select.count", 1<<32-1)); s.Count == 0 {
				r.fail("%v", errCount)
			}
		default:
			r.fail("target.select: unknown field %q; allowed are country, city, asn, platform, tags and count", key)
		}
		if r.err != nil {
			return
		}
	}
}

// reader walks a scanned msgpack value in place; the first error sticks. It is read
// with the msgpack library's primitives, never by reflection.
type reader struct {
	b   []byte
	pos int
	err error
	mp  *msgpack.Decoder
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

// open scans the whole value and enters its outermost map.
func (r *reader) open() (int, error) {
	if len(r.b) == 0 {
		return 0, fmt.Errorf("the record has no value")
	}
	end, err := protocol.Scan(r.b)
	if err != nil {
		return 0, fmt.Errorf("msgpack: %w", err)
	}
	if end != len(r.b) {
		return 0, fmt.Errorf("msgpack: %d bytes follow the value", len(r.b)-end)
	}
	r.mp = msgpack.GetDecoder()
	r.mp.Reset((*source)(r))
	n := r.mapLen("the record")
	return n, r.err
}

func (r *reader) close() {
	if r.mp != nil {
		msgpack.PutDecoder(r.mp)
		r.mp = nil
	}
}

func (r *reader) code() byte {
	if r.pos < len(r.b) {
		return r.b[r.pos]
	}
	return 0xc1
}

func (r *reader) mapLen(field string) int {
	if r.err != nil {
		return 0
	}
	if c := r.code(); c&0xf0 != 0x80 && c != 0xde && c != 0xdf {
		r.fail("%s: a map is expected", field)
		return 0
	}
	n, err := r.mp.DecodeMapLen()
	if err != nil {
		r.fail("%s: %v", field, err)
		return 0
	}
	return n
}

// str returns a view of a string or binary value as a string.
func (r *reader) str(field string) string {
	if r.err != nil {
		return ""
	}
	c := r.code()
	if c&0xe0 != 0xa0 && (c < 0xd9 || c > 0xdb) && (c < 0xc4 || c > 0xc6) {
		r.fail("%s: a string is expected", field)
		return ""
	}
	n, err := r.mp.DecodeBytesLen()
	if err != nil || n > len(r.b)-r.pos {
		r.fail("%s: cut short", field)
		return ""
	}
	if n <= 0 {
		return ""
	}
	s := unsafe.String(&r.b[r.pos], n) // the record's value is never changed
	r.pos += n
	return s
}

func (r *reader) strs(field string, limit int) []string {
	if r.err != nil {
		return nil
	}
	if c := r.code(); c&0xf0 != 0x90 && c != 0xdc && c != 0xdd {
		r.fail("%s: an array is expected", field)
		return nil
	}
	n, err := r.mp.DecodeArrayLen()
	if err != nil || n > limit {
		r.fail("%s: %d entries; at most %d are allowed", field, n, limit)
		return nil
	}
	out := make([]string, 0, n)
	for range n {
		out = append(out, r.str(field))
	}
	return out
}

func (r *reader) int(field string) int64 {
	if r.err != nil {
		return 0
	}
	if c := r.code(); c > 0x7f && c < 0xe0 && (c < 0xcc || c > 0xd3) {
		r.fail("%s: an integer is expected", field)
		return 0
	}
	v, err := r.mp.DecodeInt64()
	if err != nil {
		r.fail("%s: %v", field, err)
	}
	return v
}

func (r *reader) uint(field string, limit int64) uint64 {
	v := r.int(field)
	if r.err == nil && (v < 0 || v > limit) {
		r.fail("%s: %d; allowed are 0 to %d", field, v, limit)
		return 0
	}
	return uint64(v)
}

func (r *reader) raw() []byte {
	if r.err != nil {
		return nil
	}
	n, err := protocol.Scan(r.b[r.pos:])
	if err != nil {
		r.fail("args: %v", err)
		return nil
	}
	b := r.b[r.pos : r.pos+n : r.pos+n]
	r.pos += n
	return b
}
