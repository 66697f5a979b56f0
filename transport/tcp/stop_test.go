package tcp

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/roost-server/roost/protocol"
)

func TestStopSaysCloseToAll(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	n := &node{}
	cfg := testConfig()
	cfg.FileReserve = 16
	s, err := Start(context.Background(), cfg, n, zap.NewNop())
	require.NoError(t, err)
	addr := s.Addr().String()

	const established, strangers = 2*stopBatch + 100, 20
	var all []*client
	for range established {
		all = append(all, join(t, s))
	}
	for range strangers {
		all = append(all, dial(t, s))
	}
	eventually(t, "all are there", func() bool { return s.Stats().Open == established+strangers })

	stopped := make(chan error)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		stopped <- s.Stop(ctx, protocol.ReasonShutdown, "restarting")
	}()
	for _, c := range all {
		m := c.wantClose(protocol.ReasonShutdown)
		require.Equal(t, "restarting", m.Message)
		require.NoError(t, c.c.Close())
	}
	require.NoError(t, <-stopped)
	require.NoError(t, s.Err())
	require.Len(t, n.closed(), established)
	st := s.Stats()
	require.Equal(t, uint64(established+strangers), st.Closed[protocol.ReasonShutdown])
	require.Zero(t, st.Open+st.Established+st.Handshaking+st.Lingering)

	require.ErrorIs(t, n.loops[0].Execute(func() {}), ErrStopped)
	_, err = net.Dial("tcp", addr)
	require.Error(t, err, "the port is closed")
	goleak.VerifyNone(t, leaks)

	// And it can be taken again at once.
	cfg.Listen = addr
	again := start(t, cfg, &node{})
	join(t, again).ping(1)
	require.NoError(t, s.Stop(context.Background(), protocol.ReasonDrain, "twice"))
}

func TestStopRunsWhatWasGiven(t *testing.T) {
	n := &node{}
	s, err := Start(context.Background(), testConfig(), n, zap.NewNop())
	require.NoError(t, err)
	join(t, s)
	l := n.conn(0).Loop()
	given, ran := 0, 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		for l.Execute(func() { ran++ }) == nil {
			given++
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, s.Stop(ctx, protocol.ReasonShutdown, ""))
	<-done
	require.Equal(t, given, ran)
}

// A node that neither reads nor closes: Stop ends with its deadline, and says so.
func TestStopInTime(t *testing.T) {
	cfg := testConfig()
	cfg.CloseLinger = time.Minute
	n := &node{}
	s, err := Start(context.Background(), cfg, n, zap.NewNop())
	require.NoError(t, err)
	join(t, s)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	require.ErrorContains(t, s.Stop(ctx, protocol.ReasonShutdown, ""), "1 connections had not ended in time")
	require.Len(t, n.closed(), 1)
	require.Zero(t, s.Stats().Open)
	<-s.Done()
}

func TestStopWithoutConnections(t *testing.T) {
	s, err := Start(context.Background(), testConfig(), &node{}, zap.NewNop())
	require.NoError(t, err)
	require.NoError(t, s.Stop(context.Background(), protocol.ReasonShutdown, ""))
}

// A handler that does not return: Stop says so instead of waiting for ever.
func TestStopWithABlockedLoop(t *testing.T) {
	n := &node{}
	s, err := Start(context.Background(), testConfig(), n, zap.NewNop())
	require.NoError(t, err)
	c := join(t, s)
	release := make(chan struct{})
	require.NoError(t, n.conn(0).Loop().Execute(func() { <-release }))
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	require.ErrorContains(t, s.Stop(ctx, protocol.ReasonShutdown, ""), "does not return")
	close(release)
	<-s.Done()
	require.NoError(t, c.c.Close())
	require.Len(t, n.closed(), 1)
}
