package shard

import (
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// print shows the effects and empties them.
func (s *script) print() {
	p := func(format string, args ...any) { fmt.Fprintf(&s.out, format+"\n", args...) }
	e := &s.eff
	for _, w := range e.Withdrawals {
		x := w.Withdrawal
		p("withdraw %s#%d from %s at %s: %s", x.JobID, x.Attempt, x.Node, gateName(w.Gate), x.Reason)
	}
	for _, d := range e.Deliveries {
		x := d.Delivery
		p("deliver %s#%d to %s at %s, timeout %dms", x.JobID, x.Attempt, x.Node, gateName(d.Gate), x.TimeoutMs)
	}
	for _, x := range e.Acks {
		p("ack %s#%d to %s at %s", x.Ack.JobID, x.Ack.Attempt, x.Ack.Node, gateName(x.Gate))
	}
	for _, x := range e.Evictions {
		contested := ""
		if x.Eviction.Contested {
			contested = ", contested"
		}
		p("evict %s up to incarnation %d at %s%s", x.Eviction.Node, x.Eviction.Incarnation, gateName(x.Gate), contested)
	}
	for s.cut == nil && s.seen < len(s.core.books.writes) {
		s.write(&s.core.books.writes[s.seen])
		s.seen++
	}
	for _, x := range e.Asks {
		p("ask shard %d: %s", x.Shard, describe(x.Message))
	}
	for _, x := range e.Events {
		switch {
		case x.Progress != nil:
			p("event: progress of %s on %s", x.JobID, x.Progress.Node)
		case x.Done:
			p("event: %s is done", x.JobID)
		default:
			p("event: a result of %s", x.JobID)
		}
	}
	e.Reset()
}

// write shows an outcome or a dead record.
func (s *script) write(w *Write) {
	if w.Stream == Dead {
		fmt.Fprintf(&s.out, "dead record %d: %s\n", w.Record.Offset, w.Reason)
		return
	}
	r, err := record.ParseResult("", w.Value)
	require.NoError(s.t, err)
	fmt.Fprintf(&s.out, "outcome %s[%d] on %q: %v after attempt %d %s\n", r.Job, r.Index, r.Node, r.Outcome, r.Attempt, r.Error)
}

// gateName tells a gate, and its member when that is another one.
func gateName(gate uint32) string {
	if slot := actors.SlotOf(gate); slot != 0 {
		return fmt.Sprintf("gate %d of member %d", actors.LoopOf(gate), slot)
	}
	return fmt.Sprintf("gate %d", gate)
}

func describe(m any) string {
	switch m := m.(type) {
	case *Locate:
		return fmt.Sprintf("where is %s, asked again in %dms", m.Node, m.WaitMs)
	case *Rebuilt:
		return fmt.Sprintf("shard %d is rebuilt", m.Shard)
	case *Silent:
		return fmt.Sprintf("%s is silent until %v", m.Node, time.Duration(m.UntilMs-t0)*time.Millisecond)
	case *Answered:
		return m.Node + " answered"
	case *Located:
		return fmt.Sprintf("%s is at %s, incarnation %d", m.Location.Node, gateName(m.Location.Gate), m.Location.Incarnation)
	case *Select:
		return fmt.Sprintf("%d nodes for %s, %v, round %d%s", m.Count, m.JobID, m.Selector, m.Round, except(m.Exclude))
	case *Candidates:
		var nodes []string
		for _, l := range m.Nodes {
			nodes = append(nodes, l.Node)
		}
		sort.Strings(nodes)
		return fmt.Sprintf("for %s in round %d: %s", m.JobID, m.Round, strings.Join(nodes, " "))
	}
	return fmt.Sprintf("%T", m)
}

func except(nodes []string) string {
	if len(nodes) == 0 {
		return ""
	}
	sort.Strings(nodes)
	return ", except " + strings.Join(nodes, " ")
}

func outcome(name string) (protocol.Outcome, error) {
	for _, o := range protocol.Outcomes() {
		if o.String() == name {
			return o, nil
		}
	}
	return 0, fmt.Errorf("%q is no outcome", name)
}
