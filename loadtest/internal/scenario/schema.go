package scenario

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/roost-server/roost/loadtest/internal/workload"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// Limits and defaults of a scenario.
const (
	maxNodes        = 10_000_000
	maxDuration     = 30 * 24 * time.Hour
	maxPhases       = 1000
	defaultSize     = 128
	defaultDrain    = 30 * time.Second
	defaultWindow   = 1000
	defaultUntil    = 5 * time.Minute // of a phase with until and without a duration
	defaultAttempts = 10              // of jobs: a node may be cut off more often than a server would try by itself
)

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)

func name(to *string) func(*decoder, *yaml.Node, string) {
	return scalar(to, func(s string) (string, bool) { return s, nameForm.MatchString(s) },
		"a name of small letters, digits and - is expected, at most 40")
}

func (sc *Scenario) fields() []field {
	return []field{
		{"name", name(&sc.Name)},
		{"description", text(&sc.Description)},
		{"seed", whole(&sc.Seed, 0, math.MaxInt64)},
		{"nodes", whole(&sc.Nodes, 1, maxNodes)},
		{"connect_rate", number(&sc.ConnectRate, 0, 1e6)},
		{"drain", duration(&sc.Drain, time.Millisecond, time.Hour)},
		{"phases", sc.readPhases},
		{"expect", func(d *decoder, n *yaml.Node, path string) { d.mapping(n, path, sc.Expect.fields(true)) }},
	}
}

// decode reads a document into a scenario with defaults.
func decode(file string, doc *yaml.Node) (*Scenario, error) {
	d := &decoder{file: file}
	sc := &Scenario{Seed: 1, Drain: defaultDrain}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return nil, fmt.Errorf("%s: there is no scenario", file)
	}
	root := doc.Content[0]
	d.mapping(root, "", sc.fields())
	if len(d.errs) == 0 {
		for _, missing := range []struct {
			key string
			is  bool
		}{{"name", sc.Name == ""}, {"nodes", sc.Nodes == 0}, {"phases", len(sc.Phases) == 0}} {
			if missing.is {
				d.fail(root, missing.key, "missing")
			}
		}
	}
	if len(d.errs) == 0 {
		sc.check(d, root)
	}
	return sc, d.err()
}

func (sc *Scenario) readPhases(d *decoder, n *yaml.Node, path string) {
	n = value(n)
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 || len(n.Content) > maxPhases {
		d.fail(n, path, "%s; a list of 1 to %d phases is expected", show(n), maxPhases)
		return
	}
	sc.Phases = make([]Phase, len(n.Content))
	for i, c := range n.Content {
		p := &sc.Phases[i]
		p.Name = strconv.Itoa(i + 1)
		at := fmt.Sprintf("%s[%d]", path, i)
		had := len(d.errs)
		d.mapping(c, at, p.fields())
		if len(d.errs) == had {
			p.complete(d, value(c), at)
		}
	}
}

func (p *Phase) fields() []field {
	return []field{
		{"name", name(&p.Name)},
		{"duration", duration(&p.Duration, time.Millisecond, maxDuration)},
		{"until", choice(&p.Until, UntilSettled, UntilDrained)},
		{"ramp", p.readRamp},
		{"jobs", p.readJobs(&p.Jobs, false)},
		{"once", p.readJobs(&p.Once, true)},
		{"storm", one("fraction", func() func(*decoder, *yaml.Node, string) { return share(&p.Storm) })},
		{"churn", one("per_second", func() func(*decoder, *yaml.Node, string) { return rate(&p.Churn, 1e6) })},
		{"slow", one("fraction", func() func(*decoder, *yaml.Node, string) { return share(&p.Slow) })},
		{"expect", func(d *decoder, n *yaml.Node, path string) { d.mapping(n, path, p.Expect.fields(false)) }},
	}
}

// one reads a mapping with one key, which has to be there.
func one(key string, read func() func(*decoder, *yaml.Node, string)) func(*decoder, *yaml.Node, string) {
	return func(d *decoder, n *yaml.Node, path string) {
		had, there := len(d.errs), false
		d.mapping(n, path, []field{{key, func(d *decoder, n *yaml.Node, path string) { there = true; read()(d, n, path) }}})
		if !there && len(d.errs) == had {
			d.fail(n, path+"."+key, "missing")
		}
	}
}

func (p *Phase) readRamp(d *decoder, n *yaml.Node, path string) {
	p.Ramp = &Ramp{To: Amount{Fraction: 1}, Rate: Rate{-1, -1}}
	d.mapping(n, path, []field{
		{"to", amount(&p.Ramp.To)},
		{"rate", rate(&p.Ramp.Rate, 1e6)},
	})
}

// readJobs reads the jobs of a phase, or those of its key once, which end by themselves.
func (p *Phase) readJobs(to **Jobs, once bool) func(*decoder, *yaml.Node, string) {
	return func(d *decoder, n *yaml.Node, path string) {
		j := &Jobs{Size: defaultSize, Target: TargetNode, Attempts: defaultAttempts, TTL: workload.DefaultTTL}
		targets := []Target{TargetNode, TargetFanout, TargetSelect}
		if once {
			targets = targets[:2]
		}
		fields := []field{
			{"rate", rate(&j.Rate, workload.MaxRate)},
			{"window", whole(&j.Window, 1, workload.MaxWindow)},
			{"size", whole(&j.Size, workload.MinSize, workload.MaxSize)},
			{"target", choice(&j.Target, targets...)},
			{"run_for", duration(&j.RunFor, 0, time.Hour)},
			{"attempts", whole(&j.Attempts, 1, protocol.MaxAttempts)},
			{"ttl", duration(&j.TTL, time.Second, record.MaxTTL)},
		}
		if !once {
			fields = append(fields, field{"count", whole(&j.Count, 1, record.MaxTargets)})
		}
		had := len(d.errs)
		d.mapping(n, path, fields)
		if len(d.errs) > had {
			return
		}
		*to = j
		switch {
		case j.Rate.Zero() && child(value(n), "rate") != nil:
			d.fail(n, path+".rate", "0 is no jobs at all; leave them out, or give a window")
		case !j.Rate.Zero() && j.Window > 0:
			d.fail(n, path, "rate and window are both given; a rate is an open loop and a window a closed one")
		case (j.Target == TargetSelect) != (j.Count > 0):
			d.fail(n, path+".count", "it goes with target: select, and that needs it")
		case j.Rate.Zero() && j.Window == 0:
			j.Window = defaultWindow
		}
	}
}

// complete fills in the defaults of a phase, and refuses what makes no sense together.
func (p *Phase) complete(d *decoder, n *yaml.Node, path string) {
	if p.Once != nil && p.Until == "" {
		p.Until = UntilDrained
	}
	if p.Until != "" && p.Duration == 0 {
		p.Duration = defaultUntil
	}
	e := &p.Expect
	switch {
	case p.Duration == 0:
		d.fail(n, path+".duration", "missing; a phase has a duration, or an until")
	case p.Until == UntilDrained && p.Jobs != nil:
		d.fail(n, path+".until", "drained cannot be while jobs come; give them a phase before, or use once")
	case p.Storm == 0 && (e.ReconnectedWithin > 0 || e.RecoveredWithin > 0 || e.OthersP99Ms > 0):
		d.fail(n, path+".expect", "reconnected_within, recovered_within and others_p99_ms are about a storm, and the phase has none")
	case p.Jobs == nil && p.Once == nil && (e.P50Ms+e.P99Ms+e.P999Ms+e.DeliverP99Ms+e.CommitP99Ms+e.OthersP99Ms+e.JobsPerS > 0):
		d.fail(n, path+".expect", "latencies and rates are about jobs, and the phase has none")
	case p.Ramp == nil && e.ConnectPerS > 0:
		d.fail(n, path+".expect.connect_per_s", "it is about a ramp, and the phase has none")
	}
}

// fields are the keys of expect; those of the account belong to the whole test.
func (e *Expect) fields(all bool) []field {
	const most = 1e12
	out := []field{
		{"connected", optional(&e.Connected, share)},
		{"reconnected_within", duration(&e.ReconnectedWithin, time.Millisecond, time.Hour)},
		{"recovered_within", duration(&e.RecoveredWithin, time.Millisecond, time.Hour)},
		{"p50_ms", number(&e.P50Ms, 0, most)},
		{"p99_ms", number(&e.P99Ms, 0, most)},
		{"p999_ms", number(&e.P999Ms, 0, most)},
		{"deliver_p99_ms", number(&e.DeliverP99Ms, 0, most)},
		{"commit_p99_ms", number(&e.CommitP99Ms, 0, most)},
		{"others_p99_ms", number(&e.OthersP99Ms, 0, most)},
		{"rss_growth_percent", number(&e.RSSGrowthPercent, 0, most)},
		{"rss_bytes_per_node", number(&e.RSSBytesPerNode, 0, most)},
		{"jobs_per_s", number(&e.JobsPerS, 0, most)},
		{"connect_per_s", number(&e.ConnectPerS, 0, most)},
	}
	if !all {
		return out
	}
	account := func(to **int64) func(*decoder, *yaml.Node, string) {
		return optional(to, func(v *int64) func(*decoder, *yaml.Node, string) { return whole(v, 0, int64(1)<<50) })
	}
	return append([]field{{"lost", account(&e.Lost)}, {"duplicates", account(&e.Duplicates)}, {"not_ok", account(&e.NotOK)}}, out...)
}

// check refuses what cannot work as a whole, and completes the phases.
func (sc *Scenario) check(d *decoder, root *yaml.Node) {
	names := map[string]bool{}
	asked := false
	for i := range sc.Phases {
		p := &sc.Phases[i]
		path := fmt.Sprintf("phases[%d]", i)
		if names[p.Name] {
			d.fail(root, path+".name", "%q is there twice", p.Name)
		}
		names[p.Name] = true
		if p.Ramp != nil {
			asked = true
			if p.Ramp.To.Count > sc.Nodes {
				d.fail(root, path+".ramp.to", "%d of %d nodes", p.Ramp.To.Count, sc.Nodes)
			}
			if p.Ramp.Rate.From < 0 {
				p.Ramp.Rate = Rate{sc.ConnectRate, sc.ConnectRate}
			}
		}
		if !asked && (p.Jobs != nil || p.Once != nil || p.Storm > 0 || !p.Churn.Zero() || p.Slow > 0) {
			d.fail(root, path, "there are no nodes yet: a ramp has to come before, or in the same phase")
		}
	}
}
