package session

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-server/roost/actors"
)

// t0 is a time.
const t0 = int64(1_700_000_000_000)

func delivery(job string, attempt uint32, priority uint8) *actors.Delivery {
	return &actors.Delivery{Node: "n", JobID: job, Kind: "ping", Shard: 7, Attempt: attempt, Priority: priority}
}

// told renders effects: jobs as job#attempt, notices as kind job#attempt.
func told(e *Effects) []string {
	names := map[actors.NoticeKind]string{actors.Queued: "queued", actors.Sent: "sent", actors.Busy: "busy",
		actors.Undelivered: "undelivered", actors.Lost: "lost"}
	out := []string{}
	for _, d := range e.Jobs {
		out = append(out, fmt.Sprintf("%s#%d", d.JobID, d.Attempt))
	}
	for _, n := range e.Notices {
		out = append(out, fmt.Sprintf("%s %s#%d", names[n.Notice.Kind], n.Notice.JobID, n.Notice.Attempt))
	}
	e.Reset()
	return out
}

func TestCreditAndPriorities(t *testing.T) {
	c := &Core{node: "n", incarnation: 5, credit: 2}
	var e Effects
	for _, d := range []*actors.Delivery{delivery("a", 1, 0), delivery("b", 1, 9), delivery("c", 1, 0), delivery("d", 2, 5), delivery("e", 1, 5)} {
		c.Deliver(t0, d, &e)
	}
	require.Equal(t, []string{"a#1", "b#1", "queued c#1", "queued d#2", "queued e#1"}, told(&e))
	require.Equal(t, 2, c.InFlight())
	require.Equal(t, 3, c.Queued())

	require.True(t, c.Answered(t0, []byte("b"), &e))
	require.Equal(t, []string{"d#2", "sent d#2"}, told(&e), "the highest priority first, then the first come")
	require.False(t, c.Answered(t0, []byte("b"), &e), "answered twice")
	require.False(t, c.Answered(t0, []byte("c"), &e), "answered without having it")
	require.Empty(t, told(&e))

	c.SetCredit(t0, 4, &e)
	require.Equal(t, []string{"e#1", "c#1", "sent e#1", "sent c#1"}, told(&e))
	c.SetCredit(t0, 1, &e)
	c.Deliver(t0, delivery("f", 1, 0), &e)
	require.Equal(t, []string{"queued f#1"}, told(&e))
	for _, j := range []string{"a", "d", "e"} {
		require.True(t, c.Answered(t0, []byte(j), &e))
		require.Empty(t, told(&e), "more than its credit is with the node still")
	}
	require.True(t, c.Answered(t0, []byte("c"), &e))
	require.Equal(t, []string{"f#1", "sent f#1"}, told(&e))

	c.SetCredit(t0, 0, &e)
	c.Answered(t0, []byte("f"), &e)
	c.Deliver(t0, delivery("g", 1, 0), &e)
	require.Equal(t, []string{"queued g#1"}, told(&e), "a node may take a pause")
	c.End(&e)
	require.Equal(t, []string{"undelivered g#1"}, told(&e))
	c.End(&e)
	require.Empty(t, told(&e))
}

func TestDeliveredAgain(t *testing.T) {
	c := &Core{node: "n", credit: 1}
	var e Effects
	c.Deliver(t0, delivery("a", 1, 0), &e)
	c.Deliver(t0, delivery("b", 1, 0), &e)
	told(&e)
	c.Deliver(t0, delivery("a", 2, 0), &e)
	c.Deliver(t0, delivery("b", 2, 0), &e)
	require.Equal(t, []string{"a#2", "queued b#2"}, told(&e))
	require.Equal(t, 1, c.InFlight(), "the credit is taken once")
	require.Equal(t, 1, c.Queued())
	c.End(&e)
	require.Equal(t, []string{"lost a#2", "undelivered b#2"}, told(&e))
}

func TestWithdraw(t *testing.T) {
	c := &Core{node: "n", credit: 1}
	var e Effects
	c.Deliver(t0, delivery("a", 2, 0), &e)
	c.Deliver(t0, delivery("b", 2, 0), &e)
	c.Deliver(t0, delivery("c", 2, 0), &e)
	told(&e)
	require.False(t, c.Withdraw(t0, "a", 1, &e), "a newer attempt is under way")
	require.False(t, c.Withdraw(t0, "b", 1, &e))
	require.False(t, c.Withdraw(t0, "x", 1, &e))
	require.Equal(t, 2, c.Queued())
	require.False(t, c.Withdraw(t0, "b", 2, &e), "the node has not heard of it")
	require.Empty(t, told(&e))
	require.True(t, c.Withdraw(t0, "a", 3, &e))
	require.Equal(t, []string{"c#2", "sent c#2"}, told(&e))
}

func TestResume(t *testing.T) {
	c := &Core{node: "n", incarnation: 9, credit: 1}
	var e Effects
	c.Resume("a", 3, 2, &e)
	c.Resume("a", 3, 2, &e)
	c.Resume("b", 4, 1, &e)
	require.Equal(t, 2, c.InFlight())
	c.Deliver(t0, delivery("c", 1, 0), &e)
	require.Equal(t, []string{"queued c#1"}, told(&e), "what it runs counts")
	c.Answered(t0, []byte("a"), &e)
	require.Empty(t, told(&e))
	c.End(&e)
	require.Equal(t, uint32(4), e.Notices[0].Shard)
	require.Equal(t, actors.Notice{Kind: actors.Lost, Node: "n", JobID: "b", Attempt: 1, Incarnation: 9}, e.Notices[0].Notice)
}

func TestQueueIsBounded(t *testing.T) {
	c := &Core{node: "n", credit: 1}
	var e Effects
	for i := range MaxQueued + 1 {
		c.Deliver(t0, delivery(fmt.Sprint(i), 1, 0), &e)
	}
	e.Reset()
	c.Deliver(t0, delivery("more", 1, 9), &e)
	require.Equal(t, []string{"busy more#1"}, told(&e))
	require.Equal(t, MaxQueued, c.Queued())
}

func TestAnIdleCoreHoldsNoMemory(t *testing.T) {
	c := &Core{node: "n", credit: 100}
	var e Effects
	for i := range 200 {
		c.Deliver(t0, delivery(fmt.Sprint(i), 1, 0), &e)
	}
	for i := range 200 {
		require.True(t, c.Answered(t0, fmt.Append(nil, i), &e))
	}
	require.Nil(t, c.desk)
}

// TestCoreAgainstModel compares the core with lists that are searched anew each time.
func TestCoreAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type item struct {
			job      string
			attempt  uint32
			priority uint8
		}
		credit := rapid.IntRange(0, 3).Draw(t, "credit")
		c := &Core{node: "n", credit: uint16(credit)}
		var has, waits []item
		var e Effects
		find := func(in []item, job string) int {
			return slices.IndexFunc(in, func(x item) bool { return x.job == job })
		}
		var want []string
		release := func() {
			var jobs, notices []string
			for len(waits) > 0 && len(has) < credit {
				best := 0
				for i, x := range waits {
					if x.priority > waits[best].priority {
						best = i
					}
				}
				x := waits[best]
				waits = slices.Delete(waits, best, best+1)
				has = append(has, x)
				jobs = append(jobs, fmt.Sprintf("%s#%d", x.job, x.attempt))
				notices = append(notices, fmt.Sprintf("sent %s#%d", x.job, x.attempt))
			}
			want = append(append(want, jobs...), notices...)
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			want = []string{}
			x := item{job: rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"}).Draw(t, "job"),
				attempt: uint32(rapid.IntRange(1, 3).Draw(t, "attempt"))}
			i, q := find(has, x.job), find(waits, x.job)
			switch rapid.IntRange(0, 4).Draw(t, "op") {
			case 0, 1:
				// A job's priority never changes.
				x.priority = x.job[0] % 3
				c.Deliver(t0, delivery(x.job, x.attempt, x.priority), &e)
				switch {
				case i >= 0:
					has[i].attempt = x.attempt
					want = append(want, fmt.Sprintf("%s#%d", x.job, x.attempt))
				case q >= 0:
					waits[q].attempt = x.attempt
					want = append(want, fmt.Sprintf("queued %s#%d", x.job, x.attempt))
				case len(has) < credit:
					has = append(has, x)
					want = append(want, fmt.Sprintf("%s#%d", x.job, x.attempt))
				default:
					waits = append(waits, x)
					want = append(want, fmt.Sprintf("queued %s#%d", x.job, x.attempt))
				}
			case 2:
				require.Equal(t, i >= 0, c.Answered(t0, []byte(x.job), &e))
				if i >= 0 {
					has = slices.Delete(has, i, i+1)
					release()
				}
			case 3:
				told := c.Withdraw(t0, x.job, x.attempt, &e)
				switch {
				case q >= 0 && waits[q].attempt <= x.attempt:
					waits = slices.Delete(waits, q, q+1)
					require.False(t, told)
				case i >= 0 && has[i].attempt <= x.attempt:
					has = slices.Delete(has, i, i+1)
					release()
					require.True(t, told)
				default:
					require.False(t, told)
				}
			case 4:
				credit = rapid.IntRange(0, 4).Draw(t, "credit")
				c.SetCredit(t0, uint32(credit), &e)
				release()
			}
			require.Equal(t, want, told(&e))
			require.Equal(t, len(has), c.InFlight())
			require.Equal(t, len(waits), c.Queued())
		}
		c.End(&e)
		require.Len(t, e.Notices, len(has)+len(waits), "nothing ends unsaid")
	})
}

func TestWhatIsLongOverdueMakesRoom(t *testing.T) {
	var e Effects
	c := Core{node: "n", incarnation: 7, credit: 1}
	d := delivery("a", 1, 0)
	d.TimeoutMs = 1000
	c.Deliver(t0, d, &e)
	c.Resume("run before", 3, 1, &e)
	c.Deliver(t0, delivery("b", 1, 0), &e)
	e.Reset()
	late := t0 + 1000 + overdueMs
	c.Overdue(late-1, &e)
	require.Empty(t, e.Cancels)
	c.Overdue(late, &e)
	require.Equal(t, []actors.Withdrawal{{JobID: "a", Attempt: 1, Reason: "long overdue"}}, e.Cancels)
	require.Empty(t, e.Jobs, "what it runs from an earlier session counts")
	require.True(t, c.Answered(late, []byte("run before"), &e))
	require.Len(t, e.Jobs, 1)
	e.Reset()
	c.Deliver(late+overdueMs, delivery("c", 1, 0), &e)
	require.Len(t, e.Cancels, 1, "a delivery that finds no room looks too")
	require.Len(t, e.Jobs, 1)
}

func TestWhatTheNodeHasOfAShard(t *testing.T) {
	var e Effects
	c := Core{node: "n", incarnation: 7, credit: 9}
	for i, job := range []string{"a", "b", "c"} {
		d := delivery(job, uint32(i+1), 0)
		d.Shard = uint32(i % 2)
		c.Deliver(t0, d, &e)
	}
	var got []string
	c.Has([]bool{true}, func(_ uint32, job string, attempt uint32) { got = append(got, fmt.Sprint(job, attempt)) })
	require.Equal(t, []string{"a1", "c3"}, got)
}
