package workload

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/roost-server/roost/protocol/record"
)

// produce sends jobs until ctx ends or there are enough: as slots become free (closed
// loop) or as they become due (open loop), then with the time they were due.
func (r *run) produce(ctx context.Context) {
	var batch []*slot
	var seq int64
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil && (r.cfg.Jobs == 0 || seq < r.cfg.Jobs) {
		most := int64(r.slots.limit)
		wait := time.Hour
		if r.cfg.Rate > 0 {
			most = int64(time.Since(r.started).Seconds()*r.cfg.Rate) + 1 - seq
			if most <= 0 {
				wait = r.due(seq) - time.Since(r.started)
			}
		}
		if r.cfg.Jobs > 0 {
			most = min(most, r.cfg.Jobs-seq)
		}
		batch = r.slots.take(batch[:0], int(max(most, 0)))
		if len(batch) == 0 {
			timer.Reset(wait)
			select {
			case <-ctx.Done():
			case <-timer.C:
			case <-r.slots.freed:
			}
			continue
		}
		for _, s := range batch {
			r.send(s, seq)
			seq++
		}
	}
}

// due is when job seq of an open loop is to be sent, since the start.
func (r *run) due(seq int64) time.Duration {
	return time.Duration(float64(seq) / r.cfg.Rate * float64(time.Second))
}

func (r *run) send(s *slot, seq int64) {
	now := clock()
	due := now
	if r.cfg.Rate > 0 {
		due = r.startNs + r.due(seq).Nanoseconds()
	}
	node := int(seq * int64(r.stride) % int64(len(r.keys)))
	r.t.fill(s.value, s.idx, seq, due, r.cfg.NodeIDs[node])
	s.rec = kgo.Record{Context: s, Topic: r.slots.topic, Partition: r.parts[node], Key: r.keys[node], Value: s.value}
	r.slots.begin(s, seq, now)
	r.produced.Add(1)
	r.cl.Produce(s, &s.rec, r.promise)
}

// consume enters every result into the tally.
func (r *run) consume(ctx context.Context) {
	for {
		fs := r.cl.PollRecords(ctx, pollRecords)
		if ctx.Err() != nil || fs.IsClientClosed() {
			return
		}
		now := clock()
		fs.EachPartition(func(p kgo.FetchTopicPartition) {
			if p.Err != nil && !errors.Is(p.Err, context.Canceled) {
				r.note("consume " + p.Topic + ": " + p.Err.Error())
			}
			for _, rec := range p.Records {
				slot, seq, first := r.tally.record(contentType(rec), rec.Value, now)
				if first {
					r.slots.ended(slot, seq)
				}
			}
		})
	}
}

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
	r            *run
	f            *Figures
	stopProducer func()
	producerDone <-chan struct{}

	begin, end        mark
	warm, idle, ended bool // warm-up over; producer done; end is set
	seen              int64
	newsAt            time.Duration // when an outcome came last
	shown             int64
	shownAt           time.Duration
	completeAt        time.Duration // since when nothing is outstanding; 0: something is
}

// supervise takes the marks, reports progress, and returns when the run is over.
func (r *run) supervise(ctx context.Context, producerDone <-chan struct{}, stopProducer func()) *Figures {
	s := &supervisor{
		r: r, f: &Figures{Run: r.t.run, RecordBytes: len(r.t.value)}, stopProducer: stopProducer, producerDone: producerDone,
		begin: r.mark(), warm: r.cfg.Warmup == 0,
	}
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for over := false; !over; {
		<-ticker.C
		s.f.Interrupted = s.f.Interrupted || ctx.Err() != nil
		over = s.tick(time.Since(r.started), r.tally.outcomes())
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
		r.cfg.Progress(Progress{now, r.produced.Load(), float64(got-s.shown) / (now - s.shownAt).Seconds(), r.tally.counts()})
		s.shownAt, s.shown = now, got
	}
	stuck := now-s.newsAt >= r.patience(s.f.Interrupted)
	if !s.idle {
		s.producing(now, stuck)
		return false
	}
	if got+r.failed.Load() < r.produced.Load() {
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
		s.stopProducer()
	}
	select {
	case <-s.producerDone:
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
	f.Counts = r.tally.counts()
	f.Produced, f.ProduceFailed = r.produced.Load(), r.failed.Load()
	f.Lost = max(0, f.Produced-f.ProduceFailed-f.Outcomes)
	l := r.tally.measured()
	f.Latency, f.Deliver, f.Commit, f.Append = l.whole, l.deliver, l.commit, l.append
	r.errMu.Lock()
	defer r.errMu.Unlock()
	if f.LastError == "" {
		f.LastError = r.lastErr
	}
}
