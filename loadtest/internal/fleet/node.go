//go:build linux

package fleet

// NodeBytes is the most that a node's state may take, without partly received frames.
const NodeBytes = 88

// keptEntries is how large an empty heap may stay.
const keptEntries = 1 << 10

// state is where a node is in its life.
type state uint8

const (
	stateNew        state = iota // not dialled yet
	stateConnecting              // TCP handshake under way
	stateHello                   // HELLO sent, WELCOME due
	stateOpen                    // session open
	stateWaiting                 // to be dialled later, see Fleet.later
	stateDead                    // told never to come back
)

// node is one simulated node. It belongs to the loop.
type node struct {
	in  []byte // start of a frame whose end has not arrived; nil else
	out []byte // output that the kernel did not take yet; nil else

	fd          int32  // -1 when there is no socket
	gen         uint32 // changes whenever a connection begins or ends
	unacked     uint32 // results sent in this session and not acknowledged
	heartbeatMs uint32 // from WELCOME
	incarnation uint64 // of the last session
	sentMs      int64  // when something was last written, in milliseconds since start
	addr        uint16 // index in Fleet.addrs
	state       state
	tries       uint8 // connections in a row that did not become sessions
	deaf        bool  // reads nothing more from this connection
}

// due is what waits in a [heap] for its moment.
type due interface{ at() int64 } // in milliseconds since start

// timer is a moment at which a node is dialled (stateWaiting) or leaves after GOAWAY
// (stateOpen), or at which an opening has taken too long. It is void when the node's
// gen has changed since.
type timer struct {
	dueMs int64
	idx   int32
	gen   uint32
}

func (t timer) at() int64 { return t.dueMs }

// answer is the RESULT of a job that runs. It is void when the node's gen has changed
// since: what runs ends with its connection.
type answer struct {
	timer
	frame []byte
}

// heap is a binary heap by at. container/heap would allocate for every entry.
type heap[T due] []T

func (h *heap[T]) push(t T) {
	s := append(*h, t)
	i := len(s) - 1
	for i > 0 && s[(i-1)/2].at() > t.at() {
		s[i] = s[(i-1)/2]
		i = (i - 1) / 2
	}
	s[i] = t
	*h = s
}

func (h *heap[T]) pop() T {
	s := *h
	top, t := s[0], s[len(s)-1]
	var none T
	s[len(s)-1] = none
	s = s[:len(s)-1]
	i := 0
	for {
		c := 2*i + 1
		if c >= len(s) {
			break
		}
		if c+1 < len(s) && s[c+1].at() < s[c].at() {
			c++
		}
		if s[c].at() >= t.at() {
			break
		}
		s[i] = s[c]
		i = c
	}
	if len(s) > 0 {
		s[i] = t
	}
	*h = s
	if len(s) == 0 && cap(s) > keptEntries {
		*h = nil // memory only while something waits
	}
	return top
}
