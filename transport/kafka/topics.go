package kafka

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

const (
	// DefaultPrefix starts the names of all topics of Roost.
	DefaultPrefix = "roost."
	// DefaultPartitions is the partition count of a new jobs topic. It bounds
	// how many members can share the work, and cannot be lowered later.
	DefaultPartitions = 16
	// MaxPartitions is the largest count that EnsureTopics creates.
	MaxPartitions = 10_000

	adminTimeout = 10 * time.Second
	backoffMin   = 500 * time.Millisecond
	backoffMax   = 10 * time.Second
)

// Topics names the topics of one Roost cluster.
type Topics struct{ Prefix string }

func (t Topics) name(s string) string {
	if t.Prefix == "" {
		return DefaultPrefix + s
	}
	return t.Prefix + s
}

// Jobs is the topic that jobs are read from.
func (t Topics) Jobs() string { return t.name("jobs") }

// Results is the topic that outcomes are written to.
func (t Topics) Results() string { return t.name("results") }

// Dead is the topic for records that cannot be understood.
func (t Topics) Dead() string { return t.name("dead") }

// State is the compacted topic of the shards' state, partitioned like the jobs topic.
func (t Topics) State() string { return t.name("state") }

// Progress is the compacted topic of the shards' low watermarks.
func (t Topics) Progress() string { return t.name("progress") }

// Members is the compacted topic by which members find each other.
func (t Topics) Members() string { return t.name("members") }

// Plan returns a plan with these names that accepts existing topics as they
// are and creates missing ones with defaults.
func (t Topics) Plan() TopicPlan {
	return TopicPlan{Jobs: t.Jobs(), Results: t.Results(), Dead: t.Dead(), State: t.State(), Progress: t.Progress(), Members: t.Members()}
}

// TopicPlan is what EnsureTopics brings about.
type TopicPlan struct {
	Jobs, Results, Dead string
	// State has as many partitions as Jobs, Progress and Members have one; all are compacted.
	State, Progress, Members string
	// Partitions of the jobs topic, and of a new results topic. 0 accepts
	// whatever exists and creates with DefaultPartitions.
	Partitions int
	// Replication factor of new topics. 0 leaves it to the broker's
	// default.replication.factor.
	Replication int
	// Retention of new topics but the compacted ones, which keep the newest
	// record of each key for ever; 0 leaves it to the broker. An embedded broker
	// has its own and ignores it.
	Retention time.Duration
}

// Info is what EnsureTopics found out.
type Info struct {
	Partitions int // of the jobs topic
	ClusterID  string
	Brokers    int
}

// TopicError says which topic is not as it must be, why, and what to do.
type TopicError struct {
	Topic, Problem, Remedy string
	Err                    error // from the broker; may be nil
}

// Error implements error.
func (e *TopicError) Error() string {
	s := fmt.Sprintf("kafka topic %q: %s", e.Topic, e.Problem)
	if e.Err != nil {
		s += " (" + e.Err.Error() + ")"
	}
	return s + "; " + e.Remedy
}

// Unwrap returns the broker's error.
func (e *TopicError) Unwrap() error { return e.Err }

func (p TopicPlan) validate() error {
	seen := map[string]bool{}
	for _, t := range []struct{ field, name string }{
		{"Jobs", p.Jobs}, {"Results", p.Results}, {"Dead", p.Dead}, {"State", p.State}, {"Progress", p.Progress}, {"Members", p.Members}} {
		if err := checkTopicName(t.name); err != nil {
			return fmt.Errorf("kafka: topic name %s: %w", t.field, err)
		}
		if seen[t.name] {
			return fmt.Errorf("kafka: topic name %s: %q is used twice", t.field, t.name)
		}
		seen[t.name] = true
	}
	if p.Partitions < 0 || p.Partitions > MaxPartitions {
		return fmt.Errorf("kafka: Partitions is %d: allowed is 0 (accept what exists) to %d", p.Partitions, MaxPartitions)
	}
	if p.Replication < 0 || p.Replication > 1000 {
		return fmt.Errorf("kafka: Replication is %d: allowed is 0 (the broker's default) to 1000", p.Replication)
	}
	if p.Retention < 0 {
		return fmt.Errorf("kafka: Retention is %s: it must not be negative", p.Retention)
	}
	return nil
}

// checkTopicName applies the rules of org.apache.kafka.common.internals.Topic.
func checkTopicName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > 249 {
		return fmt.Errorf("%q: want 1 to 249 characters, and neither . nor ..", name)
	}
	for _, r := range name {
		if !strings.ContainsRune("._-", r) && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') {
			return fmt.Errorf("%q: allowed are letters, digits, '.', '_' and '-'", name)
		}
	}
	return nil
}

// EnsureTopics creates the missing topics of the plan and validates the others.
// While the brokers cannot be reached it retries with backoff for as long as
// ctx lasts, and calls progress (which may be nil) before each wait. All other
// errors end it; those about a topic are a *TopicError.
func EnsureTopics(ctx context.Context, cfg Config, plan TopicPlan, progress func(err error, next time.Duration)) (Info, error) {
	if err := errors.Join(cfg.Validate(), plan.validate()); err != nil {
		return Info{}, err
	}
	a, err := newAdmin(cfg)
	if err != nil {
		return Info{}, err
	}
	defer a.close()
	for wait := backoffMin; ; wait = min(wait*2, backoffMax) {
		info, err := a.ensure(ctx, plan)
		if err == nil {
			return info, nil
		}
		if ctx.Err() != nil {
			return Info{}, fmt.Errorf("kafka at %s: %w", cfg.Bootstrap, errors.Join(context.Cause(ctx), err))
		}
		if Classify(err) != ClassRetry || !transient(err) {
			return Info{}, err
		}
		if progress != nil {
			progress(fmt.Errorf("kafka at %s: %w", cfg.Bootstrap, err), wait)
		}
		select {
		case <-ctx.Done():
			return Info{}, fmt.Errorf("kafka at %s: %w", cfg.Bootstrap, errors.Join(context.Cause(ctx), err))
		case <-time.After(wait):
		}
	}
}

// transient tells absence of the brokers from a refusal by them.
func transient(err error) bool {
	var te *TopicError
	if errors.As(err, &te) && te.Err == nil {
		return false
	}
	switch code(err) {
	case ck.ErrTransport, ck.ErrAllBrokersDown, ck.ErrTimedOut, ck.ErrTimedOutQueue, ck.ErrResolve,
		ck.ErrWaitCoord, ck.ErrRetry, ck.ErrSsl,
		ck.ErrNotController, ck.ErrBrokerNotAvailable, ck.ErrLeaderNotAvailable, ck.ErrNetworkException,
		ck.ErrRequestTimedOut, ck.ErrCoordinatorLoadInProgress, ck.ErrCoordinatorNotAvailable,
		ck.ErrNotLeaderForPartition, ck.ErrReplicaNotAvailable, ck.ErrKafkaStorageError,
		ck.ErrThrottlingQuotaExceeded:
		return true
	}
	return false
}
