package member

import (
	"context"
	"fmt"
	"time"

	"github.com/roost-server/roost/cluster"
	"github.com/roost-server/roost/cmd/roost/internal/api"
)

// Members implements local: this one as it is, the others as they are heard.
func (b *backend) Members(ctx context.Context) ([]api.MemberView, error) {
	v, err := b.Status(ctx)
	return v.Members, err
}

// members returns the view of all members, this one first.
func (m *Member) members(own api.MemberView) []api.MemberView {
	own.Name, own.Version, own.SinceMs, own.State = m.cfg.Name, m.cfg.Version, m.started.UnixMilli(), api.MemberServing
	own.NodesAddress = advertised(m.cfg.Cluster.NodesAdvertise, m.server.Addr())
	own.APIAddress = advertised(m.cfg.Cluster.APIAdvertise, m.api.Addr())
	own.ConnectRate = m.arrivals.rate()
	if m.mover != nil {
		if own.Drain = m.mover.view(); own.Drain != nil {
			own.State, own.SinceMs = api.MemberDraining, own.Drain.BeganMs
		}
	}
	out := []api.MemberView{own}
	if m.cluster == nil || m.cluster.cluster == nil {
		return out
	}
	self := &out[0]
	self.Address = m.cluster.cluster.Advertised()
	if s := m.cluster.certs; s != nil {
		self.CertificateEnd = s.NotAfter().UnixMilli()
	}
	for _, o := range m.cluster.cluster.Members()[1:] {
		out = append(out, memberView(&o))
	}
	return out
}

func memberView(o *cluster.MemberInfo) api.MemberView {
	v := api.MemberView{Name: o.Name, Reason: o.Why, Address: o.Address, NodesAddress: o.NodesAddr, APIAddress: o.APIAddr,
		Version: o.Version, Nodes: o.Sockets, Partitions: []int32{}, ClockOffsetMs: o.ClockOffset.Milliseconds()}
	if !o.Since.IsZero() {
		v.SinceMs = o.Since.UnixMilli()
	}
	switch o.Status {
	case "up":
		v.State = api.MemberServing
		switch o.State {
		case cluster.Draining, cluster.Leaving:
			v.State = api.MemberDraining
		case cluster.Joining:
			v.State = api.MemberJoining
		}
		v.Link = &api.LinkView{QueuedBytes: max(0, o.QueuedBytes-o.InFlight), InFlightBytes: o.InFlight, Resent: o.Resent}
	case "refused":
		v.State = api.MemberRefused
	case "meeting":
		v.State = api.MemberJoining
	default: // down, or an address at which nobody answers
		v.State = api.MemberDown
		if v.Name == "" {
			v.Name = "?"
		}
	}
	return v
}

// errAlone refuses to send nodes away from a member that is no part of a cluster.
var errAlone = fmt.Errorf("%w: this member is alone: its nodes would have nowhere to go", api.ErrInvalid)

// Drain implements local.
func (b *backend) Drain(ctx context.Context, r api.DrainRequest) (api.MemberView, error) {
	if b.m.mover == nil || len(r.To) == 0 && len(b.m.others()) == 0 {
		return api.MemberView{}, errAlone
	}
	b.m.mover.begin(r)
	return self(ctx, b)
}

// Undrain implements local.
func (b *backend) Undrain(ctx context.Context) (api.MemberView, error) {
	if b.m.mover != nil {
		b.m.mover.end()
	}
	return self(ctx, b)
}

// Shed implements local.
func (b *backend) Shed(_ context.Context, r shedRequest) error {
	if b.m.mover == nil {
		return errAlone
	}
	b.m.mover.shed(r.Nodes, r.RatePerS, r.To)
	return nil
}

// rebalanceEvery is how often a member looks whether it has too many nodes, when it is to do
// so by itself. Nodes of the last time have arrived by then, at any sensible rate.
const rebalanceEvery = 30 * time.Second

// rebalance sends nodes away by itself while this member has more than its share, by the
// configured threshold, until ctx ends.
func (m *Member) rebalance(ctx context.Context) error {
	if m.mover == nil || m.cfg.Cluster.RebalanceThreshold == 0 {
		return nil
	}
	tick := time.NewTicker(rebalanceEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		own := api.MemberView{Nodes: m.sessions()}
		members := m.members(own)
		serving, total := members[:0:0], 0
		for _, v := range members {
			if v.State == api.MemberServing {
				serving = append(serving, v)
				total += v.Nodes
			}
		}
		if len(serving) < 2 || members[0].State != api.MemberServing ||
			own.Nodes*100*len(serving) <= total*(100+m.cfg.Cluster.RebalanceThreshold) {
			continue
		}
		for _, move := range plan(serving) {
			if move.Member != m.cfg.Name {
				continue
			}
			if to, err := addresses(serving, move.Member, move.To); err == nil {
				m.mover.shed(move.Nodes, 0, to)
			}
		}
	}
}
