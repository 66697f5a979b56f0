package member

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/cluster"
	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/transport/tcp"
)

const (
	// drainStep is how often some nodes are told to leave. Each leaves within that time, so
	// that the pace of what reconnects elsewhere is the pace at which they are told.
	drainStep = 100 * time.Millisecond
	// drainReport is how often a drain says in the log how far it is.
	drainReport = 10 * time.Second
	// balancerNotices is how long a load balancer may take to see that this member is not ready:
	// until then it would send nodes back that were told to leave. Checks every second, and the
	// second failure counts, are usual.
	balancerNotices = 3 * time.Second
	// drainRetry is when a node that was refused by a member that drains may try it again.
	drainRetry = 10 * time.Second
)

// mover sends nodes of this member to other members, so many in a second: all of them when
// the member is drained, some in a rebalance.
type mover struct {
	m *Member

	mu     sync.Mutex
	drain  *api.DrainView // while draining
	left   int            // nodes of a rebalance that are still to be told
	rate   int            // of that
	to     []string       // of that
	cancel context.CancelFunc
	done   chan struct{} // closed when the present run has ended
}

// begin drains the member, or changes how an ongoing drain goes on.
func (d *mover) begin(r api.DrainRequest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.RatePerS == 0 {
		r.RatePerS = d.m.cfg.Cluster.DrainRate
	}
	if d.drain != nil {
		d.drain.RatePerS, d.drain.To = r.RatePerS, r.To
		return
	}
	d.drain = &api.DrainView{RatePerS: r.RatePerS, To: r.To, BeganMs: nowMs(), Began: d.m.sessions()}
	d.left = 0
	d.m.log.Info("draining: nodes are sent to other members", zap.Int("nodes", d.drain.Began), zap.Int("rate_per_s", r.RatePerS))
	d.m.cluster.cluster.SetState(cluster.Draining)
	d.start()
}

// end has the member serve again.
func (d *mover) end() {
	d.mu.Lock()
	if d.drain == nil {
		d.mu.Unlock()
		return
	}
	d.drain = nil
	cancel, done := d.cancel, d.done
	d.mu.Unlock()
	cancel()
	<-done
	d.m.source.consumer.Join()
	d.m.server.RefuseWith(nil)
	d.m.cluster.cluster.SetState(cluster.Serving)
	d.m.log.Info("the drain was cancelled: this member serves again")
}

// shed sends some nodes away.
func (d *mover) shed(nodes, rate int, to []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.drain != nil {
		return // all go
	}
	if rate == 0 {
		rate = d.m.cfg.Cluster.DrainRate
	}
	running := d.left > 0
	d.left, d.rate, d.to = nodes, rate, to
	d.m.log.Info("nodes are sent to members that have fewer", zap.Int("nodes", nodes), zap.Int("rate_per_s", rate), zap.Strings("to", to))
	if !running {
		d.start()
	}
}

// start runs a mover; d.mu is held.
func (d *mover) start() {
	if d.cancel != nil {
		d.cancel()
	}
	var ctx context.Context
	ctx, d.cancel = context.WithCancel(context.Background())
	before := d.done
	d.done = make(chan struct{})
	go func(done chan struct{}) {
		defer close(done)
		if before != nil {
			<-before
		}
		d.run(ctx)
	}(d.done)
}

// close ends whatever runs.
func (d *mover) close() {
	d.mu.Lock()
	cancel, done := d.cancel, d.done
	d.mu.Unlock()
	if cancel != nil {
		cancel()
		<-done
	}
}

// run tells nodes to leave until there is nothing to tell, or ctx ends. When the member is
// drained of nodes it gives its partitions up.
func (d *mover) run(ctx context.Context) {
	tick := time.NewTicker(drainStep)
	defer tick.Stop()
	owed, began := 0.0, time.Now()
	reported := began
	for {
		rate, to, most, draining := d.next()
		if most == 0 && !draining {
			return
		}
		if draining {
			d.m.server.RefuseWith(&tcp.Refusal{Reason: protocol.ReasonDrain, Message: "member " + d.m.cfg.Name + " is being drained",
				RetryAfter: drainRetry, Addresses: to})
		}
		if draining && d.m.cfg.Nodes.ProxyProtocol && time.Since(began) < balancerNotices {
			rate = 0
		}
		// Those told within a second and a step may leave within one second: so many fewer are told.
		share := float64(rate) * drainStep.Seconds() / (1 + drainStep.Seconds())
		owed = min(owed+share, max(1, share))
		if n := min(int(owed), most); n > 0 {
			told := d.tell(ctx, n, to)
			owed -= float64(told)
			d.told(told)
		}
		if time.Since(reported) > drainReport {
			reported = time.Now()
			d.m.log.Info("sending nodes away", zap.Int("nodes_left", d.m.sessions()), zap.Int64("told_and_here", d.m.gateStats.Leaving.Load()))
		}
		if draining && d.m.sessions() == 0 && d.gaveUp() {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// next returns the pace, where nodes go, and how many may be told at most.
func (d *mover) next() (rate int, to []string, most int, draining bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.drain == nil {
		return d.rate, d.to, d.left, false
	}
	to = d.drain.To
	if len(to) == 0 {
		to = d.m.otherPorts()
	}
	return d.drain.RatePerS, to, d.m.sessions(), true
}

// told notes how many were.
func (d *mover) told(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.drain != nil:
		d.drain.Told += n
	case n == 0:
		d.left = 0 // nobody is left to be told
	default:
		d.left = max(0, d.left-n)
	}
}

// gaveUp has the partitions handed over once all nodes have gone, and reports whether that
// is done.
func (d *mover) gaveUp() bool {
	d.m.source.consumer.Leave()
	if len(d.m.source.consumer.Stats().Assigned) > 0 {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.drain != nil && d.drain.EndedMs == 0 {
		d.drain.EndedMs = nowMs()
		d.m.log.Info("drained: no node and no partition is left here", zap.Int("told", d.drain.Told))
	}
	return false // nodes that know no other address may still come; the run ends with its context
}

// tell shares a number of sessions among the gates, and returns how many were told.
func (d *mover) tell(ctx context.Context, n int, to []string) (told int) {
	loops := d.m.server.Stats().Loops
	answers := make(chan int, loops)
	asked := 0
	for i := range loops {
		have := d.m.gateStats.Loop(i)
		if have == 0 || n == 0 {
			continue
		}
		share := min(n, max(1, (n+loops-i-1)/(loops-i)))
		if i == loops-1 {
			share = n
		}
		n -= share
		asked++
		d.m.tree.Router().ToLoop(uint32(i), &actors.Drain{Sockets: share, Reason: protocol.ReasonDrain, JitterMs: uint32(drainStep.Milliseconds()),
			Addresses: to, Message: "member " + d.m.cfg.Name + " sends nodes to other members", Done: answers})
	}
	timeout := time.After(time.Second) // a gate that restarts says nothing
	for range asked {
		select {
		case k := <-answers:
			told += k
		case <-timeout:
			return told
		case <-ctx.Done():
			return told
		}
	}
	return told
}

func (d *mover) view() *api.DrainView {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.drain == nil {
		return nil
	}
	v := *d.drain
	v.To = slices.Clone(v.To)
	return &v
}

// sessions is how many nodes are connected.
func (m *Member) sessions() int { return int(m.gateStats.Sessions.Load()) }

// others returns the members that are up and serve.
func (m *Member) others() []cluster.MemberInfo {
	if m.cluster == nil || m.cluster.cluster == nil {
		return nil
	}
	all := m.cluster.cluster.Members()[1:]
	return slices.DeleteFunc(all, func(o cluster.MemberInfo) bool { return o.Status != "up" || o.State != cluster.Serving })
}

// otherPorts returns where nodes reach the others.
func (m *Member) otherPorts() []string {
	var out []string
	for _, o := range m.others() {
		if o.NodesAddr != "" && len(out) < protocol.MaxAddresses {
			out = append(out, o.NodesAddr)
		}
	}
	return out
}

// Drain sends all nodes to other members and gives the partitions up, as "roost drain" does,
// and returns when that is done. Without other members there is nothing to do. When the
// configured time is over, or ctx, it returns an error: the rest is for Stop.
func (m *Member) Drain(ctx context.Context, progress func(nodes int)) error {
	if len(m.others()) == 0 || m.cfg.Cluster.DrainTimeout == 0 {
		return nil
	}
	m.mover.begin(api.DrainRequest{})
	ctx, cancel := context.WithTimeout(ctx, m.cfg.Cluster.DrainTimeout)
	defer cancel()
	tick := time.NewTicker(drainStep)
	defer tick.Stop()
	for {
		if v := m.mover.view(); v == nil || v.EndedMs != 0 {
			return nil
		}
		if len(m.others()) == 0 {
			return errors.New("the other members have gone: nodes have nowhere to go")
		}
		progress(m.sessions())
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d nodes had not gone to other members in time: %w", m.sessions(), ctx.Err())
		case <-tick.C:
		}
	}
}
