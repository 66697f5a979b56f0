package member

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/shard"
	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// sent keeps what a shard sends to gates.
type sent struct{ batches []*actors.ToGate }

func (s *sent) Send(_ uint32, b *actors.ToGate) { s.batches = append(s.batches, b) }
func (s *sent) Announce(uint32)                 {}

func TestTraceTellsTheStepsOfAJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newTracer("m1")
		ctx, cancel := context.WithCancel(t.Context())
		byJob, byNode := tr.Trace(ctx, api.TraceFilter{Job: "j"}), tr.Trace(ctx, api.TraceFilter{Node: "n"})
		require.True(t, tr.Wants())

		tr.read(3, &actors.Records{Records: []actors.Record{
			{Offset: 7, Value: []byte(`{"id":"j","kind":"http","target":{"node":"n"}}`)}, {Value: []byte(`{`)},
			{Offset: 8, Value: []byte(`{"id":"j","cancel":true}`)}}})
		gates := &sent{}
		g := tracedGates{gates, tr, func(uint32) string { return "gate 2 of member m2" }}
		g.Send(5, &actors.ToGate{
			Deliveries:  []actors.Delivery{{Node: "n", JobID: "j", Attempt: 1}, {Node: "other", JobID: "other"}},
			Withdrawals: []actors.Withdrawal{{Node: "n", JobID: "j", Attempt: 1, Reason: "late"}},
			Acks:        []actors.Ack{{Node: "n", JobID: "j", Attempt: 1}},
			Evictions:   []actors.Eviction{{Node: "n", Incarnation: 9}},
		})
		require.Len(t, gates.batches, 1)
		tr.fromGate(&actors.FromGate{
			Results:       []actors.Result{{Node: "n", JobID: []byte("j"), Attempt: 1, Outcome: protocol.OutcomeOK, DurationUs: 1500}},
			Registrations: []actors.Registration{{Node: "n", Incarnation: 9}},
			Notices: []actors.Notice{{Kind: actors.Sent, Node: "n", JobID: "j", Attempt: 1}, {Kind: actors.Accepted, Node: "n", JobID: "j", Attempt: 1},
				{Kind: actors.Lost, Node: "n", JobID: "j", Attempt: 1}},
			Departures: []actors.Departure{{Node: "n", Incarnation: 9}},
		})
		var rw record.ResultWriter
		value, err := rw.Append(nil, record.JSON, &record.Result{Job: "j", Node: "n", Attempt: 1, Outcome: protocol.OutcomeOK})
		require.NoError(t, err)
		tr.committed(&shard.Batch{Writes: []shard.Write{{Stream: shard.State, Value: []byte("x")}, {Stream: shard.Results, Value: value, Encoding: record.JSON}}})

		collect := func(events <-chan api.TraceEvent) (out []string) {
			synctest.Wait()
			for {
				select {
				case ev := <-events:
					require.Equal(t, "m1", ev.Member)
					require.NotZero(t, ev.TimeUs)
					out = append(out, ev.Step+" "+ev.Text)
				default:
					return out
				}
				synctest.Wait()
			}
		}
		require.Equal(t, []string{"read record at partition 3, offset 7", "read cancel record at partition 3, offset 8",
			"delivered to gate 2 of member m2", "notice withdrawn: late", "acknowledged ", "result ok after 1.500 ms on the node",
			"sent ", "accepted ", "notice the session that had it has ended", "committed ok"}, collect(byJob))
		require.Equal(t, []string{"read record at partition 3, offset 7", "delivered to gate 2 of member m2", "notice withdrawn: late",
			"acknowledged ", "notice session 9 is closed at gate 2 of member m2: a newer one replaced it", "result ok after 1.500 ms on the node",
			"notice session 9 is registered", "sent ", "accepted ", "notice the session that had it has ended", "notice session 9 has ended",
			"committed ok"}, collect(byNode))
		cancel()
		synctest.Wait()
		require.False(t, tr.Wants())
		_, open := <-byJob
		require.False(t, open)
	})
}

// Who reads too slowly loses steps, and hears so; the shard does not wait.
func TestTraceDropsWhatIsNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newTracer("m1")
		ctx, cancel := context.WithCancel(t.Context())
		events := tr.Trace(ctx, api.TraceFilter{Job: "j"})
		synctest.Wait()
		for range 2 * maxTraced {
			tr.Step(api.TraceEvent{Step: api.StepSent, Job: "j"})
		}
		synctest.Wait()
		got, missing := 0, ""
		for got < maxTraced {
			if ev := <-events; ev.Step == api.StepMissing {
				missing = ev.Text
			} else {
				got++
			}
		}
		require.Regexp(t, `^409\d steps: they came faster than they were read$`, missing)
		cancel()
	})
}

func TestNobodyTraces(t *testing.T) {
	var tr *tracer
	require.False(t, tr.Wants())
	tr = newTracer("m1")
	b := &actors.FromGate{Notices: make([]actors.Notice, 100)}
	require.Zero(t, testing.AllocsPerRun(100, func() { tr.fromGate(b) }))
}
