package cli

import (
	"context"
	"sync"

	"go.uber.org/zap"

	"github.com/roost-server/roost/cmd/roost/internal/sdnotify"
)

// systemd tells the service manager how a member does; without one it does nothing.
type systemd struct {
	n    *sdnotify.Notifier
	log  *zap.Logger
	stop context.CancelFunc
	feed sync.WaitGroup
}

func newSystemd(log *zap.Logger) (*systemd, error) {
	n, err := sdnotify.FromEnvironment()
	if err != nil {
		return nil, err
	}
	return &systemd{n: n, log: log, stop: func() {}}, nil
}

func (s *systemd) said(err error) {
	if err != nil {
		s.log.Warn("systemd could not be told", zap.Error(err))
	}
}

// status shows in systemctl status what the start waits for.
func (s *systemd) status(text string) { s.said(s.n.Status(text)) }

// ready tells that the member serves. From then on systemd may watch it.
func (s *systemd) ready(text string, alive func(context.Context) error) {
	s.said(s.n.Ready(text))
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	s.feed.Go(func() { s.n.Watch(ctx, alive, s.log) })
}

// stopping tells that the end has begun. The watchdog is fed until close, so that an end that
// hangs is noticed.
func (s *systemd) stopping(text string) { s.said(s.n.Stopping(text)) }

func (s *systemd) close() {
	s.stop()
	s.feed.Wait()
	s.said(s.n.Close())
}
