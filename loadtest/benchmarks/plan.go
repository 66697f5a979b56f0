//go:build linux

package main

import (
	"embed"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/roost-server/roost/loadtest/internal/report"
)

// own are the scenarios that only the benchmarks have.
//
//go:embed *.yaml
var own embed.FS

// ownFolder is where they are in the repository.
const ownFolder = "loadtest/benchmarks/"

// benchmark is one run of a scenario.
type benchmark struct {
	name     string // of its files
	scenario string // a built-in one, or a file of ownFolder
	what     string // the question that it answers
	set      func(*session) []string
}

// plan is what is run, in this order.
var plan = []benchmark{
	{name: "hold", scenario: "hold", what: "idle nodes: what each costs"},
	{name: "ramp", scenario: "ramp", what: "nodes that connect"},
	{name: "jobs", scenario: "jobs.yaml", what: "jobs in a closed loop: as many as the machine does"},
	{name: "jobs-half", scenario: "jobs-half.yaml", what: "jobs in an open loop, at half of that rate", set: half},
	{name: "storm", scenario: "storm", what: "all sockets cut at once, under load"},
	{name: "churn", scenario: "churn", what: "sockets cut one after the other, under load"},
	{name: "slow", scenario: "slow", what: "nodes that do not read, among others"},
	{name: "fanout", scenario: "fanout", what: "one job to all nodes"},
	{name: "soak", scenario: "soak", what: "half of the rate for a long time", set: soak},
}

// names are those of the plan.
func names() (all []string) {
	for _, b := range plan {
		all = append(all, b.name)
	}
	return all
}

// chosen is the part of the plan that was asked for, in its own order.
func chosen(only []string) ([]benchmark, error) {
	for _, n := range only {
		if !slices.Contains(names(), n) {
			return nil, fmt.Errorf("--only: there is no %q; there are %s", n, strings.Join(names(), ", "))
		}
	}
	if len(only) == 0 {
		return plan, nil
	}
	return slices.DeleteFunc(slices.Clone(plan), func(b benchmark) bool { return !slices.Contains(only, b.name) }), nil
}

// half has jobs come at half of the rate that the closed loop reached.
func half(s *session) []string {
	if rate := s.closedLoop(); rate >= 2 {
		return []string{fmt.Sprintf("jobs.rate=%.0f", rate/2)}
	}
	return nil
}

// flatFrom is the length from which on a soak is held to flat memory: what the server
// remembers of jobs that have ended fills up before.
const flatFrom = time.Hour

// soak is at that rate, too, and as long as was asked for.
func soak(s *session) []string {
	set := append(half(s), "warm-up.duration="+min(s.soak/4, 5*time.Minute).Round(time.Second).String(),
		"soak.duration="+s.soak.Round(time.Second).String())
	if s.soak < flatFrom {
		set = append(set, "soak.expect.rss_growth_percent=0") // not looked at
	}
	return set
}

// closedLoop is how many jobs a second the closed loop came to, in this run of the
// benchmarks or an earlier one; 0: unknown.
func (s *session) closedLoop() float64 {
	r, err := report.Load(s.file("jobs", ".json"))
	if err != nil {
		return 0
	}
	return r.Figures.JobsPerS
}
