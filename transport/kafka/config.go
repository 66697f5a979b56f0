package kafka

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.uber.org/zap"
)

// Config is what every client of this package is made of. The zero value is
// not usable: start from [DefaultConfig].
type Config struct {
	// Bootstrap is a comma separated list of brokers, "host:port,host:port".
	Bootstrap string
	// Properties are passed on to librdkafka, for instance
	// "security.protocol", "sasl.mechanism", "ssl.ca.location". Properties
	// that Roost sets itself are refused by Validate.
	Properties map[string]string
	// ClientID names this process in the broker's logs and quotas.
	ClientID string
	// Group is the consumer group; all members of one cluster share it.
	Group string
	// SessionTimeout is how long the group waits for a silent member before
	// its partitions go to others. The broker refuses values below its own
	// group.min.session.timeout.ms (6 s unless changed).
	SessionTimeout time.Duration
	// MaxPollInterval is how long a Handler call may block before the group
	// takes the member for stuck.
	MaxPollInterval time.Duration
	// BatchRecords is the most records that the consumer delivers in one
	// poll round.
	BatchRecords int
	// QueuedMaxKBytes caps the records fetched ahead by the consumer (KiB).
	QueuedMaxKBytes int
	// BufferingMaxKBytes caps the bytes of the queue of a producer or transactor (KiB).
	BufferingMaxKBytes int
	// BufferingMaxMessages caps the records in that queue. A transaction may have more.
	BufferingMaxMessages int
	// Linger is how long a producer waits for more records to fill a batch; a transactor
	// waits 1 ms at most.
	Linger time.Duration
	// MaxMessageBytes is the largest record accepted for producing.
	MaxMessageBytes int
	// TransactionTimeout is how long the broker leaves a transaction open that its client
	// does not end, before it aborts it (Apache Kafka looks every 10 s, so up to 10 s
	// later). Until then readers and the next owner of its partitions wait, unless it is
	// fenced. It is also how long messages wait for their broker. Any value is safe: what
	// does not fit in is aborted and tried again. But one below what brokers pause for, 9 s
	// when one dies (broker.session.timeout.ms), turns every such pause into that.
	TransactionTimeout time.Duration
	// BlockedAfter is when ReadState begins to tell that an open transaction is in its way;
	// 0: 2 s. A member that lives ends its transactions well within that.
	BlockedAfter time.Duration
	// OnState, when not nil, is called when a client ("consumer", "producer" or
	// "transactor") loses or regains the brokers. It is called from a
	// goroutine of the client and must not block.
	OnState func(client string, reachable bool, cause error)
}

func (c *Config) blockedAfter() time.Duration {
	if c.BlockedAfter <= 0 {
		return 2 * time.Second
	}
	return c.BlockedAfter
}

// DefaultConfig returns the defaults; only Bootstrap is left to set.
func DefaultConfig() Config {
	return Config{
		ClientID:             "roost",
		Group:                "roost",
		SessionTimeout:       6 * time.Second,
		MaxPollInterval:      time.Minute,
		BatchRecords:         1024,
		QueuedMaxKBytes:      16 << 10,
		BufferingMaxKBytes:   64 << 10,
		BufferingMaxMessages: 100_000,
		Linger:               5 * time.Millisecond,
		TransactionTimeout:   10 * time.Second,
		MaxMessageBytes:      1_000_000, // librdkafka's default, below the broker's 1,048,588
	}
}

// ownedProperties are set by this package because its promises rest on them;
// the value says which setting to use instead.
var ownedProperties = map[string]string{
	"acks":                                  "always all",
	"auto.commit.enable":                    "always false",
	"auto.commit.interval.ms":               "offsets are committed in transactions",
	"auto.offset.reset":                     "always earliest",
	"bootstrap.servers":                     "Bootstrap",
	"client.id":                             "ClientID",
	"delivery.report.only.error":            "always false",
	"delivery.timeout.ms":                   "records never expire",
	"enable.auto.commit":                    "always false",
	"enable.auto.offset.store":              "always false",
	"enable.gapless.guarantee":              "always false",
	"enable.idempotence":                    "always true",
	"enable.metrics.push":                   "always false",
	"enable.partition.eof":                  "always false",
	"group.id":                              "Group",
	"group.instance.id":                     "members are dynamic",
	"group.protocol":                        "always classic",
	"group.remote.assignor":                 "always classic",
	"heartbeat.interval.ms":                 "derived from SessionTimeout",
	"isolation.level":                       "always read_committed",
	"linger.ms":                             "Linger",
	"log.queue":                             "always true",
	"max.in.flight":                         "set by idempotence",
	"max.in.flight.requests.per.connection": "set by idempotence",
	"max.poll.interval.ms":                  "MaxPollInterval",
	"message.max.bytes":                     "MaxMessageBytes",
	"message.send.max.retries":              "records are retried for ever",
	"message.timeout.ms":                    "records never expire",
	"metadata.broker.list":                  "Bootstrap",
	"partition.assignment.strategy":         "always cooperative-sticky",
	"partitioner":                           "always murmur2_random",
	"plugin.library.paths":                  "plugins are not loaded",
	"queue.buffering.max.kbytes":            "BufferingMaxKBytes",
	"queue.buffering.max.messages":          "BufferingMaxMessages",
	"queue.buffering.max.ms":                "Linger",
	"queued.max.messages.kbytes":            "QueuedMaxKBytes",
	"request.required.acks":                 "always all",
	"retries":                               "records are retried for ever",
	"session.timeout.ms":                    "SessionTimeout",
	"transaction.timeout.ms":                "TransactionTimeout",
	"transactional.id":                      "named after the member",
}

// Validate refuses what cannot work, with the name of the setting, the value
// and what is allowed. It does not touch the network. Names and values inside
// Properties that librdkafka does not know are refused when a client is made.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("kafka: "+format, args...)) }
	if strings.TrimSpace(c.Bootstrap) == "" {
		bad("Bootstrap is empty: give at least one broker as host:port")
	} else {
		for _, hp := range strings.Split(c.Bootstrap, ",") {
			if err := checkHostPort(strings.TrimSpace(hp)); err != nil {
				bad("Bootstrap %q: %v", hp, err)
			}
		}
	}
	if c.ClientID == "" {
		bad("ClientID is empty")
	}
	if c.Group == "" {
		bad("Group is empty: all members of a cluster share one group name")
	}
	durations := []struct {
		name     string
		v        time.Duration
		min, max time.Duration
	}{
		{"SessionTimeout", c.SessionTimeout, time.Second, 5 * time.Minute},
		{"MaxPollInterval", c.MaxPollInterval, time.Second, 24 * time.Hour},
		{"Linger", c.Linger, 0, 900 * time.Second},
		{"TransactionTimeout", c.TransactionTimeout, 2 * time.Second, 15 * time.Minute},
	}
	for _, d := range durations {
		if d.v < d.min || d.v > d.max {
			bad("%s is %s: allowed is %s to %s", d.name, d.v, d.min, d.max)
		}
	}
	if c.MaxPollInterval < c.SessionTimeout {
		bad("MaxPollInterval (%s) must not be below SessionTimeout (%s)", c.MaxPollInterval, c.SessionTimeout)
	}
	ints := []struct {
		name     string
		v        int
		min, max int
	}{
		{"BatchRecords", c.BatchRecords, 1, 100_000},
		{"QueuedMaxKBytes", c.QueuedMaxKBytes, 1, 2_097_151},
		{"BufferingMaxKBytes", c.BufferingMaxKBytes, 1, 2_147_483_647},
		{"BufferingMaxMessages", c.BufferingMaxMessages, 1, 10_000_000},
		{"MaxMessageBytes", c.MaxMessageBytes, 1000, 100_000_000},
	}
	for _, i := range ints {
		if i.v < i.min || i.v > i.max {
			bad("%s is %d: allowed is %d to %d", i.name, i.v, i.min, i.max)
		}
	}
	if c.BufferingMaxKBytes < c.MaxMessageBytes>>10 {
		bad("BufferingMaxKBytes (%d KiB) must hold at least one record of MaxMessageBytes (%d)", c.BufferingMaxKBytes, c.MaxMessageBytes)
	}
	c.checkProperties(bad)
	return errors.Join(errs...)
}

func (c Config) checkProperties(bad func(format string, args ...any)) {
	for _, k := range sortedKeys(c.Properties) {
		if why, owned := ownedProperties[k]; owned {
			bad("property %q is set by Roost (%s) and cannot be given", k, why)
		} else if strings.HasPrefix(k, "go.") || strings.HasPrefix(k, "{topic}") || k == "" {
			bad("property %q is not a setting of librdkafka", k)
		}
	}
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// checkHostPort accepts "host:port" and "[v6]:port".
func checkHostPort(hp string) error {
	host, port, err := net.SplitHostPort(hp)
	if err != nil {
		return fmt.Errorf("want host:port: %w", err)
	}
	if host == "" {
		return errors.New("want host:port, the host is empty")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return fmt.Errorf("port %q: want 1 to 65535", port)
	}
	return nil
}

// common is the part of the librdkafka configuration that all clients share.
// The user's properties come first, so that nothing of ours is overwritten.
func (c Config) common() ck.ConfigMap {
	m := ck.ConfigMap{
		// Defaults that Properties may change.
		"socket.nagle.disable":               true, // small requests must not wait for an ACK
		"socket.keepalive.enable":            true,
		"socket.timeout.ms":                  15000,
		"socket.connection.setup.timeout.ms": 10000,
		"reconnect.backoff.ms":               50,
		"reconnect.backoff.max.ms":           1000, // the default of 10 s delays the return of a broker
		"retry.backoff.max.ms":               1000,
		"log.connection.close":               false,
	}
	for k, v := range c.Properties {
		m[k] = v
	}
	m["bootstrap.servers"] = c.Bootstrap
	m["client.id"] = c.ClientID
	m["enable.metrics.push"] = false
	m["message.max.bytes"] = c.MaxMessageBytes
	m["go.logs.channel.enable"] = true
	return m
}

// heartbeat is a third of the session, and at most 1 s: a rebalance is learnt of by it.
func (c Config) heartbeat() time.Duration { return min(c.SessionTimeout/3, time.Second) }

func (c Config) consumerMap(logs chan ck.LogEvent) ck.ConfigMap {
	m := c.common()
	setDefault(m, "fetch.min.bytes", 1)
	setDefault(m, "fetch.wait.max.ms", 100)    // a new partition waits for the running fetch to end
	setDefault(m, "fetch.queue.backoff.ms", 5) // the default of 1 s stalls a full queue for as long
	setDefault(m, "queued.min.messages", 10000)
	setDefault(m, "fetch.max.bytes", max(8<<20, c.MaxMessageBytes))
	setDefault(m, "fetch.message.max.bytes", max(1<<20, c.MaxMessageBytes))
	setDefault(m, "allow.auto.create.topics", false)
	m["group.id"] = c.Group
	m["group.protocol"] = "classic"
	m["partition.assignment.strategy"] = "cooperative-sticky"
	m["session.timeout.ms"] = int(c.SessionTimeout.Milliseconds())
	m["heartbeat.interval.ms"] = int(c.heartbeat().Milliseconds())
	m["max.poll.interval.ms"] = int(c.MaxPollInterval.Milliseconds())
	m["isolation.level"] = "read_committed"
	m["enable.auto.commit"] = false
	m["enable.auto.offset.store"] = false
	m["enable.partition.eof"] = false
	m["auto.offset.reset"] = "earliest"
	m["queued.max.messages.kbytes"] = c.QueuedMaxKBytes
	m["go.logs.channel"] = logs
	return m
}

func (c Config) producerMap(logs chan ck.LogEvent) ck.ConfigMap {
	m := c.common()
	m["enable.idempotence"] = true
	m["acks"] = "all"
	m["partitioner"] = "murmur2_random"
	m["message.timeout.ms"] = 0 // never: what was accepted must outlast any absence of the broker
	m["linger.ms"] = fmt.Sprintf("%g", float64(c.Linger.Microseconds())/1000)
	m["queue.buffering.max.messages"] = c.BufferingMaxMessages
	m["queue.buffering.max.kbytes"] = c.BufferingMaxKBytes
	m["go.delivery.report.fields"] = "none"
	m["go.events.channel.size"] = 4096
	m["go.produce.channel.size"] = 0
	m["go.logs.channel"] = logs
	return m
}

// transactorMap differs from producerMap in that a message may fail, which fails its
// transaction, and that nothing is told of those that are delivered.
func (c Config) transactorMap(id string, batchBytes int, logs chan ck.LogEvent) ck.ConfigMap {
	m := c.producerMap(logs)
	timeoutMs := int(c.TransactionTimeout.Milliseconds())
	m["transactional.id"] = id
	m["transaction.timeout.ms"] = timeoutMs
	m["message.timeout.ms"] = timeoutMs
	// A request to a silent broker has to fail while there is time to try another.
	if set, err := strconv.Atoi(fmt.Sprint(m["socket.timeout.ms"])); err != nil || set > timeoutMs/2 {
		m["socket.timeout.ms"] = timeoutMs / 2
	}
	// Messages come in one go and are waited for: lingering only adds to that.
	m["linger.ms"] = fmt.Sprintf("%g", float64(min(c.Linger, maxTxLinger).Microseconds())/1000)
	if _, set := m["batch.size"]; !set || batchBytes < maxBatchBytes {
		m["batch.size"] = batchBytes
	}
	m["go.delivery.reports"] = false
	m["go.events.channel.size"] = 64
	return m
}

func setDefault(m ck.ConfigMap, k string, v ck.ConfigValue) {
	if _, ok := m[k]; !ok {
		m[k] = v
	}
}

// logPump forwards librdkafka's log lines to zap until stop is closed.
func logPump(log *zap.Logger, logs <-chan ck.LogEvent, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case e := <-logs:
			fields := []zap.Field{zap.String("client", e.Name), zap.String("tag", e.Tag)}
			switch {
			case e.Level <= 4: // errors too: connection failures have level 3 and heal by themselves
				log.Warn(e.Message, fields...)
			case e.Level <= 6:
				log.Info(e.Message, fields...)
			default:
				log.Debug(e.Message, fields...)
			}
		}
	}
}
