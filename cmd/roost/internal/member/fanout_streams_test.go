package member

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/cluster/rpc"
	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/cmd/roost/internal/api/apitest"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// following counts who follows a job, at each member.
func (c *testCluster) following(id string) [3]int {
	var out [3]int
	for i, l := range c.locals {
		out[i] = l.Following(id)
	}
	return out
}

// like is the same job, for another member.
func like(j *record.Job) *record.Job {
	c := *j
	return &c
}

// collect gathers events until the channel closes.
func collect(events <-chan api.Event) (all *[]api.Event, closed chan struct{}) {
	all, closed = &[]api.Event{}, make(chan struct{})
	go func() {
		defer close(closed)
		for ev := range events {
			*all = append(*all, ev)
		}
	}()
	return all, closed
}

func text(events []api.Event) string {
	var out []string
	for _, ev := range events {
		switch {
		case ev.Job != nil:
			out = append(out, ev.Job.State)
		case ev.Result != nil:
			out = append(out, ev.Result.Node+" "+ev.Result.Outcome)
		case ev.Progress != nil:
			out = append(out, "progress")
		}
	}
	return strings.Join(out, ", ")
}

// The job is followed before anybody has seen it, shows up at one member, moves to another with its
// partition, and ends there.
func TestFollowAcrossMembers(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		ctx, f := t.Context(), c.fan[0]
		job := testJob("a", "")
		job.Target.Nodes = []string{"n", "o", "p"}
		home := f.Home(job.Key())
		c.own(1, home)
		events, err := f.Follow(ctx, "a")
		require.NoError(t, err)
		all, closed := collect(events)
		synctest.Wait()
		require.Equal(t, [3]int{1, 1, 1}, c.following("a"))

		require.NoError(t, c.locals[1].Submit(ctx, job))
		synctest.Wait()
		require.Equal(t, [3]int{0, 1, 0}, c.following("a"), "from then on only its owner is asked")
		require.NoError(t, c.locals[1].Record("a", "n", apitest.Run{Outcome: protocol.OutcomeOK}))
		c.locals[1].Progress("a", "o", json.RawMessage(`1`))
		synctest.Wait()

		c.links[0].setDown(1, true)
		c.disown(home)
		time.Sleep(refollowAfter)
		synctest.Wait()
		require.Equal(t, [3]int{}, c.following("a"))
		require.NoError(t, c.locals[2].Submit(ctx, like(job)))
		require.NoError(t, c.locals[2].Record("a", "n", apitest.Run{Outcome: protocol.OutcomeOK})) // as it was restored
		c.own(2, home)
		time.Sleep(refollowAfter)
		synctest.Wait()
		require.Equal(t, [3]int{0, 0, 1}, c.following("a"))
		for _, node := range []string{"o", "p"} {
			require.NoError(t, c.locals[2].Record("a", node, apitest.Run{Outcome: protocol.OutcomeFailed}))
		}
		<-closed
		require.Equal(t, "waiting, n ok, progress, waiting, o failed, p failed, done", text(*all))
	})
}

func TestFollowOfWhatIsKnown(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		ctx, f := t.Context(), c.fan[0]
		c.own(2, f.Home("n"))
		require.NoError(t, c.locals[2].Submit(ctx, testJob("a", "n")))
		events, err := f.Follow(ctx, "a")
		require.NoError(t, err)
		all, closed := collect(events)
		synctest.Wait()
		require.Equal(t, [3]int{0, 0, 1}, c.following("a"))
		require.NoError(t, c.locals[2].Record("a", "n", apitest.Run{Outcome: protocol.OutcomeOK}))
		<-closed
		require.Equal(t, "waiting, n ok, done", text(*all))

		// It ended while its partition moved, and its details are gone.
		require.NoError(t, c.locals[2].Submit(ctx, testJob("b", "n")))
		events, err = f.Follow(ctx, "b")
		require.NoError(t, err)
		all, closed = collect(events)
		synctest.Wait()
		c.locals[1].Forget("b")
		c.own(1, f.Home("n"))
		time.Sleep(refollowAfter)
		<-closed
		require.Equal(t, "waiting", text(*all))
	})
}

func TestFollowIsLeft(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		ctx, cancel := context.WithCancel(t.Context())
		events, err := c.fan[0].Follow(ctx, "a")
		require.NoError(t, err)
		_, closed := collect(events)
		synctest.Wait()
		require.Equal(t, [3]int{1, 1, 1}, c.following("a"))
		cancel()
		<-closed
		synctest.Wait()
		require.Equal(t, [3]int{}, c.following("a"))
	})
}

func TestTraceOfAllMembers(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		ctx, cancel := context.WithCancel(t.Context())
		events, err := c.fan[0].Trace(ctx, api.TraceFilter{Job: "a"})
		require.NoError(t, err)
		var got []string
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			for ev := range events {
				got = append(got, ev.Member+" "+ev.Step)
			}
		}()
		step := func(at int, job string) {
			synctest.Wait()
			c.locals[at].Step(api.TraceEvent{Member: c.locals[at].name, Step: api.StepSent, Job: job})
			synctest.Wait()
		}
		step(0, "a")
		step(1, "a")
		step(2, "b")
		c.links[0].setDown(1, true)
		step(1, "a") // nobody listens
		time.Sleep(3 * refollowAfter)
		c.links[0].setDown(1, false)
		time.Sleep(refollowAfter)
		step(1, "a")
		step(2, "a")
		cancel()
		<-closed
		require.Equal(t, []string{"m1 sent", "m2 sent", "m2 missing", "m2 sent", "m3 sent"}, got)
		synctest.Wait()
		for _, l := range c.locals {
			require.Zero(t, l.Tracing())
		}
	})
}

// What nodes report may be larger than an item of a stream.
func TestLargeEvents(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		ctx, f := t.Context(), c.fan[0]
		c.own(1, f.Home("n"))
		require.NoError(t, c.locals[1].Submit(ctx, testJob("a", "n")))
		events, err := f.Follow(ctx, "a")
		require.NoError(t, err)
		all, closed := collect(events)
		synctest.Wait()
		data := json.RawMessage(`"` + strings.Repeat("x", 3*rpc.ChunkBytes) + `"`)
		c.locals[1].Progress("a", "n", data)
		require.NoError(t, c.locals[1].Record("a", "n", apitest.Run{Outcome: protocol.OutcomeOK}))
		<-closed
		require.Equal(t, "waiting, progress, n ok, done", text(*all))
		require.True(t, bytes.Equal(data, (*all)[1].Progress.Data))
	})
}

func TestEventReader(t *testing.T) {
	for _, size := range []int{0, 1, itemBytes - 2, itemBytes - 1, itemBytes, itemBytes + 1, 2*itemBytes + 7} {
		want, err := json.Marshal(strings.Repeat("x", size))
		require.NoError(t, err)
		var r eventReader
		var got []byte
		require.NoError(t, emitEvent(strings.Repeat("x", size), func(item []byte) error {
			require.LessOrEqual(t, len(item), rpc.ChunkBytes)
			require.Nil(t, got)
			event, err := r.read(item)
			got = bytes.Clone(event)
			return err
		}))
		require.True(t, bytes.Equal(want, got), size)
	}
	var r eventReader
	_, err := r.read(nil)
	require.Error(t, err)
	more := make([]byte, rpc.ChunkBytes)
	more[0] = itemMore
	for n := 0; err == nil || n == 0; n++ {
		require.Less(t, n, maxEventBytes/itemBytes+2, "memory is bounded")
		_, err = r.read(more)
	}
}

func TestErrorsTravelWithTheirClass(t *testing.T) {
	for _, class := range []error{api.ErrNotFound, api.ErrInvalid, api.ErrEnded, api.ErrUnavailable} {
		err := fromRemote(toRemote(errors.Join(errors.New("text"), class)))
		require.ErrorIs(t, err, class)
		require.ErrorContains(t, err, "text")
	}
	var r *rpc.RemoteError
	require.ErrorAs(t, fromRemote(toRemote(context.DeadlineExceeded)), &r, "who was too slow has said nothing")
	require.ErrorAs(t, fromRemote(toRemote(errors.New("broken"))), &r)
	require.ErrorIs(t, fromRemote(rpc.ErrDown), rpc.ErrDown)
}

func TestAnAnswerThatWouldBeTooLarge(t *testing.T) {
	v := api.JobView{ID: "a"}
	for i := range 40 {
		v.Results = append(v.Results, api.ResultView{Index: uint32(i), Output: make(json.RawMessage, 1<<20)})
	}
	k := known{Job: &v}.fit()
	require.Len(t, k.Job.Results, 11)
	require.True(t, k.Job.Truncated)
	require.Len(t, v.Results, 40, "the shard's own is not touched")
	require.False(t, v.Truncated)
}

// More are followed than there may be streams: the rest is asked for now and then, and no call has to wait.
func TestMoreIsFollowedThanThereAreStreams(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		ctx, f := t.Context(), c.fan[0]
		c.own(1, f.Home("n"))
		const jobs = 2*peerStreams + 100
		var all [jobs]*[]api.Event
		var closed [jobs]chan struct{}
		for i := range jobs {
			events, err := f.Follow(ctx, fmt.Sprint("j", i))
			require.NoError(t, err)
			all[i], closed[i] = collect(events)
		}
		synctest.Wait()
		began := time.Now()
		for i := range jobs {
			j := testJob(fmt.Sprint("j", i), "")
			j.Target.Nodes = []string{"n", "o"}
			c.own(1, f.Home(j.Key()))
			require.NoError(t, f.Submit(ctx, j))
		}
		require.Zero(t, time.Since(began))
		for _, node := range []string{"n", "o"} {
			for i := range jobs {
				require.NoError(t, c.locals[1].Record(fmt.Sprint("j", i), node, apitest.Run{Outcome: protocol.OutcomeOK}))
			}
			time.Sleep(2 * refollowAfter)
			synctest.Wait()
			for i := range jobs {
				require.Equal(t, 1, strings.Count(text(*all[i]), node+" ok"), "%d", i)
			}
		}
		for i := range jobs {
			<-closed[i]
		}
		synctest.Wait()
		require.Zero(t, len(f.quotas.of("m2").streams))
	})
}
