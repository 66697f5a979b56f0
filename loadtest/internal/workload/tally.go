package workload

import (
	"fmt"
	"math/bits"
	"sync"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// maxLatencyUs is the histogram's end: ten minutes, after which jobs expire.
const maxLatencyUs = 10 * 60 * 1e6

// pageJobs is how many assignments a page of the seen-bitmap covers: 8 KiB.
const pageJobs = 1 << 16

// Counts are the outcomes so far, of assignments: a job has one for each of its targets.
type Counts struct {
	Outcomes   int64            // assignments that have an outcome
	Duplicates int64            // outcomes beyond an assignment's first
	NotOK      int64            // outcomes other than ok
	Corrupt    int64            // ok, but the output is not the job's args
	Unreadable int64            // records that are no result, or of a target that the job does not have
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

// tally keeps the books of a run. record belongs to the consumer's goroutine; the other
// methods are for any.
type tally struct {
	run    string
	copies *template // not nil: results are the job records themselves, as a relay passes them on
	warmNs int64     // jobs sent before are kept apart
	main   *latencies
	warm   *latencies
	args   patterns

	mu    sync.Mutex
	c     Counts
	each  [16]int64 // first outcomes, by number
	pages []*[pageJobs / 64]uint64
	low   int64           // every assignment before has its outcome
	wide  map[int64]int32 // jobs with several assignments: the first one's number, and how many
	win   *window         // what ended since the last look; nil: nobody looks
}

func newTally(run string, warmNs int64) *tally {
	return &tally{run: run, warmNs: warmNs, main: newLatencies(), warm: newLatencies(), args: patterns{}, wide: map[int64]int32{}}
}

// parse reads a record of the results topic.
func (y *tally) parse(contentType string, value []byte) (record.Result, error) {
	if y.copies == nil {
		return record.ParseResult(contentType, value)
	}
	id, args, err := y.copies.copied(value)
	return record.Result{Job: id, Outcome: protocol.OutcomeOK, Output: args}, err
}

// widen announces a job with several assignments before it is sent.
func (y *tally) widen(seq int64, assignments int) {
	y.mu.Lock()
	y.wide[seq] = int32(assignments)
	y.mu.Unlock()
}

// record enters one record of the results topic, consumed at nowNs. first is true for
// the first outcome of an assignment of this run, whose job's slot and number it returns.
func (y *tally) record(contentType string, value []byte, nowNs int64) (slot int32, seq int64, first bool) {
	r, err := y.parse(contentType, value)
	y.mu.Lock()
	defer y.mu.Unlock()
	if err != nil {
		y.c.Unreadable++
		y.c.LastError = "result record: " + err.Error()
		return 0, 0, false
	}
	slot, seq, ok := parseID(y.run, r.Job)
	if !ok {
		return 0, 0, false
	}
	if r.Index > 0 && int64(r.Index) >= int64(y.wide[seq]) {
		y.c.Unreadable++
		y.c.LastError = fmt.Sprintf("result record: target %d of job %s, which has %d", r.Index, r.Job, max(1, y.wide[seq]))
		return 0, 0, false
	}
	if y.mark(seq + int64(r.Index)) {
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
	s, ok := y.args.stamps(r.Output, seq)
	if !ok {
		y.c.Corrupt++
		y.c.LastError = fmt.Sprintf("job %s on %s: the output of %d bytes is not the job's args", r.Job, r.Node, len(r.Output))
		return slot, seq, true
	}
	y.took(s, nowNs, r.Node)
	return slot, seq, true
}

// took enters how long a job was on its way.
func (y *tally) took(s stamps, nowNs int64, node string) {
	l := y.main
	if s.sentNs < y.warmNs {
		l = y.warm
	}
	enter(l.whole, nowNs-s.sentNs)
	if s.receivedNs != 0 {
		enter(l.deliver, s.receivedNs-s.sentNs)
		enter(l.commit, nowNs-s.receivedNs)
	}
	if y.win != nil {
		y.win.enter(s, nowNs, node)
	}
}

// acked enters that the broker has a job.
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

// page returns the page of an assignment and its place there.
func (y *tally) page(n int64) (word *uint64, bit uint64) {
	page := int(n / pageJobs)
	for len(y.pages) <= page {
		y.pages = append(y.pages, nil)
	}
	if y.pages[page] == nil {
		y.pages[page] = new([pageJobs / 64]uint64)
	}
	return &y.pages[page][n%pageJobs/64], uint64(1) << (n % 64)
}

// mark notes that an assignment has an outcome, and reports whether it had one before.
func (y *tally) mark(n int64) bool {
	word, bit := y.page(n)
	had := *word&bit != 0
	*word |= bit
	if n == y.low {
		y.advance()
	}
	return had
}

// advance moves low behind the assignments that have their outcome.
func (y *tally) advance() {
	for int(y.low/pageJobs) < len(y.pages) && y.pages[y.low/pageJobs] != nil {
		word, _ := y.page(y.low)
		k := int64(bits.TrailingZeros64(^(*word >> (y.low % 64))))
		k = min(k, 64-y.low%64)
		y.low += k
		if k == 0 || y.low%64 != 0 {
			return
		}
	}
}

func (y *tally) outcomes() int64 { y.mu.Lock(); defer y.mu.Unlock(); return y.c.Outcomes }

// until is the number before which every assignment has its outcome.
func (y *tally) until() int64 { y.mu.Lock(); defer y.mu.Unlock(); return y.low }

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
