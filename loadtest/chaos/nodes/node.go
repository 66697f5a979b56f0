package nodes

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/roost-server/roost/loadtest/chaos/checker"
	"github.com/roost-server/roost/protocol"
)

const (
	credit  = 64
	recents = 2048 // acknowledged results that a node remembers
)

// node is one simulated node. Its links and timers call it from their goroutines.
type node struct {
	fleet *Fleet
	id    string
	index int
	kind  character
	links []*link

	mu     sync.Mutex
	rng    *rand.Rand
	jobs   map[string]*task
	outbox []*task // ended and not acknowledged, the oldest first
	recent []*task // acknowledged: a ring
	at     int
	enc    *protocol.Encoder
}

// task is a job as the node knows it.
type task struct {
	id       string
	shard    uint32
	attempt  uint32
	kind     string
	args     Args
	link     *link // that asked last
	started  time.Time
	timer    *time.Timer // its end
	over     *time.Timer // its timeout
	accepted bool
	ended    bool
	acked    bool
	outcome  protocol.Outcome
	err      string
	output   []byte
	took     time.Duration
}

func newNode(f *Fleet, i int) *node {
	n := &node{
		fleet: f, id: ID(f.cfg.Prefix, i), index: i, kind: characterOf(i),
		rng: random(f.cfg.Seed, i), jobs: map[string]*task{}, enc: protocol.NewEncoder(),
	}
	if f.cfg.Calm {
		n.kind = normal
	}
	if f.cfg.One {
		n.links = []*link{{node: n, way: newWay(shuffled(f.cfg.Members, i), 0)}}
		return n
	}
	for _, m := range f.cfg.Members {
		n.links = append(n.links, &link{node: n, addr: m})
	}
	return n
}

// frame encodes a message. Under mu.
func (n *node) frame(m protocol.Message) []byte {
	b, err := n.enc.Append(nil, m)
	if err != nil {
		n.fleet.blame(fmt.Sprintf("node %s cannot send %v: %v", n.id, m.Type(), err))
		return nil
	}
	return b
}

// hello returns the first bytes of a session.
func (n *node) hello() []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := &protocol.Hello{Version: protocol.Version, NodeID: n.id, Credit: credit, Agent: "chaos", Attributes: attributes(n.index)}
	for _, t := range n.jobs {
		if !t.ended && len(h.Running) < protocol.MaxResume {
			h.Running = append(h.Running, t.ref())
		}
	}
	for _, t := range n.outbox {
		if len(h.Held) < protocol.MaxResume {
			h.Held = append(h.Held, t.ref())
		}
	}
	return append([]byte(protocol.Preface), n.frame(h)...)
}

func (t *task) ref() protocol.Ref {
	return protocol.Ref{JobID: t.id, Shard: t.shard, Attempt: t.attempt}
}

// welcomed returns what a node says first in a session: its outbox, and what runs.
// Under mu.
func (n *node) welcomed() []byte {
	var out []byte
	for _, t := range n.outbox {
		out = append(out, n.result(t)...)
	}
	running := 0
	for _, t := range n.jobs {
		if t.ended {
			continue
		}
		if running++; running > protocol.MaxResume {
			out = append(out, n.accept(t)...)
		}
	}
	return out
}

func (n *node) accept(t *task) []byte {
	t.accepted = true
	return n.frame(&protocol.Accepted{JobID: []byte(t.id), Shard: t.shard, Attempt: t.attempt})
}

func (n *node) result(t *task) []byte {
	return n.frame(&protocol.Result{JobID: []byte(t.id), Shard: t.shard, Attempt: t.attempt, Outcome: t.outcome,
		DurationUs: uint64(t.took.Microseconds()), Error: []byte(t.err), Output: t.output})
}

// job takes JOB, by the table of duplicates in the specification.
func (n *node) job(l *link, m *protocol.Job) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fleet.stats.jobs.Add(1)
	t := n.jobs[string(m.JobID)]
	switch {
	case t == nil:
		t = &task{id: string(m.JobID)}
		n.jobs[t.id] = t
	case !t.ended:
		t.link = l
		if m.Attempt > t.attempt {
			t.attempt, t.shard = m.Attempt, m.Shard
		}
		if t.args.Do == DoOnce && t.attempt > 1 && t.timer == nil {
			n.begin(t)
		}
		l.send(n.accept(t))
		return
	case m.Attempt <= t.attempt || t.outcome == protocol.OutcomeOK || t.outcome == protocol.OutcomeFailed:
		if m.Attempt > t.attempt {
			t.attempt, t.shard = m.Attempt, m.Shard
		}
		t.link = l
		l.send(n.result(t))
		return
	default: // it ended otherwise, and is to be tried again
		n.forget(t)
		t = &task{id: t.id}
		n.jobs[t.id] = t
	}
	t.link, t.shard, t.attempt, t.kind = l, m.Shard, m.Attempt, string(m.Kind)
	t.started = time.Now()
	if err := msgpack.Unmarshal(m.Args, &t.args); err != nil {
		n.end(t, protocol.OutcomeRefused, "arguments: "+err.Error())
		return
	}
	if m.TimeoutMs > 0 {
		t.over = time.AfterFunc(time.Duration(m.TimeoutMs)*time.Millisecond, func() { n.timedOut(t) })
	}
	n.begin(t)
	if t.timer != nil && !t.ended {
		time.AfterFunc(time.Duration(l.acceptAfterMs)*time.Millisecond, func() { n.late(t) })
	}
}

// begin starts the handler.
func (n *node) begin(t *task) {
	if t.kind != Echo && (t.kind != Rare || n.index%RareEvery != 0) {
		n.end(t, protocol.OutcomeRefused, "there is no handler for kind "+t.kind)
		return
	}
	if t.args.Do == DoNothing || t.args.Do == DoOnce && t.attempt == 1 {
		return
	}
	d := time.Duration(t.args.Ms) * time.Millisecond
	if n.kind == slow {
		d += time.Duration(n.rng.IntN(2000)) * time.Millisecond
	}
	t.timer = time.AfterFunc(d, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.finish(t)
	})
}

// finish is the handler's end.
func (n *node) finish(t *task) {
	if t.ended || n.jobs[t.id] != t {
		return
	}
	switch t.args.Do {
	case DoFail:
		n.end(t, protocol.OutcomeFailed, "it was told to fail")
	case DoTimeout:
		n.end(t, protocol.OutcomeTimeout, "it was told to run out of time")
	default:
		out := map[string]any{"echo": t.args.Echo, "node": n.id}
		if t.args.Pad > 0 {
			out["pad"] = string(slices.Repeat([]byte("x"), t.args.Pad))
		}
		t.output, _ = msgpack.Marshal(out) // a map of plain values
		n.end(t, protocol.OutcomeOK, "")
	}
}

// timedOut ends what runs longer than it may. What was told to stay silent stays so.
func (n *node) timedOut(t *task) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if t.ended || n.jobs[t.id] != t {
		return
	}
	if t.timer == nil {
		n.forget(t)
		return
	}
	n.end(t, protocol.OutcomeTimeout, "the handler ran out of time")
}

func (n *node) late(t *task) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !t.ended && !t.accepted && n.jobs[t.id] == t {
		t.link.send(n.accept(t))
	}
}

// end logs the run, puts the result into the outbox, and sends it.
func (n *node) end(t *task, outcome protocol.Outcome, why string) {
	t.ended, t.outcome, t.err, t.took = true, outcome, why, time.Since(t.started)
	n.stop(t)
	if outcome != protocol.OutcomeRefused && outcome != protocol.OutcomeCancelled {
		n.fleet.ran(&checker.Run{Job: t.id, Node: n.id, Outcome: outcome.String()})
	}
	n.outbox = append(n.outbox, t)
	t.link.send(n.result(t))
}

func (n *node) stop(t *task) {
	for _, timer := range []*time.Timer{t.timer, t.over} {
		if timer != nil {
			timer.Stop()
		}
	}
}

// forget drops a task, so that the next delivery of its job runs.
func (n *node) forget(t *task) {
	n.stop(t)
	delete(n.jobs, t.id)
	n.outbox = slices.DeleteFunc(n.outbox, func(o *task) bool { return o == t })
	t.ended = true
}

// cancel takes CANCEL.
func (n *node) cancel(l *link, m *protocol.Cancel) {
	n.mu.Lock()
	defer n.mu.Unlock()
	t := n.jobs[string(m.JobID)]
	if t == nil || t.ended || t.attempt != m.Attempt {
		return
	}
	n.fleet.stats.cancels.Add(1)
	t.link = l
	n.end(t, protocol.OutcomeCancelled, m.Reason)
}

// acks takes RESULT_ACK.
func (n *node) acks(m *protocol.ResultAck) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range m.Acks {
		t := n.jobs[string(a.JobID)]
		if t == nil || !t.ended || t.acked || a.Attempt < t.attempt {
			continue
		}
		t.acked = true
		n.fleet.stats.acked.Add(1)
		n.outbox = slices.DeleteFunc(n.outbox, func(o *task) bool { return o == t })
		if len(n.recent) < recents {
			n.recent = append(n.recent, t)
			continue
		}
		if old := n.recent[n.at]; n.jobs[old.id] == old {
			delete(n.jobs, old.id)
		}
		n.recent[n.at] = t
		n.at = (n.at + 1) % recents
	}
}

// mischief is called now and then: flaky nodes cut a socket, replaying ones send what
// nobody wants.
func (n *node) mischief() {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.links[n.rng.IntN(len(n.links))]
	switch n.kind {
	case flaky:
		if n.rng.IntN(8) == 0 {
			l.cut()
		}
	case replaying:
		l.send(n.unwanted())
	}
}

// unwanted is a few results that no member waits for.
func (n *node) unwanted() (out []byte) {
	if len(n.recent) > 0 {
		t := *n.recent[n.rng.IntN(len(n.recent))]
		out = append(out, n.result(&t)...)
		t.attempt = min(t.attempt+1, protocol.MaxAttempts)
		out = append(out, n.result(&t)...)
	}
	if len(n.outbox) > 0 {
		out = append(out, n.result(n.outbox[n.rng.IntN(len(n.outbox))])...)
	}
	// Never heard of by anybody, by any shard, and by one that cannot exist.
	ghost := task{id: fmt.Sprintf("ghost-%s-%d", n.id, n.rng.Uint32()), shard: uint32(n.rng.IntN(64)), attempt: 1}
	out = append(out, n.result(&ghost)...)
	ghost.shard = n.rng.Uint32()
	out = append(out, n.result(&ghost)...)
	// Another node's job: of one node only, so that this one cannot be meant.
	if id, shard := n.fleet.foreign(n.rng); id != "" && n.jobs[id] == nil {
		other := task{id: id, shard: shard, attempt: 1 + uint32(n.rng.IntN(3))}
		out = append(out, n.result(&other)...)
	}
	n.fleet.stats.unwanted.Add(1)
	return out
}
