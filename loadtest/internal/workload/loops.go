package workload

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/roost-server/roost/protocol/record"
)

// contentType returns the record's content type, without allocating for the usual ones.
func contentType(rec *kgo.Record) string {
	for i := range rec.Headers {
		if rec.Headers[i].Key != record.HeaderContentType {
			continue
		}
		switch v := rec.Headers[i].Value; string(v) {
		case record.ContentMsgpack:
			return record.ContentMsgpack
		case record.ContentJSON:
			return record.ContentJSON
		default:
			return string(v)
		}
	}
	return ""
}

// supervisor decides when a run is over. It is the state of one supervise call.
type supervisor struct {
	r *run
	f *Figures

	begin, end        mark
	warm, idle, ended bool // warm-up over; producer done; end is set
	seen              int64
	newsAt            time.Duration // when an outcome came last
	shown             int64
	shownAt           time.Duration
	completeAt        time.Duration // since when nothing is outstanding; 0: something is
}

// supervise takes the marks, reports progress, and returns when the run is over.
func (r *run) supervise(ctx context.Context) *Figures {
	s := &supervisor{
		r: r, f: &Figures{Run: r.run, RecordBytes: len(r.stream.one.value)}, begin: r.mark(), warm: r.cfg.Warmup == 0,
	}
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for over := false; !over; {
		<-ticker.C
		s.f.Interrupted = s.f.Interrupted || ctx.Err() != nil
		over = s.tick(time.Since(r.stream.started), r.tally.outcomes())
	}
	s.finishMark()
	s.f.between(s.begin, s.end)
	return s.f
}

func (s *supervisor) finishMark() {
	if !s.ended {
		s.end, s.ended = s.r.mark(), true
	}
}

// tick looks at the run and reports whether it is over.
func (s *supervisor) tick(now time.Duration, got int64) bool {
	r := s.r
	if got != s.seen {
		s.seen, s.newsAt = got, now
	}
	if !s.warm && !s.idle && now >= r.cfg.Warmup {
		s.begin, s.warm = r.mark(), true
	}
	if now-s.shownAt >= time.Second && r.cfg.Progress != nil {
		r.cfg.Progress(Progress{now, r.Submitted(), float64(got-s.shown) / (now - s.shownAt).Seconds(), r.tally.counts()})
		s.shownAt, s.shown = now, got
	}
	stuck := now-s.newsAt >= r.patience(s.f.Interrupted)
	if !s.idle {
		s.producing(now, stuck)
		return false
	}
	if got+r.failed.Load() < r.Submitted() {
		s.completeAt = 0
		return stuck
	}
	if s.completeAt == 0 {
		s.completeAt = now
		s.finishMark()
	}
	return now-s.completeAt >= duplicateGrace
}

// producing stops the producer when it is time, and notes when it has stopped. A run
// by duration is measured until then, one by number until its last outcome.
func (s *supervisor) producing(now time.Duration, stuck bool) {
	timed := s.r.cfg.Jobs == 0
	if timed && now >= s.r.cfg.Duration || s.f.Interrupted || stuck {
		s.r.stream.stop()
	}
	select {
	case <-s.r.stream.Done():
		s.idle, s.newsAt = true, now
		if timed || s.f.Interrupted {
			s.finishMark()
		}
	default:
	}
}

// patience is how long no news means that no outcome will come.
func (r *run) patience(interrupted bool) time.Duration {
	if interrupted {
		return min(abortDrain, r.cfg.Drain)
	}
	return r.cfg.Drain
}

func (f *Figures) between(a, b mark) {
	f.MeasuredFor, f.MeasuredJobs = b.at-a.at, b.outcomes-a.outcomes
	f.SelfCPU, f.NodeCPU = b.self-a.self, b.nd-a.nd
	f.ServerCPU = max(0, b.server-a.server)
}

// finish fills in what is known once the consumer has stopped.
func (f *Figures) finish(r *run) {
	t := r.Totals()
	f.Counts, f.Produced, f.ProduceFailed, f.Lost = t.Counts, t.Submitted, t.ProduceFailed, t.Lost()
	l := r.tally.measured()
	f.Latency, f.Deliver, f.Commit, f.Append = l.whole, l.deliver, l.commit, l.append
}
