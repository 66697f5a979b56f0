package member

import (
	"crypto/subtle"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/roost-server/roost/actors/gate"
	"github.com/roost-server/roost/actors/shard"
	"github.com/roost-server/roost/actors/supervisor"
	"github.com/roost-server/roost/cmd/roost/internal/api"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/transport/kafka"
	"github.com/roost-server/roost/transport/tcp"
)

// Config is everything a member is made from.
type Config struct {
	Name        string // of this member; told to nodes and written into results
	Version     string
	Nodes       tcp.Config // the nodes' port
	API         api.Config
	Kafka       kafka.Config
	Topics      kafka.TopicPlan
	Heartbeat   time.Duration // nodes send something at least this often
	AcceptAfter time.Duration // a job without result for this long is ACCEPTED
	NodeToken   string        // credential that nodes have to give; empty: none
	MaxPending  int           // jobs of one shard without all their outcomes; more are not read
	// MaxPendingBytes is the memory that the pending jobs of one shard may take.
	MaxPendingBytes int
	// CommitInterval is how long an outcome waits at most for others that are committed
	// in the same transaction; CommitOutcomes is how many do not wait.
	CommitInterval time.Duration
	CommitOutcomes int
	Cluster        ClusterConfig
	Policy         supervisor.Policy
	// AllowEmbedded lets the member work on the embedded broker.
	AllowEmbedded bool
	// Progress is told what the start waits for.
	Progress func(string)
}

// DefaultConfig returns the defaults; Kafka.Bootstrap is left to set.
func DefaultConfig() Config {
	name, err := os.Hostname()
	if err != nil {
		name = "roost"
	}
	nodes := tcp.DefaultConfig()
	nodes.Listen = "127.0.0.1:7400"
	return Config{
		Name: name, Version: "dev", Nodes: nodes,
		API:       api.Config{Listen: api.DefaultListen},
		Kafka:     kafka.DefaultConfig(),
		Topics:    kafka.Topics{}.Plan(),
		Heartbeat: 30 * time.Second, AcceptAfter: time.Second,
		MaxPending: shard.DefaultConfig().MaxPending, MaxPendingBytes: shard.DefaultConfig().MaxPendingBytes,
		CommitInterval: 50 * time.Millisecond, CommitOutcomes: 2000,
		Cluster: ClusterConfig{Name: "roost", Listen: "127.0.0.1:0", Board: true, MaxSkew: 2 * time.Second,
			DrainRate: 500, DrainTimeout: 5 * time.Minute},
		Policy: supervisor.DefaultPolicy(),
	}
}

// Validate refuses what cannot work, with the key and what is allowed.
func (c *Config) Validate() error {
	switch {
	case !protocol.ValidID(c.Name) || len(c.Name) > protocol.MaxTextBytes:
		return fmt.Errorf("name: %q; printable UTF-8 without spaces is expected, at most %d bytes", c.Name, protocol.MaxTextBytes)
	case c.Heartbeat < 100*time.Millisecond || c.Heartbeat > time.Hour:
		return fmt.Errorf("heartbeat: %v; allowed are 100ms to 1h", c.Heartbeat)
	case c.AcceptAfter < 10*time.Millisecond || c.AcceptAfter > time.Hour:
		return fmt.Errorf("accept-after: %v; allowed are 10ms to 1h", c.AcceptAfter)
	case len(c.NodeToken) > protocol.MaxCredentialBytes:
		return fmt.Errorf("node-token: %d bytes; at most %d are allowed", len(c.NodeToken), protocol.MaxCredentialBytes)
	case c.MaxPending < 1 || c.MaxPending > 10_000_000:
		return fmt.Errorf("max-pending: %d; allowed are 1 to 10000000", c.MaxPending)
	case c.CommitInterval < 5*time.Millisecond || c.CommitInterval > 5*time.Second:
		return fmt.Errorf("commit-interval: %v; allowed are 5ms to 5s", c.CommitInterval)
	case c.CommitOutcomes < 1 || c.CommitOutcomes > 100_000:
		return fmt.Errorf("commit-outcomes: %d; allowed are 1 to 100000", c.CommitOutcomes)
	case c.MaxPendingBytes < 1<<20:
		return fmt.Errorf("max-pending-bytes: %d; allowed are %d and more", c.MaxPendingBytes, 1<<20)
	}
	if err := c.validateNodes(); err != nil {
		return err
	}
	if err := c.Cluster.validate(); err != nil {
		return err
	}
	if err := c.Nodes.Validate(); err != nil {
		return err
	}
	return c.Kafka.Validate()
}

// validateNodes checks the settings of the nodes' port that users give, under the
// names that they know.
func (c *Config) validateNodes() error {
	if _, _, err := net.SplitHostPort(c.Nodes.Listen); err != nil {
		return fmt.Errorf("nodes-listen: %q; HOST:PORT is expected, such as 127.0.0.1:7400 or 0.0.0.0:7400", c.Nodes.Listen)
	}
	switch n := &c.Nodes; {
	case n.Loops < 0 || n.Loops > 1024:
		return fmt.Errorf("event-loops: %d; allowed are 0 to 1024", n.Loops)
	case n.MaxConns < 0:
		return fmt.Errorf("max-connections: %d; 0 or more is expected", n.MaxConns)
	case n.HelloTimeout < n.Tick || n.HelloTimeout > 24*time.Hour:
		return fmt.Errorf("hello-timeout: %v; allowed are %v to 24h", n.HelloTimeout, n.Tick)
	}
	return nil
}

// authenticator compares the node's credential with the token, in constant time.
func authenticator(token string) gate.Authenticator {
	if token == "" {
		return nil
	}
	want := []byte(token)
	return func(h *protocol.Hello) error {
		if subtle.ConstantTimeCompare(h.Credential, want) != 1 {
			return protocol.Errorf(protocol.ReasonUnauthenticated, "the credential is missing or wrong")
		}
		return nil
	}
}
