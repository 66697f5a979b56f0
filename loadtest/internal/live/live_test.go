//go:build linux

package live

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/loadtest/internal/timeline"
)

// screen is as much of a terminal as the view needs: lines, up, erase, bold.
type screen struct {
	t     *testing.T
	width int
	lines []string
	row   int
}

var sequence = regexp.MustCompile(`\x1b\[(\d*)([A-Za-z])`)

func (s *screen) Write(b []byte) (int, error) {
	text := string(b)
	for text != "" {
		switch text[0] {
		case '\x1b':
			m := sequence.FindStringSubmatch(text)
			require.NotNil(s.t, m, "%q", text)
			s.control(m[1], m[2])
			text = text[len(m[0]):]
		case '\n':
			require.LessOrEqual(s.t, utf8.RuneCountInString(s.lines[s.row]), s.width, "the line wraps")
			s.row++
			s.grow()
			text = text[1:]
		case '\r':
			text = text[1:]
		default:
			n := strings.IndexAny(text, "\x1b\n\r")
			if n < 0 {
				n = len(text)
			}
			s.grow()
			s.lines[s.row] += text[:n]
			text = text[n:]
		}
	}
	return len(b), nil
}

func (s *screen) grow() {
	for len(s.lines) <= s.row {
		s.lines = append(s.lines, "")
	}
}

func (s *screen) control(n, what string) {
	switch what {
	case "A":
		up, err := strconv.Atoi(n)
		require.NoError(s.t, err)
		s.row -= up
		require.GreaterOrEqual(s.t, s.row, 0, "above the screen")
	case "J":
		s.lines = append(s.lines[:s.row], "")
	case "m":
	default:
		s.t.Fatalf("unexpected sequence %s%s", n, what)
	}
}

func (s *screen) String() string { return strings.Join(s.lines, "\n") }

func view(t *testing.T, width int) (*View, *screen, *time.Time) {
	s := &screen{t: t, width: width, lines: []string{""}}
	v := New(s, true)
	now := time.Unix(1000, 0)
	v.now, v.columns = func() time.Time { return now }, func() int { return width }
	return v, s, &now
}

func samples() []timeline.Sample {
	p := func(cpu, rss int64) []timeline.Process { return []timeline.Process{{CPUMs: cpu, RSSBytes: rss << 20}} }
	l := &timeline.Latency{Count: 1, P50Ms: 12.34, P99Ms: 345.6, P999Ms: 12_345, MaxMs: 20_000}
	return []timeline.Sample{
		{AtMs: 0, Servers: p(100, 100)},
		{AtMs: 1000, Connected: 5000, Sessions: 5000, Servers: p(600, 105), Load: timeline.Process{CPUMs: 250, RSSBytes: 20 << 20}},
		{AtMs: 3000, Connected: 10_000, Sessions: 15_000, Broken: 3, Submitted: 60_000, Recorded: 50_000, Duplicates: 2, NotOK: 4,
			Whole: l, Deliver: l, Servers: p(1600, 110), Load: timeline.Process{CPUMs: 750, RSSBytes: 20 << 20}},
	}
}

func TestTerminal(t *testing.T) {
	v, s, now := view(t, 120)
	v.Nodes(10_000)
	v.Phase("connect", 0)
	for i := range samples() {
		*now = now.Add(time.Second)
		v.Sample(&samples()[i])
		if i == 1 {
			require.Contains(t, s.String(), " 50 % CPU  105.0 MiB  1,048 bytes a node")
			v.Phase("steady", 40*time.Second)
			*now = now.Add(9 * time.Second)
		}
	}
	for _, want := range []string{
		"steady 10s of 40s", "10,000 of 10,000", "5,000 connects/s", "3 broken", "25,000/s  60,000 submitted, 50,000 recorded, 10,000 under way",
		"2 TWICE", "4 not ok", "p50 12.3 ms  p99 346 ms  p99.9 12.3 s  max 20.0 s", "p99: 346 ms to the node, unknown from there",
		" 50 % CPU  110.0 MiB  20.0 us a job", " 25 % CPU  20.0 MiB", "█████░░░░░░░░░░░░░░░ steady", "█ jobs/s",
	} {
		require.Contains(t, s.String(), want)
	}
	t.Log("\n" + s.String())
	lines := len(s.lines)
	fmt.Fprintln(v, "a warning")
	require.Equal(t, "a warning", s.lines[0])
	require.Len(t, s.lines, lines+1)
	v.Close()
	before := s.String()
	v.Sample(&samples()[0])
	v.Phase("more", 0)
	require.Equal(t, before, s.String())
	fmt.Fprintln(v, "the end")
	require.Equal(t, before+"the end\n", s.String()) // below, not over it
}

// TestRatesAreOfAWhile shows no rate of two samples next to each other.
func TestRatesAreOfAWhile(t *testing.T) {
	var m model
	for _, s := range []timeline.Sample{
		{AtMs: 0}, {AtMs: 1000, Recorded: 500}, {AtMs: 1001, Recorded: 600}, {AtMs: 2000, Recorded: 1500},
	} {
		m.add(&s)
		if s.AtMs >= 1000 && s.AtMs < 2000 {
			require.InDelta(t, 500, m.jobsPerS, 1e-9)
			require.Equal(t, s.Recorded, m.s.Recorded)
		}
	}
	require.InDelta(t, 1000, m.jobsPerS, 1e-9)
	require.Equal(t, []float64{500, 1000}, m.history)
}

func TestNarrowTerminal(t *testing.T) {
	for _, width := range []int{1, 5, 11, 20, 40} {
		v, s, _ := view(t, width)
		v.Phase("steady", time.Minute)
		for i := range samples() {
			v.Sample(&samples()[i]) // the screen fails on a line that wraps
		}
		require.GreaterOrEqual(t, len(s.lines), 8)
	}
}

func TestPlainLines(t *testing.T) {
	var b bytes.Buffer
	v := New(&b, false)
	now := time.Unix(1000, 0)
	v.now = func() time.Time { return now }
	v.Nodes(10)
	v.Phase("connect", 0)
	v.Phase("steady", time.Minute)
	for range 2 * plainEvery / time.Second {
		v.Sample(&samples()[2])
		now = now.Add(time.Second)
	}
	v.Close()
	require.NotContains(t, b.String(), "\x1b")
	require.Equal(t, 4, strings.Count(b.String(), "\n"), b.String())
	require.Contains(t, b.String(), "phase 1: connect\nphase 2: steady, 1m0s\n")
	require.Contains(t, b.String(), "  3 s  steady  connected 10000")
	require.Contains(t, b.String(), "50000 of 60000 recorded, 2 twice")
}

func TestNilShowsNothing(t *testing.T) {
	var v *View
	v.Nodes(1)
	v.Phase("x", 0)
	v.Sample(&timeline.Sample{})
	n, err := v.Write([]byte("abc"))
	require.NoError(t, err)
	require.Equal(t, 3, n)
	v.Close()
}

func TestAnyGoroutineMayCall(t *testing.T) {
	v, _, _ := view(t, 100)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 50 {
				v.Phase(strconv.Itoa(i), time.Second)
				v.Sample(&samples()[2])
				fmt.Fprintln(v, "x")
			}
		})
	}
	wg.Wait()
	v.Close()
}

func TestIsTerminal(t *testing.T) {
	require.False(t, IsTerminal(&bytes.Buffer{}))
	f, err := os.Create(t.TempDir() + "/file")
	require.NoError(t, err)
	defer f.Close()
	require.False(t, IsTerminal(f))
	require.Equal(t, defaultColumns, columns(f))
	tty, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err)
	defer tty.Close()
	require.True(t, IsTerminal(tty))
}

func TestForms(t *testing.T) {
	require.Empty(t, spark([]float64{0, 0}, 10))
	require.Equal(t, " ▄█", spark([]float64{9, 0, 5, 10}, 3))
	require.Equal(t, "12.0 GiB", bytesText(12<<30))
}
