package tcp

import (
	"sync/atomic"

	"github.com/roost-server/roost/protocol"
)

// Stats is a snapshot of the server's numbers. Those with "total" only grow.
type Stats struct {
	Loops       int // loops that have had a connection
	MaxConns    int // the ceiling of Open
	Open        int // admitted connections with a socket, lingering ones included
	Handshaking int // open, before Establish
	Established int // open, after Establish
	Lingering   int // sockets whose CLOSE is on its way, refused ones included

	Accepted  uint64 // total accepted, refused ones included
	Refused   uint64 // total refused, for any of the causes below
	Reads     uint64 // total read events
	Writes    uint64 // total writes handed to the socket
	BytesIn   uint64 // total
	BytesOut  uint64 // total, as handed over
	FramesIn  uint64 // total of whole frames
	FramesOut uint64 // total of frames appended, CLOSE included
	Panics    uint64 // total of panics recovered; each is logged with its stack
	Cut       uint64 // total of sockets cut before their CLOSE had left

	RefusedFull       uint64 // total refused: MaxConns were open
	RefusedHandshakes uint64 // total refused: MaxHandshakes were under way
	RefusedRate       uint64 // total refused: more than AcceptRate in a second
	RefusedDrain      uint64 // total refused: Refuse, or Stop
	RefusedPeer       uint64 // total refused: not from ProxyFrom
	ProxyErrors       uint64 // total closed: the PROXY header was wrong or missing

	// Closed counts connections by the reason they ended with, refused ones included.
	// Reason 0 stands for numbers that this version does not know; peers choose them.
	Closed map[protocol.Reason]uint64
}

// Reasons come in ranges of a thousand; the first 32 of each are counted apart.
const (
	reasonRanges   = 3
	reasonsInRange = 32
)

// counters are written by one loop and read by anyone.
type counters struct {
	accepted, proxyErrors  atomic.Uint64
	refused                [refusedCauses]atomic.Uint64
	reads, writes          atomic.Uint64
	bytesIn, bytesOut      atomic.Uint64
	framesIn, framesOut    atomic.Uint64
	panics, cut            atomic.Uint64
	open, handshaking      atomic.Int64
	established, lingering atomic.Int64
	closed                 [reasonRanges * reasonsInRange]atomic.Uint64
	closedOther            atomic.Uint64
}

func (s *counters) countClose(r protocol.Reason) {
	if i, ok := reasonIndex(r); ok {
		s.closed[i].Add(1)
		return
	}
	s.closedOther.Add(1)
}

func reasonIndex(r protocol.Reason) (int, bool) {
	i, n := int(r)/1000-1, int(r)%1000
	if i < 0 || i >= reasonRanges || n >= reasonsInRange {
		return 0, false
	}
	return i*reasonsInRange + n, true
}

// addTo adds the loop's numbers to out.
func (s *counters) addTo(out *Stats) {
	out.Loops++
	out.Open += int(s.open.Load())
	out.Handshaking += int(s.handshaking.Load())
	out.Established += int(s.established.Load())
	out.Lingering += int(s.lingering.Load())
	out.Accepted += s.accepted.Load()
	for cause := range s.refused {
		out.Refused += s.refused[cause].Load()
	}
	out.RefusedFull += s.refused[refusedFull].Load()
	out.RefusedHandshakes += s.refused[refusedHandshakes].Load()
	out.RefusedRate += s.refused[refusedRate].Load()
	out.RefusedDrain += s.refused[refusedDrain].Load()
	out.RefusedPeer += s.refused[refusedPeer].Load()
	out.ProxyErrors += s.proxyErrors.Load()
	out.Reads += s.reads.Load()
	out.Writes += s.writes.Load()
	out.BytesIn += s.bytesIn.Load()
	out.BytesOut += s.bytesOut.Load()
	out.FramesIn += s.framesIn.Load()
	out.FramesOut += s.framesOut.Load()
	out.Panics += s.panics.Load()
	out.Cut += s.cut.Load()
	for i := range s.closed {
		if n := s.closed[i].Load(); n > 0 {
			out.Closed[protocol.Reason((i/reasonsInRange+1)*1000+i%reasonsInRange)] += n
		}
	}
	if n := s.closedOther.Load(); n > 0 {
		out.Closed[0] += n
	}
}
