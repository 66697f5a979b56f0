package workload

import (
	"context"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
)

// slot is one job in flight. It is its record's context, by which the one promise
// function that all records share finds it.
type slot struct {
	context.Context
	rec   kgo.Record
	t     *template // value began as a copy of its
	value []byte
	idx   int32

	// Guarded by slots.mu.
	st    *Stream
	seq   int64 // of the first assignment of the job that it carries; -1: none
	sent  int64 // when it was handed to the Kafka client; see stamp.Now
	acked bool  // the broker has it; until then the client owns rec
	open  int   // outcomes that are still to come
}

// carry makes s ready for a job of the template.
func (s *slot) carry(t *template) {
	if s.t == t {
		return
	}
	if cap(s.value) > 4*len(t.value) {
		s.value = nil // one large job does not stay
	}
	s.t, s.value = t, append(s.value[:0], t.value...)
}

// slots hands out free slots. It grows up to limit.
type slots struct {
	limit int

	mu   sync.Mutex
	all  []*slot
	free []*slot
}

func newSlots(limit int) *slots { return &slots{limit: limit} }

// take moves up to most free slots to dst, for jobs of st, makes new ones while the
// limit allows it, and returns what it got, which may be nothing.
func (p *slots) take(st *Stream, dst []*slot, most int) []*slot {
	p.mu.Lock()
	defer p.mu.Unlock()
	most = min(most, st.limit-st.open)
	for len(dst) < most {
		var s *slot
		if n := len(p.free); n > 0 {
			s = p.free[n-1]
			p.free = p.free[:n-1]
		} else {
			if len(p.all) == p.limit {
				break
			}
			s = &slot{Context: context.Background(), idx: int32(len(p.all)), seq: -1}
			p.all = append(p.all, s)
		}
		s.st = st
		dst = append(dst, s)
	}
	st.open += len(dst)
	return dst
}

// begin makes s carry a job whose first assignment has number seq.
func (p *slots) begin(s *slot, seq, sentNs int64, assignments int) {
	p.mu.Lock()
	s.seq, s.sent, s.acked, s.open = seq, sentNs, false, assignments
	p.mu.Unlock()
}

// giveBack frees a slot that carries nothing.
func (p *slots) giveBack(s *slot) {
	p.mu.Lock()
	s.acked, s.open = true, 0
	p.release(s)
	p.mu.Unlock()
}

// acked notes that the broker has s's record, or has refused it: then no outcome will
// come. It returns when the record was handed to the Kafka client, and how many
// assignments have no outcome yet.
func (p *slots) acked(s *slot, failed bool) (sentNs int64, open int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	sentNs, open = s.sent, s.open
	s.acked = true
	if failed {
		s.open = 0
	}
	p.release(s)
	return sentNs, open
}

// ended notes an outcome of the job in slot idx that begins with seq. Outcomes of jobs
// that the slot does not carry are ignored.
func (p *slots) ended(idx int32, seq int64) {
	p.mu.Lock()
	if int(idx) < len(p.all) && p.all[idx].seq == seq && p.all[idx].open > 0 {
		p.all[idx].open--
		p.release(p.all[idx])
	}
	p.mu.Unlock()
}

// release frees a slot once the broker has acknowledged its job and all outcomes came.
func (p *slots) release(s *slot) {
	if !s.acked || s.open > 0 {
		return
	}
	s.seq = -1
	s.st.open--
	select {
	case s.st.freed <- struct{}{}:
	default:
	}
	s.st = nil
	p.free = append(p.free, s)
}
