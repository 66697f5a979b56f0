package supervisor

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/stretchr/testify/require"
)

func TestRunnersRunWhatTheyAreGiven(t *testing.T) {
	r := newRunners()
	var wg sync.WaitGroup
	var ran atomic.Int64
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				wg.Add(1)
				r.Schedule(func() { ran.Add(1); wg.Done() })
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 8000, ran.Load())
	wg.Add(2)
	r.Schedule(func() { r.Schedule(wg.Done); r.stop(); wg.Done() })
	wg.Wait()
	r.stop()
	wg.Add(1)
	r.Schedule(wg.Done) // whoever comes late is not left waiting
	wg.Wait()
}

// A mailbox is always at one place: who is given twice runs once at a time.
func TestAnActorOnRunnersTakesOneMessageAtATime(t *testing.T) {
	r := newRunners()
	defer r.stop()
	system := actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return slog.New(slog.DiscardHandler) }))
	defer system.Shutdown()
	var inside, sum atomic.Int64
	var last int64
	pid := system.Root.Spawn(actor.PropsFromFunc(func(ctx actor.Context) {
		if n, ok := ctx.Message().(int64); ok {
			if inside.Add(1) != 1 || n <= last && n != 0 {
				panic("two at a time, or out of order")
			}
			last = n
			sum.Add(1)
			inside.Add(-1)
		}
	}, actor.WithDispatcher(r)))
	for i := range int64(10_000) {
		system.Root.Send(pid, i)
	}
	require.Eventually(t, func() bool { return sum.Load() == 10_000 }, 10*time.Second, time.Millisecond)
}

// BenchmarkMailboxes is a message to each of 16 actors at a time that are idle by then, as
// shards are between batches; cpu-ns is processor time of the whole process.
func BenchmarkMailboxes(b *testing.B) {
	deep := func(ctx actor.Context) {
		if wg, ok := ctx.Message().(*sync.WaitGroup); ok {
			useStack()
			wg.Done()
		}
	}
	own := newRunners()
	defer own.stop()
	for name, d := range map[string]actor.Dispatcher{"goroutines": actor.NewDefaultDispatcher(throughput), "runners": own} {
		b.Run(name, func(b *testing.B) {
			system := actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return slog.New(slog.DiscardHandler) }))
			defer system.Shutdown()
			var pids []*actor.PID
			for range 16 {
				pids = append(pids, system.Root.Spawn(actor.PropsFromFunc(deep, actor.WithDispatcher(d))))
			}
			var wg sync.WaitGroup
			before, n := cpuTime(), 0
			b.ReportAllocs()
			for b.Loop() {
				wg.Add(len(pids))
				for _, pid := range pids {
					system.Root.Send(pid, &wg)
				}
				wg.Wait()
				n += len(pids)
			}
			b.ReportMetric(float64(cpuTime()-before)/float64(n), "cpu-ns/message")
		})
	}
}

//go:noinline
func useStack() byte {
	var room [6 << 10]byte // about what a shard's step needs
	for i := range room {
		room[i] = byte(i)
	}
	return room[len(room)/2]
}

func cpuTime() int64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return u.Utime.Nano() + u.Stime.Nano()
}
