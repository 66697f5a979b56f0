//go:build linux

package live

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/roost-server/roost/loadtest/internal/report"
)

// labelWidth is the column in which values begin.
const labelWidth = 10

// line is a label and what stands behind it, the widest first cut off at the end.
type line struct{ label, text string }

// render cuts the line to the width and emphasises its label.
func (l line) render(width int) string {
	label := fmt.Sprintf("%-*s", labelWidth, l.label)
	if room := width - labelWidth; room > 0 {
		return "\x1b[1m" + label + "\x1b[0m" + cut(l.text, room)
	}
	return cut(label, width)
}

// cut shortens s to so many characters.
func cut(s string, n int) string {
	if n < 0 {
		n = 0
	}
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	r := []rune(s)
	return string(r[:n])
}

// bar is a bar of so many characters, filled by a share from 0 to 1.
func bar(share float64, width int) string {
	share = min(max(share, 0), 1)
	full := int(share*float64(width) + 0.5)
	return strings.Repeat("█", full) + strings.Repeat("░", width-full)
}

// eighths are the heights of a sparkline, from nothing to all.
var eighths = []rune(" ▁▂▃▄▅▆▇█")

// spark draws the last values as one line, from 0 to their maximum.
func spark(values []float64, width int) string {
	if width = max(width, 0); len(values) > width {
		values = values[len(values)-width:]
	}
	top := 0.0
	for _, v := range values {
		top = max(top, v)
	}
	if top == 0 {
		return ""
	}
	var b strings.Builder
	for _, v := range values {
		b.WriteRune(eighths[int(max(v, 0)/top*float64(len(eighths)-1)+0.5)])
	}
	return b.String()
}

// lines is the whole view.
func (v *View) lines(width int) []line {
	m := &v.model
	phase := v.phase
	if v.total > 0 {
		spent := min(v.now().Sub(v.began), v.total)
		phase = fmt.Sprintf("%s %s %v of %v", bar(spent.Seconds()/v.total.Seconds(), 20), phase, spent.Round(time.Second), v.total)
	} else if v.number > 0 {
		phase = fmt.Sprintf("%s, for %v", phase, v.now().Sub(v.began).Round(time.Second))
	}
	nodes := fmt.Sprintf("%s connected", report.Number(m.s.Connected))
	if v.goal > 0 {
		nodes = fmt.Sprintf("%s %s of %s", bar(float64(m.s.Connected)/float64(v.goal), 20), report.Number(m.s.Connected), report.Number(v.goal))
	}
	nodes += fmt.Sprintf("  %s connects/s", rate(m.connects))
	if m.s.Broken > 0 {
		nodes += fmt.Sprintf("  %s broken", report.Number(m.s.Broken))
	}
	lines := []line{
		{"phase", phase},
		{"nodes", nodes},
	}
	if m.s.Submitted > 0 {
		lines = append(lines, line{"jobs", m.jobs()})
		if s := spark(m.history, min(60, width-labelWidth-12)); s != "" {
			lines = append(lines, line{"", s + " jobs/s"})
		}
	}
	if m.whole != "" {
		lines = append(lines, line{"latency", m.whole}, line{"", m.parts})
	}
	if text := m.servers(); text != "" {
		lines = append(lines, line{"server", text})
	}
	return append(lines, line{"load", processes(m.loadCPU, m.s.Load.RSSBytes)})
}
