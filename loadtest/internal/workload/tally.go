package workload

import (
	"fmt"
	"sync"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// maxLatencyUs is the histogram's end: ten minutes, after which jobs expire.
const maxLatencyUs = 10 * 60 * 1e6

// pageJobs is how many jobs a page of the seen-bitmap covers: 8 KiB.
const pageJobs = 1 << 16

// Counts are the outcomes so far.
type Counts struct {
	Outcomes   int64            // jobs that have an outcome
	Duplicates int64            // outcomes beyond a job's first
	NotOK      int64            // outcomes other than ok
	Corrupt    int64            // ok, but the output is not the job's args
	Unreadable int64            // records that are no result
	ByOutcome  map[string]int64 // first outcomes, by their word
	LastError  string           // of the newest outcome that is not ok, or unreadable record
}

// latencies are where the time of jobs went, in microseconds.
type latencies struct {
	whole   *hdrhistogram.Histogram // from sent, or due, to its outcome consumed
	deliver *hdrhistogram.Histogram // from sent, or due, to received by the node
	commit  *hdrhistogram.Histogram // from there to its outcome consumed
	append  *hdrhistogram.Histogram // from sent to acknowledged by the broker; guarded by tally.mu
}

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, maxLatencyUs, 3) }

func newLatencies() *latencies {
	return &latencies{newHistogram(), newHistogram(), newHistogram(), newHistogram()}
}

// enter records that something took so many nanoseconds.
func enter(h *hdrhistogram.Histogram, ns int64) {
	_ = h.RecordValue(min(max(ns/1000, 1), maxLatencyUs))
}

// tally keeps the books of a run. record belongs to the consumer's goroutine; counts
// is for any.
type tally struct {
	t      *template
	copies bool  // results are the job records themselves, as a relay passes them on
	warmNs int64 // jobs sent before are kept apart
	pages  []*[pageJobs / 64]uint64
	main   *latencies
	warm   *latencies

	mu   sync.Mutex
	c    Counts
	each [16]int64 // first outcomes, by number
}

func newTally(t *template, warmNs int64) *tally {
	return &tally{t: t, warmNs: warmNs, main: newLatencies(), warm: newLatencies()}
}

// parse reads a record of the results topic.
func (y *tally) parse(contentType string, value []byte) (record.Result, error) {
	if !y.copies {
		return record.ParseResult(contentType, value)
	}
	id, args, err := y.t.copied(value)
	return record.Result{Job: id, Outcome: protocol.OutcomeOK, Output: args}, err
}

// record enters one record of the results topic, consumed at nowNs. first is true for
// the first outcome of a job of this run, whose slot and number it returns.
func (y *tally) record(contentType string, value []byte, nowNs int64) (slot int32, seq int64, first bool) {
	r, err := y.parse(contentType, value)
	y.mu.Lock()
	defer y.mu.Unlock()
	if err != nil {
		y.c.Unreadable++
		y.c.LastError = "result record: " + err.Error()
		return 0, 0, false
	}
	slot, seq, ok := y.t.parseID(r.Job)
	if !ok {
		return 0, 0, false
	}
	if y.mark(seq) {
		y.c.Duplicates++
		return 0, 0, false
	}
	y.c.Outcomes++
	y.each[min(int(r.Outcome), len(y.each)-1)]++
	if r.Outcome != protocol.OutcomeOK {
		y.c.NotOK++
		y.c.LastError = fmt.Sprintf("job %s on %s: %v %s", r.Job, r.Node, r.Outcome, r.Error)
		return slot, seq, true
	}
	s, ok := y.t.stamps(r.Output, seq)
	if !ok {
		y.c.Corrupt++
		y.c.LastError = fmt.Sprintf("job %s on %s: the output of %d bytes is not the job's args", r.Job, r.Node, len(r.Output))
		return slot, seq, true
	}
	l := y.main
	if s.sentNs < y.warmNs {
		l = y.warm
	}
	enter(l.whole, nowNs-s.sentNs)
	if s.receivedNs != 0 {
		enter(l.deliver, s.receivedNs-s.sentNs)
		enter(l.commit, nowNs-s.receivedNs)
	}
	return slot, seq, true
}

// acked enters that the broker has a job. Any goroutine may call it.
func (y *tally) acked(sentNs, nowNs int64) {
	l := y.main
	if sentNs < y.warmNs {
		l = y.warm
	}
	y.mu.Lock()
	enter(l.append, nowNs-sentNs)
	y.mu.Unlock()
}

// measured returns the latencies without the warm-up's, unless the run was shorter.
// The consumer has stopped; acknowledgements may still come.
func (y *tally) measured() latencies {
	l := *y.main
	if l.whole.TotalCount() == 0 {
		l = *y.warm
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	l.append = hdrhistogram.Import(l.append.Export())
	return l
}

// mark notes that job seq has an outcome, and reports whether it had one before.
func (y *tally) mark(seq int64) bool {
	page := int(seq / pageJobs)
	for len(y.pages) <= page {
		y.pages = append(y.pages, nil)
	}
	if y.pages[page] == nil {
		y.pages[page] = new([pageJobs / 64]uint64)
	}
	word, bit := &y.pages[page][seq%pageJobs/64], uint64(1)<<(seq%64)
	had := *word&bit != 0
	*word |= bit
	return had
}

func (y *tally) outcomes() int64 { y.mu.Lock(); defer y.mu.Unlock(); return y.c.Outcomes }

func (y *tally) counts() Counts {
	y.mu.Lock()
	defer y.mu.Unlock()
	c := y.c
	c.ByOutcome = map[string]int64{}
	for i, n := range y.each {
		if n > 0 {
			c.ByOutcome[protocol.Outcome(i).String()] = n
		}
	}
	return c
}
