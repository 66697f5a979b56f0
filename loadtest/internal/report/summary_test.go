package report

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/loadtest/internal/report/reporttest"
	"github.com/roost-server/roost/loadtest/internal/timeline"
)

const (
	metaGolden = `"meta":{"scenario":"","yaml":"","command":null,"seed":0,"started_at":"0001-01-01T00:00:00Z",` +
		`"machine":{"cpu":"","cores":0,"memory_bytes":0,"kernel":"","guest":false},"versions":null,"workers":null},`
	figuresGolden = `"seconds":0,"connected":0,"connect_per_s":0,"submitted_per_s":0,"jobs_per_s":0,"recorded":0,` +
		`"whole":{"count":0,"p50_ms":0,"p99_ms":0,"p999_ms":0,"max_ms":0,"curve":[{"percentile":0,"ms":0}]},"deliver":null,"commit":null,` +
		`"server_cpu_us_per_job":null,"server_cores":null,"load_cores":null,"server_rss_bytes":null,"server_rss_peak_bytes":null,` +
		`"server_rss_bytes_per_node":null`
	accountGolden = `"account":{"nodes":0,"connected":0,"jobs":0,"submitted":0,"delivered":0,"answered":0,"recorded":0,"lost":0,"twice":0,` +
		`"outcomes":null,"connect_took_ms":0},"storms":[{"phase":"","at_ms":0,"cut":0,"reconnected_ms":0,"recovered_ms":0}],` +
		`"interrupted":true,"problems":null,`
)

var stormOnce = sync.OnceValue(func() *timeline.Timeline { return reporttest.Storm("storm", 70, 1) })

// known is a run with known figures; what its slices hold must not be changed.
func known() *timeline.Timeline {
	tl := *stormOnce()
	return &tl
}

func TestSummaryKeysAreKept(t *testing.T) {
	f := Figures{Whole: &Spread{Curve: []Point{{}}}}
	s := Summary{Figures: f, Parts: []PhaseFigures{{Figures: f}}}
	s.Phases, s.Storms, s.Interrupted = []timeline.Phase{{}}, []timeline.Storm{{}}, true
	s.Samples = []timeline.Sample{{Deliver: &timeline.Latency{}, Servers: []timeline.Process{{}}}}
	want := `{` + metaGolden + `"phases":[{"name":"","begin_ms":0,"end_ms":0}],"samples":[{"at_ms":0,"connected":0,"sessions":0,"broken":0,` +
		`"submitted":0,"delivered":0,"answered":0,"recorded":0,"duplicates":0,"not_ok":0,"unacked":0,` +
		`"deliver":{"count":0,"p50_ms":0,"p99_ms":0,"p999_ms":0,"max_ms":0},"servers":[{"name":"","cpu_ms":0,"rss_bytes":0}],` +
		`"load":{"name":"","cpu_ms":0,"rss_bytes":0}}],` + accountGolden +
		`"figures":{` + figuresGolden + `},"phase_figures":[{"name":"",` + figuresGolden + `}]}`
	var b bytes.Buffer
	require.NoError(t, JSON(&b, s))
	require.Equal(t, want+"\n", b.String())
}

// TestFiguresOfAKnownRun holds the figures against what the run was made of.
func TestFiguresOfAKnownRun(t *testing.T) {
	tl := known()
	s, err := Summarize(tl)
	require.NoError(t, err)
	f := s.Figures
	require.EqualValues(t, 70, f.Seconds)
	require.Equal(t, reporttest.Nodes, f.Connected)
	require.InDelta(t, reporttest.ConnectPerS, f.ConnectPerS, 1)
	require.InDelta(t, reporttest.JobsPerS, f.JobsPerS, 1)
	require.InDelta(t, reporttest.CPUUsPerJob, *f.ServerCPUUs, 0.1)
	require.EqualValues(t, reporttest.BytesPerNode, *f.BytesPerNode)
	require.EqualValues(t, reporttest.BaseRSS+reporttest.Nodes*reporttest.BytesPerNode, *f.ServerRSS)
	require.Equal(t, *f.ServerRSS, *f.ServerPeakRSS)
	require.EqualValues(t, reporttest.BaseRSS, s.BaseRSS())
	require.Len(t, s.Parts, 6)

	connect, steady, drain := s.Parts[0], s.Parts[2], s.Parts[5]
	require.EqualValues(t, 3, connect.Seconds)
	require.Nil(t, connect.Whole)
	require.Nil(t, connect.ServerCPUUs)
	require.InDelta(t, 0.405, *connect.ServerCores, 1e-9)
	require.EqualValues(t, 27*reporttest.JobsPerS, steady.Recorded)
	require.InEpsilon(t, 30, steady.Whole.P50Ms, 0.02)    // the median of 29 + 1
	require.InEpsilon(t, 60.3, steady.Whole.P99Ms, 0.03)  // * exp(2.3263 * 0.3)
	require.InEpsilon(t, 50.1, steady.Commit.P99Ms, 0.03) // 28 * exp(2.3263 * 0.25)
	require.Zero(t, drain.Recorded)
	require.Nil(t, drain.Whole)

	for _, sample := range s.Samples {
		if sample.Whole != nil {
			require.Nil(t, sample.Whole.Buckets)
		}
	}
	require.NotNil(t, tl.Samples[10].Whole.Buckets, "the timeline is left as it is")

	tl.Account.ConnectTookMs = 2500
	s, err = Summarize(tl)
	require.NoError(t, err)
	require.InDelta(t, 6000, s.Figures.ConnectPerS, 1e-9)
	tl.Samples = slices.Clone(tl.Samples)
	for i := range tl.Samples {
		if at := tl.Samples[i].AtMs; at > 2000 && at <= 3000 {
			tl.Samples[i].Connected-- // not all came in the first ramp: what that took says nothing of all
		}
	}
	s, err = Summarize(tl)
	require.NoError(t, err)
	require.InDelta(t, reporttest.ConnectPerS, s.Figures.ConnectPerS, 1)
}

func TestSpreadIsExact(t *testing.T) {
	var parts []*timeline.Latency
	for second := range 10 { // 1..10000 us, a tenth of them each second
		h := hdrhistogram.New(1, 1_000_000, 3)
		for v := 1 + second; v <= 10_000; v += 10 {
			require.NoError(t, h.RecordValue(int64(v)))
		}
		l, err := timeline.NewLatency(h)
		require.NoError(t, err)
		parts = append(parts, l, nil)
	}
	s, err := spread(parts)
	require.NoError(t, err)
	require.EqualValues(t, 10_000, s.Count)
	for want, got := range map[float64]float64{5: s.P50Ms, 9.9: s.P99Ms, 9.99: s.P999Ms, 10: s.MaxMs} {
		require.InEpsilon(t, want, got, 0.001)
	}
	require.EqualValues(t, 0, s.Curve[0].Percentile)
	last := -1.0
	for _, p := range s.Curve {
		require.Greater(t, p.Percentile, last)
		last = p.Percentile
		require.InDelta(t, max(p.Percentile/10, 0.001), p.Ms, 0.011)
	}
	require.Equal(t, Point{100, s.MaxMs}, s.Curve[len(s.Curve)-1])
	require.InDelta(t, 99.99, s.Curve[len(s.Curve)-2].Percentile, 1e-9) // of 10,000 values no further one differs

	s, err = spread([]*timeline.Latency{nil})
	require.NoError(t, err)
	require.Nil(t, s)
	_, err = spread([]*timeline.Latency{{Count: 1, Buckets: []byte("garbage")}})
	require.Error(t, err)
}

// TestUnknownIsNull holds that nothing is made up.
func TestUnknownIsNull(t *testing.T) {
	server := func(ms, rss int64) []timeline.Process { return []timeline.Process{{CPUMs: ms, RSSBytes: rss}} }
	for name, samples := range map[string][]timeline.Sample{
		"no samples":           nil,
		"one sample":           {{Connected: 5, Sessions: 5}},
		"no server":            {{}, {AtMs: 1000, Connected: 5, Sessions: 5, Recorded: 9}},
		"the server is gone":   {{Servers: server(5, 100)}, {AtMs: 1000, Connected: 5, Recorded: 9, Servers: server(6, 0)}},
		"another server":       {{Servers: server(500, 0)}, {AtMs: 1000, Connected: 5, Recorded: 9, Servers: server(6, 0)}},
		"memory shrinks":       {{Servers: server(1, 1000)}, {AtMs: 9000, Connected: 5, Sessions: 5, Servers: server(2, 900)}},
		"nodes from the start": {{Connected: 5, Sessions: 5, Servers: server(1, 100)}, {AtMs: 1000, Connected: 5, Sessions: 5}},
	} {
		s, err := Summarize(&timeline.Timeline{Samples: samples, Phases: []timeline.Phase{{EndMs: 1000}}})
		require.NoError(t, err, name)
		require.Nil(t, s.Figures.ServerCPUUs, name)
		require.Nil(t, s.Figures.BytesPerNode, name)
		require.NoError(t, s.Table(&bytes.Buffer{}))
		b, err := json.Marshal(s)
		require.NoError(t, err, name)
		require.NotContains(t, string(b), "NaN", name)
	}
}

// TestLongRunsAreThinned wants nothing lost but detail.
func TestLongRunsAreThinned(t *testing.T) {
	samples := known().Samples
	out, err := thin(samples, 20)
	require.NoError(t, err)
	require.LessOrEqual(t, len(out), 20)
	require.Greater(t, len(out), 10)
	require.Equal(t, samples[0].AtMs, out[0].AtMs)
	require.Equal(t, samples[len(samples)-1].Recorded, out[len(out)-1].Recorded)
	count := func(samples []timeline.Sample) (n int64) {
		for i := range samples {
			if l := samples[i].Whole; l != nil {
				n += l.Count
			}
		}
		return n
	}
	require.Equal(t, count(samples), count(out))
}

// TestShortPhases are told apart by the samples at their borders.
func TestShortPhases(t *testing.T) {
	s, err := Summarize(&timeline.Timeline{
		Samples: []timeline.Sample{{}, {AtMs: 50, Connected: 500, Sessions: 500}, {AtMs: 51, Connected: 500, Sessions: 500}, {AtMs: 70, Connected: 500, Sessions: 500, Recorded: 19}},
		Phases:  []timeline.Phase{{EndMs: 50}, {BeginMs: 51, EndMs: 70}},
	})
	require.NoError(t, err)
	require.InDelta(t, 10_000, s.Parts[0].ConnectPerS, 1e-6)
	require.Zero(t, s.Parts[0].JobsPerS)
	require.Zero(t, s.Parts[1].ConnectPerS)
	require.InDelta(t, 1000, s.Parts[1].JobsPerS, 1e-6)
}

// TestSamplesNextToEachOtherAreMerged as those at the border of two phases.
func TestSamplesNextToEachOtherAreMerged(t *testing.T) {
	one := timeline.Sample{Recorded: 1, Whole: &timeline.Latency{}}
	h := hdrhistogram.New(1, 1_000_000, 3)
	require.NoError(t, h.RecordValue(2000))
	l, err := timeline.NewLatency(h)
	require.NoError(t, err)
	one.Whole = l
	var all []timeline.Sample
	for _, ms := range []int64{0, 1000, 1003, 2000, 2001, 2003} {
		one.AtMs = ms
		all = append(all, one)
	}
	out, err := thin(all, maxSamples)
	require.NoError(t, err)
	var at, count []int64
	for i := range out {
		at, count = append(at, out[i].AtMs), append(count, out[i].Whole.Count)
	}
	require.Equal(t, []int64{0, 1000, 2003}, at)
	require.Equal(t, []int64{1, 1, 4}, count)
	for n := range 3 {
		out, err := thin(all[3:3+n], maxSamples) // nearer to each other than an interval
		require.NoError(t, err)
		require.Len(t, out, n)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	tl := known()
	want, err := Summarize(tl)
	require.NoError(t, err)
	write := func(name string, v any) string {
		name = filepath.Join(dir, name)
		b, err := json.Marshal(v)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(name, b, 0o600))
		return name
	}
	onlySummary := write("summary.json", want)
	for _, name := range []string{onlySummary, dir, write("timeline.json", tl), dir} {
		got, err := Load(name)
		require.NoError(t, err)
		require.Equal(t, want.Figures, got.Figures)
		require.Equal(t, want.Parts, got.Parts)
		require.Equal(t, want.Samples, got.Samples)
		require.Equal(t, want.Account, got.Account)
	}
	for name, v := range map[string]any{"a.json": 1, "b.json": map[string]any{"x": 1}, "c.json": map[string]any{"meta": map[string]any{"seed": "x"}}} {
		_, err := Load(write(name, v))
		require.ErrorContains(t, err, name+": no report")
	}
	_, err = Load(filepath.Join(dir, "missing"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestSummaryTable(t *testing.T) {
	s, err := Summarize(known())
	require.NoError(t, err)
	s.Interrupted = true
	s.Account.Outcomes = map[string]int64{"ok": 7, "failed": 9, "expired": 7}
	var b bytes.Buffer
	require.NoError(t, s.Table(&b))
	for _, want := range []string{
		"storm, seed 1, 70 s", "15000 of 15000", "5000 connects a second", "20000 outcomes a second", "node to outcome", "0 lost, 0 twice",
		"9 failed, 7 expired, 7 ok", "950 bytes an idle node", "17.0 us a job", "steady",
		"15000 sockets cut: all nodes back after 2.90 s, all jobs recorded after never", "interrupted",
	} {
		require.Contains(t, b.String(), want)
	}
}

func TestNumber(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -123: "-123", -1234567: "-1,234,567"} {
		require.Equal(t, want, Number(n))
	}
}
