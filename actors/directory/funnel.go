package directory

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/roost-server/roost/protocol/record"
)

// Stage is a filter that a node has to pass to be chosen, in the order in which a
// [Funnel] counts.
type Stage uint8

// The stages.
const (
	Connected Stage = iota
	Kind            // offers the job's kind
	Country
	City
	ASN
	Platform
	Tags      // has all of them
	Answering // is not silent
	Unused    // is not excluded by the query
	Stages    // how many there are
)

// Funnel tells for each [Stage] how many nodes passed it and all before it. A filter that
// was not asked for lets all pass. The zero value is that of a shard without nodes.
//
// All numbers are exact, except that of Unused when as many nodes were found as were wanted:
// then it counts nodes as unused that nobody needed to look at.
type Funnel [Stages]int

// Add adds the funnel of another shard, for the same query.
func (f *Funnel) Add(other Funnel) {
	for i := range f {
		f[i] += other[i]
	}
}

// Cause tells people why a search for nodes found too few: missing of those wanted were not
// found. It names the first filter that left too few. f is the sum of the funnels of
// all shards, sel and kind are those of the search. The text fits the error of a
// result.
func (f *Funnel) Cause(sel *record.Selector, kind string, missing, wanted int) string {
	head := fmt.Sprintf("%d of %d nodes missing: ", missing, wanted)
	all := f[Connected]
	switch {
	case all == 0:
		return head + "no node is connected"
	case all < wanted:
		return fmt.Sprintf("%sonly %d %s connected", head, all, verb(all, "node is", "nodes are"))
	}
	text := fmt.Sprintf("of %d connected nodes ", all)
	these := ""
	for _, s := range steps(sel, kind) {
		n, enough := f[s.stage], wanted
		if s.stage == Unused {
			enough = missing
		}
		if n >= enough {
			if s.always {
				text += fmt.Sprintf("%d%s %s, ", n, these, verb(n, s.one, s.many))
				these = " of these"
			}
			continue
		}
		if these != "" {
			text += "but "
		}
		switch {
		case n > 0:
			return fmt.Sprintf("%s%sonly %d%s %s", head, text, n, these, verb(n, s.one, s.many))
		case s.none != "":
			return head + text + s.none
		default:
			return fmt.Sprintf("%s%snone%s %s", head, text, these, s.one)
		}
	}
	return fmt.Sprintf("%s%d of %d connected nodes fit, but they were found too late", head, f[Unused], all)
}

// step is how a stage is told.
type step struct {
	stage           Stage
	one, many, none string
	always          bool // told also when it left enough
}

// steps returns those stages that a search asks for.
func steps(sel *record.Selector, kind string) []step {
	var all []step
	have := func(stage Stage, given bool, what string) {
		if given {
			all = append(all, step{stage: stage, one: "has " + what, many: "have " + what, always: true})
		}
	}
	if kind != "" {
		what := "kind " + strconv.Quote(shorten(kind))
		all = append(all, step{stage: Kind, one: "offers " + what, many: "offer " + what, always: true})
	}
	if sel != nil {
		have(Country, sel.Country != "", "country="+plain(sel.Country))
		have(City, sel.City != "", "city="+strconv.Quote(shorten(sel.City)))
		have(ASN, sel.ASN != 0, fmt.Sprintf("asn=%d", sel.ASN))
		have(Platform, sel.Platform != "", "platform="+plain(sel.Platform))
		have(Tags, len(sel.Tags) > 0, tagList(sel.Tags))
	}
	return append(all,
		step{stage: Answering, one: "answered when last asked", many: "answered when last asked"},
		step{stage: Unused, one: "is not used by this job already", many: "are not used by this job already",
			none: "all are used by this job already"})
}

// maxTagsTold keeps a cause short: a selector may have 32 tags.
const maxTagsTold = 8

func tagList(tags []string) string {
	var told []string
	for _, t := range tags[:min(len(tags), maxTagsTold)] {
		told = append(told, "tag="+plain(t))
	}
	if more := len(tags) - len(told); more > 0 {
		told = append(told, fmt.Sprintf("and %d more tags", more))
	}
	return strings.Join(told, " ")
}

// plain quotes a text only if that is needed to read it.
func plain(s string) string {
	s = shorten(s)
	if q := strconv.Quote(s); len(q) != len(s)+2 || strings.ContainsAny(s, " ,") {
		return q
	}
	return s
}

// maxTextTold is how many bytes of a text a cause tells.
const maxTextTold = 64

func shorten(s string) string {
	if len(s) <= maxTextTold {
		return s
	}
	end := maxTextTold
	for end > maxTextTold-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}

func verb(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
