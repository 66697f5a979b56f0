//go:build linux

package fleet

import (
	"maps"
	"time"

	"github.com/roost-server/roost/protocol"
)

// Stats is what the nodes have seen so far. All counters start at 0 with the fleet.
type Stats struct {
	Connected int // nodes with an open session now
	Dead      int // nodes that will not come back: the member's reason forbids it

	Dials        uint64 // connections begun
	DialErrors   uint64 // connections refused or failed before they were up
	OpenTimeouts uint64 // connections given up without WELCOME
	Sessions     uint64 // WELCOMEs received
	Dropped      uint64 // connections that the member ended without CLOSE
	Cut          uint64 // connections that were cut on purpose
	GoAways      uint64
	SlowServer   uint64 // connections given up because the member did not read
	BadFrames    uint64 // frames from the member that break the protocol
	Pings        uint64 // sent as heartbeats
	Pongs        uint64 // received
	Jobs         uint64
	Results      uint64
	Acks         uint64 // results acknowledged
	Unacked      int64  // results of open sessions not acknowledged yet
	Forgotten    uint64 // results not acknowledged when their session ended
	Cancels      uint64

	Closes    map[protocol.Reason]uint64 // CLOSE frames received; never nil
	LastError string                     // the newest failure, for people

	ConnectTook time.Duration // from the first ramp until all nodes asked for were connected, or dead; 0 before
	LoopCPU     time.Duration // CPU time of the loop's thread, system calls included
}

// Reconnects is how many sessions were opened beyond each node's first.
func (s *Stats) Reconnects(nodes int) uint64 {
	if s.Sessions <= uint64(nodes) {
		return 0
	}
	return s.Sessions - uint64(nodes)
}

// Stats returns a copy, at most some milliseconds old while the loop runs and exact
// after [Fleet.Stop]. Any goroutine may call it.
func (f *Fleet) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.shown
	s.Closes = maps.Clone(s.Closes)
	return s
}

// publish makes the loop's counters visible. The map of reasons, which is shared with
// the copy, is copied only when it changed.
func (f *Fleet) publish() {
	f.lastPublish = f.nowMs
	f.st.LoopCPU = threadCPU()
	if f.closesChanged {
		f.st.Closes, f.closesChanged = maps.Clone(f.closes), false
	}
	f.mu.Lock()
	f.shown = f.st
	f.mu.Unlock()
}

// settle notes the first moment at which every node that was asked for is connected or
// has given up.
func (f *Fleet) settle() {
	if f.st.ConnectTook != 0 || f.fresh == 0 || f.fresh < f.rampTo || f.st.Connected+f.st.Dead < f.fresh {
		return
	}
	f.st.ConnectTook = time.Since(f.rampBegan)
	f.publish()
	if f.fresh == len(f.nodes) {
		close(f.settled)
	}
}
