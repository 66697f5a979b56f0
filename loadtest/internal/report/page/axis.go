package page

import (
	"math"
	"strconv"
)

// axis maps values to a stretch of the picture, from pixel a to pixel b.
type axis struct {
	lo, hi float64
	a, b   float64
	log    bool
	ticks  []tick
}

// tick is a mark on an axis; one without text is a thin line only.
type tick struct {
	at   float64
	text string
}

// pixel is where a value is.
func (x *axis) pixel(v float64) float64 {
	lo, hi := x.lo, x.hi
	if x.log {
		lo, hi, v = math.Log10(lo), math.Log10(hi), math.Log10(max(v, lo))
	}
	return x.a + (v-lo)/(hi-lo)*(x.b-x.a)
}

// linear is an axis from 0 to at least top, with round steps, see nice. unit divides
// what is written at the ticks.
func linear(top, unit float64, steps int) axis {
	if !(top > 0) {
		top = unit
	}
	step := nice(top/unit/float64(steps)) * unit
	x := axis{hi: math.Ceil(top/step-1e-9) * step}
	digits := 0
	if s := step / unit; s < 1 {
		digits = int(math.Ceil(-math.Log10(s) - 1e-9))
	}
	by, suffix := thousands(x.hi / unit)
	for i := 0; float64(i)*step <= x.hi*(1+1e-9); i++ {
		v := float64(i) * step
		text := strconv.FormatFloat(math.Round(v/unit/by*1e6)/1e6, 'f', -1, 64) + suffix
		switch {
		case i == 0:
			text = "0"
		case suffix == "":
			text = strconv.FormatFloat(v/unit, 'f', digits, 64)
		}
		x.ticks = append(x.ticks, tick{v, text})
	}
	return x
}

// nice is the smallest of 1, 2, 5 times a power of ten that is not below v.
func nice(v float64) float64 {
	p := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if m*p >= v*(1-1e-9) {
			return m * p
		}
	}
	return 10 * p
}

// logarithmic is an axis over all values between lo and hi, whole decades of them.
func logarithmic(lo, hi float64) axis {
	from, to := math.Floor(math.Log10(lo)), math.Ceil(math.Log10(hi))
	if to <= from {
		to = from + 1
	}
	x := axis{lo: math.Pow(10, from), hi: math.Pow(10, to), log: true}
	for d := from; d <= to; d++ {
		v := math.Pow(10, d)
		digits := int(max(0, -d))
		x.ticks = append(x.ticks, tick{v, short(v, digits)})
		if d == to {
			break
		}
		for _, m := range []float64{2, 5} {
			t := tick{at: m * v}
			if to-from <= 2 {
				t.text = short(t.at, digits)
			}
			x.ticks = append(x.ticks, t)
		}
	}
	return x
}

// duration is an axis of seconds that is labelled in seconds, minutes or hours; it ends
// where the run does.
func duration(seconds float64) (x axis, unit string) {
	div, unit := 1.0, "s"
	switch {
	case seconds > 3*3600:
		div, unit = 3600, "h"
	case seconds > 300:
		div, unit = 60, "min"
	}
	x = linear(seconds, div, 8)
	if seconds > 0 {
		x.hi = seconds
	}
	for len(x.ticks) > 0 && x.ticks[len(x.ticks)-1].at > x.hi*(1+1e-9) {
		x.ticks = x.ticks[:len(x.ticks)-1]
	}
	return x, unit
}

// percentiles is an axis of shares, as logarithm of what is left to 1: 90 %, 99 % and
// 99.9 % are equally far from each other. It ends at 1 - 10^-far.
func percentiles(far float64) axis {
	x := axis{hi: max(far, 1), ticks: []tick{{math.Log10(2), "50%"}}}
	for i, text := range []string{"90%", "99%", "99.9%", "99.99%", "99.999%", "99.9999%", "99.99999%"} {
		if at := float64(i + 1); at <= x.hi {
			x.ticks = append(x.ticks, tick{at, text})
		}
	}
	return x
}

// thousands is the suffix for an axis that goes up to a number, and what it stands for.
func thousands(top float64) (by float64, suffix string) {
	switch {
	case top >= 1e9:
		return 1e9, "G"
	case top >= 2e6:
		return 1e6, "M"
	case top >= 1e4:
		return 1e3, "k"
	}
	return 1, ""
}

// short writes a number for a tick of a logarithmic axis: 20000 as 20k.
func short(v float64, digits int) string {
	by, suffix := thousands(v)
	return strconv.FormatFloat(v/by, 'f', digits, 64) + suffix
}
