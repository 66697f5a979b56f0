package gate

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/session"
	"github.com/roost-server/roost/protocol"
)

func TestAJobThroughTheGate(t *testing.T) {
	h := newHarness(t, 3, Config{})
	c := h.open("n")
	require.Equal(t, []string{"WELCOME m"}, h.sent(c))
	require.Equal(t, []string{"shard 0: register n ping"}, h.told())
	require.Equal(t, 1, h.stats.Loop(3))

	h.deliver("n", "a", "b", "c")
	require.Equal(t, []string{"JOB a#1 ping"}, h.sent(c))
	require.Equal(t, []string{"shard 0: queued b#1 of n", "shard 0: queued c#1 of n"}, h.told())

	require.NoError(t, h.frame(c, &protocol.Accepted{JobID: []byte("a"), Attempt: 1}))
	require.NoError(t, h.frame(c, &protocol.Progress{JobID: []byte("a"), Attempt: 1, Data: []byte{0xa2, 'h', 'i'}}))
	require.Equal(t, []string{"shard 0: accepted a#1 of n", "shard 0: progress a of n \xa2hi"}, h.told())
	require.NoError(t, h.frame(c, resultOf("a")))
	require.Equal(t, []string{"JOB b#1 ping"}, h.sent(c))
	require.Equal(t, []string{"shard 0: result a#1 of n: ok \xa1x", "shard 0: sent b#1 of n"}, h.told())

	b := actors.NewToGate()
	b.Acks = append(b.Acks, actors.Ack{Node: "n", JobID: "a", Attempt: 1}, actors.Ack{Node: "gone", JobID: "a", Attempt: 1})
	b.Withdrawals = append(b.Withdrawals, actors.Withdrawal{Node: "n", JobID: "b", Attempt: 1},
		actors.Withdrawal{Node: "n", JobID: "x", Attempt: 1}, actors.Withdrawal{Node: "gone", JobID: "x", Attempt: 1})
	b.Deliveries = append(b.Deliveries, actors.Delivery{Node: "n", JobID: "b", Kind: "ping", Attempt: 2})
	h.send(b)
	require.Equal(t, []string{"ACK a#1", "CANCEL b#1", "JOB c#1 ping"}, h.sent(c))
	require.Equal(t, []string{"shard 0: sent c#1 of n", "shard 0: queued b#2 of n"}, h.told())

	h.loop.do(func() { c.CloseSilently(protocol.ReasonBye) })
	require.Equal(t, []string{"shard 0: lost c#1 of n", "shard 0: undelivered b#2 of n", "shard 0: depart n"}, h.told())
	require.Zero(t, h.stats.Loop(3))
	require.Zero(t, h.stats.Sessions.Load())

	h.deliver("n", "d")
	require.Equal(t, []string{"shard 0: undelivered d#1 of n"}, h.told())
	require.Equal(t, uint64(1), h.stats.Undelivered.Load())
}

func TestHelloIsRefused(t *testing.T) {
	h := newHarness(t, 0, Config{Authenticate: func(m *protocol.Hello) error {
		if string(m.Credential) != "secret" {
			return protocol.Errorf(protocol.ReasonUnauthenticated, "no")
		}
		return nil
	}})
	old := helloOf("n")
	old.Version = 0
	old.Credential = []byte("secret")
	for name, x := range map[string]struct {
		m      protocol.Message
		reason protocol.Reason
	}{
		"version":   {old, protocol.ReasonUnsupportedVersion},
		"auth":      {helloOf("n"), protocol.ReasonUnauthenticated},
		"not hello": {&protocol.Ping{}, protocol.ReasonUnexpected},
	} {
		t.Run(name, func(t *testing.T) {
			c := h.conn()
			require.Equal(t, x.reason, protocol.ReasonOf(h.frame(c, x.m)))
			require.Equal(t, []string{"CLOSE " + x.reason.String()}, h.sent(c))
			require.Nil(t, c.ctx)
		})
	}
	c := h.conn()
	h.loop.do(func() {
		require.Equal(t, protocol.ReasonMalformed, protocol.ReasonOf(h.raw(c, protocol.TypeHello, []byte{1, 2, 3})))
	})
	require.Empty(t, h.told())
	require.Equal(t, uint64(3), h.stats.Refused.Load())
	require.Zero(t, h.stats.Opened.Load())

	good := helloOf("n")
	good.Credential = []byte("secret")
	c = h.conn()
	require.NoError(t, h.frame(c, good))
	require.Equal(t, protocol.ReasonUnexpected, protocol.ReasonOf(h.frame(c, good)), "a second HELLO")
	require.Equal(t, []string{"WELCOME m", "CLOSE " + protocol.ReasonUnexpected.String()}, h.sent(c))
}

func TestASocketThatEndedDuringHello(t *testing.T) {
	h := newHarness(t, 0, Config{})
	c := h.conn()
	c.dead = true
	require.NoError(t, h.frame(c, helloOf("n")))
	require.Nil(t, c.ctx)
	h.told()
	require.Zero(t, h.stats.Sessions.Load())
	h.deliver("n", "a")
	require.Equal(t, []string{"shard 0: undelivered a#1 of n"}, h.told())
}

func TestANewerSessionReplacesTheOlder(t *testing.T) {
	h := newHarness(t, 0, Config{})
	c1 := h.open("n")
	h.deliver("n", "a", "b")
	h.sent(c1)
	h.told()
	c2 := h.conn()
	again := helloOf("n")
	again.Running = []protocol.Ref{{JobID: "a", Shard: 0, Attempt: 1}}
	again.Held = []protocol.Ref{{JobID: "z", Shard: 0, Attempt: 3}, {JobID: "y", Shard: 99, Attempt: 3}}
	require.NoError(t, h.frame(c2, again))
	require.Equal(t, []string{"CLOSE " + protocol.ReasonReplaced.String()}, h.sent(c1))
	require.Equal(t, []string{"WELCOME m"}, h.sent(c2))
	require.Equal(t, []string{"shard 0: register n ping", "shard 0: lost a#1 of n", "shard 0: undelivered b#1 of n",
		"shard 0: running a#1 of n", "shard 0: held z#3 of n", "shard 0: depart n"}, h.told())
	require.Equal(t, int64(1), h.stats.Sessions.Load())
	require.Equal(t, uint64(1), h.stats.Replaced.Load())

	h.deliver("n", "c")
	require.Empty(t, h.sent(c2), "it still runs a")
	require.Equal(t, []string{"shard 0: queued c#1 of n"}, h.told())
}

func TestEvictions(t *testing.T) {
	h := newHarness(t, 0, Config{})
	c := h.open("n")
	var inc uint64
	h.loop.do(func() { inc = c.ctx.(*session.Session).Incarnation() })
	evict := func(incarnation uint64) {
		b := actors.NewToGate()
		b.Evictions = append(b.Evictions, actors.Eviction{Node: "n", Incarnation: incarnation}, actors.Eviction{Node: "gone", Incarnation: incarnation})
		h.send(b)
	}
	h.sent(c)
	h.told()
	evict(inc - 1)
	require.Empty(t, h.sent(c), "an older one is meant")
	evict(inc)
	require.Equal(t, []string{"CLOSE " + protocol.ReasonReplaced.String()}, h.sent(c))
	require.Equal(t, []string{"shard 0: depart n"}, h.told())
	evict(inc)
	require.Empty(t, h.told())
}

func TestProfilesAreSharedAndFreed(t *testing.T) {
	h := newHarness(t, 0, Config{})
	conns := []*testConn{h.open("a"), h.open("b")}
	other := helloOf("c")
	other.Attributes.Tags = []string{"ping"}
	other.Attributes.Kinds = nil
	c3 := h.conn()
	require.NoError(t, h.frame(c3, other))
	conns = append(conns, c3)
	profile := func(c *testConn) *actors.Profile { return c.ctx.(*session.Session).Profile }
	h.loop.do(func() {
		require.Same(t, profile(conns[0]), profile(conns[1]))
		require.NotSame(t, profile(conns[0]), profile(conns[2]))
		require.Equal(t, 2, count(h.door.gate.profiles))
	})
	h.told()
	require.NoError(t, h.frame(conns[0], &protocol.AttributesUpdate{Attributes: protocol.Attributes{Kinds: []string{"http"}}}))
	require.Equal(t, []string{"shard 0: register a http"}, h.told())
	require.NoError(t, h.frame(conns[0], &protocol.AttributesUpdate{Attributes: protocol.Attributes{Kinds: []string{"http"}}}))
	require.Equal(t, []string{"shard 0: register a http"}, h.told())
	h.loop.do(func() {
		require.Equal(t, "test", profile(conns[0]).Agent)
		require.Equal(t, 3, count(h.door.gate.profiles))
		for _, c := range conns {
			c.Close(protocol.ReasonBye, "", 0)
		}
	})
	h.told()
	h.loop.do(func() {
		require.Empty(t, h.door.gate.profiles.byHash)
		require.Empty(t, h.door.gate.sessions)
	})
}

// count returns how many different profiles there are.
func count(p *Profiles) (n int) {
	for _, s := range p.byHash {
		for ; s != nil; s = s.next {
			n++
		}
	}
	return n
}

func TestProfilesThatDifferAreToldApart(t *testing.T) {
	p := NewProfiles()
	all := []protocol.Attributes{{}, {Country: "A"}, {City: "A"}, {Platform: "A"}, {Tags: []string{"A"}}, {Kinds: []string{"A"}},
		{Tags: []string{"A", "B"}}, {Tags: []string{"AB"}}, {Tags: []string{"A"}, Kinds: []string{"B"}}, {ASN: 1}, {ASN: 11},
		{Tags: []string{"A\x00B"}}, {Tags: []string{"A", "", "B"}}, {City: "1:A"}, {Tags: []string{"", ""}}, {Tags: []string{""}}, {Kinds: []string{""}}}
	var shared []*actors.Profile
	for range 2 {
		for i := range all {
			got := p.take(&all[i], "")
			require.Equal(t, all[i], got.Attributes)
			shared = append(shared, got)
		}
	}
	shared = append(shared, p.take(&protocol.Attributes{}, "A"))
	require.Equal(t, len(all)+1, count(p))
	p.drop(&actors.Profile{}) // not of these
	require.Equal(t, len(all)+1, count(p))
	for _, x := range shared {
		p.drop(x)
	}
	require.Empty(t, p.byHash)
	p.drop(shared[0])
}

func TestListsOfProfilesAreBounded(t *testing.T) {
	p := NewProfiles()
	for i := range 2 * maxLists {
		a := protocol.Attributes{Tags: []string{fmt.Sprint(i)}}
		require.Equal(t, a.Tags, p.take(&a, "").Tags)
	}
	require.LessOrEqual(t, len(p.lists), maxLists)
}

func TestAnnounceRegistersTheShardsNodes(t *testing.T) {
	h := newHarness(t, 0, Config{Partitions: 3})
	want := map[uint32]int{}
	for i := range 20 {
		node := fmt.Sprint("n", i)
		h.open(node)
		want[partition(node, 3)]++
	}
	h.told()
	for shard := range uint32(3) {
		h.send(&actors.Announce{Shard: shard})
		lines := h.told()
		require.Len(t, lines, want[shard])
		for _, l := range lines {
			require.Contains(t, l, fmt.Sprintf("shard %d: register n", shard))
		}
	}
}

func TestMisroutedResults(t *testing.T) {
	h := newHarness(t, 0, Config{Partitions: 2})
	h.shards.here = func(shard uint32) bool { return shard == partition("n", 2) }
	c := h.open("n")
	h.sent(c)
	h.told()
	away := resultOf("a")
	away.Shard = 1 - partition("n", 2)
	require.NoError(t, h.frame(c, away))
	require.Empty(t, h.told())
	require.Equal(t, uint64(1), h.stats.Misrouted.Load())
	require.Empty(t, h.sent(c), "the node keeps it for the shard's next home")

	// A shard that does not exist: nobody will ever want the result.
	nowhere := resultOf("b")
	nowhere.Shard = 2
	require.NoError(t, h.frame(c, nowhere))
	require.NoError(t, h.frame(c, &protocol.Accepted{JobID: []byte("b"), Shard: 1 << 31, Attempt: 1}))
	require.NoError(t, h.frame(c, &protocol.Progress{JobID: []byte("b"), Shard: 2, Attempt: 1}))
	require.NoError(t, h.frame(c, &protocol.Ping{Nonce: 7}))
	require.Equal(t, []string{"ACK b#1", "PONG 7"}, h.sent(c))
	require.Empty(t, h.told())
	require.Equal(t, uint64(2), h.stats.Unexpected.Load())
}

// HELLO holds only so many running jobs; the node sends ACCEPTED for the others.
func TestAcceptedResumesWhatHelloHadNoRoomFor(t *testing.T) {
	h := newHarness(t, 0, Config{})
	c := h.open("n") // with a credit of 1
	h.sent(c)
	h.told()
	require.NoError(t, h.frame(c, &protocol.Accepted{JobID: []byte("old"), Attempt: 2}))
	require.Equal(t, []string{"shard 0: running old#2 of n"}, h.told())
	require.NoError(t, h.frame(c, &protocol.Accepted{JobID: []byte("old"), Attempt: 2}))
	require.Equal(t, []string{"shard 0: accepted old#2 of n"}, h.told(), "known by now")
	h.deliver("n", "new")
	require.Equal(t, []string{"shard 0: queued new#1 of n"}, h.told(), "it counts against the credit")
	require.NoError(t, h.frame(c, resultOf("old")))
	require.Equal(t, []string{"JOB new#1 ping"}, h.sent(c))
}

func TestFramesOfASession(t *testing.T) {
	h := newHarness(t, 0, Config{})
	c := h.open("n")
	h.deliver("n", "a", "b", "c")
	h.sent(c)
	require.NoError(t, h.frame(c, &protocol.Ping{Nonce: 7}))
	require.NoError(t, h.frame(c, &protocol.Pong{}))
	h.loop.do(func() { require.NoError(t, h.raw(c, protocol.Type(0x7f), []byte("of a later version"))) })
	require.NoError(t, h.frame(c, &protocol.Credit{Credit: 2}))
	require.Equal(t, []string{"PONG 7", "JOB b#1 ping"}, h.sent(c))
	for _, typ := range []protocol.Type{protocol.TypeAccepted, protocol.TypeProgress, protocol.TypeResult, protocol.TypeCredit,
		protocol.TypeAttributes, protocol.TypePing, protocol.TypeClose} {
		h.loop.do(func() {
			err := h.door.Frame(c, typ, []byte{0xc1})
			require.Equal(t, protocol.ReasonMalformed, protocol.ReasonOf(err), typ)
		})
	}
	for _, typ := range []protocol.Type{protocol.TypeHello, protocol.TypeProof, protocol.TypeChallenge, protocol.TypeWelcome,
		protocol.TypeJob, protocol.TypeResultAck, protocol.TypeCancel, protocol.TypeGoAway} {
		h.loop.do(func() {
			require.Equal(t, protocol.ReasonUnexpected, protocol.ReasonOf(h.door.Frame(c, typ, []byte{0x90})), typ)
		})
	}
	h.told()
	require.NoError(t, h.frame(c, &protocol.Close{Reason: protocol.ReasonBye}))
	require.Equal(t, []string{"closed silently " + protocol.ReasonBye.String()}, h.sent(c))
	require.Equal(t, []string{"shard 0: lost a#1 of n", "shard 0: lost b#1 of n", "shard 0: undelivered c#1 of n", "shard 0: depart n"}, h.told())
}

func TestAPanicInASessionEndsThatAlone(t *testing.T) {
	h := newHarness(t, 0, Config{})
	bad, good := h.open("bad"), h.open("good")
	h.sent(bad)
	h.sent(good)
	h.told()
	h.loop.do(func() { bad.panicOn = "JOB" })
	b := actors.NewToGate()
	for _, x := range []struct{ node, job string }{{"bad", "a"}, {"bad", "b"}, {"good", "c"}} {
		b.Deliveries = append(b.Deliveries, actors.Delivery{Node: x.node, JobID: x.job, Kind: "ping", Attempt: 1})
	}
	h.send(b)
	require.Equal(t, []string{"CLOSE " + protocol.ReasonInternal.String()}, h.sent(bad))
	require.Equal(t, []string{"JOB c#1 ping"}, h.sent(good))
	require.ElementsMatch(t, []string{"shard 0: undelivered b#1 of bad", "shard 0: lost a#1 of bad", "shard 0: depart bad"}, h.told())
	require.Equal(t, int64(1), h.stats.Sessions.Load())
	again := h.open("bad")
	require.Equal(t, []string{"WELCOME m"}, h.sent(again))

	// A frame that makes it panic.
	h.loop.do(func() { again.panicOn = "PONG" })
	require.NoError(t, h.frame(again, &protocol.Ping{}))
	require.Equal(t, []string{"CLOSE " + protocol.ReasonInternal.String()}, h.sent(again))
}

func TestAPanicInTheGateEndsItsSessionsAlone(t *testing.T) {
	h := newHarness(t, 2, Config{Authenticate: func(m *protocol.Hello) error {
		if m.NodeID == "poison" {
			panic("poison")
		}
		return nil
	}})
	a, b := h.open("a"), h.open("b")
	h.deliver("a", "j")
	h.sent(a)
	h.sent(b)
	h.told()
	poison := h.conn()
	require.Equal(t, protocol.ReasonInternal, protocol.ReasonOf(h.frame(poison, helloOf("poison"))))
	shutdown := []string{"CLOSE " + protocol.ReasonShutdown.String()}
	require.Eventually(t, func() bool { return h.stats.Sessions.Load() == 0 }, 10*time.Second, time.Millisecond)
	require.Equal(t, shutdown, h.sent(a))
	require.Equal(t, shutdown, h.sent(b))
	require.ElementsMatch(t, []string{"shard 0: lost j#1 of a", "shard 0: depart a", "shard 0: depart b"}, h.told())
	require.Zero(t, h.stats.Loop(2))

	again := h.conn()
	require.Eventually(t, func() bool {
		err := h.frame(again, helloOf("a"))
		if err != nil {
			require.Equal(t, protocol.ReasonNotReady, protocol.ReasonOf(err))
			again = h.conn()
		}
		return err == nil
	}, 10*time.Second, time.Millisecond)
	h.deliver("a", "k")
	require.Equal(t, []string{"WELCOME m", "JOB k#1 ping"}, h.sent(again))
	require.Equal(t, int64(1), h.stats.Sessions.Load())
}

func TestAGateThatIsSuspendedKeepsItsMail(t *testing.T) {
	h := newHarness(t, 0, Config{})
	c := h.open("a")
	h.sent(c)
	h.told()
	h.shards.mu.Lock()
	h.shards.panics = true
	h.shards.mu.Unlock()
	h.deliver("nobody", "x") // its flush panics
	h.deliver("a", "y")      // is taken by the gate's next life, which has no sessions
	require.Eventually(t, func() bool {
		for _, l := range h.told() {
			if l == "shard 0: undelivered y#1 of a" {
				return true
			}
		}
		return false
	}, 10*time.Second, time.Millisecond)
	require.Equal(t, []string{"CLOSE " + protocol.ReasonShutdown.String()}, h.sent(c))
	require.Zero(t, h.stats.Sessions.Load())
	h.open("a")
}

func TestStoppingTheGateEndsItsSessions(t *testing.T) {
	h := newHarness(t, 0, Config{})
	c := h.open("n")
	h.deliver("n", "a", "b")
	h.sent(c)
	h.told()
	require.NoError(t, h.system.Root.StopFuture(h.pid).Wait())
	require.Equal(t, []string{"CLOSE " + protocol.ReasonShutdown.String()}, h.sent(c))
	require.ElementsMatch(t, []string{"shard 0: lost a#1 of n", "shard 0: undelivered b#1 of n", "shard 0: depart n"}, h.told())
	require.Zero(t, h.stats.Sessions.Load())
}

func TestAGateStopsAfterItsLoop(t *testing.T) {
	h := newHarness(t, 0, Config{})
	h.open("n")
	h.deliver("n", "a")
	h.loop.end()
	h.deliver("n", "b") // taken by whoever sends it
	require.NoError(t, h.system.Root.StopFuture(h.pid).Wait())
	h.loop = newLoop() // for the harness to end
}

func TestManySendersOneLoop(t *testing.T) {
	h := newHarness(t, 0, Config{})
	h.shards.quiet = true
	var conns []*testConn
	for i := range 8 {
		hello := helloOf(fmt.Sprint("n", i))
		hello.Credit = 200
		c := h.conn()
		require.NoError(t, h.frame(c, hello))
		conns = append(conns, c)
	}
	var wg sync.WaitGroup
	for s := range 4 {
		wg.Go(func() {
			for i := range 100 {
				b := actors.NewToGate()
				for n := range conns {
					b.Deliveries = append(b.Deliveries, actors.Delivery{Node: fmt.Sprint("n", n), JobID: fmt.Sprintf("%d-%d", s, i), Kind: "ping", Attempt: 1})
				}
				h.send(b)
			}
		})
	}
	wg.Wait()
	for _, c := range conns {
		lines := h.sent(c)
		require.Len(t, lines, 1+200)
		next := map[byte]int{}
		for _, l := range lines[1:] {
			var s byte
			var i int
			_, err := fmt.Sscanf(l, "JOB %c-%d#1", &s, &i)
			require.NoError(t, err)
			require.Equal(t, next[s], i, "one sender's deliveries stay in order")
			next[s]++
		}
	}
	require.Equal(t, uint64(3200), h.stats.Deliveries.Load())
}

func TestBatchesAreFlushedOnceALoopTurn(t *testing.T) {
	var mu sync.Mutex
	batches := 0
	h := newHarness(t, 0, Config{Shards: sendFunc(func(_ uint32, b *actors.FromGate) bool {
		mu.Lock()
		defer mu.Unlock()
		batches++
		b.Release()
		return true
	})})
	c := h.open("n")
	h.settle()
	count := func() int { mu.Lock(); defer mu.Unlock(); return batches }
	before := count()
	h.loop.do(func() {
		for i := range 50 {
			if err := h.frameOnLoop(c, resultOf(fmt.Sprint(i))); err != nil {
				panic(err)
			}
		}
	})
	h.settle()
	require.Equal(t, before+1, count())
}

type sendFunc func(uint32, *actors.FromGate) bool

// Send implements Shards.
func (f sendFunc) Send(shard uint32, b *actors.FromGate) bool { return f(shard, b) }
