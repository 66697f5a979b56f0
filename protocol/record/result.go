package record

import (
	"encoding/json"
	"fmt"

	"github.com/roost-server/roost/protocol"
)

// Result is one record of the results topic: the outcome of one assignment. Its
// key is the job's id.
type Result struct {
	Job        string
	Node       string // empty where no node was found
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
type ResultWriter struct{ w writer }

// Append appends r as a record value in the encoding given.
func (rw *ResultWriter) Append(dst []byte, enc Encoding, r *Result) ([]byte, error) {
	if enc == JSON {
		b, err := r.MarshalJSON()
		return append(dst, b...), err
	}
	w := &rw.w
	w.open(dst)
	w.str("job", r.Job)
	w.str("node", r.Node)
	w.str("outcome", r.Outcome.String())
	w.int("attempt", int64(r.Attempt))
	w.str("kind", r.Kind)
	if r.Tenant != "" {
		w.str("tenant", r.Tenant)
	}
	w.key("duration_ms")
	_ = w.mp.EncodeFloat64(r.durationMs())
	if r.Error != "" {
		w.str("error", r.Error)
	}
	if len(r.Output) > 0 {
		w.raw("output", r.Output)
	}
	w.int("job_ms", r.JobMs)
	w.int("time_ms", r.TimeMs)
	w.str("member", r.Member)
	w.int("partition", int64(r.Partition))
	w.int("offset", r.Offset)
	return w.close(), nil
}

func (r *Result) durationMs() float64 { return float64(r.DurationUs) / 1000 }

type resultFields struct {
	Job        string          `json:"job"`
	Node       string          `json:"node"`
	Outcome    string          `json:"outcome"`
	Attempt    uint32          `json:"attempt"`
	Kind       string          `json:"kind"`
	Tenant     string          `json:"tenant,omitempty"`
	DurationMs float64         `json:"duration_ms"`
	Error      string          `json:"error,omitempty"`
	Output     json.RawMessage `json:"output,omitempty"`
	JobMs      int64           `json:"job_ms"`
	TimeMs     int64           `json:"time_ms"`
	Member     string          `json:"member"`
	Partition  int32           `json:"partition"`
	Offset     int64           `json:"offset"`
}

// MarshalJSON returns the record's JSON form.
func (r *Result) MarshalJSON() ([]byte, error) {
	f := resultFields{
		Job: r.Job, Node: r.Node, Outcome: r.Outcome.String(), Attempt: r.Attempt, Kind: r.Kind,
		Tenant: r.Tenant, DurationMs: r.durationMs(), Error: r.Error, JobMs: r.JobMs, TimeMs: r.TimeMs,
		Member: r.Member, Partition: r.Partition, Offset: r.Offset,
	}
	if len(r.Output) > 0 {
		out, err := ToJSON(r.Output)
		if err != nil {
			return nil, fmt.Errorf("output: %w", err)
		}
		f.Output = out
	}
	return json.Marshal(f)
}

// ParseResult reads a record of the results topic in either encoding. Strings and
// Output may alias value.
func ParseResult(contentType string, value []byte) (Result, error) {
	enc, err := Detect(contentType, value)
	if err != nil {
		return Result{}, err
	}
	if enc == JSON {
		return parseResultJSON(value)
	}
	r := reader{b: value}
	n, err := r.open()
	defer r.close()
	if err != nil {
		return Result{}, err
	}
	var out Result
	for range n {
		out.field(&r)
		if r.err != nil {
			return out, r.err
		}
	}
	return out, nil
}

func (out *Result) field(r *reader) {
	switch key := r.str("a field's name"); key {
	case "job":
		out.Job = r.str(key)
	case "node":
		out.Node = r.str(key)
	case "outcome":
		out.Outcome, r.err = parseOutcome(r.str(key))
	case "attempt":
		out.Attempt = uint32(r.uint(key, 1<<32-1))
	case "kind":
		out.Kind = r.str(key)
	case "tenant":
		out.Tenant = r.str(key)
	case "duration_ms":
		v, err := r.mp.DecodeFloat64()
		if err != nil {
			r.fail("duration_ms: %v", err)
		}
		out.DurationUs = uint64(v * 1000)
	case "error":
		out.Error = r.str(key)
	case "output":
		out.Output = r.raw()
	case "job_ms":
		out.JobMs = r.int(key)
	case "time_ms":
		out.TimeMs = r.int(key)
	case "member":
		out.Member = r.str(key)
	case "partition":
		out.Partition = int32(r.int(key))
	case "offset":
		out.Offset = r.int(key)
	default: // a later version's field
		r.raw()
	}
}

func parseResultJSON(value []byte) (Result, error) {
	var f resultFields
	if err := json.Unmarshal(value, &f); err != nil {
		return Result{}, fmt.Errorf("JSON: %w", err)
	}
	o, err := parseOutcome(f.Outcome)
	if err != nil {
		return Result{}, err
	}
	r := Result{
		Job: f.Job, Node: f.Node, Outcome: o, Attempt: f.Attempt, Kind: f.Kind, Tenant: f.Tenant,
		DurationUs: uint64(f.DurationMs * 1000), Error: f.Error, JobMs: f.JobMs, TimeMs: f.TimeMs,
		Member: f.Member, Partition: f.Partition, Offset: f.Offset,
	}
	if len(f.Output) > 0 {
		if r.Output, err = FromJSON(f.Output); err != nil {
			return r, fmt.Errorf("output: %w", err)
		}
	}
	return r, nil
}

func parseOutcome(s string) (protocol.Outcome, error) {
	for _, o := range protocol.Outcomes() {
		if o.String() == s {
			return o, nil
		}
	}
	return 0, fmt.Errorf("outcome: %q is none of %v", s, protocol.Outcomes())
}
