package member

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/cmd/roost/internal/api/apitest"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

func testJob(id, node string) *record.Job {
	return &record.Job{ID: id, Kind: "http", Target: record.Target{Node: node}, TTL: time.Hour}
}

func TestAJobAtAnotherMember(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		f, ctx := c.fan[0], t.Context()
		c.own(1, f.Home("n"))
		require.NoError(t, f.Submit(ctx, testJob("a", "n")))
		require.Equal(t, []int32{-1}, c.locals[0].produced)
		v, err := f.Job(ctx, "a")
		require.NoError(t, err)
		require.Len(t, v.Assignments, 1)

		var dup *api.Duplicate
		require.ErrorAs(t, c.fan[2].Submit(ctx, testJob("a", "other")), &dup)
		require.Equal(t, "a", dup.Job.ID)
		require.Empty(t, dup.Job.Assignments)

		_, err = c.fan[2].Cancel(ctx, "a", "why")
		require.NoError(t, err)
		require.Equal(t, []int32{v.Partition}, c.locals[2].produced)
		v, err = f.Job(ctx, "a")
		require.NoError(t, err)
		require.Equal(t, map[string]int{"cancelled": 1}, v.Outcomes)
		_, err = f.Cancel(ctx, "a", "")
		require.ErrorIs(t, err, api.ErrEnded)

		c.locals[1].Forget("a")
		_, err = f.Job(ctx, "a")
		require.ErrorIs(t, err, api.ErrEnded)
		require.ErrorContains(t, err, "look into roost.results")
		_, err = f.Follow(ctx, "a")
		require.ErrorIs(t, err, api.ErrEnded)
		require.ErrorAs(t, f.Submit(ctx, testJob("a", "n")), &dup)
		_, err = f.Job(ctx, "b")
		require.ErrorIs(t, err, api.ErrNotFound)
	})
}

// A member that does not answer, or a partition that nobody owns, makes nobody say that there is no such
// thing.
func TestNotKnownIsNotNotThere(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		f, ctx := c.fan[0], t.Context()
		c.locals[1].stuck = make(chan struct{})
		var missing *api.MissingMembers
		began := time.Now()
		for _, ask := range []func() error{
			func() error { _, err := f.Job(ctx, "a"); return err },
			func() error { _, err := f.Cancel(ctx, "a", ""); return err },
			func() error { _, err := f.Node(ctx, "a"); return err },
		} {
			require.ErrorAs(t, ask(), &missing)
			require.Equal(t, []string{"m2"}, missing.Members)
		}
		require.Equal(t, 3*askTimeout, time.Since(began))
		require.NoError(t, c.locals[2].Submit(ctx, testJob("b", "n")))
		_, err := f.Job(ctx, "b")
		require.NoError(t, err, "another member knows it")
		close(c.locals[1].stuck)

		c.disown(3)
		var r *api.Rebuilding
		for _, ask := range []func() error{
			func() error { _, err := f.Job(ctx, "a"); return err },
			func() error { _, err := f.Node(ctx, "a"); return err },
		} {
			require.ErrorAs(t, ask(), &r)
			require.Equal(t, []api.RebuildingView{{Partition: 3, Unowned: true}}, r.Shards)
		}
		c.locals[2].SetRebuilding(api.RebuildingView{Partition: 3, Restored: 7})
		_, err = f.Job(ctx, "a")
		require.ErrorAs(t, err, &r)
		require.Equal(t, []api.RebuildingView{{Partition: 3, Restored: 7}}, r.Shards)
	})
}

func TestSubmitAsksWhoMatters(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		f, ctx := c.fan[0], t.Context()
		c.locals[1].stuck = make(chan struct{})
		began := time.Now()
		require.NoError(t, f.Submit(ctx, testJob("a", "n")), "the one that hangs does not own the partition")
		require.Equal(t, knownTimeout, time.Since(began))

		home := f.Home("n")
		c.own(1, home)
		var missing *api.MissingMembers
		require.ErrorAs(t, f.Submit(ctx, testJob("b", "n")), &missing)
		require.Equal(t, []string{"m2"}, missing.Members)
		c.disown(home)
		c.links[0].setDown(1, true)
		c.own(2, home)
		began = time.Now()
		c.locals[2].SetRebuilding(api.RebuildingView{Partition: int32(home)})
		time.AfterFunc(time.Second, func() { c.locals[2].SetRebuilding() })
		require.NoError(t, f.Submit(ctx, testJob("c", "n")), "it waits for the shard")
		require.InDelta(t, time.Second, time.Since(began), float64(2*submitPause))
		c.locals[2].SetRebuilding(api.RebuildingView{Partition: int32(home)})
		require.ErrorIs(t, f.Submit(ctx, testJob("d", "n")), api.ErrUnavailable)
		c.locals[2].SetRebuilding(api.RebuildingView{Partition: int32(home) + 1})
		require.NoError(t, f.Submit(ctx, testJob("d", "n")), "another partition is no matter")
	})
}

func TestNodesOfAllMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, nil)
		var want []string
		per := make([][]api.NodeView, 3)
		for i := range 100 {
			id := fmt.Sprintf("n%03d", i)
			want = append(want, id)
			per[i*i%3] = append(per[i*i%3], api.NodeView{ID: id, Incarnation: 1})
		}
		// While its partition moves a node is listed twice.
		per[0], per[2] = append(per[0], api.NodeView{ID: "n100", Incarnation: 5}), append(per[2], api.NodeView{ID: "n100", Incarnation: 9})
		want = append(want, "n100")
		for i := range per {
			c.locals[i].Backend = apitest.New(nil, per[i]...)
		}
		ctx := t.Context()
		for _, limit := range []int{1, 7, 50, 101, 1000} {
			var got []string
			f := api.NodeFilter{Limit: limit}
			for {
				page, err := c.fan[1].Nodes(ctx, f)
				require.NoError(t, err)
				require.LessOrEqual(t, len(page.Nodes), limit)
				require.Empty(t, page.MissingMembers)
				for _, n := range page.Nodes {
					got = append(got, n.ID)
					if n.ID == "n100" {
						require.EqualValues(t, 9, n.Incarnation)
					}
				}
				if f.Cursor = page.Next; f.Cursor == "" {
					break
				}
			}
			require.Equal(t, want, got, "%d", limit)
		}
		n, err := c.fan[1].Node(ctx, "n007")
		require.NoError(t, err)
		require.Equal(t, "n007", n.ID)
		_, err = c.fan[1].Node(ctx, "n0")
		require.ErrorIs(t, err, api.ErrNotFound)
		_, err = c.fan[1].Nodes(ctx, api.NodeFilter{Cursor: "bogus", Limit: 1})
		require.ErrorIs(t, err, api.ErrInvalid)

		c.disown(6)
		c.locals[2].stuck = make(chan struct{})
		page, err := c.fan[1].Nodes(ctx, api.NodeFilter{Limit: 1000})
		require.NoError(t, err)
		require.Equal(t, []string{"m3"}, page.MissingMembers)
		require.Equal(t, []int32{6}, page.Rebuilding)
		require.Len(t, page.Nodes, len(per[0])+len(per[1]))
		require.Equal(t, len(page.Nodes), page.Total)
		close(c.locals[2].stuck)
	})
}

func TestJobsOfAllMembers(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		ctx := t.Context()
		for i := range 9 {
			require.NoError(t, c.locals[i%3].Submit(ctx, testJob(fmt.Sprint("j", i), "n")))
			time.Sleep(time.Second)
		}
		// The partition moved: its old owner still shows the job as it was.
		home := c.fan[0].Home("n")
		c.own(2, home)
		require.NoError(t, c.locals[1].Submit(ctx, testJob("j8", "n")))
		require.NoError(t, c.locals[2].Record("j8", "n", apitest.Run{Outcome: protocol.OutcomeOK}))
		for _, f := range c.fan {
			list, err := f.Jobs(ctx, api.JobFilter{Limit: 5})
			require.NoError(t, err)
			var ids []string
			for _, j := range list.Jobs {
				ids = append(ids, j.ID)
				require.Equal(t, j.ID == "j8", j.State == api.StateDone)
			}
			require.Equal(t, "j8 j7 j6 j5 j4", strings.Join(ids, " "))
			v, err := f.Job(ctx, "j8")
			require.NoError(t, err)
			require.Equal(t, api.StateDone, v.State)
		}
	})
}

func TestStatusOfAllMembers(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		ctx := t.Context()
		c.own(1, 4, 5)
		c.own(2, 6, 7)
		c.disown(0)
		c.locals[0].shards = []api.ShardView{{Partition: 4, Watermark: 1}, {Partition: 1, Watermark: 11}} // 4 has moved
		c.locals[1].shards = []api.ShardView{{Partition: 4, Watermark: 44}, {Partition: 5, Watermark: 55}}
		c.locals[1].self.Nodes, c.locals[1].self.CertificateEnd, c.locals[1].self.ClockOffsetMs = 77, 9, 1
		c.locals[0].members[0].Link, c.locals[0].members[0].ClockOffsetMs = &api.LinkView{Resent: 3}, -5
		c.locals[0].members[1].Nodes = 8 // as it was heard
		c.locals[2].stuck = make(chan struct{})
		v, err := c.fan[0].Status(ctx)
		require.NoError(t, err)
		require.Equal(t, []string{"m3"}, v.MissingMembers)
		require.Equal(t, []int32{0}, v.Unowned)
		require.Equal(t, []api.ShardView{
			{Partition: 1, Watermark: 11, Member: "m1", Epoch: 101},
			{Partition: 4, Watermark: 44, Member: "m2", Epoch: 104},
			{Partition: 5, Watermark: 55, Member: "m2", Epoch: 105},
		}, v.Shards)
		require.Len(t, v.Members, 3)
		require.Equal(t, api.MemberView{Name: "m2", State: api.MemberServing, Address: "10.0.0.2:7946", NodesAddress: "10.0.0.2:7400",
			Nodes: 77, CertificateEnd: 9, ClockOffsetMs: -5, Link: &api.LinkView{Resent: 3}}, v.Members[1])
		require.Equal(t, 8, v.Members[2].Nodes)
		list, err := c.fan[0].Members(ctx)
		require.NoError(t, err)
		require.Equal(t, v.Members, list.Members)
		require.Equal(t, []string{"m3"}, list.MissingMembers)
		marks, err := c.fan[0].Watermarks(ctx)
		require.NoError(t, err)
		require.Equal(t, []api.WatermarkView{{Partition: 1, Offset: 11, Member: "m1"}, {Partition: 4, Offset: 44, Member: "m2"},
			{Partition: 5, Offset: 55, Member: "m2"}}, marks.Watermarks)
		require.Equal(t, []string{"m3"}, marks.MissingMembers)
		close(c.locals[2].stuck)
	})
}

func TestAloneNothingIsMissing(t *testing.T) {
	l := &lone{Backend: apitest.New(nil), name: "m1"}
	f := newFanout(l, newRouting(zap.NewNop(), newTracer("m")), zap.NewNop())
	_, err := f.Job(t.Context(), "a")
	require.ErrorIs(t, err, api.ErrNotFound)
	v, err := f.Status(t.Context())
	require.NoError(t, err)
	require.Empty(t, v.Unowned)
}
