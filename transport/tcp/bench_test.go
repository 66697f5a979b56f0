package tcp

import (
	"context"
	"testing"
	"time"

	"github.com/panjf2000/gnet/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/roost-server/roost/protocol"
)

// bare is gnet alone: bytes in, the same bytes out.
type bare struct {
	gnet.BuiltinEventEngine
	engine gnet.Engine
	booted chan struct{}
}

func (e *bare) OnBoot(engine gnet.Engine) gnet.Action {
	e.engine = engine
	close(e.booted)
	return gnet.None
}

func (e *bare) OnTraffic(c gnet.Conn) gnet.Action {
	b, _ := c.Peek(-1)
	_, _ = c.Write(b)
	_, _ = c.Discard(-1)
	return gnet.None
}

// startBare serves until the benchmark ends.
func startBare(b *testing.B) string {
	held, err := reserve("127.0.0.1:0")
	require.NoError(b, err)
	e := &bare{booted: make(chan struct{})}
	done := make(chan error, 1)
	go func() {
		done <- gnet.Run(e, held.url, gnet.WithNumEventLoop(1), gnet.WithReuseAddr(true), gnet.WithReusePort(true),
			gnet.WithLogger(zap.NewNop().Sugar()))
	}()
	select {
	case <-e.booted:
	case err := <-done:
		require.NoError(b, err)
	}
	held.release()
	b.Cleanup(func() {
		over, cancel := context.WithCancel(context.Background())
		cancel()
		_ = e.engine.Stop(over)
		require.NoError(b, <-done)
	})
	return held.addr.String()
}

// echoes sends n frames, pipelined in batches, on fd and reads as many bytes back.
func echoes(b *testing.B, fd int, batch []byte, frames, n int) time.Duration {
	in := make([]byte, len(batch))
	begun := time.Now()
	for done := 0; done < n; done += frames {
		require.NoError(b, rawWrite(fd, batch))
		require.NoError(b, rawRead(fd, in))
	}
	return time.Since(begun)
}

// BenchmarkEcho compares, in the same run: frames parsed, decoded, answered and
// encoded here, against gnet sending the bytes back unseen. The metric of interest is
// the ratio of their rates.
func BenchmarkEcho(b *testing.B) {
	for _, p := range []struct {
		name   string
		frames int
	}{{"single", 1}, {"pipelined64", 64}} {
		b.Run(p.name, func(b *testing.B) {
			cfg := testConfig()
			cfg.Loops, cfg.Tick = 1, time.Second
			s := start(b, cfg, &node{})
			roost := join(b, s)
			require.NoError(b, roost.c.SetDeadline(time.Time{}))
			plain := dialAddr(b, startBare(b))
			var batch []byte
			for i := range p.frames {
				batch = roost.frames(batch, &protocol.Ping{Nonce: uint64(i)})
			}
			fds := [2]int{rawFD(b, roost), rawFD(b, plain)}
			var took [2]time.Duration
			b.ReportAllocs()
			b.ResetTimer()
			// In slices by turns, so that both see the same weather.
			for left := b.N; left > 0; left -= 4096 {
				for i, fd := range fds {
					took[i] += echoes(b, fd, batch, p.frames, min(left, 4096))
				}
			}
			b.StopTimer()
			b.ReportMetric(float64(took[0].Nanoseconds())/float64(b.N), "roost-ns/frame")
			b.ReportMetric(float64(took[1].Nanoseconds())/float64(b.N), "gnet-ns/frame")
			b.ReportMetric(float64(took[1])/float64(took[0]), "ratio")
		})
	}
}

// BenchmarkConnect is a handshake from dial to CLOSE, one after the other.
func BenchmarkConnect(b *testing.B) {
	cfg := testConfig()
	cfg.Loops = 1
	s := start(b, cfg, &node{})
	for b.Loop() {
		c := join(b, s)
		require.NoError(b, c.c.SetLinger(0))
		require.NoError(b, c.c.Close())
	}
}
