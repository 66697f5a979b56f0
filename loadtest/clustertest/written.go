//go:build linux

package main

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// follow reads roost.results as it is written, committed or not, until ctx ends: readers of
// committed records wait for every transaction that is open before them, also for that
// of a member that is gone, and so do not tell how the others are doing.
func (s *stage) follow(ctx context.Context) error {
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(s.broker), kgo.ClientID("clustertest"), kgo.DisableClientMetrics(), kgo.ConsumeTopics(s.topics.Results),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadUncommitted()), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		return err
	}
	s.wg.Go(func() {
		defer cl.Close()
		for ctx.Err() == nil {
			cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) { s.load.written(string(r.Key)) })
		}
	})
	return nil
}

// written notes that a result is there, which may be taken back.
func (l *load) written(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if j := l.job(id); j.wrote == 0 && !j.at.IsZero() {
		j.wrote = time.Since(j.at)
	}
}
