package nodes

import (
	"fmt"
	"math/rand/v2"

	"github.com/roost-server/roost/protocol"
)

// The kinds of jobs. All nodes offer Echo, one in [RareEvery] offers Rare as well.
const (
	Echo      = "echo"
	Rare      = "rare"
	RareEvery = 7
)

// Args are the arguments of a job: what the node is to do.
type Args struct {
	Echo int64  `msgpack:"echo" json:"echo"` // repeated in the output
	Ms   int64  `msgpack:"ms" json:"ms"`     // how long it takes
	Do   string `msgpack:"do" json:"do"`
	Pad  int    `msgpack:"pad" json:"pad"` // bytes that the output is longer by
}

// What a node can be told to do.
const (
	DoOK      = "ok"
	DoFail    = "fail"
	DoTimeout = "timeout" // it says that the handler ran out of time
	DoOnce    = "once"    // the first attempt is not answered
	DoNothing = "nothing" // no attempt is
)

// Config says which nodes a process has.
type Config struct {
	Members []string // addresses; a node has a session to each
	Prefix  string   // of the ids
	Count   int
	Seed    uint64
	Runs    string // path of the log of runs

	One      bool   // a node has one session, to one of the members at a time
	Calm     bool   // all nodes keep the rules, and answer fast
	Sessions string // path of the log of sessions, of [Change] lines; empty: none
}

// ID returns the id of node i.
func ID(prefix string, i int) string { return fmt.Sprintf("%s%04d", prefix, i) }

type character uint8

const (
	normal character = iota
	slow
	flaky
	replaying
)

// characterOf spreads the characters evenly: of ten nodes two are slow, one is flaky
// and one sends results again.
func characterOf(i int) character {
	switch i % 10 {
	case 3, 7:
		return slow
	case 5:
		return flaky
	case 8:
		return replaying
	}
	return normal
}

// Countries are where nodes are, Cities and Tags what else selectors may ask for.
var (
	Countries = []string{"AU", "DE", "JP", "NZ", "US"}
	Cities    = []string{"North", "South", "East"}
	Tags      = []string{"home", "datacenter", "mobile"}
)

func attributes(i int) protocol.Attributes {
	a := protocol.Attributes{
		Country: Countries[i%len(Countries)], City: Cities[i/2%len(Cities)], ASN: uint32(64500 + i%6),
		Platform: "linux/amd64", Tags: []string{Tags[i%len(Tags)]}, Kinds: []string{Echo},
	}
	if i%RareEvery == 0 {
		a.Kinds = append(a.Kinds, Rare)
	}
	return a
}

func random(seed uint64, i int) *rand.Rand { return rand.New(rand.NewPCG(seed, uint64(i))) }
