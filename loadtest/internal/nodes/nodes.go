// Package nodes is how a load test moves its simulated nodes, wherever they are: in this
// process, in workers beside it, or in workers on other hosts.
package nodes

import (
	"context"
	"net/netip"
	"time"

	"github.com/roost-server/roost/loadtest/internal/timeline"
)

// Spec says what nodes a group has.
type Spec struct {
	Servers     []netip.AddrPort // where nodes connect, in turn
	Sources     []netip.Addr     // where they connect from, in turn; empty: as the kernel chooses
	First       int              // number of the first node
	Nodes       int              // how many, from First on
	Of          int              // nodes of the whole test, for the width of their numbers
	NodePrefix  string
	Seed        uint64
	Credential  []byte
	Credit      uint32
	InFlight    int           // nodes between dialling and WELCOME at a time
	OpenTimeout time.Duration // from dialling to WELCOME
	// RunFor is how long a node runs a job before it answers; 0: it answers at once.
	RunFor time.Duration
	// Stamp has nodes write the time at which they received a job into its args, on the
	// monotonic clock of their host.
	Stamp bool
}

// Group is a set of nodes. Any goroutine may call its methods. A fraction is of all nodes
// of the group, from 0 to 1; which nodes it hits depends on the seed alone.
type Group interface {
	// Ramp begins to connect nodes that were never connected, up to a number of all, at a
	// rate a second (0: as fast as they are welcomed), and returns at once.
	Ramp(ctx context.Context, upTo int, perS float64) error
	// Cut resets the sockets of a fraction of the nodes at once, without a word; they come
	// back as the protocol says. It returns how many it hit.
	Cut(ctx context.Context, fraction float64) (int, error)
	// Churn resets so many sockets a second from now on; 0 ends it.
	Churn(ctx context.Context, perS float64) error
	// Slow has a fraction of the nodes read nothing more from their sockets; 0 has all read
	// again.
	Slow(ctx context.Context, fraction float64) error
	// Stats returns how things stand, at most a second old.
	Stats() Stats
	// Stop has all nodes say CLOSE, ends the group and waits for that.
	Stop() error
}

// Stats is what the nodes of a group have seen.
type Stats struct {
	Nodes        int               `json:"nodes"`
	Connected    int               `json:"connected"` // now
	Dead         int               `json:"dead"`      // will not come back: the server's reason forbids it
	Dials        uint64            `json:"dials"`
	DialErrors   uint64            `json:"dial_errors"`
	OpenTimeouts uint64            `json:"open_timeouts"`
	Sessions     uint64            `json:"sessions"`
	Dropped      uint64            `json:"dropped"` // connections that the server ended without CLOSE
	Cut          uint64            `json:"cut"`     // by Cut and Churn
	GoAways      uint64            `json:"goaways"`
	BadFrames    uint64            `json:"bad_frames"`
	Pings        uint64            `json:"pings"`
	Pongs        uint64            `json:"pongs"`
	Jobs         uint64            `json:"jobs"`
	Results      uint64            `json:"results"`
	Acks         uint64            `json:"acks"`
	Unacked      int64             `json:"unacked"`
	Closes       map[string]uint64 `json:"closes"` // CLOSE frames received, by reason
	LastError    string            `json:"last_error"`
	// ConnectTook is from the first dial until all nodes that Ramp asked for were
	// connected, or dead; 0 before.
	ConnectTook time.Duration    `json:"connect_took"`
	Load        timeline.Process `json:"load"` // of the processes that have the nodes
	// Unstamped is how many nodes do not stamp although Spec.Stamp asked for it: their host
	// has another clock. Latencies to and from a node leave them out.
	Unstamped int `json:"unstamped,omitempty"`
	// Problems are of the group itself, such as a worker that was lost: each is one of the run.
	Problems []string `json:"problems,omitempty"`
}
