//go:build linux

package fleet

import (
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/roost-server/roost/protocol"
)

// Defaults of [Config].
const (
	DefaultInFlight    = 500
	DefaultOpenTimeout = 10 * time.Second
	DefaultCredit      = 64
)

// portsPerSource is how many connections go from one loopback source address to one
// server address: Linux's default range of ephemeral ports has 28,232.
const portsPerSource = 20_000

// Config says what nodes to simulate. [Config.Validate] fills in the defaults.
type Config struct {
	Servers     []netip.AddrPort // where nodes connect, in turn
	Nodes       int              // how many
	NodePrefix  string           // of node ids, before the number; default "sim-"
	Seed        uint64           // of attributes and jitter
	Credential  []byte           // sent in HELLO; may be empty
	Credit      uint32           // jobs at once that a node asks for
	InFlight    int              // nodes between dialling and WELCOME at a time
	OpenTimeout time.Duration    // from dialling to WELCOME

	// OnJob sees the args of each JOB as it is received, on the loop, right before it
	// is answered; the answer leaves with the one write that ends the same read. What
	// it changes in args, it changes in the output. It may be nil, and must not keep
	// args.
	OnJob func(args []byte)
}

// Validate refuses what cannot work, naming the flag, and fills in the defaults.
func (c *Config) Validate() error {
	if c.NodePrefix == "" {
		c.NodePrefix = "sim-"
	}
	if c.Credit == 0 {
		c.Credit = DefaultCredit
	}
	if c.InFlight == 0 {
		c.InFlight = DefaultInFlight
	}
	if c.OpenTimeout == 0 {
		c.OpenTimeout = DefaultOpenTimeout
	}
	switch {
	case len(c.Servers) == 0:
		return fmt.Errorf("--server: no address; host:port is expected")
	case c.Nodes < 1 || c.Nodes > 10_000_000:
		return fmt.Errorf("--nodes: %d; allowed are 1 to 10000000", c.Nodes)
	case !protocol.ValidID(c.NodePrefix):
		return fmt.Errorf("--node-prefix: %q; printable characters without spaces are expected", c.NodePrefix)
	case len(c.ID(c.Nodes-1)) > protocol.MaxNodeIDBytes:
		return fmt.Errorf("--node-prefix: %d bytes; at most %d are allowed", len(c.NodePrefix), protocol.MaxNodeIDBytes-8)
	case len(c.Credential) > protocol.MaxCredentialBytes:
		return fmt.Errorf("--credential: %d bytes; at most %d are allowed", len(c.Credential), protocol.MaxCredentialBytes)
	case c.Credit > protocol.MaxCredit:
		return fmt.Errorf("--credit: %d; allowed are 1 to %d", c.Credit, protocol.MaxCredit)
	case c.InFlight < 1:
		return fmt.Errorf("--in-flight: %d; at least 1 is needed", c.InFlight)
	case c.OpenTimeout < 0:
		return fmt.Errorf("--open-timeout: %v; a positive duration is expected", c.OpenTimeout)
	}
	return nil
}

// ID returns the id of node i, such as "sim-000123". All ids of a configuration have
// the same length.
func (c *Config) ID(i int) string { return string(c.appendID(nil, i)) }

func (c *Config) appendID(dst []byte, i int) []byte {
	dst = append(dst, c.NodePrefix...)
	width := 6
	for n := 1_000_000; n < c.Nodes; n *= 10 {
		width++
	}
	var digits [20]byte
	d := strconv.AppendInt(digits[:0], int64(i), 10)
	for range width - len(d) {
		dst = append(dst, '0')
	}
	return append(dst, d...)
}

// FilesNeeded is how many file descriptors the nodes and the process around them take.
func (c *Config) FilesNeeded() int { return c.Nodes + FilesReserve }

// FilesReserve is what the process needs besides node sockets: epoll, Kafka
// connections, standard streams and /proc.
const FilesReserve = 64

// source returns the address that node i connects from, when it has to be chosen:
// between two loopback addresses there are fewer ports than nodes may want.
func (c *Config) source(i int) (netip.Addr, bool) {
	perSource := portsPerSource * len(c.Servers)
	if c.Nodes <= perSource {
		return netip.Addr{}, false
	}
	for _, s := range c.Servers {
		if a := s.Addr().Unmap(); !a.Is4() || !a.IsLoopback() {
			return netip.Addr{}, false
		}
	}
	k := i/perSource + 1
	return netip.AddrFrom4([4]byte{127, 64, byte(k >> 8), byte(k)}), true
}
