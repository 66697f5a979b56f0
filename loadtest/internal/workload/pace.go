package workload

import (
	"fmt"
	"math"
	"time"

	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// Target says whom the jobs of a stream are for.
type Target uint8

// The targets.
const (
	OneNode  Target = iota // one node each, all in turn
	AllNodes               // a list of all nodes, or as many in turn as one job may have
	Selected               // so many nodes that the server chooses
)

// maxListBytes bounds the list of nodes of one job: a broker's usual limit of a record
// is 1 MiB.
const maxListBytes = 700 << 10

// Pace says which jobs a stream has, and how fast they come.
type Pace struct {
	Rate     float64       // open loop: jobs a second, at the start; 0 with RateTo 0: closed loop
	RateTo   float64       // and after Over, reached linearly; it stays there
	Over     time.Duration // 0: Rate for ever
	Window   int           // closed loop: jobs under way
	Jobs     int64         // end after so many; 0: when stopped
	Nodes    int           // jobs are for the first so many nodes
	Begin    int           // number of the node that comes first
	Target   Target
	Selected int           // how many nodes a job of Selected is for
	Size     int           // bytes of args
	RunFor   time.Duration // how long a node runs a job before it answers; 0: as it likes
	Attempts int           // that the server may make; 0: its default
	TTL      time.Duration // until a job expires; 0: DefaultTTL
}

// open reports whether jobs come whatever the server's pace.
func (p *Pace) open() bool { return p.Rate > 0 || p.RateTo > 0 && p.Over > 0 }

// Validate refuses what cannot work, naming the key.
func (p *Pace) Validate() error {
	switch {
	case p.Rate < 0 || p.RateTo < 0 || max(p.Rate, p.RateTo) > MaxRate:
		return fmt.Errorf("rate: %v to %v; allowed are 0 (closed loop) to %v", p.Rate, p.RateTo, float64(MaxRate))
	case !p.open() && (p.Window < 1 || p.Window > MaxWindow):
		return fmt.Errorf("window: %d; allowed are 1 to %d", p.Window, MaxWindow)
	case p.Size < MinSize || p.Size > MaxSize:
		return fmt.Errorf("size: %d; allowed are %d to %d", p.Size, MinSize, MaxSize)
	case p.Jobs < 0 || p.Jobs > maxJobs:
		return fmt.Errorf("jobs: %d; allowed are 0 to %d", p.Jobs, int64(maxJobs))
	case p.Nodes < 1:
		return fmt.Errorf("nodes: %d; jobs need at least 1", p.Nodes)
	case p.Target == Selected && (p.Selected < 1 || p.Selected > record.MaxTargets):
		return fmt.Errorf("count: %d; allowed are 1 to %d", p.Selected, record.MaxTargets)
	case p.RunFor < 0 || p.RunFor > time.Hour:
		return fmt.Errorf("run_for: %v; allowed are 0s to 1h", p.RunFor)
	case p.Attempts < 0 || p.Attempts > protocol.MaxAttempts:
		return fmt.Errorf("attempts: %d; allowed are 0 (the server's default) to %d", p.Attempts, protocol.MaxAttempts)
	case p.TTL != 0 && (p.TTL < time.Second || p.TTL > record.MaxTTL):
		return fmt.Errorf("ttl: %v; allowed are 1s to %v", p.TTL, record.MaxTTL)
	}
	return nil
}

// Limits of a pace.
const (
	MaxRate   = 10e6
	MaxWindow = 1 << 18 // also bounds the memory of an open loop that the server cannot follow
	maxJobs   = 1<<40 - 1
)

// due is when job number n, from 0, is to be sent, since the start; ok is false when it
// never is.
func (p *Pace) due(n int64) (at time.Duration, ok bool) {
	seconds := float64(n)
	switch t := p.Over.Seconds(); {
	case t <= 0:
		seconds /= p.Rate
	default:
		all := (p.Rate + p.RateTo) / 2 * t // jobs while the rate changes
		if k := (p.RateTo - p.Rate) / t; seconds <= all && k != 0 {
			// The rate is Rate + k*t, so n jobs are Rate*t + k*t*t/2.
			seconds = (math.Sqrt(max(0, p.Rate*p.Rate+2*k*seconds)) - p.Rate) / k
		} else if p.RateTo > 0 {
			seconds = t + (seconds-all)/p.RateTo
		} else {
			return 0, false
		}
	}
	if seconds > maxDue {
		return 0, false
	}
	return time.Duration(seconds * float64(time.Second)), true
}

// maxDue is as good as never, in seconds, and fits a duration.
const maxDue = 1e9

// expected is how many jobs are due after some time.
func (p *Pace) expected(since time.Duration) int64 {
	s, t := since.Seconds(), p.Over.Seconds()
	if t <= 0 {
		return int64(s*p.Rate) + 1
	}
	changing := min(s, t)
	n := p.Rate*changing + (p.RateTo-p.Rate)/t*changing*changing/2
	return int64(n+max(0, s-t)*p.RateTo) + 1
}

// lists returns how many jobs it takes to reach all nodes, and how many nodes each may
// have, ids having so many bytes.
func (p *Pace) lists(idBytes int) (jobs, each int) {
	each = min(p.Nodes, record.MaxTargets, maxListBytes/(idBytes+3))
	return (p.Nodes + each - 1) / each, each
}
