package cli

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/cobra"

	"github.com/roost-server/roost/cmd/roost/internal/member"
	"github.com/roost-server/roost/transport/kafka"
	"github.com/roost-server/roost/transport/tcp"
)

// envPrefix starts the environment variables that settings may come from:
// ROOST_NODE_TOKEN is --node-token.
const envPrefix = "ROOST_"

// addMemberFlags adds the settings of a member. Their names are the keys in a
// configuration file and, upper case with ROOST_ before and _ for -, in the
// environment.
func addMemberFlags(cmd *cobra.Command, d *member.Config) {
	f := cmd.Flags()
	f.String("name", d.Name, "this member's name: told to nodes and written into results")
	f.String("nodes-listen", d.Nodes.Listen, "HOST:PORT where nodes connect; port 0 lets the system choose")
	f.String("api-listen", d.API.Listen, "HOST:PORT of the HTTP API")
	f.String("api-token", "", "bearer token that the API asks for; better given as ROOST_API_TOKEN")
	f.Bool("api-open", false, "let the API listen on any address without a token")
	f.String("node-token", "", "credential that nodes have to give; better given as ROOST_NODE_TOKEN")
	f.Int("event-loops", d.Nodes.Loops, "event loops for sockets; 0: one for each processor")
	f.Int("max-connections", d.Nodes.MaxConns, "sockets above which new ones are refused; 0: as the file limit allows")
	f.Duration("heartbeat", d.Heartbeat, "nodes send something at least this often")
	f.Duration("hello-timeout", d.Nodes.HelloTimeout, "how long a connection may take to say HELLO")
	f.Duration("commit-interval", d.CommitInterval, "how long an outcome waits for others of the same Kafka transaction, 5ms to 5s")
	f.Int("commit-outcomes", d.CommitOutcomes, "outcomes that do not wait for more, 1 to 100000")
	f.Int("max-pending", d.MaxPending, "pending jobs of one partition above which it is not read")
	f.String("max-pending-bytes", formatSize(d.MaxPendingBytes), "memory of one partition's pending jobs above which it is not read, in bytes or such as 64MiB")
	f.Int("partitions", 0, "partitions of the jobs topic; 0: those it has, or 16 when it is created")
	f.Int("replication", 0, "replication factor of topics that are created; 0: the broker's default")
	f.String("topic-prefix", kafka.DefaultPrefix, "what the topics' names start with")
	f.String("group", d.Kafka.Group, "consumer group that the members share")
	f.String("cluster", d.Cluster.Name, "name of the cluster; members of another one are refused")
	f.String("cluster-listen", d.Cluster.Listen, "HOST:PORT for the other members of the cluster; empty: this one stays alone")
	f.String("cluster-advertise", "", "HOST:PORT where the others reach this member; empty: where it listens")
	f.StringSlice("cluster-seeds", nil, "HOST:PORT of other members, comma separated")
	f.String("cluster-dns", "", "name whose addresses (NAME:PORT) or SRV records (_service._proto.NAME) are other members")
	f.String("cluster-discovery", "kafka", "kafka: members find each other through a topic too; static: by seeds and DNS only")
	f.String("cluster-tls-ca", "", "certificate of the authority that signs members' certificates; see \"roost certs\"")
	f.String("cluster-tls-cert", "", "certificate of this member, for its --name")
	f.String("cluster-tls-key", "", "key of this member's certificate")
	f.Bool("cluster-insecure", false, "talk to other members in plaintext beyond this machine")
	f.Duration("cluster-clock-skew", d.Cluster.MaxSkew, "members whose clocks are further apart are refused")
	f.String("nodes-advertise", "", "HOST:PORT where nodes reach this member; empty: where it listens")
	f.String("api-advertise", "", "HOST:PORT where the API is reached; empty: where it listens")
	f.Int("drain-rate", d.Cluster.DrainRate, "nodes that are sent to other members a second, at most, when this one is drained")
	f.Duration("drain-timeout", d.Cluster.DrainTimeout, "how long a stop waits until all nodes have gone to other members; 0s: not at all")
	f.Int("rebalance-threshold", d.Cluster.RebalanceThreshold, "percent above the average at which this member sends nodes to others by itself; 0: never")
	f.Bool("proxy-protocol", false, "a load balancer in front of the nodes' port says with PROXY protocol version 2 who connects; without that nobody is let in")
	f.StringSlice("proxy-from", nil, "networks, such as 10.0.0.0/24, whose balancers are believed; empty: any")
	f.Duration("session-timeout", d.Kafka.SessionTimeout, "how long the consumer group waits for a silent member before its partitions go to others; brokers refuse less than their group.min.session.timeout.ms, 6s unless changed")
	f.String("pprof-listen", "", "loopback HOST:PORT for the Go profiler; empty: none")
	f.String("log-level", "info", "debug, info, warn or error")
	f.String("log-format", "text", "text or json")
}

// settings are the values from flags, environment and file, in this order.
type settings struct{ k *koanf.Koanf }

// loadSettings reads the configuration file, if one is named, then the environment,
// then the flags that were given. Keys that no flag has are refused.
func loadSettings(cmd *cobra.Command) (*settings, error) {
	s := &settings{k: koanf.New("/")}
	if path, _ := cmd.Flags().GetString("config"); path != "" {
		if err := s.k.Load(file.Provider(path), yaml.Parser()); err != nil {
			return nil, fmt.Errorf("--config: %w", err)
		}
		for _, key := range s.k.Keys() {
			if cmd.Flags().Lookup(key) == nil && !strings.HasPrefix(key, propertiesKey+"/") {
				return nil, fmt.Errorf("%s: unknown key %q; allowed are the names of the flags (see \"roost serve --help\") and the map %s", path, key, propertiesKey)
			}
		}
	}
	err := s.k.Load(env.Provider("/", env.Opt{Prefix: envPrefix, TransformFunc: func(k, v string) (string, any) {
		name := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(k, envPrefix)), "_", "-")
		if cmd.Flags().Lookup(name) == nil {
			return "", nil // such as ROOST_API, which is for other commands
		}
		return name, v
	}}), nil)
	if err != nil {
		return nil, fmt.Errorf("environment: %w", err)
	}
	if err := s.k.Load(posflag.Provider(cmd.Flags(), "/", s.k), nil); err != nil {
		return nil, err
	}
	return s, nil
}

// propertiesKey is the map of librdkafka's own settings in a configuration file.
const propertiesKey = "kafka-properties"

// apply fills a member's configuration.
func (s *settings) apply(c *member.Config) error {
	c.Version = Version
	c.Name = s.k.String("name")
	c.Nodes.Listen = s.k.String("nodes-listen")
	c.Nodes.Loops = s.k.Int("event-loops")
	c.Nodes.MaxConns = s.k.Int("max-connections")
	c.API.Listen, c.API.Token, c.API.AllowOpen = s.k.String("api-listen"), s.k.String("api-token"), s.k.Bool("api-open")
	c.NodeToken = s.k.String("node-token")
	c.Topics = kafka.Topics{Prefix: s.k.String("topic-prefix")}.Plan()
	c.Topics.Partitions, c.Topics.Replication = s.k.Int("partitions"), s.k.Int("replication")
	c.Kafka.Group = s.k.String("group")
	if err := s.proxy(&c.Nodes); err != nil {
		return err
	}
	if err := s.cluster(&c.Cluster); err != nil {
		return err
	}
	var err error
	if c.CommitInterval, err = s.duration("commit-interval"); err != nil {
		return err
	}
	if c.CommitOutcomes, err = s.integer("commit-outcomes"); err != nil {
		return err
	}
	if c.MaxPending, err = s.integer("max-pending"); err != nil {
		return err
	}
	if c.MaxPendingBytes, err = parseSize(fmt.Sprint(s.k.Get("max-pending-bytes"))); err != nil {
		return fmt.Errorf("max-pending-bytes: %w", err)
	}
	if c.Kafka.SessionTimeout, err = s.duration("session-timeout"); err != nil {
		return err
	}
	if c.Heartbeat, err = s.duration("heartbeat"); err != nil {
		return err
	}
	if c.Nodes.HelloTimeout, err = s.duration("hello-timeout"); err != nil {
		return err
	}
	if c.Kafka.Properties, err = s.properties(); err != nil {
		return err
	}
	return nil
}

// cluster fills in what has to do with other members.
func (s *settings) cluster(c *member.ClusterConfig) error {
	c.Name, c.Listen, c.Advertise = s.k.String("cluster"), s.k.String("cluster-listen"), s.k.String("cluster-advertise")
	c.Seeds, c.DNS = s.list("cluster-seeds"), s.k.String("cluster-dns")
	c.CA, c.Cert, c.Key = s.k.String("cluster-tls-ca"), s.k.String("cluster-tls-cert"), s.k.String("cluster-tls-key")
	c.Insecure = s.k.Bool("cluster-insecure")
	c.NodesAdvertise, c.APIAdvertise = s.k.String("nodes-advertise"), s.k.String("api-advertise")
	switch d := s.k.String("cluster-discovery"); d {
	case "kafka", "static":
		c.Board = d == "kafka"
	default:
		return fmt.Errorf("cluster-discovery: %q; allowed are kafka and static", d)
	}
	var err error
	if c.MaxSkew, err = s.duration("cluster-clock-skew"); err != nil {
		return err
	}
	if c.DrainRate, err = s.integer("drain-rate"); err != nil {
		return err
	}
	if c.RebalanceThreshold, err = s.integer("rebalance-threshold"); err != nil {
		return err
	}
	c.DrainTimeout, err = s.duration("drain-timeout")
	return err
}

// proxy fills in what has to do with a balancer in front of the nodes' port.
func (s *settings) proxy(c *tcp.Config) error {
	c.ProxyProtocol = s.k.Bool("proxy-protocol")
	for _, text := range s.list("proxy-from") {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("proxy-from: %q; a network such as 10.0.0.0/24 is expected", text)
		}
		c.ProxyFrom = append(c.ProxyFrom, p)
	}
	return nil
}

// list reads a list of a file or flag, or the environment's comma separated one.
func (s *settings) list(key string) []string {
	one, ok := s.k.Get(key).(string)
	switch {
	case !ok:
		return s.k.Strings(key)
	case one == "":
		return nil
	}
	return strings.Split(one, ",")
}

// duration refuses what koanf would read as nanoseconds or zero.
func (s *settings) duration(key string) (time.Duration, error) {
	d, err := time.ParseDuration(fmt.Sprint(s.k.Get(key)))
	if err != nil {
		return 0, fmt.Errorf("%s: %q; a duration such as 30s or 1m30s is expected", key, fmt.Sprint(s.k.Get(key)))
	}
	return d, nil
}

// integer refuses what koanf would read as zero.
func (s *settings) integer(key string) (int, error) {
	n, err := strconv.Atoi(fmt.Sprint(s.k.Get(key)))
	if err != nil {
		return 0, fmt.Errorf("%s: %q; a whole number is expected", key, fmt.Sprint(s.k.Get(key)))
	}
	return n, nil
}

var sizeUnits = []struct {
	name  string
	bytes int
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

// parseSize reads a number of bytes, alone or with a unit.
func parseSize(s string) (int, error) {
	digits, unit := strings.TrimSpace(s), 1
	for _, u := range sizeUnits {
		if n, ok := strings.CutSuffix(digits, u.name); ok {
			digits, unit = strings.TrimSpace(n), u.bytes
			break
		}
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 0 || n > math.MaxInt/unit {
		return 0, fmt.Errorf("%q; a number of bytes, or one with KiB, MiB or GiB, is expected, such as 64MiB", s)
	}
	return n * unit, nil
}

// formatSize writes a number of bytes as parseSize reads it.
func formatSize(n int) string {
	for _, u := range sizeUnits {
		if n > 0 && n%u.bytes == 0 {
			return strconv.Itoa(n/u.bytes) + u.name
		}
	}
	return strconv.Itoa(n)
}

// properties joins the file's map and the flags --kafka-set KEY=VALUE.
func (s *settings) properties() (map[string]string, error) {
	out := map[string]string{}
	for k, v := range s.k.Cut(propertiesKey).All() {
		out[strings.ReplaceAll(k, "/", ".")] = fmt.Sprint(v)
	}
	for _, kv := range s.k.Strings("kafka-set") {
		k, v, ok := strings.Cut(kv, "=")
		if !ok {
			return nil, fmt.Errorf("--kafka-set: %q; KEY=VALUE is expected, such as security.protocol=SASL_SSL", kv)
		}
		out[k] = v
	}
	return out, nil
}
