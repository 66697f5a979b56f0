//go:build linux

package scenario

import (
	"time"

	"github.com/roost-server/roost/loadtest/internal/nodes"
	"github.com/roost-server/roost/loadtest/internal/timeline"
)

// Server is a server process that is measured, on this machine.
type Server struct {
	Name string // for reports, such as its --name; may be empty
	PID  int
}

// Env is what a scenario runs on. The caller owns the group, and stops it after [Run].
type Env struct {
	Group       nodes.Group
	Spec        nodes.Spec // the nodes that Group has
	Brokers     []string   // of Kafka; needed when the scenario has jobs
	TopicPrefix string
	Servers     []Server
	Meta        timeline.Meta // what the caller knows of it; Scenario, YAML, Seed and StartedAt are filled in

	// OnPhase is told when a phase begins, and how long it takes, at most when it has an
	// Until. OnSample sees each sample, once a second and at the end of each phase. Both
	// may be nil; they are never called at the same time, and should be quick.
	OnPhase  func(name string, total time.Duration)
	OnSample func(*timeline.Sample)
}
