package shard

// pending are the jobs without all of their outcomes committed, in the order of
// their offsets, and found by their ids.
type pending struct {
	byID        map[string]*job
	first, last *job
	low         *job // the first one with an assignment without outcome; nil: none has one
	bytes       int  // of memory, about
	peak        int  // the largest that byID was
}

func newPending() pending { return pending{byID: map[string]*job{}} }

// add takes in a job. Nearly always its offset is the highest.
func (p *pending) add(j *job) {
	p.byID[j.id] = j
	p.enter(j)
}

// enter is add for a job that is in byID already.
func (p *pending) enter(j *job) {
	p.peak = max(p.peak, len(p.byID))
	p.bytes += j.bytes()
	p.link(j)
}

func (p *pending) link(j *job) {
	after := p.last
	for after != nil && after.offset > j.offset {
		after = after.prev
	}
	if j.prev = after; after == nil {
		j.next, p.first = p.first, j
	} else {
		j.next, after.next = after.next, j
	}
	if j.next == nil {
		p.last = j
	} else {
		j.next.prev = j
	}
	if j.left > 0 && (p.low == nil || j.offset < p.low.offset) {
		p.low = j
	}
}

// remove takes out a job that has all of its outcomes.
func (p *pending) remove(j *job) {
	if p.low == j {
		p.low = j.next
	}
	if j.prev == nil {
		p.first = j.next
	} else {
		j.prev.next = j.next
	}
	if j.next == nil {
		p.last = j.prev
	} else {
		j.next.prev = j.prev
	}
	j.prev, j.next = nil, nil
	delete(p.byID, j.id)
	p.bytes -= j.bytes()
	p.byID = shrunk(p.byID, &p.peak)
}

// open returns the first job with an assignment without outcome, or nil. Each job is
// passed once, when it has ended.
func (p *pending) open() *job {
	for p.low != nil && p.low.left == 0 {
		p.low = p.low.next
	}
	return p.low
}

// charge counts memory that a job takes more, or less, from now on.
func (p *pending) charge(bytes int) { p.bytes += bytes }

// crowd are assignments that wait for their nodes, those of one node in the order in
// which they came.
type crowd struct {
	byNode map[string]*assignment // the first one of each
	peak   int                    // the largest that byNode was
}

func newCrowd() crowd { return crowd{byNode: map[string]*assignment{}} }

func (w *crowd) add(a *assignment) {
	a.flags |= parked
	first := w.byNode[a.node]
	if first == nil {
		a.prev = a
		w.byNode[a.node] = a
		w.peak = max(w.peak, len(w.byNode))
		return
	}
	a.prev = first.prev
	first.prev.next, first.prev = a, a
}

func (w *crowd) remove(a *assignment) {
	first := w.byNode[a.node]
	switch {
	case first != a:
		a.prev.next = a.next
		if a.next != nil {
			a.next.prev = a.prev
		} else {
			first.prev = a.prev
		}
	case a.next != nil:
		a.next.prev = a.prev
		w.byNode[a.node] = a.next
	default:
		delete(w.byNode, a.node)
		w.byNode = shrunk(w.byNode, &w.peak)
	}
	a.prev, a.next = nil, nil
	a.flags &^= parked | afar
}

// shrunk returns a new map for an empty one that was large: maps do not shrink.
func shrunk[V any](m map[string]V, peak *int) map[string]V {
	if len(m) > 0 || *peak < 4096 {
		return m
	}
	*peak = 0
	return map[string]V{}
}
