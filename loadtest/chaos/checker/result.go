package checker

import (
	"encoding/json"
	"fmt"
)

// Headers and content types of docs/RECORDS.md.
const (
	headerContentType = "content-type"
	headerReason      = "roost-reason"
	headerTopic       = "roost-topic"
	headerPartition   = "roost-partition"
	headerOffset      = "roost-offset"

	contentJSON    = "application/json"
	contentMsgpack = "application/msgpack"
)

// result is a result record. Pointers are the fields that are always present.
type result struct {
	Job        *string         `json:"job"`
	Node       *string         `json:"node"`
	Index      *int            `json:"index"`
	Outcome    *string         `json:"outcome"`
	Attempt    *int            `json:"attempt"`
	Kind       *string         `json:"kind"`
	Tenant     string          `json:"tenant"`
	DurationMs *float64        `json:"duration_ms"`
	Error      string          `json:"error"`
	Output     json.RawMessage `json:"output"`
	JobMs      *int64          `json:"job_ms"`
	TimeMs     *int64          `json:"time_ms"`
	Member     *string         `json:"member"`
	Partition  *int32          `json:"partition"`
	Offset     *int64          `json:"offset"`
}

// parseResult reads a result record of either encoding.
func parseResult(contentType string, value []byte) (*result, error) {
	switch contentType {
	case contentJSON:
	case contentMsgpack:
		v, err := unpack(value)
		if err != nil {
			return nil, err
		}
		if value, err = json.Marshal(v); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("content-type is %q", contentType)
	}
	r := &result{}
	if err := json.Unmarshal(value, r); err != nil {
		return nil, err
	}
	if missing := r.missing(); missing != "" {
		return nil, fmt.Errorf("there is no field %s", missing)
	}
	return r, nil
}

func (r *result) missing() string {
	for _, f := range []struct {
		name string
		gone bool
	}{
		{"job", r.Job == nil}, {"node", r.Node == nil}, {"index", r.Index == nil}, {"outcome", r.Outcome == nil},
		{"attempt", r.Attempt == nil}, {"kind", r.Kind == nil}, {"duration_ms", r.DurationMs == nil},
		{"job_ms", r.JobMs == nil}, {"time_ms", r.TimeMs == nil}, {"member", r.Member == nil},
		{"partition", r.Partition == nil}, {"offset", r.Offset == nil},
	} {
		if f.gone {
			return f.name
		}
	}
	return ""
}

// echo is the number in the output of a result ok, as the nodes of the harness make it.
func (r *result) echo() (int64, bool) {
	var out struct {
		Echo *int64 `json:"echo"`
	}
	if json.Unmarshal(r.Output, &out) != nil || out.Echo == nil {
		return 0, false
	}
	return *out.Echo, true
}

// outcomes that a result may have.
var outcomes = map[string]bool{
	"ok": true, "failed": true, "refused": true, "timeout": true, "cancelled": true,
	"lost": true, "expired": true, "unmatched": true,
}

type progress struct {
	Partition *int32  `json:"partition"`
	Offset    *int64  `json:"offset"`
	JobMs     *int64  `json:"job_ms"`
	TimeMs    *int64  `json:"time_ms"`
	Member    *string `json:"member"`
}

func parseProgress(key, value []byte) (*progress, error) {
	p := &progress{}
	if err := json.Unmarshal(value, p); err != nil {
		return nil, err
	}
	if p.Partition == nil || p.Offset == nil || p.JobMs == nil || p.TimeMs == nil || p.Member == nil {
		return nil, fmt.Errorf("a field is missing in %s", value)
	}
	if want := fmt.Sprint(*p.Partition); want != string(key) {
		return nil, fmt.Errorf("the key is %q and the partition %s", key, want)
	}
	return p, nil
}
