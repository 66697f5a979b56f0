package api

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/roost-server/roost/protocol/record"
)

// JobRequest is the body of a submission: the job record of docs/RECORDS.md, with an optional id.
type JobRequest struct {
	ID          string          `json:"id,omitempty" minLength:"1" maxLength:"128" doc:"Unique among the producer's jobs; a ULID is made when it is absent" example:"check-1"`
	Kind        string          `json:"kind" minLength:"1" maxLength:"64" doc:"Names the handler on the node" example:"http"`
	Target      TargetRequest   `json:"target" doc:"Exactly one of node, nodes and select"`
	Args        json.RawMessage `json:"args,omitempty" doc:"Arguments of the kind; any JSON value"`
	TimeoutMs   int64           `json:"timeout_ms,omitempty" minimum:"1" maximum:"86400000" doc:"Of one attempt, on the node; 30 seconds when absent"`
	DeadlineMs  int64           `json:"deadline_ms,omitempty" minimum:"1" maximum:"9007199254740991" doc:"Unix time in milliseconds; what is not delivered by then has expired. Goes before ttl_ms"`
	TTLMs       int64           `json:"ttl_ms,omitempty" minimum:"1" maximum:"2592000000" doc:"The deadline, counted from the record's own time; one hour when absent"`
	NotBeforeMs int64           `json:"not_before_ms,omitempty" minimum:"1" maximum:"9007199254740991" doc:"Unix time in milliseconds before which nothing is delivered"`
	Attempts    uint32          `json:"attempts,omitempty" minimum:"1" maximum:"100" doc:"Deliveries that may be tried in all; 3 when absent"`
	BackoffMs   *int64          `json:"backoff_ms,omitempty" minimum:"0" maximum:"300000" doc:"Pause before the second attempt, doubled for each further one; 0: none; 1000 when absent"`
	Priority    uint8           `json:"priority,omitempty" minimum:"0" maximum:"9" doc:"Higher goes first"`
	Tenant      string          `json:"tenant,omitempty" maxLength:"64" doc:"Who the job belongs to; copied to results"`
}

// TargetRequest says which nodes run a job.
type TargetRequest struct {
	Node   string           `json:"node,omitempty" minLength:"1" maxLength:"128" doc:"One node's id"`
	Nodes  []string         `json:"nodes,omitempty" nullable:"false" minItems:"1" maxItems:"10000" doc:"Ids of nodes, each once"`
	Select *SelectorRequest `json:"select,omitempty" doc:"Chooses among the connected nodes"`
}

// SelectorRequest chooses count connected nodes that fit every filter given.
type SelectorRequest struct {
	Country  string   `json:"country,omitempty" maxLength:"3" doc:"ISO 3166-1 code" example:"AU"`
	City     string   `json:"city,omitempty" maxLength:"256"`
	ASN      uint32   `json:"asn,omitempty" format:"int64" minimum:"1" maximum:"4294967295" doc:"Autonomous system number"`
	Platform string   `json:"platform,omitempty" maxLength:"256" example:"linux/arm64"`
	Tags     []string `json:"tags,omitempty" nullable:"false" maxItems:"32" doc:"All of them"`
	Count    uint32   `json:"count,omitempty" minimum:"1" maximum:"10000" doc:"Number of nodes; 1 when absent"`
}

// Record makes the job record, with its defaults, and checks it; the error begins with the field's name.
func (r *JobRequest) Record() (*record.Job, error) {
	j := &record.Job{
		ID: r.ID, Kind: r.Kind, Target: record.Target{Node: r.Target.Node, Nodes: r.Target.Nodes},
		Timeout: time.Duration(r.TimeoutMs) * time.Millisecond, DeadlineMs: r.DeadlineMs,
		TTL: time.Duration(r.TTLMs) * time.Millisecond, NotBeforeMs: r.NotBeforeMs,
		Attempts: r.Attempts, Priority: r.Priority, Tenant: r.Tenant, Encoding: record.JSON,
	}
	if s := r.Target.Select; s != nil {
		j.Target.Select = &record.Selector{
			Country: s.Country, City: s.City, ASN: s.ASN, Platform: s.Platform, Tags: s.Tags, Count: s.Count,
		}
	}
	if r.BackoffMs != nil {
		switch ms := *r.BackoffMs; {
		case ms < 0 || ms > record.MaxBackoff.Milliseconds():
			return nil, fmt.Errorf("backoff_ms: %d; allowed are 0 to %d", ms, record.MaxBackoff.Milliseconds())
		case ms == 0:
			j.Backoff = record.NoBackoff
		default:
			j.Backoff = time.Duration(ms) * time.Millisecond
		}
	}
	if len(r.Args) > 0 {
		args, err := record.FromJSON(r.Args)
		if err != nil {
			return nil, fmt.Errorf("args: %w", err)
		}
		j.Args = args
	}
	if err := j.Validate(); err != nil {
		return nil, err
	}
	return j, nil
}

// Accepted is the answer to a submission.
type Accepted struct {
	ID  string `json:"id" doc:"The job's id"`
	Key string `json:"key" doc:"Key of the record: the node's id for a job of one node, else the job's id"`
}

// Known is the answer to a submission whose id is known already: the first job with it.
type Known struct {
	JobView
	Duplicate bool `json:"duplicate" doc:"True: nothing was submitted"`
}

// CancelRequest is the body of a cancellation.
type CancelRequest struct {
	Reason string `json:"reason,omitempty" maxLength:"256" doc:"Why; the error of the outcomes. At most 256 bytes" example:"no longer needed"`
}
