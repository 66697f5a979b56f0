//go:build linux

package fleet

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/roost-server/roost/loadtest/internal/nodes"
	"github.com/roost-server/roost/protocol"
)

// Defaults of [Config].
const (
	DefaultInFlight    = 500
	DefaultOpenTimeout = 10 * time.Second
	DefaultCredit      = 64
)

// MaxNodes is how many nodes a test may have.
const MaxNodes = 10_000_000

// portsPerSource is how many connections go from one loopback source address to one
// server address: Linux's default range of ephemeral ports has 28,232.
const portsPerSource = 20_000

// Config says what nodes to simulate. [Config.Validate] fills in the defaults.
type Config nodes.Spec

// Validate refuses what cannot work, naming the flag, and fills in the defaults.
func (c *Config) Validate() error {
	if c.NodePrefix == "" {
		c.NodePrefix = nodes.DefaultPrefix
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
	case c.Nodes < 1 || c.Nodes > MaxNodes:
		return fmt.Errorf("--nodes: %d; allowed are 1 to %d", c.Nodes, MaxNodes)
	case c.First < 0 || c.First > MaxNodes || c.Of != 0 && c.Of < c.First+c.Nodes || c.Of > MaxNodes:
		return fmt.Errorf("nodes %d to %d of %d: a part of the whole test is expected, which has at most %d", c.First, c.First+c.Nodes-1, c.Of, MaxNodes)
	case !protocol.ValidID(c.NodePrefix):
		return fmt.Errorf("--node-prefix: %q; printable characters without spaces are expected", c.NodePrefix)
	case len(c.ID(c.First)) > protocol.MaxNodeIDBytes:
		return fmt.Errorf("--node-prefix: %d bytes; at most %d are allowed", len(c.NodePrefix), protocol.MaxNodeIDBytes-8)
	case len(c.Credential) > protocol.MaxCredentialBytes:
		return fmt.Errorf("--credential: %d bytes; at most %d are allowed", len(c.Credential), protocol.MaxCredentialBytes)
	case c.Credit > protocol.MaxCredit:
		return fmt.Errorf("--credit: %d; allowed are 1 to %d", c.Credit, protocol.MaxCredit)
	case c.InFlight < 1:
		return fmt.Errorf("--in-flight: %d; at least 1 is needed", c.InFlight)
	case c.OpenTimeout < 0:
		return fmt.Errorf("--open-timeout: %v; a positive duration is expected", c.OpenTimeout)
	case c.RunFor < 0:
		return fmt.Errorf("run_for: %v; it cannot be negative", c.RunFor)
	}
	return c.checkSources()
}

// checkSources refuses sources that cannot reach the servers.
func (c *Config) checkSources() error {
	for _, src := range c.Sources {
		for _, s := range c.Servers {
			if src.Unmap().Is4() != s.Addr().Unmap().Is4() {
				return fmt.Errorf("--source: %v cannot reach %v: one is IPv4 and the other IPv6", src, s)
			}
		}
	}
	return nil
}

// ID returns the id of the node with a number, such as "sim-000123". All ids of a test
// have the same length.
func (c *Config) ID(number int) string { return (*nodes.Spec)(c).ID(number) }

// FilesNeeded is how many file descriptors the nodes and the process around them take.
func (c *Config) FilesNeeded() int { return c.Nodes + FilesReserve }

// FilesReserve is what the process needs besides node sockets: epoll, Kafka
// connections, standard streams and /proc.
const FilesReserve = 64

// source returns the address that node number i connects from, when it has to be chosen:
// one of Sources, or, where these are not given, one of loopback, when between two
// addresses of it there are fewer ports than nodes want. Each pair of source and server
// is used before any is used twice.
func (c *Config) source(i int) (netip.Addr, bool) {
	if n := len(c.Sources); n > 0 {
		return c.Sources[i/len(c.Servers)%n].Unmap(), true
	}
	perSource := portsPerSource * len(c.Servers)
	if (*nodes.Spec)(c).NumberOf() <= perSource {
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
