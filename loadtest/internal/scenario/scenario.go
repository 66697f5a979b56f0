package scenario

import (
	"time"
)

// Scenario is a whole test. [Load] and [Parse] make valid ones.
type Scenario struct {
	Name        string
	Description string
	Seed        uint64
	Nodes       int
	// Rate at which nodes connect where a ramp does not say otherwise, a second; 0: as
	// fast as they are welcomed.
	ConnectRate float64
	// Drain is how long no outcome may come at the end before open jobs count as lost.
	Drain  time.Duration
	Phases []Phase
	Expect Expect

	// YAML is the scenario as it is run, with what was set from outside.
	YAML string
}

// HasJobs reports whether any phase has jobs, for which Kafka is needed.
func (sc *Scenario) HasJobs() bool {
	for i := range sc.Phases {
		if sc.Phases[i].Jobs != nil || sc.Phases[i].Once != nil {
			return true
		}
	}
	return false
}

// needsServers names an expectation for which the servers' processes have to be known,
// as a setting does, or "".
func (sc *Scenario) needsServers() string {
	key := func(prefix string, e *Expect) string {
		switch {
		case e.RSSGrowthPercent > 0:
			return prefix + "expect.rss_growth_percent"
		case e.RSSBytesPerNode > 0:
			return prefix + "expect.rss_bytes_per_node"
		}
		return ""
	}
	for i := range sc.Phases {
		if k := key(sc.Phases[i].Name+".", &sc.Phases[i].Expect); k != "" {
			return k
		}
	}
	return key("", &sc.Expect)
}

// Until says what ends a phase before its duration is over.
type Until string

// The ends of a phase. Reaching its duration before that is a problem.
const (
	UntilSettled Until = "settled" // all nodes that ramps asked for are connected
	UntilDrained Until = "drained" // every assignment submitted has its outcome
)

// Phase is a part of a test. What it starts ends with it, but for nodes that connect.
type Phase struct {
	Name     string
	Duration time.Duration // with Until: at most
	Until    Until         // "": the whole duration

	Ramp  *Ramp
	Jobs  *Jobs
	Once  *Jobs   // exactly one job to each node, as fast as Jobs says
	Storm float64 // fraction of the sockets that are cut at once, when the phase begins
	Churn Rate    // sockets that are cut a second
	Slow  float64 // fraction of the nodes that do not read

	Expect Expect
}

// Ramp connects nodes.
type Ramp struct {
	To   Amount // of the scenario's nodes
	Rate Rate   // a second; 0: as fast as they are welcomed
}

// Amount is a number of nodes, or a share of all.
type Amount struct {
	Count    int
	Fraction float64 // used when Count is 0
}

// Of returns how many of n nodes an amount is.
func (a Amount) Of(n int) int {
	if a.Count > 0 {
		return min(a.Count, n)
	}
	return int(a.Fraction*float64(n) + 0.5)
}

// Rate is something a second, which may go linearly from one value to another over a
// phase.
type Rate struct{ From, To float64 }

// Zero reports whether nothing is to happen.
func (r Rate) Zero() bool { return r == Rate{} }

// At returns the rate after the given share of a phase.
func (r Rate) At(share float64) float64 { return r.From + (r.To-r.From)*min(max(share, 0), 1) }

// Target says whom a job is for.
type Target string

// The targets of jobs.
const (
	TargetNode   Target = "node"   // one node, all in turn
	TargetFanout Target = "fanout" // all nodes, or as many in turn as one job may have
	TargetSelect Target = "select" // Count nodes that the server chooses
)

// Jobs says which jobs come, and how fast.
type Jobs struct {
	Rate     Rate // open loop: jobs a second, whatever the server's pace
	Window   int  // closed loop: jobs under way; used when Rate is zero
	Size     int  // bytes of args
	Target   Target
	Count    int           // of TargetSelect
	RunFor   time.Duration // how long a node runs the job
	Attempts int           // that the server may make; 0: its default
	TTL      time.Duration // until a job expires
}

// Expect is what has to hold. Zero fields are not looked at, but for those of the
// account: by default nothing may be lost, recorded twice, not ok or wrong.
type Expect struct {
	// Of the whole test; nil: 0.
	Lost, Duplicates, NotOK *int64
	// Connected is the share of the nodes asked for that are connected at the end, or at
	// the end of the phase.
	Connected *float64

	// After each storm, or the phase's: until all nodes are connected again, and until
	// all that was submitted before it is recorded.
	ReconnectedWithin time.Duration
	RecoveredWithin   time.Duration

	// At most; of the whole test, or of the phase.
	P50Ms, P99Ms, P999Ms      float64 // until the outcome is read
	DeliverP99Ms, CommitP99Ms float64
	OthersP99Ms               float64 // of nodes that the storm did not hit; of a phase with a storm
	RSSGrowthPercent          float64 // of the servers, from the first to the last quarter of the phase
	RSSBytesPerNode           float64 // growth of the servers by node connected

	// At least.
	JobsPerS    float64
	ConnectPerS float64
}
