// Package view is what one member knows of its cluster: who else is in it, and which of
// them owns which partition. It is pure: no clock, goroutine, network or log. What it is
// told are addresses, packets, the time and this member's own claims; what it wants done
// goes to [Out].
//
// Members meet by hellos, which say who they are and settle on a pair of session numbers,
// one chosen by each side. A peer is up when each side knows the other's present session;
// then only beats travel, which carry the claims when they changed. A side that gives the
// other up takes a new session, so the other notices at the next hello and gives it up too:
// both always agree where the streams between them began. After that they may meet anew.
package view

import (
	"errors"
	"fmt"
)

// State is what a member says it is doing.
type State uint8

// The states of a member, in the order in which it goes through them.
const (
	Joining  State = iota // started, not taking nodes yet
	Serving               // takes nodes and partitions
	Draining              // sends its nodes to others
	Leaving               // about to end
)

var stateNames = [...]string{Joining: "joining", Serving: "serving", Draining: "draining", Leaving: "leaving"}

// String is the state's name in status and logs.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// The version of the messages between members. Two members whose ranges overlap use the
// highest common one.
const (
	MinVersion = 1
	MaxVersion = 1
)

// Defaults of Config.
const (
	DefaultBeatMs      = 500
	DefaultDeadAfterMs = 3000
	DefaultMaxSkewMs   = 2000
)

const (
	// MaxPartitions is a sanity limit on the partitions of the jobs topic: it bounds what a
	// peer can make us keep. Kafka clusters hold some hundred thousand in all.
	MaxPartitions = 1 << 16
	// minBeatsToDead: fewer missed beats than this are no sign of death, so DeadAfter must
	// be at least as many.
	minBeatsToDead = 4
	// forgetMs is how long a member that is down, and an instance that left, is remembered.
	forgetMs = 10 * 60 * 1000
	// unheardMs is how long one side may hear the other in vain before it is reported.
	unheardMs = 5000
	// helloBeats is the longest pause, in beats, between hellos to an address where nobody
	// answers, and to a member that is refused; it doubles from one up to it.
	helloBeats = 4
	// urgentMs is the least time between two beats to one peer, so that partitions claimed
	// one by one travel together.
	urgentMs = 20
	// gossipMs is how often a beat carries the addresses of the peers, so that members find
	// each other again that only a third one knows.
	gossipMs = 15000
	// maxTargets bounds the addresses that are dialled.
	maxTargets = 2048
	// maxEpoch bounds epochs, which are Unix times in ms, far off any real one.
	maxEpoch = 1 << 62
)

// Now is one moment by two clocks, in ms: Mono never jumps, Wall is Unix time.
type Now struct{ Mono, Wall int64 }

// Config of a View. Times are in ms; 0 is the default.
type Config struct {
	Cluster, Name, Version string
	Instance               uint64 // random, not 0, new at each start of the process
	StartMs                int64  // Unix time of the start; decides between two of one name
	Address                string // HOST:PORT where others reach this member
	NodesAddr, APIAddr     string // told to the others as they are
	Partitions             uint32
	BeatMs, DeadAfterMs    int64
	MaxSkewMs              int64
	MinVersion, MaxVersion int // of the messages between members; 0: this package's
}

func (c *Config) fill() error {
	if c.BeatMs == 0 {
		c.BeatMs = DefaultBeatMs
	}
	if c.DeadAfterMs == 0 {
		c.DeadAfterMs = max(DefaultDeadAfterMs, minBeatsToDead*c.BeatMs)
	}
	if c.MaxSkewMs == 0 {
		c.MaxSkewMs = DefaultMaxSkewMs
	}
	if c.MaxVersion == 0 {
		c.MinVersion, c.MaxVersion = MinVersion, MaxVersion
	}
	switch {
	case !printable(c.Name) || len(c.Name) > maxName:
		return fmt.Errorf("view: name %q: want 1 to %d bytes that are no control characters", c.Name, maxName)
	case !printable(c.Cluster) || len(c.Cluster) > maxName:
		return fmt.Errorf("view: cluster %q: want 1 to %d bytes that are no control characters", c.Cluster, maxName)
	case c.Instance == 0:
		return errors.New("view: instance is 0: want a random number")
	case !printable(c.Address) || len(c.Address) > maxAddress:
		return fmt.Errorf("view: address %q: want HOST:PORT of at most %d bytes", c.Address, maxAddress)
	case len(c.NodesAddr) > maxAddress || len(c.APIAddr) > maxAddress:
		return fmt.Errorf("view: addresses for nodes and API: want at most %d bytes", maxAddress)
	case len(c.Version) > maxVersionText:
		return fmt.Errorf("view: version %q: want at most %d bytes", c.Version, maxVersionText)
	case c.Partitions == 0 || c.Partitions > MaxPartitions:
		return fmt.Errorf("view: %d partitions: want 1 to %d", c.Partitions, MaxPartitions)
	case c.BeatMs < 10:
		return fmt.Errorf("view: a beat every %d ms: want at least 10", c.BeatMs)
	case c.DeadAfterMs < minBeatsToDead*c.BeatMs:
		return fmt.Errorf("view: dead after %d ms with a beat every %d ms: want at least %d beats", c.DeadAfterMs, c.BeatMs, minBeatsToDead)
	case c.MaxSkewMs < 1:
		return fmt.Errorf("view: clock skew of %d ms: want at least 1", c.MaxSkewMs)
	}
	return nil
}

// Peer is a member that is up, in one of its sessions with this one.
type Peer struct {
	Slot     uint16
	Name     string
	Instance uint64
	Address  string // where its packets are sent to
	Cert     string // the name that its packets are signed with; "" without TLS
	// Session and TheirSession identify the streams between the two: a packet to this
	// member is of this session when it names TheirSession as its origin and Session as
	// its destination. Both are new whenever the peer comes up.
	Session, TheirSession       uint64
	NodesAddr, APIAddr, Version string
}

// Out takes what a View wants done; it is called within the View's methods and must not
// call them.
type Out interface {
	// Send sends a packet of the view's to an address; it may be lost. body is the callee's.
	Send(address string, body []byte)
	// Up begins a session with a peer, in a slot of its own.
	Up(p Peer)
	// Down ends it; it is the last call about the slot.
	Down(p Peer, why string)
	// Owner says that a partition has another owner, or the same in another epoch; known is
	// false when it has none. Slot 0 is this member.
	Owner(partition uint32, slot uint16, epoch uint64, known bool)
	// Refused says once that this member and that one do not come together, and why; name
	// is "" when nobody answers at the address.
	Refused(name, address, why string)
	// Conflict says that this member has to end.
	Conflict(err error)
}

// View is one member's knowledge. It is used by one goroutine at a time.
type View struct {
	cfg   Config
	out   Out
	state State

	sockets     int
	lastMono    int64 // of the last call
	sessions    uint32
	peers       map[string]*peer   // by name
	rivals      map[string]*peer   // of the same names, until it is clear who stays
	targets     map[string]*target // by address
	gone        map[uint64]grave   // instances that left or were replaced
	up          map[uint64]*peer   // by our session
	slots       []*peer            // by slot; 0 is this member
	lastSlot    uint16
	conflict    bool
	leaving     string // why, when it left
	place       placement
	sourceLists map[string][]string
	claimsRead  []claim // reused
}

// New makes the view of a member that knows nobody yet.
func New(cfg Config, out Out) (*View, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	return &View{
		cfg: cfg, out: out,
		peers: map[string]*peer{}, rivals: map[string]*peer{}, targets: map[string]*target{},
		gone: map[uint64]grave{}, up: map[uint64]*peer{}, slots: make([]*peer, 1),
		place:       newPlacement(cfg.Partitions),
		sourceLists: map[string][]string{},
	}, nil
}

// nextSession makes a number that is never used again by this instance, and grows.
func (v *View) nextSession() uint64 {
	v.sessions++
	return v.cfg.Instance&^0xffffffff | uint64(v.sessions)
}

// silentMs is how long a member that is not up may be silent before it counts as gone: it
// may be saying hello at the slowest pace.
func (v *View) silentMs() int64 { return v.cfg.DeadAfterMs + helloBeats*v.cfg.BeatMs }

// SetState tells the others what this member is doing.
func (v *View) SetState(now Now, s State) {
	v.advance(now)
	if v.state != s {
		v.state = s
		v.hurry(now)
	}
}

// SetLoad tells the others, with the next beats, how many nodes are connected here.
func (v *View) SetLoad(sockets int) { v.sockets = max(sockets, 0) }

// hurry sends a beat to all as soon as may be.
func (v *View) hurry(now Now) {
	for _, p := range v.up {
		p.nextBeat = min(p.nextBeat, max(now.Mono, p.lastBeat+urgentMs))
	}
}
