package record

import (
	"encoding/base64"
	"fmt"
	"math"

	"github.com/roost-server/roost/protocol"
)

// maxJSONBytes caps a result record as JSON, whose output may be several times as
// long as in msgpack. One over it has its output as base64: the usual maximum of a
// Kafka record is 1 MiB, and a result that does not fit could never be recorded.
const maxJSONBytes = 768 << 10

// Result is one record of the results topic: the outcome of one assignment. Its
// key is the job's id.
type Result struct {
	Job        string
	Node       string // empty where no node was found
	Index      uint32 // of the assignment among the job's targets; (Job, Index) is unique
	Outcome    protocol.Outcome
	Attempt    uint32 // the attempt that ended it; 0 when none was made
	Kind       string
	Tenant     string
	DurationUs uint64 // on the node; 0 when it did not run
	Error      string // why, when the outcome is not ok
	Output     []byte // one encoded msgpack value; may be empty
	JobMs      int64  // Unix time of the job record
	TimeMs     int64  // Unix time of the outcome
	Member     string // the member that recorded it
	Partition  int32  // where the job record lies
	Offset     int64
}

// ResultWriter appends results as records. It belongs to one goroutine.
type ResultWriter struct{ w *writer }

// Append appends r as a record value in the encoding given. Text that is not UTF-8
// is replaced. As JSON, an output without a JSON form, or with one that is too long
// for a record, is written as output_msgpack, in base64. dst comes back as it was
// with an error, which is only possible when r.Output is not one msgpack value.
func (rw *ResultWriter) Append(dst []byte, enc Encoding, r *Result) ([]byte, error) {
	if rw.w == nil {
		rw.w = newWriter()
	}
	w := rw.w
	if enc != JSON {
		w.b = dst
		w.result(r, false)
		return w.take(), nil
	}
	out, err := w.toJSON(dst, func(w *writer) { w.result(r, false) })
	if err == nil && len(out)-len(dst) <= maxJSONBytes {
		return out, nil
	}
	if err := protocol.CheckPayload(r.Output); err != nil {
		return dst, fmt.Errorf("output: %w", err)
	}
	return w.toJSON(dst, func(w *writer) { w.result(r, true) })
}

// MarshalJSON returns the record's JSON form.
func (r *Result) MarshalJSON() ([]byte, error) {
	var rw ResultWriter
	return rw.Append(nil, JSON, r)
}

func (w *writer) result(r *Result, binary bool) {
	outer := w.begin()
	w.text("job", r.Job)
	w.text("node", r.Node)
	w.int("index", int64(r.Index))
	w.text("outcome", r.Outcome.String())
	w.int("attempt", int64(r.Attempt))
	w.text("kind", r.Kind)
	if r.Tenant != "" {
		w.text("tenant", r.Tenant)
	}
	w.key("duration_ms")
	_ = w.mp.EncodeFloat64(float64(r.DurationUs) / 1000)
	if r.Error != "" {
		w.text("error", r.Error)
	}
	switch {
	case len(r.Output) == 0:
	case binary:
		w.key("output_msgpack")
		_ = w.mp.EncodeBytes(r.Output)
	default:
		w.raw("output", r.Output)
	}
	w.int("job_ms", r.JobMs)
	w.int("time_ms", r.TimeMs)
	w.text("member", r.Member)
	w.int("partition", int64(r.Partition))
	w.int("offset", r.Offset)
	w.end(outer)
}

// ParseResult reads a record of the results topic in either encoding. Fields that it
// does not know are skipped, missing ones are zero. Strings and Output may alias
// value.
func ParseResult(contentType string, value []byte) (Result, error) {
	enc, err := Detect(contentType, value)
	if err != nil {
		return Result{}, err
	}
	if enc == JSON {
		if value, err = FromJSON(value); err != nil {
			return Result{}, err
		}
	}
	r, err := openReader(value)
	if err != nil {
		return Result{}, err
	}
	defer r.close()
	var out Result
	for range r.mapLen("the record") {
		if out.field(r); r.err != nil {
			return out, r.err
		}
	}
	return out, r.err
}

func (out *Result) field(r *reader) {
	switch key := r.str("a field's name"); key {
	case "job":
		out.Job = r.str(key)
	case "node":
		out.Node = r.str(key)
	case "index":
		out.Index = uint32(r.uint(key, 0, 1<<32-1))
	case "outcome":
		out.Outcome = r.outcome(key)
	case "attempt":
		out.Attempt = uint32(r.uint(key, 0, protocol.MaxAttempts))
	case "kind":
		out.Kind = r.str(key)
	case "tenant":
		out.Tenant = r.str(key)
	case "duration_ms":
		out.DurationUs = r.micros(key)
	case "error":
		out.Error = r.str(key)
	case "output":
		out.Output = r.raw(key)
	case "output_msgpack":
		out.Output = r.base64(key)
	case "job_ms":
		out.JobMs = r.int(key)
	case "time_ms":
		out.TimeMs = r.int(key)
	case "member":
		out.Member = r.str(key)
	case "partition":
		out.Partition = int32(r.uint(key, math.MinInt32, math.MaxInt32))
	case "offset":
		out.Offset = r.int(key)
	default: // a later version's field
		r.raw(key)
	}
}

func (r *reader) outcome(field string) protocol.Outcome {
	s := r.str(field)
	for _, o := range outcomes {
		if o.String() == s {
			return o
		}
	}
	r.fail("%s: %s is none of %v", field, quote(s), outcomes)
	return 0
}

var outcomes = protocol.Outcomes()

func (r *reader) micros(field string) uint64 {
	v := math.Round(r.float(field) * 1000)
	if r.err == nil && !(v >= 0 && v <= math.MaxUint64) {
		r.fail("%s: %v; a length of time is expected", field, v/1000)
	}
	if r.err != nil {
		return 0
	}
	if v >= math.MaxUint64 { // 2^64 as a float
		return math.MaxUint64
	}
	return uint64(v)
}

func (r *reader) base64(field string) []byte {
	b, err := base64.StdEncoding.DecodeString(r.str(field))
	if err == nil {
		err = protocol.CheckPayload(b)
	}
	if err != nil {
		r.fail("%s: %v", field, err)
		return nil
	}
	return b
}
