package record

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// jobFields is the job record as JSON shows it; the msgpack form has the same names.
type jobFields struct {
	ID          string          `json:"id"`
	Kind        string          `json:"kind"`
	Target      *targetFields   `json:"target"`
	Args        json.RawMessage `json:"args,omitempty"`
	TimeoutMs   int64           `json:"timeout_ms,omitempty"`
	DeadlineMs  int64           `json:"deadline_ms,omitempty"`
	TTLMs       int64           `json:"ttl_ms,omitempty"`
	NotBeforeMs int64           `json:"not_before_ms,omitempty"`
	Attempts    *uint32         `json:"attempts,omitempty"`
	Priority    uint8           `json:"priority,omitempty"`
	Tenant      string          `json:"tenant,omitempty"`
}

type targetFields struct {
	Node   string          `json:"node,omitempty"`
	Nodes  []string        `json:"nodes,omitempty"`
	Select *selectorFields `json:"select,omitempty"`
}

type selectorFields struct {
	Country  string   `json:"country,omitempty"`
	City     string   `json:"city,omitempty"`
	ASN      uint32   `json:"asn,omitempty"`
	Platform string   `json:"platform,omitempty"`
	Tags     []string `json:"tags,omitempty"`
	Count    *uint32  `json:"count,omitempty"`
}

func parseJSON(value []byte) (Job, error) {
	var f jobFields
	dec := json.NewDecoder(bytes.NewReader(value))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return Job{}, fmt.Errorf("JSON: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return Job{}, fmt.Errorf("JSON: something follows the job's object")
	}
	if f.Attempts != nil && *f.Attempts == 0 {
		return Job{}, fmt.Errorf("attempts: 0; allowed are 1 to 100")
	}
	j := Job{
		ID: f.ID, Kind: f.Kind, DeadlineMs: f.DeadlineMs, NotBeforeMs: f.NotBeforeMs,
		Timeout: millis(f.TimeoutMs), TTL: millis(f.TTLMs),
		Priority: f.Priority, Tenant: f.Tenant, Encoding: JSON,
	}
	if f.Attempts != nil {
		j.Attempts = *f.Attempts
	}
	if f.Target != nil {
		j.Target.Node, j.Target.Nodes = f.Target.Node, f.Target.Nodes
		if s := f.Target.Select; s != nil {
			j.Target.Select = &Selector{Country: s.Country, City: s.City, ASN: s.ASN, Platform: s.Platform, Tags: s.Tags}
			if s.Count != nil {
				if *s.Count == 0 {
					return Job{}, errCount
				}
				j.Target.Select.Count = *s.Count
			}
		}
	}
	if len(f.Args) > 0 {
		args, err := FromJSON(f.Args)
		if err != nil {
			return Job{}, fmt.Errorf("args: %w", err)
		}
		j.Args = args
	}
	return j, nil
}

var errCount = fmt.Errorf("target.select.count: 0; allowed are 1 to %d", MaxTargets)

// millis keeps out-of-range numbers out of range instead of wrapping them around.
func millis(ms int64) time.Duration {
	const most = int64(1<<63-1) / int64(time.Millisecond)
	return time.Duration(min(max(ms, -most), most)) * time.Millisecond
}

// fields is the inverse of parseJSON.
func (j *Job) fields() (jobFields, error) {
	f := jobFields{
		ID: j.ID, Kind: j.Kind, TimeoutMs: j.Timeout.Milliseconds(), DeadlineMs: j.DeadlineMs,
		TTLMs: j.TTL.Milliseconds(), NotBeforeMs: j.NotBeforeMs, Priority: j.Priority, Tenant: j.Tenant,
		Target: &targetFields{Node: j.Target.Node, Nodes: j.Target.Nodes},
	}
	if j.Attempts > 0 {
		f.Attempts = &j.Attempts
	}
	if s := j.Target.Select; s != nil {
		f.Target.Select = &selectorFields{Country: s.Country, City: s.City, ASN: s.ASN, Platform: s.Platform, Tags: s.Tags}
		if s.Count > 0 {
			f.Target.Select.Count = &s.Count
		}
	}
	if len(j.Args) > 0 {
		args, err := ToJSON(j.Args)
		if err != nil {
			return f, fmt.Errorf("args: %w", err)
		}
		f.Args = args
	}
	return f, nil
}
