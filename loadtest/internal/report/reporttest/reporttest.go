// Package reporttest makes runs whose figures are known, for tests of reports.
package reporttest

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/roost-server/roost/loadtest/internal/timeline"
)

// The run that [Storm] makes.
const (
	Nodes        = 15_000
	ConnectPerS  = 5_000
	JobsPerS     = 20_000
	BaseRSS      = 64 << 20
	BytesPerNode = 950
	CPUUsPerJob  = 17
	JobsFromS    = 9
	StormAtS     = 36
)

// Storm is a run of so many seconds, 60 at least: nodes connect, jobs come, all sockets
// are cut once.
func Storm(scenario string, seconds int, seed uint64) *timeline.Timeline {
	r := rand.New(rand.NewPCG(seed, 1))
	t := &timeline.Timeline{
		Meta: timeline.Meta{
			Scenario: scenario, Seed: seed, StartedAt: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC),
			YAML:     "name: " + scenario + "\nnodes: 15000\nphases:\n  - name: connect\n    ramp: {to: all}\n    until: settled\n",
			Command:  []string{"loadtest", "run", scenario, "--nodes", "15000", "--set", "description=a b"},
			Machine:  timeline.Machine{CPU: "Example Processor 9000", Cores: 2, MemoryBytes: 16 << 30, Kernel: "Linux 6.1.0"},
			Versions: map[string]string{"loadtest": "0123456789ab", "server": "0123456789ab, go1.26", "broker": "Kafka v4.0", "go": "go1.26"},
		},
		Problems: []string{},
		Phases: []timeline.Phase{
			{Name: "connect", BeginMs: 0, EndMs: 3000}, {Name: "settle", BeginMs: 3000, EndMs: JobsFromS * 1000},
			{Name: "steady", BeginMs: JobsFromS * 1000, EndMs: StormAtS * 1000},
			{Name: "storm", BeginMs: StormAtS * 1000, EndMs: StormAtS*1000 + 12_000},
			{Name: "after", BeginMs: StormAtS*1000 + 12_000, EndMs: int64(seconds-2) * 1000}, {Name: "drain", BeginMs: int64(seconds-2) * 1000, EndMs: int64(seconds) * 1000},
		},
	}
	t.Phases[3].Others = &timeline.Latency{Count: 1000, P50Ms: 30, P99Ms: 66, P999Ms: 80, MaxMs: 90}
	t.Phases[3].Whole = &timeline.Latency{Count: 2000, P50Ms: 32, P99Ms: 142, P999Ms: 190, MaxMs: 300}
	t.Storms = []timeline.Storm{{Phase: "storm", AtMs: StormAtS * 1000, Cut: Nodes, ReconnectedMs: 2900, RecoveredMs: -1}}
	s := timeline.Sample{}
	cpu, load := 120.0, 40.0
	for i := 0; i <= seconds; i++ {
		s.AtMs = int64(i) * 1000
		s.Whole, s.Deliver, s.Commit = nil, nil, nil
		step(&s, i, seconds, r, &cpu, &load)
		rss := BaseRSS + int64(s.Connected)*BytesPerNode
		s.Servers = []timeline.Process{{Name: "m1", CPUMs: int64(cpu), RSSBytes: rss}}
		s.Load = timeline.Process{Name: "load", CPUMs: int64(load), RSSBytes: 30<<20 + int64(s.Connected)*90}
		t.Samples = append(t.Samples, s)
	}
	last := &t.Samples[len(t.Samples)-1]
	t.Account = timeline.Account{
		Nodes: Nodes, Connected: Nodes, Jobs: last.Submitted, Submitted: last.Submitted, Delivered: last.Delivered,
		Answered: last.Answered, Recorded: last.Recorded, Outcomes: map[string]int64{"ok": last.Recorded},
	}
	return t
}

// step makes the next second.
func step(s *timeline.Sample, i, seconds int, r *rand.Rand, cpu, load *float64) {
	if i == 0 {
		return
	}
	storm := i > StormAtS && i <= StormAtS+3
	switch {
	case i <= Nodes/ConnectPerS:
		s.Connected += ConnectPerS
		s.Sessions += ConnectPerS
		*cpu, *load = *cpu+400, *load+150
	case storm:
		s.Connected = (i - StormAtS) * Nodes / 3
		s.Sessions += Nodes / 3
		*cpu, *load = *cpu+400, *load+200
	}
	*cpu, *load = *cpu+5, *load+2
	if i <= JobsFromS {
		return
	}
	if i <= seconds-2 {
		s.Submitted += JobsPerS
	}
	open := s.Submitted - s.Recorded
	done := open
	if storm {
		done = open / 2
	}
	s.Delivered, s.Answered, s.Recorded = s.Delivered+done, s.Answered+done, s.Recorded+done
	*cpu, *load = *cpu+float64(done)*CPUUsPerJob/1e3-5, *load+float64(done)*0.01
	if done == 0 {
		return
	}
	slow := 1.0
	if storm {
		slow = 60
	}
	s.Deliver = latency(r, 1.1*slow, 0.45, done)
	s.Commit = latency(r, 28, 0.25, done)
	s.Whole = latency(r, 29+slow, 0.3, done)
}

// latency is a log-normal distribution around a median in milliseconds.
func latency(r *rand.Rand, medianMs, sigma float64, n int64) *timeline.Latency {
	const values = 1000
	h := hdrhistogram.New(1, 20_000_000, 2) // coarse: thousands are made
	for range values {
		us := medianMs * 1e3 * math.Exp(sigma*r.NormFloat64())
		_ = h.RecordValues(int64(us)+1, max(n/values, 1)) // within the range
	}
	l, err := timeline.NewLatency(h)
	if err != nil {
		panic(err)
	}
	return l
}
