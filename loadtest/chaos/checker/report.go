package checker

import (
	"fmt"
	"io"
	"maps"
	"slices"
)

// Report is what [Check] found.
type Report struct {
	Submitted   int            `json:"submitted"`   // records, of all sorts
	Unsure      int            `json:"unsure"`      // of these: Kafka did not acknowledge them, and may have them or not
	Records     int            `json:"records"`     // in roost.jobs
	Jobs        int            `json:"jobs"`        // of the records: jobs that count
	Assignments int            `json:"assignments"` // of these jobs
	Outcomes    map[string]int `json:"outcomes"`    // of the first result of each assignment
	Retried     int            `json:"retried"`     // outcomes of a second or later attempt
	Refused     map[string]int `json:"refused"`     // records that belong into roost.dead, by cause
	Cancelled   int            `json:"cancelled"`   // jobs that a cancel record followed
	Runs        int            `json:"runs"`        // of jobs on nodes, by the nodes' logs
	Again       int            `json:"again"`       // of the runs: not the first of their assignment
	Watermarks  int            `json:"watermarks"`  // records of roost.progress
	Unseen      int            `json:"unseen"`      // of these: no end offsets could be had when they came
	StateKeys   int            `json:"state_keys"`  // live keys in roost.state at the end
	StateBytes  int            `json:"state_bytes"`
	Lost        int            `json:"lost"`
	Duplicates  int            `json:"duplicates"`
	Wrong       int            `json:"wrong"`

	Details []string       `json:"-"` // of what is lost, there twice or wrong: the first of each sort
	All     []string       `json:"-"` // of all of it, up to a limit
	Kinds   map[string]int `json:"-"` // how often each sort of it was found
}

const (
	maxDetails = 20
	maxOfKind  = 5
	maxAll     = 10_000
)

// Sound tells whether nothing is lost, there twice or wrong.
func (r *Report) Sound() bool { return r.Lost == 0 && r.Duplicates == 0 && r.Wrong == 0 }

// note counts one finding of a sort.
func (r *Report) note(count *int, kind, format string, args ...any) {
	*count++
	if r.Kinds == nil {
		r.Kinds = map[string]int{}
	}
	r.Kinds[kind]++
	if len(r.All) == maxAll {
		return
	}
	text := kind + ": " + fmt.Sprintf(format, args...)
	r.All = append(r.All, text)
	if len(r.Details) < maxDetails && r.Kinds[kind] <= maxOfKind {
		r.Details = append(r.Details, text)
	}
}

func (r *Report) lost(kind, format string, args ...any) {
	r.note(&r.Lost, "lost: "+kind, format, args...)
}
func (r *Report) twice(kind, format string, args ...any) {
	r.note(&r.Duplicates, "duplicate: "+kind, format, args...)
}
func (r *Report) wrong(kind, format string, args ...any) {
	r.note(&r.Wrong, "wrong: "+kind, format, args...)
}

// Blame adds something wrong that the caller found.
func (r *Report) Blame(kind, detail string) { r.wrong(kind, "%s", detail) }

// Print writes what was found for people.
func (r *Report) Print(w io.Writer) {
	fmt.Fprintf(w, "%d records submitted (%d unsure), %d in the topic: %d jobs with %d assignments, %d cancelled, to be refused %v\n",
		r.Submitted, r.Unsure, r.Records, r.Jobs, r.Assignments, r.Cancelled, r.Refused)
	fmt.Fprintf(w, "outcomes: ")
	for _, o := range slices.Sorted(maps.Keys(r.Outcomes)) {
		fmt.Fprintf(w, "%s %d  ", o, r.Outcomes[o])
	}
	fmt.Fprintf(w, "\n%d of them by a later attempt; nodes ran %d, %d of them again\n", r.Retried, r.Runs, r.Again)
	fmt.Fprintf(w, "%d watermarks, %d of them without end offsets; roost.state has %d live keys, %d bytes\n", r.Watermarks, r.Unseen, r.StateKeys, r.StateBytes)
	if r.Sound() {
		return
	}
	fmt.Fprintln(w)
	for _, k := range slices.Sorted(maps.Keys(r.Kinds)) {
		fmt.Fprintf(w, "%7d  %s\n", r.Kinds[k], k)
	}
	fmt.Fprintln(w)
	for _, d := range r.Details {
		fmt.Fprintln(w, "  "+d)
	}
}
