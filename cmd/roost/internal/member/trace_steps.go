package member

import (
	"context"
	"fmt"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/shard"
	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/protocol/record"
)

// Steps are told where the job's shard is: all that happens to a job passes by there, on its way from
// Kafka, to and from gates of any member, and back to Kafka.

// Trace implements local.
func (b *backend) Trace(ctx context.Context, f api.TraceFilter) (<-chan api.TraceEvent, error) {
	return b.m.trace.Trace(ctx, f), nil
}

// gateName tells which member and event loop a gate is.
func (m *Member) gateName(gate uint32) string {
	name := m.memberOf(gate)
	if name == "" {
		return fmt.Sprintf("gate %d of a member that is gone", actors.LoopOf(gate))
	}
	return fmt.Sprintf("gate %d of member %s", actors.LoopOf(gate), name)
}

// memberOf names the member of a gate; empty: it has just gone.
func (m *Member) memberOf(gate uint32) string {
	slot := actors.SlotOf(gate)
	if slot == 0 {
		return m.cfg.Name
	}
	for _, p := range m.routing.Peers() {
		if p.Slot == slot {
			return p.Name
		}
	}
	return ""
}

// read tells of records that a shard is given. Those that cannot be understood are jobs of nobody.
func (t *tracer) read(partition int32, m *actors.Records) {
	if !t.Wants() {
		return
	}
	for i := range m.Records {
		r := &m.Records[i]
		j, err := record.ParseJob(r.ContentType, r.Value)
		if err != nil {
			continue
		}
		what := ""
		if j.Cancel {
			what = "cancel "
		}
		t.Step(api.TraceEvent{Step: api.StepRead, Job: j.ID, Node: j.Target.Node,
			Text: fmt.Sprintf("%srecord at partition %d, offset %d", what, partition, r.Offset)})
	}
}

// tracedGates tells of what shards send to gates.
type tracedGates struct {
	shard.Gates
	trace *tracer
	name  func(gate uint32) string
}

// Send implements shard.Gates.
func (g tracedGates) Send(gate uint32, b *actors.ToGate) {
	if g.trace.Wants() {
		g.trace.toGate(b, g.name(gate))
	}
	g.Gates.Send(gate, b)
}

func (t *tracer) toGate(b *actors.ToGate, gate string) {
	for i := range b.Deliveries {
		d := &b.Deliveries[i]
		t.Step(api.TraceEvent{Step: api.StepDelivered, Node: d.Node, Job: d.JobID, Attempt: d.Attempt, Text: "to " + gate})
	}
	for i := range b.Withdrawals {
		w := &b.Withdrawals[i]
		t.Step(api.TraceEvent{Step: api.StepNotice, Node: w.Node, Job: w.JobID, Attempt: w.Attempt, Text: "withdrawn: " + w.Reason})
	}
	for i := range b.Acks {
		a := &b.Acks[i]
		t.Step(api.TraceEvent{Step: api.StepAcknowledged, Node: a.Node, Job: a.JobID, Attempt: a.Attempt})
	}
	for i := range b.Evictions {
		e := &b.Evictions[i]
		t.Step(api.TraceEvent{Step: api.StepNotice, Node: e.Node, Text: fmt.Sprintf("session %d is closed at %s: a newer one replaced it", e.Incarnation, gate)})
	}
}

// fromGate tells of what a gate sends to a shard, before the shard has it.
func (t *tracer) fromGate(b *actors.FromGate) {
	if !t.Wants() {
		return
	}
	for i := range b.Results {
		r := &b.Results[i]
		if t.fits(r.Node, r.JobID) {
			t.Step(api.TraceEvent{Step: api.StepResult, Node: r.Node, Job: string(r.JobID), Attempt: r.Attempt,
				Text: fmt.Sprintf("%s after %.3f ms on the node", r.Outcome, float64(r.DurationUs)/1000)})
		}
	}
	for i := range b.Registrations {
		r := &b.Registrations[i]
		t.Step(api.TraceEvent{Step: api.StepNotice, Node: r.Node, Text: fmt.Sprintf("session %d is registered", r.Incarnation)})
	}
	for i := range b.Notices {
		n := &b.Notices[i]
		step, text := noticeStep(n.Kind)
		t.Step(api.TraceEvent{Step: step, Node: n.Node, Job: n.JobID, Attempt: n.Attempt, Text: text})
	}
	for i := range b.Departures {
		d := &b.Departures[i]
		t.Step(api.TraceEvent{Step: api.StepNotice, Node: d.Node, Text: fmt.Sprintf("session %d has ended", d.Incarnation)})
	}
}

func noticeStep(k actors.NoticeKind) (step, text string) {
	switch k {
	case actors.Sent:
		return api.StepSent, ""
	case actors.Accepted:
		return api.StepAccepted, ""
	case actors.Undelivered:
		return api.StepNotice, "not delivered: the node has no session there"
	case actors.Queued:
		return api.StepNotice, "waits for the node, which has as many jobs as it takes"
	case actors.Busy:
		return api.StepNotice, "not delivered: too many jobs wait for the node"
	case actors.Running:
		return api.StepNotice, "the node has it"
	case actors.Held:
		return api.StepNotice, "the node holds its result"
	case actors.Lost:
		return api.StepNotice, "the session that had it has ended"
	}
	return api.StepNotice, fmt.Sprintf("notice %d", k)
}

// committed tells of outcomes that are in Kafka now.
func (t *tracer) committed(b *shard.Batch) {
	if !t.Wants() {
		return
	}
	for i := range b.Writes {
		w := &b.Writes[i]
		if w.Stream != shard.Results {
			continue
		}
		if r, err := record.ParseResult(w.Encoding.ContentType(), w.Value); err == nil {
			t.Step(api.TraceEvent{Step: api.StepCommitted, Node: r.Node, Job: r.Job, Attempt: r.Attempt, Text: r.Outcome.String()})
		}
	}
}
