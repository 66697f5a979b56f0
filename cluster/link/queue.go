package link

// queue is a ring of messages that has as much room as it needs.
type queue struct {
	ring  [][]byte // its length is a power of two
	head  int
	count int
}

// keptSlots is how large a ring stays when it has become empty.
const keptSlots = 1 << 10

func (q *queue) at(i int) []byte { return q.ring[(q.head+i)&(len(q.ring)-1)] }

func (q *queue) push(body []byte) {
	if q.count == len(q.ring) {
		ring := make([][]byte, max(16, 2*len(q.ring)))
		n := copy(ring, q.ring[q.head:])
		copy(ring[n:], q.ring[:q.head])
		q.ring, q.head = ring, 0
	}
	q.ring[(q.head+q.count)&(len(q.ring)-1)] = body
	q.count++
}

func (q *queue) pop() []byte {
	body := q.ring[q.head]
	q.ring[q.head] = nil
	q.head = (q.head + 1) & (len(q.ring) - 1)
	q.count--
	if q.count == 0 && len(q.ring) > keptSlots {
		*q = queue{}
	}
	return body
}
