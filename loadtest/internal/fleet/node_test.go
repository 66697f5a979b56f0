//go:build linux

package fleet

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-server/roost/loadtest/internal/membertest"
	"github.com/roost-server/roost/loadtest/internal/stamp"
	"github.com/roost-server/roost/protocol"
)

func TestNodeIsSmall(t *testing.T) {
	require.LessOrEqual(t, int(unsafe.Sizeof(node{})), NodeBytes)
}

func TestTimersComeInOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var h heap[timer]
	var want, got []int64
	for range 1000 {
		v := rng.Int64N(300)
		h.push(timer{dueMs: v})
		want = append(want, v)
		if rng.IntN(3) == 0 {
			slices.Sort(want)
			require.Equal(t, want[0], h.pop().dueMs)
			want = want[1:]
		}
	}
	slices.Sort(want)
	for len(h) > 0 {
		got = append(got, h.pop().dueMs)
	}
	require.Equal(t, want, got)
}

func TestProfilesDependOnTheSeedAlone(t *testing.T) {
	same, countries := 0, map[string]int{}
	for i := range 2000 {
		a := profile(1, i)
		require.Equal(t, a, profile(1, i))
		if a.City == profile(2, i).City {
			same++
		}
		countries[a.Country]++
	}
	require.Less(t, same, 500)
	require.Greater(t, len(countries), 12)
}

// loop returns a fleet whose loop does not run: the test is the loop. Its sockets are
// /dev/null.
func loop(t testing.TB, nodes int) *Fleet {
	null, err := unix.Open("/dev/null", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Close(null) })
	f := &Fleet{
		cfg: Config{Nodes: nodes}, nodes: make([]node, nodes), rng: rand.New(rand.NewPCG(1, 1)),
		addrs: []netip.AddrPort{{}}, enc: protocol.NewEncoder(), dec: protocol.NewDecoder(), closes: map[protocol.Reason]uint64{},
	}
	for i := range f.nodes {
		f.nodes[i].fd, f.nodes[i].state, f.nodes[i].heartbeatMs = int32(null), stateOpen, 30_000
	}
	return f
}

// No node may be silent for its heartbeat, whatever the pace of the loop, and none
// should say more than twice what it has to.
func TestHeartbeatSweep(t *testing.T) {
	for _, nodes := range []int{1, 2, 7, 1000, 20_000} {
		for _, step := range []int64{1, 20, 333} {
			f := loop(t, nodes)
			f.minHeartbeat = 30_000
			const end = 200_000
			for f.nowMs = 0; f.nowMs < end; f.nowMs += step {
				f.heartbeats()
			}
			for i := range f.nodes {
				require.Less(t, f.nowMs-f.nodes[i].sentMs, int64(30_000), "node %d of %d, step %d", i, nodes, step)
			}
			each := float64(f.st.Pings) / float64(nodes)
			require.GreaterOrEqual(t, each, float64(end/30_000))
			require.LessOrEqual(t, each, float64(end/15_000))
		}
	}
}

func TestBackoffGrowsAndIsBounded(t *testing.T) {
	f := loop(t, 1)
	n := &f.nodes[0]
	for try := range 20 {
		n.state, n.fd = stateWaiting, -1
		f.retry(n, 0, protocol.ReconnectBackoff, 0)
		due := f.later.pop().dueMs
		limit := min(int64(backoffMaxMs), int64(backoffMinMs)<<try)
		require.True(t, due >= limit/2 && due < limit, "try %d: %d ms", try, due)
	}
	f.retry(n, 0, protocol.ReconnectBackoff, 100_000)
	due := f.later.pop().dueMs
	require.True(t, due >= 100_000 && due <= 125_000, "%d ms", due)
}

func jobFrame(t testing.TB, size int) []byte {
	args := append([]byte{0xc4, byte(size)}, make([]byte, size)...)
	b, err := protocol.NewEncoder().Append(nil, &protocol.Job{
		JobID: []byte("0123456789abcdef-000001-0000000001"), Shard: 3, Attempt: 1, Kind: []byte("echo"), TimeoutMs: 30_000, Args: args,
	})
	require.NoError(t, err)
	return b
}

func TestAnsweringAJobAllocatesNothing(t *testing.T) {
	f := loop(t, 1)
	b := jobFrame(t, 128)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		f.out = f.out[:0]
		f.consume(&f.nodes[0], 0, b)
	}))
	require.Positive(t, f.st.Results)
	require.NotEmpty(t, f.out)
}

func TestTheOutputIsStamped(t *testing.T) {
	for _, on := range []bool{true, false} {
		f := loop(t, 1)
		f.cfg.Stamp = on
		f.consume(&f.nodes[0], 0, jobFrame(t, 128))
		_, body, size, err := protocol.NextFrame(f.out, protocol.MaxBodyBytes)
		require.NoError(t, err)
		require.Len(t, f.out, size)
		var r protocol.Result
		require.NoError(t, f.dec.Decode(body, &r))
		_, _, received := stamp.Of(r.Output[stamp.Header(r.Output):])
		require.Equal(t, on, received != 0)
	}
}

// BenchmarkAnswer is decode and encode alone: what a job costs the node side besides
// system calls.
func BenchmarkAnswer(b *testing.B) {
	f := loop(b, 1)
	frame := jobFrame(b, 128)
	b.ReportAllocs()
	for b.Loop() {
		f.out = f.out[:0]
		f.consume(&f.nodes[0], 0, frame)
	}
}

// BenchmarkJob is the whole node side of a job over real sockets: read JOB, write
// RESULT, read RESULT_ACK. node-us/job is the CPU time of the loop's thread.
func BenchmarkJob(b *testing.B) {
	const nodes = 1000
	window := make(chan struct{}, nodes)
	m := &membertest.Member{HeartbeatMs: 30_000}
	m.OnResult = func(c *membertest.Conn, r *protocol.Result) { c.Ack(r); <-window }
	membertest.Start(b, m)
	f := start(b, Config{Nodes: nodes}, m)
	settled(b, f)
	conns := make([]*membertest.Conn, nodes)
	for i := range conns {
		id := f.cfg.ID(i)
		eventually(b, "session", func() bool { conns[i] = m.Conn(id); return conns[i] != nil })
	}
	frame := jobFrame(b, 128)
	before := f.Stats().LoopCPU
	b.ResetTimer()
	for i := range b.N {
		window <- struct{}{}
		conns[i%nodes].SendRaw(frame)
	}
	for range nodes {
		window <- struct{}{}
	}
	b.StopTimer()
	f.Stop()
	b.ReportMetric(float64((f.Stats().LoopCPU-before).Nanoseconds())/1e3/float64(b.N), "node-us/job")
}
