package member

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/cmd/roost/internal/api"
)

func TestTreesOfAllMembers(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		ctx, f := t.Context(), c.fan[1]
		c.locals[2].stuck = make(chan struct{})
		list, err := f.Tree(ctx, "")
		require.NoError(t, err)
		require.Equal(t, []string{"m3"}, list.MissingMembers)
		require.Len(t, list.Trees, 2)
		require.Equal(t, "m1", list.Trees[0].Member)
		for _, name := range []string{"m1", "m2"} {
			list, err = f.Tree(ctx, name)
			require.NoError(t, err)
			require.Equal(t, name, list.Trees[0].Member)
		}
		var missing *api.MissingMembers
		_, err = f.Tree(ctx, "m3")
		require.ErrorAs(t, err, &missing)
		require.Equal(t, []string{"m3"}, missing.Members)
		_, err = f.Tree(ctx, "m4")
		require.ErrorIs(t, err, api.ErrNotFound)

		c.links[1].setDown(1, true) // m3, for m2
		c.locals[1].members[1].State, c.locals[1].members[1].Reason = api.MemberDown, "silent for 3s"
		_, err = f.Tree(ctx, "m3")
		require.ErrorIs(t, err, api.ErrUnavailable)
		require.ErrorContains(t, err, "it is down: silent for 3s")
		list, err = f.Tree(ctx, "")
		require.NoError(t, err)
		require.Empty(t, list.MissingMembers, "who is known to be down is not asked")
		close(c.locals[2].stuck)
	})
}

func TestDrainsAnyMember(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		ctx, f := t.Context(), c.fan[0]
		for i, name := range []string{"m1", "m2"} {
			v, err := f.Drain(ctx, name, api.DrainRequest{RatePerS: 7, To: []string{"m3", "10.9.9.9:7400"}})
			require.NoError(t, err)
			require.Equal(t, api.MemberDraining, v.State)
			require.Equal(t, &api.DrainRequest{RatePerS: 7, To: []string{"10.0.0.3:7400", "10.9.9.9:7400"}}, c.locals[i].drained)
			v, err = f.Undrain(ctx, name)
			require.NoError(t, err)
			require.Equal(t, api.MemberServing, v.State)
			require.Nil(t, c.locals[i].drained)
		}
		_, err := f.Drain(ctx, "m4", api.DrainRequest{})
		require.ErrorIs(t, err, api.ErrNotFound)
		_, err = f.Undrain(ctx, "m4")
		require.ErrorIs(t, err, api.ErrNotFound)

		c.locals[0].members[1].State = api.MemberDraining // m3
		for to, want := range map[string]string{
			"m2": "m2 is the member that is drained", "m3": "m3 is draining, not serving", "m4": `"m4" is neither`,
			"10.0.0.1": "neither", ":7400": "neither", "h:0": "neither", "h:x": "neither",
		} {
			_, err := f.Drain(ctx, "m2", api.DrainRequest{To: []string{to}})
			require.ErrorIs(t, err, api.ErrInvalid, to)
			require.ErrorContains(t, err, want, to)
		}
		c.locals[0].members[0].State = api.MemberDown // m2
		_, err = f.Drain(ctx, "m1", api.DrainRequest{})
		require.ErrorIs(t, err, api.ErrInvalid)
		require.ErrorContains(t, err, "nowhere to go")
		require.Nil(t, c.locals[0].drained)
		_, err = f.Drain(ctx, "m1", api.DrainRequest{To: []string{"10.9.9.9:7400"}})
		require.NoError(t, err)
	})
}

func TestRebalancesTheCluster(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		ctx, f := t.Context(), c.fan[0]
		for i, n := range []int{10, 900, 290} {
			c.locals[i].self.Nodes = n
		}
		v, err := f.Rebalance(ctx, api.RebalanceRequest{RatePerS: 9})
		require.NoError(t, err)
		require.Equal(t, []api.MoveView{{Member: "m2", Nodes: 500, To: []string{"m1", "m3"}}}, v.Moves)
		require.Equal(t, &shedRequest{Nodes: 500, RatePerS: 9, To: []string{"10.0.0.1:7400", "10.0.0.3:7400"}}, c.locals[1].shed)
		require.Nil(t, c.locals[0].shed)

		c.locals[1].stuck = make(chan struct{})
		v, err = f.Rebalance(ctx, api.RebalanceRequest{})
		require.NoError(t, err)
		require.Equal(t, []string{"m2"}, v.MissingMembers)
		require.Equal(t, []api.MoveView{{Member: "m3", Nodes: 140, To: []string{"m1"}}}, v.Moves, "between those who answer")
		close(c.locals[1].stuck)
	})
}

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		nodes []int
		want  []api.MoveView
	}{
		{nil, nil},
		{[]int{500}, nil},
		{[]int{0, 0}, nil},
		{[]int{1, 0}, nil},
		{[]int{3, 0}, []api.MoveView{{Member: "a", Nodes: 1, To: []string{"b"}}}},
		{[]int{1000, 1010, 990}, nil},
		{[]int{1000, 1021, 979}, []api.MoveView{{Member: "b", Nodes: 21, To: []string{"c"}}}},
		{[]int{600, 0, 600}, []api.MoveView{{Member: "a", Nodes: 200, To: []string{"b"}}, {Member: "c", Nodes: 200, To: []string{"b"}}}},
	} {
		var members []api.MemberView
		for i, n := range c.nodes {
			members = append(members, api.MemberView{Name: string(rune('a' + i)), Nodes: n})
		}
		require.Equal(t, c.want, plan(members), "%v", c.nodes)
	}
}
