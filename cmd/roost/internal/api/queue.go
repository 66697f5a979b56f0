package api

import "sync"

// queue holds the events that one stream's client has not read yet. It is bounded by count and by
// bytes, so that neither the backend nor this member's memory pays for a slow client.
type queue struct {
	maxEvents, maxBytes int
	// ready holds a token when there may be something to take.
	ready chan struct{}

	mu     sync.Mutex
	events []Event
	bytes  int
	end    queueEnd
}

// queueEnd says why nothing follows what is queued.
type queueEnd uint8

const (
	queueOpen queueEnd = iota
	queueClosed
	queueOverflowed
)

func newQueue(maxEvents, maxBytes int) *queue {
	return &queue{maxEvents: maxEvents, maxBytes: maxBytes, ready: make(chan struct{}, 1)}
}

// put queues an event, and reports false when there is no room; the queue has then ended. One event
// always fits.
func (q *queue) put(ev Event) bool {
	size := eventBytes(&ev)
	q.mu.Lock()
	full := len(q.events) > 0 && (len(q.events) >= q.maxEvents || q.bytes+size > q.maxBytes)
	if full {
		q.end = queueOverflowed
	} else {
		q.events = append(q.events, ev)
		q.bytes += size
	}
	q.mu.Unlock()
	q.wake()
	return !full
}

// close says that nothing follows.
func (q *queue) close() {
	q.mu.Lock()
	if q.end == queueOpen {
		q.end = queueClosed
	}
	q.mu.Unlock()
	q.wake()
}

func (q *queue) wake() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// take returns the oldest event. Without one, it tells why nothing follows, or queueOpen when
// something may.
func (q *queue) take() (ev Event, ok bool, end queueEnd) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.events) == 0 {
		q.events = nil // what has grown for a burst
		return ev, false, q.end
	}
	ev = q.events[0]
	q.events[0] = Event{}
	q.events = q.events[1:]
	q.bytes -= eventBytes(&ev)
	return ev, true, queueOpen
}

// eventBytes estimates what an event holds in memory and on the wire: fixed parts and its texts.
func eventBytes(ev *Event) int {
	const fixed = 256
	switch {
	case ev.Result != nil:
		return fixed + len(ev.Result.Output) + len(ev.Result.Error) + len(ev.Result.Node) + len(ev.Result.Job)
	case ev.Progress != nil:
		return fixed + len(ev.Progress.Data) + len(ev.Progress.Node) + len(ev.Progress.Job)
	case ev.Trace != nil:
		return fixed + len(ev.Trace.Text) + len(ev.Trace.Node) + len(ev.Trace.Job)
	default:
		return fixed
	}
}
