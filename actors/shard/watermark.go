package shard

// Watermark tracks which records of a partition are finished with, and so up to
// where its offset may be committed: the offset after the last record of the longest
// finished prefix. Offsets may have gaps.
type Watermark struct {
	entries []mark // from the first unfinished record on
	base    uint64 // sequence number of entries[0]
	next    int64  // what may be committed; -1 before the first
}

type mark struct {
	offset int64
	done   bool
}

// NewWatermark returns an empty watermark.
func NewWatermark() *Watermark { return &Watermark{next: -1} }

// Add notes a record, in the order of offsets, and returns its sequence number.
func (w *Watermark) Add(offset int64) uint64 {
	w.entries = append(w.entries, mark{offset: offset})
	return w.base + uint64(len(w.entries)-1)
}

// Done notes that the record is finished with. It returns the offset to commit and
// whether that moved. A second call for a record does nothing.
func (w *Watermark) Done(seq uint64) (next int64, moved bool) {
	if seq < w.base || seq-w.base >= uint64(len(w.entries)) {
		return w.next, false
	}
	w.entries[seq-w.base].done = true
	n := 0
	for n < len(w.entries) && w.entries[n].done {
		w.next = w.entries[n].offset + 1
		n++
	}
	if n == 0 {
		return w.next, false
	}
	w.base += uint64(n)
	w.entries = w.entries[n:]
	return w.next, true
}

// Next returns the offset that may be committed, -1 when none may yet.
func (w *Watermark) Next() int64 { return w.next }

// Open returns how many records lie between the watermark and the newest record.
func (w *Watermark) Open() int { return len(w.entries) }
