package member

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/roost-server/roost/cmd/roost/internal/api"
)

// Watermarks implements api.Backend.
func (f *fanout) Watermarks(ctx context.Context) (api.WatermarkList, error) {
	answers, missing, err := askAll(ctx, f, askTimeout, methodWatermarks, none{}, f.local.Watermarks)
	if err != nil {
		return api.WatermarkList{}, err
	}
	all := ownerFirst(f, answers, func(v *api.WatermarkView) (int32, *string) { return v.Partition, &v.Member })
	return api.WatermarkList{Watermarks: all, Missing: api.Missing{MissingMembers: missing}}, nil
}

// ownerFirst orders what members say of partitions, and keeps one for each: while a partition moves its
// old owner may answer too.
func ownerFirst[T any](f *fanout, answers []answer[[]T], key func(*T) (partition int32, member *string)) []T {
	out := []T{}
	slot := map[int32]uint16{}
	at := map[int32]int{}
	for i := range answers {
		for j := range answers[i].value {
			v := answers[i].value[j]
			p, member := key(&v)
			*member = cmp.Or(*member, answers[i].Name)
			owner, _, known := f.peers.Owner(uint32(p))
			switch n, twice := at[p]; {
			case !twice:
				at[p], slot[p] = len(out), answers[i].Slot
				out = append(out, v)
			case known && owner == answers[i].Slot && owner != slot[p]:
				out[n], slot[p] = v, answers[i].Slot
			}
		}
	}
	slices.SortFunc(out, func(a, b T) int {
		p, _ := key(&a)
		q, _ := key(&b)
		return cmp.Compare(p, q)
	})
	return out
}

// Status implements api.Backend: of this member, with the partitions and members of all.
func (f *fanout) Status(ctx context.Context) (api.StatusView, error) {
	answers, missing, err := askAll(ctx, f, askTimeout, methodStatus, none{}, f.local.Status)
	if err != nil {
		return api.StatusView{}, err
	}
	v := answers[0].value
	shards := make([]answer[[]api.ShardView], len(answers))
	selves := make([]answer[api.MemberView], 0, len(answers))
	for i := range answers {
		a := &answers[i]
		for j := range a.value.Shards {
			if s := &a.value.Shards[j]; s.Epoch == 0 {
				if owner, epoch, known := f.peers.Owner(uint32(s.Partition)); known && owner == a.Slot {
					s.Epoch = epoch
				}
			}
		}
		shards[i] = answer[[]api.ShardView]{Peer: a.Peer, value: a.value.Shards}
		if i > 0 && len(a.value.Members) > 0 {
			selves = append(selves, answer[api.MemberView]{Peer: a.Peer, value: a.value.Members[0]})
		}
	}
	v.Shards = ownerFirst(f, shards, func(s *api.ShardView) (int32, *string) { return s.Partition, &s.Member })
	v.Members = overlay(v.Members, selves)
	v.MissingMembers, v.Unowned = missing, f.unowned()
	return v, nil
}

// Members implements api.Backend.
func (f *fanout) Members(ctx context.Context) (api.MemberList, error) {
	mine, err := f.local.Members(ctx)
	if err != nil {
		return api.MemberList{}, err
	}
	answers, missing, err := askPeers[api.MemberView](ctx, f, askTimeout, methodMember, none{})
	return api.MemberList{Members: overlay(mine, answers), Missing: api.Missing{MissingMembers: missing}}, err
}

// overlay puts what members say of themselves over what this one has heard of them; what is between it
// and them stays.
func overlay(mine []api.MemberView, selves []answer[api.MemberView]) []api.MemberView {
	out := slices.Clone(mine)
	for i := range selves {
		a := &selves[i]
		v := a.value
		n := slices.IndexFunc(out, func(m api.MemberView) bool { return m.Name == a.Name })
		if n < 0 {
			out = append(out, v)
			continue
		}
		m := &out[n]
		if m.State == api.MemberDown || m.State == api.MemberRefused {
			continue // it was asked before, or another has its name
		}
		v.Name, v.Reason, v.ClockOffsetMs, v.Link = m.Name, cmp.Or(m.Reason, v.Reason), m.ClockOffsetMs, m.Link
		v.Address = cmp.Or(m.Address, v.Address)
		v.NodesAddress, v.APIAddress = cmp.Or(v.NodesAddress, m.NodesAddress), cmp.Or(v.APIAddress, m.APIAddress)
		if v.State == m.State {
			v.SinceMs = cmp.Or(v.SinceMs, m.SinceMs)
		}
		*m = v
	}
	return out
}

// Tree implements api.Backend.
func (f *fanout) Tree(ctx context.Context, member string) (api.TreeList, error) {
	if member == "" {
		answers, missing, err := askAll(ctx, f, askTimeout, methodTree, none{}, f.local.Tree)
		out := api.TreeList{Missing: api.Missing{MissingMembers: missing}}
		for i := range answers {
			out.Trees = append(out.Trees, answers[i].value)
		}
		slices.SortFunc(out.Trees, func(a, b api.TreeView) int { return strings.Compare(a.Member, b.Member) })
		return out, err
	}
	v, err := askOne(ctx, f, member, methodTree, none{}, f.local.Tree)
	if err != nil {
		return api.TreeList{}, err
	}
	return api.TreeList{Trees: []api.TreeView{v}}, nil
}

// askOne asks the member with a name, which may be this one.
func askOne[A any](ctx context.Context, f *fanout, name, method string, question any, own func(context.Context) (A, error)) (A, error) {
	var a A
	if name == f.Name() {
		return own(ctx)
	}
	body, err := json.Marshal(question)
	if err != nil {
		return a, fmt.Errorf("question %s: %w", method, err)
	}
	others := f.peers.Peers()
	if i := slices.IndexFunc(others, func(p Peer) bool { return p.Name == name }); i >= 0 {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		err := f.call(ctx, others[i], method, body, &a)
		if err == nil || errors.As(err, new(*classified)) {
			return a, err
		}
		return a, &api.MissingMembers{Members: []string{name}}
	}
	members, err := f.local.Members(ctx)
	if err != nil {
		return a, err
	}
	for i := range members {
		if m := &members[i]; m.Name == name {
			return a, &api.Unavailable{Reason: fmt.Sprintf("it is %s", strings.TrimSuffix(m.State+": "+m.Reason, ": "))}
		}
	}
	return a, fmt.Errorf("it is %w among the members of the cluster", api.ErrNotFound)
}

// Drain implements api.Backend.
func (f *fanout) Drain(ctx context.Context, member string, r api.DrainRequest) (api.MemberView, error) {
	members, err := f.local.Members(ctx)
	if err != nil {
		return api.MemberView{}, err
	}
	if !slices.ContainsFunc(members, func(m api.MemberView) bool { return m.Name == member }) {
		return api.MemberView{}, fmt.Errorf("it is %w among the members of the cluster", api.ErrNotFound)
	}
	if len(r.To) > 0 {
		if r.To, err = addresses(members, member, r.To); err != nil {
			return api.MemberView{}, err
		}
	} else if !slices.ContainsFunc(members, func(m api.MemberView) bool { return m.Name != member && m.State == api.MemberServing }) {
		return api.MemberView{}, fmt.Errorf("%w: no other member serves, so that the nodes would have nowhere to go; name another place with to, or start another member", api.ErrInvalid)
	}
	return askOne(ctx, f, member, methodDrain, r, func(ctx context.Context) (api.MemberView, error) { return f.local.Drain(ctx, r) })
}

// addresses turns names of members into those of their nodes' ports.
func addresses(members []api.MemberView, drained string, to []string) ([]string, error) {
	out := make([]string, 0, len(to))
	for _, name := range to {
		i := slices.IndexFunc(members, func(m api.MemberView) bool { return m.Name == name })
		if i < 0 {
			host, port, err := net.SplitHostPort(name)
			if n, bad := strconv.ParseUint(port, 10, 16); err != nil || host == "" || bad != nil || n == 0 {
				return nil, fmt.Errorf("%w: to: %q is neither the name of a member nor HOST:PORT", api.ErrInvalid, name)
			}
			out = append(out, name)
			continue
		}
		switch m := &members[i]; {
		case m.Name == drained:
			return nil, fmt.Errorf("%w: to: %s is the member that is drained", api.ErrInvalid, name)
		case m.State != api.MemberServing:
			return nil, fmt.Errorf("%w: to: %s is %s, not serving", api.ErrInvalid, name, m.State)
		case m.NodesAddress == "":
			return nil, fmt.Errorf("%w: to: the address of the nodes' port of %s is not known (its --nodes-advertise)", api.ErrInvalid, name)
		default:
			out = append(out, m.NodesAddress)
		}
	}
	return out, nil
}

// Undrain implements api.Backend.
func (f *fanout) Undrain(ctx context.Context, member string) (api.MemberView, error) {
	return askOne(ctx, f, member, methodUndrain, none{}, f.local.Undrain)
}

// Rebalance implements api.Backend.
func (f *fanout) Rebalance(ctx context.Context, r api.RebalanceRequest) (api.RebalanceView, error) {
	list, err := f.Members(ctx)
	if err != nil {
		return api.RebalanceView{}, err
	}
	serving := slices.DeleteFunc(slices.Clone(list.Members), func(m api.MemberView) bool {
		return m.State != api.MemberServing || slices.Contains(list.MissingMembers, m.Name)
	})
	out := api.RebalanceView{Moves: []api.MoveView{}, Missing: list.Missing}
	for _, move := range plan(serving) {
		to, err := addresses(serving, move.Member, move.To)
		if err != nil {
			return out, err
		}
		q := shedRequest{Nodes: move.Nodes, RatePerS: r.RatePerS, To: to}
		_, err = askOne(ctx, f, move.Member, methodShed, q, func(ctx context.Context) (none, error) { return none{}, f.Shed(ctx, q) })
		var missing *api.MissingMembers
		switch {
		case errors.As(err, &missing):
			out.MissingMembers = append(out.MissingMembers, move.Member)
		case err != nil:
			return out, fmt.Errorf("member %s: %w", move.Member, err)
		default:
			out.Moves = append(out.Moves, move)
		}
	}
	return out, nil
}

// evenEnough is the part of the average, 1/50, by which a member may be above it: sending nodes to and
// fro for less costs more than it gains.
const evenEnough = 50

// plan says which members have too many nodes, and who has room for them.
func plan(serving []api.MemberView) []api.MoveView {
	total := 0
	for i := range serving {
		total += serving[i].Nodes
	}
	if len(serving) < 2 {
		return nil
	}
	average := (total + len(serving) - 1) / len(serving)
	var to []string
	for i := range serving {
		if serving[i].Nodes < average {
			to = append(to, serving[i].Name)
		}
	}
	var out []api.MoveView
	for i := range serving {
		if m := &serving[i]; m.Nodes-average > average/evenEnough && len(to) > 0 {
			out = append(out, api.MoveView{Member: m.Name, Nodes: m.Nodes - average, To: slices.Clone(to)})
		}
	}
	return out
}
