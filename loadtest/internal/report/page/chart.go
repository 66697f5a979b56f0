package page

import (
	"fmt"
	"html/template"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The picture's measures, in units that are about a pixel: small enough that its text
// can be read on a phone, where a chart is as wide as the screen.
const (
	width, height = 460.0, 270.0
	left, right   = 58.0, 14.0
	top, bottom   = 22.0, 42.0
	glyph         = 5.6 // about the width of a character of a phase's name
)

// styles is how many lines can be told apart; the style sheet has a colour and a
// pattern for each.
const styles = 8

// line is one line of a chart; NaN interrupts it.
type line struct {
	name  string
	style int // 0 to styles-1
	x, y  []float64
}

// band is a phase behind a chart, in seconds.
type band struct {
	name       string
	number     int
	begin, end float64
}

// chart is what one picture shows.
type chart struct {
	title  string
	note   string // what is shown, for people who do not know it
	xLabel string
	yLabel string
	x, y   axis
	lines  []line
	bands  []band
}

// empty tells whether there is nothing to draw.
func (c *chart) empty() bool {
	for i := range c.lines {
		for _, v := range c.lines[i].y {
			if !math.IsNaN(v) {
				return false
			}
		}
	}
	return true
}

// Title, Note and Legend are for the text around the picture.
func (c *chart) Title() string { return c.title }

// Note says what is shown.
func (c *chart) Note() string { return c.note }

// Key is an entry of the legend.
type Key struct {
	Name  string
	Style int
}

// Legend is empty for a chart with one line, which its title names.
func (c *chart) Legend() (keys []Key) {
	if len(c.lines) < 2 {
		return nil
	}
	for i := range c.lines {
		keys = append(keys, Key{c.lines[i].name, c.lines[i].style})
	}
	return keys
}

// SVG draws the picture. Every text in it is escaped here.
func (c *chart) SVG() template.HTML {
	var b strings.Builder
	c.x.a, c.x.b = left, width-right
	c.y.a, c.y.b = height-bottom, top
	fmt.Fprintf(&b, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s" data-x="%g %g %g %g" data-y="%g %g %g %g" data-log="%t">`,
		width, height, escape(c.title), c.x.lo, c.x.hi, c.x.a, c.x.b, c.y.lo, c.y.hi, c.y.a, c.y.b, c.y.log)
	c.drawBands(&b)
	c.drawAxes(&b)
	for i := range c.lines {
		c.drawLine(&b, &c.lines[i])
	}
	b.WriteString(`</svg>`)
	return template.HTML(b.String())
}

// drawBands shades every second phase and names those that have room for it.
func (c *chart) drawBands(b *strings.Builder) {
	for i, p := range c.bands {
		from, to := c.x.pixel(max(p.begin, c.x.lo)), c.x.pixel(min(p.end, c.x.hi))
		if to <= from {
			continue
		}
		fmt.Fprintf(b, `<g class="band b%d"><title>%s</title><rect x="%s" y="%g" width="%s" height="%g"/>`,
			i%2, escape(p.name), px(from), top-16, px(to-from), height-bottom-top+16)
		text := p.name
		if float64(utf8.RuneCountInString(text))*glyph > to-from-4 {
			text = fmt.Sprint(p.number)
		}
		if float64(len(text))*glyph <= to-from-1 || text == p.name {
			fmt.Fprintf(b, `<text x="%s" y="%g">%s</text>`, px((from+to)/2), top-5, escape(text))
		}
		b.WriteString(`</g>`)
	}
}

func (c *chart) drawAxes(b *strings.Builder) {
	var lines, minor, marks, texts strings.Builder
	for _, t := range c.y.ticks {
		y, to := c.y.pixel(t.at), &lines
		if t.text == "" {
			to = &minor
		}
		fmt.Fprintf(to, "M%g %sH%g", left, px(y), width-right)
		if t.text != "" {
			fmt.Fprintf(&texts, `<text class="yt" x="%g" y="%s">%s</text>`, left-6, px(y+3.5), escape(t.text))
		}
	}
	edge := 0.0 // of the label before
	for _, t := range c.x.ticks {
		x, half := c.x.pixel(t.at), float64(utf8.RuneCountInString(t.text))*glyph*0.6
		fmt.Fprintf(&marks, "M%s %gv4", px(x), height-bottom)
		class, from := "xt", x-half
		if half > width-x { // it would go beyond the edge
			class, x, from = "yt", width, width-2*half
		}
		if from < edge+2 {
			continue
		}
		edge = from + 2*half
		fmt.Fprintf(&texts, `<text class="%s" x="%s" y="%g">%s</text>`, class, px(x), height-bottom+16, escape(t.text))
	}
	fmt.Fprintf(b, `<g class="grid"><path class="minor" d="%s"/><path d="%s"/><path class="axis" d="%sM%g %gH%g"/></g>`,
		minor.String(), lines.String(), marks.String(), left, height-bottom, width-right)
	b.WriteString(texts.String())
	fmt.Fprintf(b, `<text class="label" x="%g" y="%g">%s</text>`, (left+width-right)/2, height-8, escape(c.xLabel))
	fmt.Fprintf(b, `<text class="label" transform="translate(12 %g) rotate(-90)">%s</text>`, (top+height-bottom)/2, escape(c.yLabel))
}

// drawLine draws a path, and dots where one value stands alone. Points between two of
// the same height are left out.
func (c *chart) drawLine(b *strings.Builder, l *line) {
	var d, dots strings.Builder
	for i := 0; i < len(l.y); i++ {
		if math.IsNaN(l.y[i]) {
			continue
		}
		x, y := px(c.x.pixel(l.x[i])), px(c.y.pixel(l.y[i]))
		first := i == 0 || math.IsNaN(l.y[i-1])
		last := i == len(l.y)-1 || math.IsNaN(l.y[i+1])
		switch {
		case first && last:
			fmt.Fprintf(&dots, `<circle class="s%d" cx="%s" cy="%s" r="2.2"/>`, l.style, x, y)
			fmt.Fprintf(&d, "M%s %s", x, y)
		case first:
			fmt.Fprintf(&d, "M%s %s", x, y)
		case last || px(c.y.pixel(l.y[i-1])) != y || px(c.y.pixel(l.y[i+1])) != y:
			fmt.Fprintf(&d, "L%s %s", x, y)
		}
	}
	fmt.Fprintf(b, `<path class="s%d" data-name="%s" d="%s"/>%s`, l.style, escape(l.name), d.String(), dots.String())
}

// px writes a place in the picture, to a tenth.
func px(v float64) string { return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) }

func escape(s string) string { return template.HTMLEscapeString(s) }
