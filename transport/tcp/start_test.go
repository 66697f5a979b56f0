package tcp

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

func TestStartErrors(t *testing.T) {
	ctx := context.Background()
	s := start(t, testConfig(), &node{})
	cfg := testConfig()
	cfg.Listen = s.Addr().String()
	_, err := Start(ctx, cfg, &node{}, zap.NewNop())
	require.ErrorContains(t, err, "address already in use", "also for the same user")

	plain, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer plain.Close()
	cfg.Listen = plain.Addr().String()
	_, err = Start(ctx, cfg, &node{}, zap.NewNop())
	require.ErrorContains(t, err, "address already in use")

	cfg.Listen = "192.0.2.1:0" // not an address of this host
	_, err = Start(ctx, cfg, &node{}, zap.NewNop())
	require.ErrorContains(t, err, "192.0.2.1:0")

	cfg = testConfig()
	cfg.Tick = 0
	_, err = Start(ctx, cfg, &node{}, zap.NewNop())
	require.ErrorContains(t, err, "tick")

	cfg = testConfig()
	cfg.MaxConns = 1 << 29
	_, err = Start(ctx, cfg, &node{}, zap.NewNop())
	require.ErrorContains(t, err, "max_conns")

	over, cancel := context.WithCancel(ctx)
	cancel()
	if s, err := Start(over, testConfig(), &node{}, zap.NewNop()); err == nil { // it was quicker
		stop(t, s)
	}
}

func TestListenEverywhere(t *testing.T) {
	for _, listen := range []string{":0", "0.0.0.0:0", "localhost:0", "[::1]:0"} {
		cfg := testConfig()
		cfg.Listen = listen
		s, err := Start(context.Background(), cfg, &node{}, zap.NewNop())
		if listen == "[::1]:0" && errors.Is(err, unix.EADDRNOTAVAIL) {
			continue // a host without IPv6
		}
		require.NoError(t, err)
		addr := s.Addr().(*net.TCPAddr)
		require.NotZero(t, addr.Port)
		if addr.IP == nil || addr.IP.IsUnspecified() {
			addr.IP = net.IPv4(127, 0, 0, 1)
		}
		dialAddr(t, addr.String()).wantCloseAfter(func() { stop(t, s) })
	}
	_, err := reserve("[fe80::1%no-such-interface]:0")
	require.ErrorContains(t, err, "no-such-interface")
	_, err = reserve("no such host:1")
	require.ErrorContains(t, err, "listen is")
}
