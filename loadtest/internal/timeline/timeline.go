// Package timeline is what a load test saw over time: what it ran on, its phases, a
// sample a second, and the account at the end. The runner fills it in, reports draw it,
// and as JSON it goes from worker to coordinator and into files; its keys are an
// interface.
package timeline

import "time"

// Timeline is a whole run.
type Timeline struct {
	Meta    Meta     `json:"meta"`
	Phases  []Phase  `json:"phases"`
	Samples []Sample `json:"samples"`
	Account Account  `json:"account"`
	Storms  []Storm  `json:"storms,omitempty"`
	// Interrupted: the run was ended early, by Ctrl-C or a failure.
	Interrupted bool `json:"interrupted,omitempty"`
	// Problems say where the server did not keep its word; empty when it did.
	Problems []string `json:"problems"`
}

// Meta is what is needed to run the same again.
type Meta struct {
	Scenario  string            `json:"scenario"` // its name
	YAML      string            `json:"yaml"`     // the scenario as it was run, flags included
	Command   []string          `json:"command"`
	Seed      uint64            `json:"seed"`
	StartedAt time.Time         `json:"started_at"`
	Machine   Machine           `json:"machine"`
	Versions  map[string]string `json:"versions"` // of loadtest, server, broker, Go, kernel
	Workers   []string          `json:"workers"`  // where the nodes ran; empty: in this process
}

// Machine is what the run was on.
type Machine struct {
	CPU         string `json:"cpu"` // the processor's name
	Cores       int    `json:"cores"`
	MemoryBytes int64  `json:"memory_bytes"`
	Kernel      string `json:"kernel"`
	Guest       bool   `json:"guest"` // emulated: no time measured here counts
}

// Phase is a part of the run.
type Phase struct {
	Name    string `json:"name"`
	BeginMs int64  `json:"begin_ms"` // since the start of the run
	EndMs   int64  `json:"end_ms"`

	// Of what ended in the phase, without buckets.
	Whole   *Latency `json:"whole,omitempty"`
	Deliver *Latency `json:"deliver,omitempty"`
	Commit  *Latency `json:"commit,omitempty"`
	Others  *Latency `json:"others,omitempty"` // whole, of the nodes that the phase's storm did not hit
}

// Storm is a moment at which sockets were cut.
type Storm struct {
	Phase         string `json:"phase"`
	AtMs          int64  `json:"at_ms"` // since the start of the run
	Cut           int    `json:"cut"`
	ReconnectedMs int64  `json:"reconnected_ms"` // until all nodes were connected again; -1: never
	RecoveredMs   int64  `json:"recovered_ms"`   // until all that was submitted before was recorded; -1: never
}

// Sample is how things stood at a moment. Counters count from the start of the run;
// latencies are of what ended since the sample before.
type Sample struct {
	AtMs int64 `json:"at_ms"` // since the start of the run

	Connected  int    `json:"connected"`
	Sessions   uint64 `json:"sessions"`   // opened so far
	Broken     uint64 `json:"broken"`     // connections that ended or failed so far, other than by the test's own will
	Submitted  int64  `json:"submitted"`  // assignments: one for each target of a job
	Delivered  int64  `json:"delivered"`  // JOB frames received by nodes
	Answered   int64  `json:"answered"`   // RESULT frames sent by nodes
	Recorded   int64  `json:"recorded"`   // first outcomes read from Kafka
	Duplicates int64  `json:"duplicates"` // outcomes beyond the first
	NotOK      int64  `json:"not_ok"`     // first outcomes other than ok
	Unacked    int64  `json:"unacked"`    // results not acknowledged to their node yet

	Whole   *Latency `json:"whole,omitempty"`   // from when the job was due, or handed to the Kafka client, until its outcome was read
	Deliver *Latency `json:"deliver,omitempty"` // from then until its node had it
	Commit  *Latency `json:"commit,omitempty"`  // from there until its outcome was read

	Servers []Process `json:"servers,omitempty"` // the server processes that are measured
	Load    Process   `json:"load"`              // this process and its workers
}

// Process is what a process has used.
type Process struct {
	Name     string `json:"name"`
	CPUMs    int64  `json:"cpu_ms"`    // so far, user and system
	RSSBytes int64  `json:"rss_bytes"` // now; 0: the process is gone
}

// Latency is a distribution. Buckets is the whole of it, as HdrHistogram V2 compressed,
// in microseconds, so that samples of workers and of seconds can be added up.
type Latency struct {
	Count   int64   `json:"count"`
	P50Ms   float64 `json:"p50_ms"`
	P99Ms   float64 `json:"p99_ms"`
	P999Ms  float64 `json:"p999_ms"`
	MaxMs   float64 `json:"max_ms"`
	Buckets []byte  `json:"buckets,omitempty"`
}

// Account is what became of everything. Submitted = Recorded + Lost.
type Account struct {
	Nodes      int              `json:"nodes"`
	Connected  int              `json:"connected"` // at the most
	Jobs       int64            `json:"jobs"`
	Submitted  int64            `json:"submitted"`
	Delivered  int64            `json:"delivered"`
	Answered   int64            `json:"answered"`
	Recorded   int64            `json:"recorded"`
	Lost       int64            `json:"lost"`
	Duplicates int64            `json:"twice"`
	Outcomes   map[string]int64 `json:"outcomes"` // first outcomes, by their word
	// ConnectTookMs is from the first dial until all nodes of the first ramp were
	// connected; 0: unknown.
	ConnectTookMs int64 `json:"connect_took_ms"`
}
