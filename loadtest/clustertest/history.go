//go:build linux

package main

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/roost-server/roost/loadtest/chaos/nodes"
)

// history is what the nodes' logs say of their sessions, in the order of time.
type history []nodes.Change

// history reads the logs as they are now.
func (s *stage) history() (h history) {
	for _, f := range s.fleets {
		file, err := os.Open(f.sessions)
		if err != nil {
			s.fail("log of sessions: %v", err)
			continue
		}
		in := bufio.NewScanner(file)
		for in.Scan() {
			if c, ok := nodes.ParseChange(in.Text()); ok {
				h = append(h, c)
			}
		}
		if err := in.Err(); err != nil {
			s.fail("log of sessions: %v", err)
		}
		file.Close()
	}
	slices.SortStableFunc(h, func(a, b nodes.Change) int { return a.At.Compare(b.At) })
	return h
}

// at returns the nodes that had a session with a member at a moment.
func (h history) at(member string, t time.Time) map[string]bool {
	there := map[string]bool{}
	for _, c := range h {
		if c.At.After(t) {
			break
		}
		if c.Member != member {
			continue
		}
		if c.Up {
			there[c.Node] = true
		} else {
			delete(there, c.Node)
		}
	}
	return there
}

// downs are the sessions that ended after from and before to, at members that keep wants.
func (h history) downs(from, to time.Time, keep func(c *nodes.Change) bool) (list history) {
	for i := range h {
		if c := &h[i]; !c.Up && c.At.After(from) && c.At.Before(to) && keep(c) {
			list = append(list, *c)
		}
	}
	return list
}

// ups are how many sessions began at a member between two moments.
func (h history) ups(member string, from, to time.Time) (n int) {
	for _, c := range h {
		if c.Up && c.Member == member && c.At.After(from) && c.At.Before(to) {
			n++
		}
	}
	return n
}

// returned tells how long after a moment each of the nodes had a new session, the
// shortest first, and how many went to which member.
func (h history) returned(who map[string]bool, since time.Time) (took []time.Duration, spread map[string]int) {
	spread = map[string]int{}
	missing := maps.Clone(who)
	for _, c := range h {
		if c.Up && c.At.After(since) && missing[c.Node] {
			delete(missing, c.Node)
			took = append(took, c.At.Sub(since))
			spread[c.Member]++
		}
	}
	return took, spread
}

// busiest is the largest number of sessions that began within one second.
func (h history) busiest(from, to time.Time) (most int) {
	var recent []time.Time
	for _, c := range h {
		if !c.Up || c.At.Before(from) || c.At.After(to) {
			continue
		}
		recent = append(recent, c.At)
		for c.At.Sub(recent[0]) > time.Second {
			recent = recent[1:]
		}
		most = max(most, len(recent))
	}
	return most
}

func describe(spread map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(spread)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, spread[name]))
	}
	return strings.Join(parts, ", ")
}

// examples are a few of the reasons of ends, for people.
func (h history) examples() string {
	reasons := map[string]int{}
	for _, c := range h {
		reasons[c.Member+": "+c.Why]++
	}
	list := slices.SortedFunc(maps.Keys(reasons), func(a, b string) int { return reasons[b] - reasons[a] })
	return strings.Join(list[:min(3, len(list))], "; ")
}
