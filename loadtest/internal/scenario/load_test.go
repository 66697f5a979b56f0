//go:build linux

package scenario

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestEveryBuiltInScenarioIsValidAndDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/LOADTEST.md")
	require.NoError(t, err)
	require.Equal(t, []string{"churn", "fanout", "hold", "jobs", "mixed", "ramp", "slow", "soak", "storm"}, Names())
	for _, n := range Names() {
		sc, err := Load(n)
		require.NoError(t, err, n)
		require.Equal(t, n, sc.Name)
		require.NotEmpty(t, sc.Description, n)
		require.Contains(t, sc.YAML, "name: "+n)
		require.Contains(t, string(doc), "\n| `"+n+"` |", "docs/LOADTEST.md has no row for it")
	}
}

// Each key of the format has a row in the reference, and each row a key.
func TestTheFormatIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/LOADTEST.md")
	require.NoError(t, err)
	_, ref, ok := strings.Cut(string(doc), "\n### The format\n")
	require.True(t, ok)
	ref, _, _ = strings.Cut(ref, "\n## ")
	for prefix, fields := range map[string][]field{
		"": new(Scenario).fields(), "phases[].": new(Phase).fields(), "expect.": new(Expect).fields(true),
	} {
		for _, f := range fields {
			require.Contains(t, ref, "\n| `"+prefix+f.key+"` |")
		}
	}
	for _, key := range []string{"rate", "window", "size", "target", "count", "run_for", "attempts", "ttl"} {
		require.Contains(t, ref, "\n| `phases[].jobs."+key+"` |")
	}
}

const small = `
name: small
nodes: 10
phases:
  - name: connect
    until: settled
    ramp:
  - duration: 3s
    jobs: {rate: 10/20}
`

func TestParse(t *testing.T) {
	sc, err := Parse("f.yaml", []byte(`
name: x-1
description: All of it.
seed: 7
nodes: 1_000
connect_rate: 50
drain: 5s
phases:
  - name: a
    duration: 1m
    until: settled
    ramp: {to: 50%, rate: 10/20}
    expect: {connect_per_s: 10, connected: 0.5}
  - name: b
    duration: 2s
    ramp: {to: 800}
    jobs: &j {rate: 5, size: 64, run_for: 20ms, attempts: 2, ttl: 1m}
    storm: {fraction: 0.25}
    churn: {per_second: 0/9}
    slow: {fraction: 1%}
    expect: {p50_ms: 1, p99_ms: 2, p999_ms: 3, deliver_p99_ms: 4, commit_p99_ms: 5, others_p99_ms: 6, jobs_per_s: 7,
      reconnected_within: 8s, recovered_within: 9s, rss_growth_percent: 10, rss_bytes_per_node: 11}
  - once: {target: fanout, window: 3}
  - duration: 1s
    jobs: {target: select, count: 4}
  - duration: 1s
    jobs: *j
expect: {lost: 1, duplicates: 2, not_ok: 3, p99_ms: 4}
`))
	require.NoError(t, err)
	at := func(v float64) *float64 { return &v }
	n := func(v int64) *int64 { return &v }
	jobs := &Jobs{Rate: Rate{5, 5}, Size: 64, Target: TargetNode, RunFor: 20 * time.Millisecond, Attempts: 2, TTL: time.Minute}
	want := &Scenario{
		Name: "x-1", Description: "All of it.", Seed: 7, Nodes: 1000, ConnectRate: 50, Drain: 5 * time.Second, YAML: sc.YAML,
		Expect: Expect{Lost: n(1), Duplicates: n(2), NotOK: n(3), P99Ms: 4},
		Phases: []Phase{
			{Name: "a", Duration: time.Minute, Until: UntilSettled, Ramp: &Ramp{Amount{Fraction: 0.5}, Rate{10, 20}}, Expect: Expect{ConnectPerS: 10, Connected: at(0.5)}},
			{
				Name: "b", Duration: 2 * time.Second, Ramp: &Ramp{Amount{Count: 800}, Rate{50, 50}}, Jobs: jobs, Storm: 0.25, Churn: Rate{0, 9}, Slow: 0.01,
				Expect: Expect{P50Ms: 1, P99Ms: 2, P999Ms: 3, DeliverP99Ms: 4, CommitP99Ms: 5, OthersP99Ms: 6, JobsPerS: 7,
					ReconnectedWithin: 8 * time.Second, RecoveredWithin: 9 * time.Second, RSSGrowthPercent: 10, RSSBytesPerNode: 11},
			},
			{Name: "3", Duration: defaultUntil, Until: UntilDrained, Once: &Jobs{Window: 3, Size: 128, Target: TargetFanout, Attempts: 10, TTL: 10 * time.Minute}},
			{Name: "4", Duration: time.Second, Jobs: &Jobs{Window: 1000, Size: 128, Target: TargetSelect, Count: 4, Attempts: 10, TTL: 10 * time.Minute}},
			{Name: "5", Duration: time.Second, Jobs: jobs},
		},
	}
	require.Equal(t, want, sc)
	require.Equal(t, 400, Amount{Fraction: 0.5}.Of(800))
	require.Equal(t, 800, Amount{Count: 900}.Of(800))
	require.InDelta(t, 15, Rate{10, 20}.At(0.5), 1e-9)
}

func TestMistakesAreExplained(t *testing.T) {
	in := func(phase string) string {
		return "name: x\nnodes: 10\nphases:\n- {until: settled, ramp: }\n- " + phase
	}
	for name, tc := range map[string]struct{ text, want string }{
		"empty":            {"", "f.yaml: EOF"},
		"no yaml":          {"a: [", "f.yaml: yaml:"},
		"a list":           {"- a", "f.yaml:1: a list; keys are expected: name, description, seed"},
		"two documents":    {small + "---\nname: y", "more than one document"},
		"unknown":          {"name: x\nnode: 3", `f.yaml:2: unknown key "node"; allowed are name, description, seed, nodes`},
		"twice":            {"name: x\nname: y", "f.yaml:2: name: is there twice, first in line 1"},
		"nodes missing":    {"name: x\nphases: [{duration: 1s}]", "nodes: missing"},
		"phases missing":   {"name: x\nnodes: 1", "phases: missing"},
		"no phases":        {"name: x\nnodes: 1\nphases: []", "f.yaml:3: phases: a list; a list of 1 to 1000 phases"},
		"nodes":            {"name: x\nnodes: many", `f.yaml:2: nodes: "many"; a whole number from 1 to 10000000 is expected`},
		"nodes 0":          {"name: x\nnodes: 0", "from 1 to"},
		"seed":             {"seed: -1", "seed: \"-1\"; a whole number from 0"},
		"huge":             {"seed: 99999999999999999999", "a whole number from 0"},
		"name":             {"name: Über", "small letters"},
		"rate":             {in("{duration: 1s, jobs: {rate: x}}"), `f.yaml:5: phases[1].jobs.rate: "x"; a number a second from 0 to 10000000 is expected, or two as from/to`},
		"no rate":          {in("{duration: 1s, jobs: {rate: 0}}"), "phases[1].jobs.rate: 0 is no jobs at all"},
		"half a rate":      {in("{duration: 1s, jobs: {rate: 5/}}"), "phases[1].jobs.rate"},
		"not a number":     {in("{duration: 1s, jobs: {rate: nan}}"), "phases[1].jobs.rate"},
		"size":             {in("{duration: 1s, jobs: {size: 1}}"), "phases[1].jobs.size: \"1\"; a whole number from 24 to"},
		"target":           {in("{duration: 1s, jobs: {target: all}}"), "allowed are node, fanout, select"},
		"once target":      {in("{once: {target: select}}"), "allowed are node, fanout"},
		"once count":       {in("{once: {count: 3}}"), `unknown key "count"`},
		"count":            {in("{duration: 1s, jobs: {count: 3}}"), "phases[1].jobs.count: it goes with target: select"},
		"no count":         {in("{duration: 1s, jobs: {target: select}}"), "it goes with target: select, and that needs it"},
		"rate and window":  {in("{duration: 1s, jobs: {rate: 1, window: 1}}"), "rate and window are both given"},
		"until":            {in("{until: later}"), "phases[1].until: \"later\"; allowed are settled, drained"},
		"drained":          {in("{until: drained, jobs: }"), "drained cannot be while jobs come"},
		"no duration":      {in("{jobs: }"), "phases[1].duration: missing"},
		"duration":         {in("{duration: 5}"), `phases[1].duration: "5"; a duration from 1ms to 720h is expected, such as 30s or 2m`},
		"storm":            {in("{duration: 1s, storm: {fraction: 2}}"), "phases[1].storm.fraction: \"2\"; a share from 0 to 1"},
		"storm alone":      {in("{duration: 1s, storm: }"), "phases[1].storm.fraction: missing"},
		"slow":             {in("{duration: 1s, slow: {fraction: 101%}}"), "from 0% to 100%"},
		"churn":            {in("{duration: 1s, churn: {rate: 1}}"), `unknown key "rate"; allowed are per_second`},
		"to":               {in("{duration: 1s, ramp: {to: 0}}"), "phases[1].ramp.to: \"0\"; a number of nodes is expected"},
		"to too many":      {in("{duration: 1s, ramp: {to: 11}}"), "phases[1].ramp.to: 11 of 10 nodes"},
		"a scalar":         {in("3"), `f.yaml:5: phases[1]: "3"; keys are expected: name, duration`},
		"names":            {in("{name: '1', duration: 1s}"), `"1" is there twice`},
		"expect":           {in("{duration: 1s, expect: {lost: 1}}"), `phases[1].expect: unknown key "lost"`},
		"no storm":         {in("{duration: 1s, expect: {recovered_within: 1s}}"), "the phase has none"},
		"no jobs":          {in("{duration: 1s, expect: {p99_ms: 1}}"), "latencies and rates are about jobs"},
		"no ramp":          {in("{duration: 1s, expect: {connect_per_s: 1}}"), "it is about a ramp"},
		"jobs before ramp": {"name: x\nnodes: 10\nphases: [{duration: 1s, jobs: }]", "a ramp has to come before"},
		"several":          {"seed: x\nnodes: y", "nodes: \"y\""},
	} {
		_, err := Parse("f.yaml", []byte(tc.text))
		require.ErrorContains(t, err, tc.want, name)
	}
	_, err := Parse("f.yaml", make([]byte, maxFileBytes+1))
	require.ErrorContains(t, err, "at most")
}

func TestSettings(t *testing.T) {
	sc, err := Parse("f.yaml", []byte(small), "nodes=20", "seed=9", "jobs.rate=7", "connect.ramp.rate=100", "2.duration=9s", "2.jobs.size=64",
		"expect.p99_ms=3", "2.storm.fraction=10%")
	require.NoError(t, err)
	require.Equal(t, 20, sc.Nodes)
	require.EqualValues(t, 9, sc.Seed)
	require.Equal(t, Rate{100, 100}, sc.Phases[0].Ramp.Rate)
	require.Equal(t, 9*time.Second, sc.Phases[1].Duration)
	require.Equal(t, Rate{7, 7}, sc.Phases[1].Jobs.Rate)
	require.Equal(t, 64, sc.Phases[1].Jobs.Size)
	require.InDelta(t, 0.1, sc.Phases[1].Storm, 1e-9)
	require.InDelta(t, 3, sc.Expect.P99Ms, 1e-9)

	again, err := Parse("g.yaml", []byte(sc.YAML))
	require.NoError(t, err, sc.YAML)
	require.Equal(t, sc, again, "what was run can be run again")

	for setting, want := range map[string]string{
		"nodes":             "key=value is expected",
		"node=3":            "unknown key; allowed are",
		"phases=3":          "unknown key",
		"churn.per_second=": "key=value is expected",
		"churn.fraction=3":  "no phase has churn",
		"jobs.rat=3":        `unknown key "rat"`,
		"nodes=x":           "with --set nodes=x: f.yaml:",
		"a.b.c.d=1":         "unknown key",
	} {
		_, err := Parse("f.yaml", []byte(small), setting)
		require.ErrorContains(t, err, want, setting)
	}
}

func TestLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mine.yaml")
	require.NoError(t, os.WriteFile(file, []byte(small), 0o600))
	sc, err := Load(file, "nodes=30")
	require.NoError(t, err)
	require.Equal(t, 30, sc.Nodes)
	_, err = Load("nothere")
	require.ErrorContains(t, err, "there is no scenario nothere; built in are churn, fanout")
	_, err = Load(file + "x")
	require.ErrorContains(t, err, "no such file")
}
