package workload

import "github.com/HdrHistogram/hdrhistogram-go"

// Latencies are what ended in some time, in microseconds.
type Latencies struct {
	Whole   *hdrhistogram.Histogram // from when a job was sent, or due, until its outcome was read
	Deliver *hdrhistogram.Histogram // from then until its node had it; only of nodes that stamp
	Commit  *hdrhistogram.Histogram // from there until its outcome was read
	Others  *hdrhistogram.Histogram // Whole of the nodes that [Load.Compare] names
}

// NewLatencies returns empty ones.
func NewLatencies() *Latencies {
	return &Latencies{newHistogram(), newHistogram(), newHistogram(), newHistogram()}
}

func (l *Latencies) all() [4]*hdrhistogram.Histogram {
	return [4]*hdrhistogram.Histogram{l.Whole, l.Deliver, l.Commit, l.Others}
}

// Add adds what more has.
func (l *Latencies) Add(more *Latencies) {
	from := more.all()
	for i, h := range l.all() {
		h.Merge(from[i]) // all are of one shape: nothing is dropped
	}
}

func (l *Latencies) reset() {
	for _, h := range l.all() {
		if h.TotalCount() > 0 {
			h.Reset()
		}
	}
}

// window collects what ended since the last look. It is guarded by tally.mu.
type window struct {
	now, spare *Latencies
	others     func(node string) bool // nil: none
}

func (w *window) enter(s stamps, nowNs int64, node string) {
	enter(w.now.Whole, nowNs-s.sentNs)
	if s.receivedNs != 0 {
		enter(w.now.Deliver, s.receivedNs-s.sentNs)
		enter(w.now.Commit, nowNs-s.receivedNs)
	}
	if w.others != nil && w.others(node) {
		enter(w.now.Others, nowNs-s.sentNs)
	}
}

// watch has the tally collect for looks.
func (y *tally) watch() {
	y.mu.Lock()
	y.win = &window{now: NewLatencies(), spare: NewLatencies()}
	y.mu.Unlock()
}

// look returns what ended since the last look. It is valid until the next.
func (y *tally) look() *Latencies {
	y.mu.Lock()
	defer y.mu.Unlock()
	w := y.win
	w.spare.reset()
	w.now, w.spare = w.spare, w.now
	return w.spare
}
