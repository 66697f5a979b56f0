package shard

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

func TestActorTakesAJobToItsEnd(t *testing.T) {
	p := start(t, DefaultConfig())
	events := make(chan FollowEvent, 10)
	f := &Follower{Fn: func(e FollowEvent) { events <- e }}
	p.send(&Follow{ID: "a", Follower: f})
	p.register(3)
	p.records(7, oneNode("a"))
	p.eventually(func() bool { return len(p.deliveries) == 1 && p.taken == 1 && p.announced == 1 })
	require.Equal(t, []string{"a#1@3"}, p.deliveries)

	b := actors.NewFromGate(3)
	b.Progress = append(b.Progress, actors.Progress{Node: "n", JobID: "a", Data: b.Keep([]byte{7})})
	p.send(b)
	require.Equal(t, []byte{7}, (<-events).Progress.Data)

	p.result("a")
	p.eventually(func() bool { return p.outcomes == 1 && p.dirty > 0 })
	require.Empty(t, p.acks, "not before it is committed")
	require.Equal(t, 1, p.commit())
	require.Equal(t, "hi", string(p.kafka.results[0].Output[1:]))
	got := <-events
	r, err := record.ParseResult("", got.Value)
	require.NoError(t, err)
	require.Equal(t, p.kafka.results[0], r)
	require.True(t, (<-events).Done)
	p.eventually(func() bool { return len(p.acks) == 1 })
	require.Equal(t, int64(8), p.kafka.next)
	require.Nil(t, p.cut())

	// Who follows a job that is done hears so at once.
	p.send(&Follow{ID: "a", Follower: f})
	require.Equal(t, StateDone, (<-events).Summary.State)
	require.True(t, (<-events).Done)
	reply := make(chan JobAnswer, 1)
	p.send(&QueryJob{ID: "a", Reply: reply})
	require.Equal(t, [][]byte{got.Value}, (<-reply).Summary.Results)
}

func TestActorChoosesNodesThroughItself(t *testing.T) {
	p := start(t, DefaultConfig())
	p.register(3)
	p.records(0, record.Job{ID: "a", Target: record.Target{Select: &record.Selector{Count: 1}}})
	p.eventually(func() bool { return len(p.deliveries) == 1 })
}

// TestActorWaitsForItsState checks that nothing is done for jobs before it is there,
// and that what is not of the shard's life has no effect.
func TestActorWaitsForItsState(t *testing.T) {
	p := startEmpty(t, DefaultConfig())
	events := make(chan FollowEvent, 10)
	p.send(&Follow{ID: "a", Follower: &Follower{Fn: func(e FollowEvent) { events <- e }}})
	p.send(&Follow{ID: "unknown", Follower: &Follower{Fn: func(e FollowEvent) { events <- e }}})
	p.register(3)
	p.send(&actors.Records{Epoch: 1, Records: []actors.Record{{Value: value(t, oneNode("early"))}}})
	p.send(&Restored{Epoch: 7, Next: 3})
	require.Nil(t, p.cut())
	st := p.status()
	require.True(t, st.Rebuilding)
	require.Zero(t, st.Read)
	require.Equal(t, 1, st.Nodes)
	require.Equal(t, 1, p.taken, "the source has to know, whatever becomes of them")
	reply := make(chan JobAnswer, 1)
	p.send(&QueryJob{ID: "a", Reply: reply})
	require.Equal(t, JobAnswer{Rebuilding: true}, <-reply)
	all := make(chan JobsAnswer, 1)
	p.send(&QueryJobs{Limit: 1, Reply: all})
	require.Equal(t, JobsAnswer{Rebuilding: true}, <-all)
	require.Zero(t, p.announced)

	_, other := someCore(t)
	p.send(&Restore{Epoch: 7, Records: other.records()})
	c, eff := newCore(DefaultConfig())
	now := time.Now().UnixMilli()
	c.Records(now, []actors.Record{{Offset: 4, TimestampMs: now, Value: value(t, oneNode("a"))}}, eff)
	var b Batch
	require.True(t, c.Cut(now+2000, &b))
	p.kafka.commit(&b)
	p.restored()
	require.Equal(t, "a", (<-events).Summary.ID)
	p.eventually(func() bool { return p.announced == 1 && len(p.deliveries) == 1 })
	st = p.status()
	require.Equal(t, []any{false, 1, 1, int64(5), int64(5)}, []any{st.Rebuilding, st.Restored, st.Pending, st.Read, st.Next})
	p.restored() // of this life, but that is over
	require.Equal(t, 1, p.status().Pending)
	require.Equal(t, 1, p.announced)
	require.Equal(t, [][2]int{{1, 0}}, p.rebuilt)
	require.Empty(t, events)
}

// TestActorTakesWhatReplacesARecordThatItCannotRead checks that the way out which the
// error names is one.
func TestActorTakesWhatReplacesARecordThatItCannotRead(t *testing.T) {
	p := startEmpty(t, DefaultConfig())
	p.send(&Restore{Epoch: p.life(), Records: []StateRecord{{Key: []byte("jx"), Value: []byte{stateVersion + 1}}, {Key: []byte("jx")}}})
	p.restored()
	require.False(t, p.status().Rebuilding)
	require.Empty(t, p.fatal)
}

func TestActorStopsAtAStateThatItCannotRead(t *testing.T) {
	p := startEmpty(t, DefaultConfig())
	p.kafka.state["jx"] = []byte{stateVersion + 1}
	p.kafka.state["jy"] = []byte{stateVersion + 1}
	p.restored()
	require.True(t, p.status().Rebuilding)
	require.Len(t, p.fatal, 1)
	require.ErrorContains(t, p.fatal[0], "newer version")
	require.Nil(t, p.cut())
	require.Zero(t, p.announced)

	delete(p.kafka.state, "jx")
	delete(p.kafka.state, "jy")
	p.send(&Again{})
	p.eventually(func() bool { return p.epoch == 2 })
	p.restored()
	require.False(t, p.status().Rebuilding)
}

func TestActorPausesWhileItHasEnough(t *testing.T) {
	cfg := DefaultConfig()
	cfg.MaxPending = 4
	p := start(t, cfg)
	p.register(3)
	p.records(0, oneNode("a"), oneNode("b"), oneNode("c"))
	require.False(t, p.status().Paused)
	p.records(3, oneNode("d"))
	p.eventually(func() bool { return p.paused })
	p.result("c")
	p.eventually(func() bool { return p.outcomes == 1 })
	require.True(t, p.status().Paused, "it is not committed")
	p.commit()
	require.True(t, p.status().Paused, "three quarters")
	p.result("d")
	p.eventually(func() bool { return p.outcomes == 2 })
	p.commit()
	p.eventually(func() bool { return !p.paused })
}

func TestActorPausesWhileKafkaTakesNothing(t *testing.T) {
	cfg := DefaultConfig()
	cfg.MaxUncommitted = 2
	p := start(t, cfg)
	p.register(3)
	p.records(0, oneNode("a"), oneNode("b"), oneNode("c"))
	p.result("a", "b")
	p.eventually(func() bool { return p.paused })
	require.Equal(t, 2, p.status().Uncommitted)
	p.commit()
	p.eventually(func() bool { return !p.paused })
}

func TestActorRestartsFromWhatIsCommitted(t *testing.T) {
	p := start(t, DefaultConfig())
	gone := make(chan FollowEvent, 1)
	p.send(&Follow{ID: "z", Follower: &Follower{Fn: func(e FollowEvent) { gone <- e }}})
	p.register(3)
	p.records(0, oneNode("a"), oneNode("b"), oneNode("c"))
	p.result("a", "b")
	p.eventually(func() bool { return p.outcomes == 2 })
	lost := p.cut()
	p.locked(func() { p.panicOn = "d" })
	p.records(3, oneNode("d"))
	p.send(&actors.Records{Epoch: 1, Records: []actors.Record{{Offset: 4, Value: value(t, oneNode("old"))}}})
	p.eventually(func() bool { return p.epoch == 2 })
	require.True(t, (<-gone).Gone)
	st := p.status()
	require.True(t, st.Rebuilding)
	require.Zero(t, st.Pending, "records of the life before are not taken")
	p.eventually(func() bool { return p.taken == 5 })

	// Kafka has the batch, but the shard's life was over.
	p.kafka.commit(lost)
	p.send(&Committed{Batch: lost})
	p.restored()
	p.records(2, oneNode("c"), oneNode("d"))
	p.register(3)
	p.result("a", "b", "c", "d")
	p.eventually(func() bool { return p.outcomes == 4 })
	require.Equal(t, 2, p.commit())
	p.eventually(func() bool { return len(p.acks) == 4 })
	require.Len(t, p.kafka.results, 4)
	require.Equal(t, int64(4), p.kafka.next)
	require.Empty(t, p.fatal)
}

// TestActorBeginsAgain as when it is not known whether a batch was committed. Followers
// and nodes stay.
func TestActorBeginsAgain(t *testing.T) {
	p := start(t, DefaultConfig())
	events := make(chan FollowEvent, 10)
	p.send(&Follow{ID: "a", Follower: &Follower{Fn: func(e FollowEvent) { events <- e }}})
	p.register(3)
	p.records(0, oneNode("a"))
	p.result("a")
	p.eventually(func() bool { return p.outcomes == 1 })
	require.NotNil(t, p.cut())
	p.send(&Again{})
	p.eventually(func() bool { return p.epoch == 2 })
	p.restored()
	p.records(0, oneNode("a"))
	p.eventually(func() bool { return len(p.deliveries) == 2 })
	require.Equal(t, []string{"a#1@3", "a#1@3"}, p.deliveries)
	p.result("a")
	p.eventually(func() bool { return p.outcomes == 2 })
	require.Equal(t, 1, p.commit())
	require.NotNil(t, (<-events).Value)
	require.True(t, (<-events).Done)
	require.Len(t, p.kafka.results, 1)
}

func TestActorTicksByTheClock(t *testing.T) {
	cfg := DefaultConfig()
	cfg.GraceMs, cfg.YoungMs, cfg.ProgressMs = 10, 10, 10
	p := start(t, cfg)
	p.register(3)
	far := oneNode("far")
	far.DeadlineMs = 1<<62 - 1 // far beyond what a timer can be set to
	far.Target.Node = "nobody"
	a := oneNode("a")
	a.Timeout, a.Attempts, a.Backoff = 5*time.Millisecond, 2, 5*time.Millisecond
	p.records(0, far, a)
	p.eventually(func() bool { return p.outcomes == 1 })
	require.Equal(t, []string{"a#1@3", "a#2@3"}, p.deliveries)
	p.commit()
	require.Equal(t, protocol.OutcomeTimeout, p.kafka.results[0].Outcome)
	require.Contains(t, p.kafka.state, "jfar")

	// What nobody asks for: the tail grows old, and the watermark is published.
	p.locked(func() { p.dirty = 0 })
	b := oneNode("b")
	b.Target.Node = "nobody"
	p.records(2, b)
	p.eventually(func() bool { return p.dirty > 0 })
	p.commit()
	require.Contains(t, p.kafka.state, "jb")
	p.records(3, record.Job{ID: "far", Cancel: true}, record.Job{ID: "b", Cancel: true})
	p.eventually(func() bool { return p.outcomes == 3 })
	require.Eventually(t, func() bool {
		p.commit()
		return len(p.kafka.progress) > 0 && p.kafka.progress[len(p.kafka.progress)-1].Offset == 5
	}, 10*time.Second, 5*time.Millisecond)
	require.NotContains(t, p.kafka.state, "jfar")
}

func TestActorUnfollows(t *testing.T) {
	p := start(t, DefaultConfig())
	heard := make(chan string, 10)
	one := &Follower{Fn: func(FollowEvent) { heard <- "one" }}
	two := &Follower{Fn: func(FollowEvent) { heard <- "two" }}
	p.send(&Follow{ID: "a", Follower: one})
	p.send(&Follow{ID: "a", Follower: two})
	p.send(&Unfollow{ID: "a", Follower: one})
	p.send(&Unfollow{ID: "never", Follower: one})
	p.register(3)
	p.records(0, oneNode("a"))
	b := actors.NewFromGate(3)
	b.Progress = append(b.Progress, actors.Progress{Node: "n", JobID: "a"})
	p.send(b)
	require.Equal(t, "two", <-heard)
	p.send(&Unfollow{ID: "a", Follower: two})
	p.result("a")
	p.eventually(func() bool { return p.outcomes == 1 })
	p.commit()
	require.Zero(t, p.status().Pending)
	require.Empty(t, heard)
}

// TestActorHandlesManyAtOnce runs batches over each other: jobs come while others are
// being committed.
func TestActorHandlesManyAtOnce(t *testing.T) {
	p := start(t, DefaultConfig())
	p.register(3)
	const rounds, each = 50, 20
	var under *Batch
	for i := range rounds {
		var jobs []record.Job
		var ids []string
		for k := range each {
			ids = append(ids, fmt.Sprint("j", i*each+k))
			jobs = append(jobs, oneNode(ids[k]))
		}
		p.records(int64(i*each), jobs...)
		p.result(ids...)
		if b := p.cut(); under == nil {
			under = b
		} else {
			require.Nil(t, b)
			p.kafka.commit(under)
			p.send(&Committed{Batch: under})
			under = nil
		}
	}
	if under != nil {
		p.kafka.commit(under)
		p.send(&Committed{Batch: under})
	}
	p.commit()
	require.Zero(t, p.status().Pending)
	require.Len(t, p.kafka.results, rounds*each)
	require.Equal(t, int64(rounds*each), p.kafka.next)
	p.eventually(func() bool { return len(p.acks) == rounds*each })
}

func TestActorOfNodesOfAMemberThatIsGone(t *testing.T) {
	p := start(t, DefaultConfig())
	p.register(actors.GateOf(7, 3))
	job := oneNode("a")
	job.Attempts = 2
	p.records(0, job)
	p.eventually(func() bool { return len(p.deliveries) == 1 })
	p.send(&actors.MemberGone{Slot: 7})
	require.Zero(t, p.status().Nodes)
	p.register(actors.GateOf(8, 3))
	p.eventually(func() bool { return len(p.deliveries) == 2 })
	require.Equal(t, []string{fmt.Sprintf("a#1@%d", 7<<16+3), fmt.Sprintf("a#2@%d", 8<<16+3)}, p.deliveries)
}
