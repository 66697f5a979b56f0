package kafka

import (
	"context"
	"errors"
	"fmt"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.uber.org/zap"
)

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
