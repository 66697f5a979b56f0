package page

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"
)

// decode turns a path back into values by the axes that its picture tells.
func decode(t *testing.T, svg *html.Node, d string) (x, y []float64) {
	t.Helper()
	read := func(key string) (a axis) {
		_, err := fmt.Sscan(attr(svg, key), &a.lo, &a.hi, &a.a, &a.b)
		require.NoError(t, err)
		return a
	}
	ax, ay := read("data-x"), read("data-y")
	ay.log = attr(svg, "data-log") == "true"
	for _, p := range strings.FieldsFunc(d, func(r rune) bool { return r == 'M' || r == 'L' }) {
		var a, b float64
		_, err := fmt.Sscan(p, &a, &b)
		require.NoError(t, err)
		x, y = append(x, ax.value(a)), append(y, ay.value(b))
	}
	return x, y
}

// value is the inverse of pixel.
func (x *axis) value(pixel float64) float64 {
	s := (pixel - x.a) / (x.b - x.a)
	if x.log {
		return x.lo * math.Pow(x.hi/x.lo, s)
	}
	return x.lo + s*(x.hi-x.lo)
}

func texts(x axis) (all []string) {
	for _, t := range x.ticks {
		if t.text != "" {
			all = append(all, t.text)
		}
	}
	return all
}

func TestAxes(t *testing.T) {
	for _, tc := range []struct {
		axis axis
		want string
	}{
		{linear(15_000, 1, 5), "0 5k 10k 15k"},
		{linear(9_000, 1, 5), "0 2k 4k 6k 8k 10k"},
		{linear(1_000_000, 1, 5), "0 200k 400k 600k 800k 1000k"},
		{linear(4_200_000, 1, 5), "0 1M 2M 3M 4M 5M"},
		{linear(0.7, 1, 5), "0 0.2 0.4 0.6 0.8"},
		{linear(0, 1, 5), "0 0.2 0.4 0.6 0.8 1.0"},
		{linear(math.NaN(), 1, 5), "0 0.2 0.4 0.6 0.8 1.0"},
		{linear(3.5*(1<<30), 1<<30, 5), "0 1 2 3 4"},
		{logarithmic(12, 90), "10 20 50 100"},
		{logarithmic(0.5, 20_000), "0.1 1 10 100 1000 10k 100k"},
		{logarithmic(10, 10), "10 20 50 100"},
		{percentiles(3.4), "50% 90% 99% 99.9%"},
	} {
		require.Equal(t, tc.want, strings.Join(texts(tc.axis), " "))
	}
	for _, tc := range []struct {
		seconds    float64
		want, unit string
	}{
		{60, "0 10 20 30 40 50 60", "s"},
		{95, "0 20 40 60 80", "s"},
		{1200, "0 5 10 15 20", "min"},
		{7200, "0 20 40 60 80 100 120", "min"},
		{6 * 3600, "0 1 2 3 4 5 6", "h"},
		{0.5, "0 0.1 0.2 0.3 0.4 0.5", "s"},
	} {
		x, unit := duration(tc.seconds)
		require.Equal(t, tc.unit, unit)
		require.Equal(t, tc.want, strings.Join(texts(x), " "))
		require.Equal(t, tc.seconds, x.hi)
	}
}

func TestAxisMapsBothEnds(t *testing.T) {
	for _, x := range []axis{linear(15_000, 1, 5), logarithmic(3, 900)} {
		x.a, x.b = 228, 22
		require.InDelta(t, 228, x.pixel(x.lo), 1e-9)
		require.InDelta(t, 22, x.pixel(x.hi), 1e-9)
		require.InEpsilon(t, x.hi/3, x.value(x.pixel(x.hi/3)), 1e-9)
	}
}
