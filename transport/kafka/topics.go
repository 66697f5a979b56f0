package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.uber.org/zap"
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

// Plan returns a plan with these names that accepts existing topics as they
// are and creates missing ones with defaults.
func (t Topics) Plan() TopicPlan {
	return TopicPlan{Jobs: t.Jobs(), Results: t.Results(), Dead: t.Dead()}
}

// TopicPlan is what EnsureTopics brings about.
type TopicPlan struct {
	Jobs, Results, Dead string
	// Partitions of the jobs topic, and of a new results topic. 0 accepts
	// whatever exists and creates with DefaultPartitions.
	Partitions int
	// Replication factor of new topics. 0 leaves it to the broker's
	// default.replication.factor.
	Replication int
	// Retention of new topics; 0 leaves it to the broker. An embedded broker
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
	for _, t := range []struct{ field, name string }{{"Jobs", p.Jobs}, {"Results", p.Results}, {"Dead", p.Dead}} {
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

// admin is a client for topics. It rests on a producer handle, whose events
// tell why the brokers cannot be reached; the admin requests only time out.
type admin struct {
	p      *ck.Producer
	a      *ck.AdminClient
	stop   chan struct{}
	done   chan struct{}
	causes chan ck.Error // the newest connection error, buffered
	down   chan struct{} // a token when all brokers were found to be down
}

func newAdmin(cfg Config) (*admin, error) {
	logs := make(chan ck.LogEvent, 64)
	m := cfg.common()
	m["go.logs.channel"] = logs
	m["go.events.channel.size"] = 64
	m["go.produce.channel.size"] = 0
	p, err := ck.NewProducer(&m)
	if err != nil {
		return nil, configError(err)
	}
	a, err := ck.NewAdminClientFromProducer(p)
	if err != nil {
		p.Close()
		return nil, configError(err)
	}
	ad := &admin{p: p, a: a, stop: make(chan struct{}), done: make(chan struct{}),
		causes: make(chan ck.Error, 1), down: make(chan struct{}, 1)}
	go ad.listen(logs)
	return ad, nil
}

func (a *admin) listen(logs <-chan ck.LogEvent) {
	defer close(a.done)
	go logPump(zap.NewNop(), logs, a.stop)
	for ev := range a.p.Events() {
		e, ok := ev.(ck.Error)
		if !ok {
			continue
		}
		if e.Code() == ck.ErrAllBrokersDown { // the cause came before
			select {
			case a.down <- struct{}{}:
			default:
			}
			continue
		}
		select {
		case <-a.causes: //nolint:errcheck // only the newest cause is of interest
		default:
		}
		a.causes <- e
	}
}

func (a *admin) close() {
	a.a.Close()
	a.p.Close()
	close(a.stop)
	<-a.done
}

// explain replaces a time-out by the connection error behind it.
func (a *admin) explain(err error) error {
	switch code(err) {
	case ck.ErrTimedOut, ck.ErrTransport, ck.ErrAllBrokersDown, ck.ErrTimedOutQueue:
	default:
		if !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		err = ck.NewError(ck.ErrTimedOut, "the brokers did not answer in time", false)
	}
	select {
	case cause := <-a.causes:
		if cause.Code() == ck.ErrAuthentication {
			return &Error{Class: ClassFatal, Op: "connect", Err: fmt.Errorf("the brokers refuse the credentials (check the sasl.* and ssl.* properties): %w", cause)}
		}
		return cause
	default:
		return err
	}
}

// ensure is one attempt.
func (a *admin) ensure(ctx context.Context, plan TopicPlan) (Info, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	cl, err := a.describeCluster(ctx)
	if err != nil {
		return Info{}, a.explain(err)
	}
	info := Info{Brokers: len(cl.Nodes)}
	if cl.ClusterID != nil {
		info.ClusterID = *cl.ClusterID
	}
	names := []string{plan.Jobs, plan.Results, plan.Dead}
	found, err := a.describe(ctx, names)
	if err != nil {
		return Info{}, err
	}
	if IsEmbedded(info.ClusterID) {
		plan.Retention = 0
	}
	if err := a.create(ctx, plan, missing(names, found), info.Brokers); err != nil {
		return Info{}, err
	}
	for len(missing(names, found)) > 0 { // creation reaches all brokers' metadata a little later
		if found, err = a.describe(ctx, names); err != nil {
			return Info{}, err
		}
		select {
		case <-ctx.Done():
			return Info{}, ck.NewError(ck.ErrTimedOut, "new topics did not become visible in time", false)
		case <-time.After(20 * time.Millisecond):
		}
	}
	info.Partitions = found[plan.Jobs]
	if plan.Partitions > 0 && info.Partitions != plan.Partitions {
		return Info{}, &TopicError{
			Topic:   plan.Jobs,
			Problem: fmt.Sprintf("it has %d partitions, but %d are asked for", info.Partitions, plan.Partitions),
			Remedy: fmt.Sprintf("ask for %d, or for 0 to accept whatever exists; to change the count, stop all producers, "+
				"let the jobs drain, and recreate the topic (adding partitions moves keys to others)", info.Partitions),
		}
	}
	return info, a.checkCleanup(ctx, plan.Jobs, plan.Results)
}

// describeCluster gives up as soon as no broker can be connected to.
func (a *admin) describeCluster(ctx context.Context) (ck.DescribeClusterResult, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	select {
	case <-a.down: // of an earlier attempt
	default:
	}
	gone := make(chan bool, 1)
	go func() {
		select {
		case <-a.down:
			gone <- true
			cancel()
		case <-ctx.Done():
			gone <- false
		}
	}()
	cl, err := a.a.DescribeCluster(ctx, ck.SetAdminRequestTimeout(adminTimeout/2))
	cancel()
	if <-gone && err != nil {
		err = ck.NewError(ck.ErrAllBrokersDown, "no broker can be connected to", false)
	}
	return cl, err
}

func missing(names []string, found map[string]int) []string {
	var m []string
	for _, n := range names {
		if _, ok := found[n]; !ok {
			m = append(m, n)
		}
	}
	return m
}

// describe returns the partition counts of the topics that exist.
func (a *admin) describe(ctx context.Context, names []string) (map[string]int, error) {
	res, err := a.a.DescribeTopics(ctx, ck.NewTopicCollectionOfTopicNames(names), ck.SetAdminRequestTimeout(adminTimeout/2))
	if err != nil {
		return nil, a.explain(err)
	}
	found := make(map[string]int, len(names))
	for _, t := range res.TopicDescriptions {
		switch t.Error.Code() {
		case ck.ErrNoError:
			found[t.Name] = len(t.Partitions)
		case ck.ErrUnknownTopicOrPart, ck.ErrUnknownTopic:
		default:
			return nil, topicError(t.Name, t.Error, "describe", 0, 0)
		}
	}
	return found, nil
}

func (a *admin) create(ctx context.Context, plan TopicPlan, names []string, brokers int) error {
	if len(names) == 0 {
		return nil
	}
	var specs []ck.TopicSpecification
	for _, n := range names {
		s := ck.TopicSpecification{Topic: n, NumPartitions: plan.Partitions, ReplicationFactor: plan.Replication,
			Config: map[string]string{"cleanup.policy": "delete"}}
		if s.NumPartitions == 0 {
			s.NumPartitions = DefaultPartitions
		}
		if n == plan.Dead {
			s.NumPartitions = 1 // rare records, read by people
		}
		if s.ReplicationFactor == 0 {
			s.ReplicationFactor = -1
		}
		if plan.Retention > 0 {
			s.Config["retention.ms"] = strconv.FormatInt(plan.Retention.Milliseconds(), 10)
		}
		specs = append(specs, s)
	}
	res, err := a.a.CreateTopics(ctx, specs, ck.SetAdminOperationTimeout(adminTimeout/2), ck.SetAdminRequestTimeout(adminTimeout/2))
	if err != nil {
		return a.explain(err)
	}
	for _, r := range res {
		if c := r.Error.Code(); c != ck.ErrNoError && c != ck.ErrTopicAlreadyExists { // another member was faster
			return topicError(r.Topic, r.Error, "create", plan.Replication, brokers)
		}
	}
	return nil
}

// topicError turns a broker's refusal into words about what to do.
func topicError(topic string, err ck.Error, verb string, replication, brokers int) error {
	te := &TopicError{Topic: topic, Problem: "the broker refuses to " + verb + " it", Err: err}
	switch err.Code() {
	case ck.ErrTopicAuthorizationFailed, ck.ErrClusterAuthorizationFailed:
		te.Problem = "no permission to " + verb + " it"
		te.Remedy = "grant this client's principal Create, Describe, Read and Write on it, or create the topic by hand"
	case ck.ErrInvalidReplicationFactor:
		te.Problem = fmt.Sprintf("replication factor %d is not possible with %d brokers", replication, brokers)
		if replication == 0 {
			te.Problem = fmt.Sprintf("the broker's default.replication.factor is not possible with %d brokers", brokers)
		}
		te.Remedy = fmt.Sprintf("ask for a replication factor of 1 to %d, or start more brokers", brokers)
	case ck.ErrInvalidPartitions:
		te.Remedy = "ask for another partition count"
	case ck.ErrPolicyViolation:
		te.Remedy = "ask for what the cluster's create.topic.policy allows, or create the topic by hand"
	case ck.ErrTopicException:
		te.Remedy = "choose another name: a topic whose name differs only in '.' and '_' may exist"
	case ck.ErrTopicDeletionDisabled:
		te.Remedy = "create the topic by hand"
	default:
		te.Remedy = "see the broker's log"
	}
	return te
}

// checkCleanup refuses compacted topics: compaction would delete jobs of one
// node but the last. Without permission to look, it trusts.
func (a *admin) checkCleanup(ctx context.Context, names ...string) error {
	var rs []ck.ConfigResource
	for _, n := range names {
		rs = append(rs, ck.ConfigResource{Type: ck.ResourceTopic, Name: n})
	}
	res, err := a.a.DescribeConfigs(ctx, rs, ck.SetAdminRequestTimeout(adminTimeout/2))
	if err != nil {
		return a.explain(err)
	}
	for _, r := range res {
		if v := r.Config["cleanup.policy"].Value; strings.Contains(v, "compact") {
			return &TopicError{Topic: r.Name, Problem: fmt.Sprintf("its cleanup.policy is %q, which drops records that share a key", v),
				Remedy: "set cleanup.policy=delete"}
		}
	}
	return nil
}
