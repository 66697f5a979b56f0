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
	value []byte
	idx   int32

	// Guarded by slots.mu.
	seq   int64 // the job that it carries; -1: none
	sent  int64 // when it was handed to the Kafka client; see clock
	await uint8 // what is still to come: awaitAck, awaitOutcome
}

const (
	awaitAck     = 1 << iota // the broker's acknowledgement, until which the client owns rec
	awaitOutcome             // the outcome
)

// slots hands out free slots. It grows up to limit.
type slots struct {
	t     *template
	topic string
	limit int
	freed chan struct{} // has an element when free may have become longer

	mu   sync.Mutex
	all  []*slot
	free []*slot
}

func newSlots(t *template, topic string, limit int) *slots {
	return &slots{t: t, topic: topic, limit: limit, freed: make(chan struct{}, 1)}
}

// take moves up to max free slots to dst, makes new ones while the limit allows it,
// and returns what it got, which may be nothing.
func (p *slots) take(dst []*slot, most int) []*slot {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(dst) < most {
		if n := len(p.free); n > 0 {
			dst = append(dst, p.free[n-1])
			p.free = p.free[:n-1]
			continue
		}
		if len(p.all) == p.limit {
			break
		}
		s := &slot{Context: context.Background(), idx: int32(len(p.all)), seq: -1}
		s.value = append(s.value, p.t.value...)
		p.all = append(p.all, s)
		dst = append(dst, s)
	}
	return dst
}

// begin makes s carry job seq.
func (p *slots) begin(s *slot, seq, sentNs int64) {
	p.mu.Lock()
	s.seq, s.sent, s.await = seq, sentNs, awaitAck|awaitOutcome
	p.mu.Unlock()
}

// acked notes that the broker has s's record, or has refused it: then no outcome will
// come. It returns when the record was handed to the Kafka client.
func (p *slots) acked(s *slot, failed bool) (sentNs int64) {
	p.mu.Lock()
	sentNs = s.sent
	s.await &^= awaitAck
	if failed {
		s.await, s.seq = 0, -1
	}
	p.release(s)
	p.mu.Unlock()
	return sentNs
}

// ended notes the outcome of job seq in slot idx. Outcomes of jobs that the slot does
// not carry are ignored.
func (p *slots) ended(idx int32, seq int64) {
	p.mu.Lock()
	if int(idx) < len(p.all) && p.all[idx].seq == seq && p.all[idx].await&awaitOutcome != 0 {
		p.all[idx].await &^= awaitOutcome
		p.release(p.all[idx])
	}
	p.mu.Unlock()
}

func (p *slots) release(s *slot) {
	if s.await != 0 {
		return
	}
	s.seq = -1
	p.free = append(p.free, s)
	select {
	case p.freed <- struct{}{}:
	default:
	}
}
