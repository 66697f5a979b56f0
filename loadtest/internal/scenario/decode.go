package scenario

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// decoder walks a document and collects what is wrong in it, all at once.
type decoder struct {
	file string
	errs []error
}

// field is one key of a mapping: how it is read, and what it may be, for messages.
type field struct {
	key  string
	read func(d *decoder, n *yaml.Node, path string)
}

func (d *decoder) fail(n *yaml.Node, path, format string, args ...any) {
	where := d.file
	if n.Line > 0 {
		where += ":" + strconv.Itoa(n.Line)
	}
	if path != "" {
		path += ": "
	}
	d.errs = append(d.errs, fmt.Errorf("%s: %s%s", where, path, fmt.Sprintf(format, args...)))
}

func (d *decoder) err() error { return errors.Join(d.errs...) }

// value is the node that an alias stands for.
func value(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

func keys(fields []field) string {
	var names []string
	for _, f := range fields {
		names = append(names, f.key)
	}
	return strings.Join(names, ", ")
}

// mapping reads a mapping of known keys.
func (d *decoder) mapping(n *yaml.Node, path string, fields []field) {
	n = value(n)
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return // "ramp:" alone: all defaults
	}
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "%s; keys are expected: %s", show(n), keys(fields))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		at := slices.IndexFunc(fields, func(f field) bool { return f.key == k.Value })
		switch first, again := seen[k.Value]; {
		case at < 0:
			d.fail(k, path, "unknown key %s; allowed are %s", show(k), keys(fields))
			continue
		case again:
			d.fail(k, join(path, k.Value), "is there twice, first in line %d", first)
			continue
		}
		seen[k.Value] = k.Line
		fields[at].read(d, v, join(path, k.Value))
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// show is a node in a message.
func show(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	if n.Value == "" {
		return "nothing"
	}
	return strconv.Quote(n.Value)
}

// scalar reads one value by parse, whose error is what is expected instead.
func scalar[T any](to *T, parse func(string) (T, bool), expected string) func(*decoder, *yaml.Node, string) {
	return func(d *decoder, n *yaml.Node, path string) {
		n = value(n)
		if n.Kind == yaml.ScalarNode && n.ShortTag() != "!!null" {
			if v, ok := parse(n.Value); ok {
				*to = v
				return
			}
		}
		d.fail(n, path, "%s; %s", show(n), expected)
	}
}

func text(to *string) func(*decoder, *yaml.Node, string) {
	return scalar(to, func(s string) (string, bool) { return s, s != "" }, "a text is expected")
}

func whole[T int | int64 | uint64](to *T, from, most T) func(*decoder, *yaml.Node, string) {
	return scalar(to, func(s string) (T, bool) {
		v, err := strconv.ParseInt(strings.ReplaceAll(s, "_", ""), 10, 64)
		return T(v), err == nil && v >= 0 && T(v) >= from && T(v) <= most
	}, fmt.Sprintf("a whole number from %d to %d is expected", from, most))
}

func number(to *float64, from, most float64) func(*decoder, *yaml.Node, string) {
	return scalar(to, func(s string) (float64, bool) { return parseNumber(s, from, most) },
		fmt.Sprintf("a number from %v to %v is expected", from, most))
}

func parseNumber(s string, from, most float64) (float64, bool) {
	v, err := strconv.ParseFloat(strings.ReplaceAll(s, "_", ""), 64)
	return v, err == nil && v >= from && v <= most // NaN is neither
}

func duration(to *time.Duration, from, most time.Duration) func(*decoder, *yaml.Node, string) {
	return scalar(to, func(s string) (time.Duration, bool) {
		v, err := time.ParseDuration(s)
		return v, err == nil && v >= from && v <= most
	}, fmt.Sprintf("a duration from %s to %s is expected, such as 30s or 2m", brief(from), brief(most)))
}

// brief is a duration without the units that say nothing: 2h, not 2h0m0s.
func brief(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// share reads a fraction: "0.1" or "10%".
func share(to *float64) func(*decoder, *yaml.Node, string) {
	return scalar(to, parseShare, "a share from 0 to 1 is expected, or from 0% to 100%")
}

func parseShare(s string) (float64, bool) {
	if p, ok := strings.CutSuffix(s, "%"); ok {
		v, ok := parseNumber(strings.TrimSpace(p), 0, 100)
		return v / 100, ok
	}
	return parseNumber(s, 0, 1)
}

// rate reads "500", or "100/900": from one value to another over the phase.
func rate(to *Rate, most float64) func(*decoder, *yaml.Node, string) {
	return scalar(to, func(s string) (Rate, bool) {
		first, last, changes := strings.Cut(s, "/")
		from, ok := parseNumber(strings.TrimSpace(first), 0, most)
		if !changes {
			return Rate{from, from}, ok
		}
		until, ok2 := parseNumber(strings.TrimSpace(last), 0, most)
		return Rate{from, until}, ok && ok2
	}, fmt.Sprintf("a number a second from 0 to %.0f is expected, or two as from/to over the phase", most))
}

// amount reads a number of nodes, or a share of all such as "50%".
func amount(to *Amount) func(*decoder, *yaml.Node, string) {
	return scalar(to, func(s string) (Amount, bool) {
		if strings.HasSuffix(s, "%") {
			v, ok := parseShare(s)
			return Amount{Fraction: v}, ok && v > 0
		}
		v, err := strconv.Atoi(strings.ReplaceAll(s, "_", ""))
		return Amount{Count: v}, err == nil && v > 0 && v <= maxNodes
	}, "a number of nodes is expected, or a share of all such as 50%")
}

func choice[T ~string](to *T, allowed ...T) func(*decoder, *yaml.Node, string) {
	var names []string
	for _, a := range allowed {
		names = append(names, string(a))
	}
	return scalar(to, func(s string) (T, bool) { return T(s), slices.Contains(allowed, T(s)) }, "allowed are "+strings.Join(names, ", "))
}

func optional[T any](to **T, read func(*T) func(*decoder, *yaml.Node, string)) func(*decoder, *yaml.Node, string) {
	return func(d *decoder, n *yaml.Node, path string) {
		v := new(T)
		had := len(d.errs)
		if read(v)(d, n, path); len(d.errs) == had {
			*to = v
		}
	}
}
