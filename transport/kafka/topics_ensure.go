package kafka

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

// stateConfig is for the topic of the shards' state. Most of what is written there is
// soon superseded or deleted, and a shard that moves reads all that compaction has left;
// so it has to come early. Kafka compacts closed segments only.
func stateConfig(embedded bool) map[string]string {
	m := map[string]string{
		"cleanup.policy": "compact",
		// A busy partition closes a segment by its size, a quiet one by its age; an open
		// one is read in full by a shard that is rebuilt.
		"segment.bytes": strconv.Itoa(16 << 20),
		"segment.ms":    "600000",
		// Compact when a fifth is new: what is read is a fourth more than what is needed, plus
		// the open segment, for a log that is copied about five times over.
		"min.cleanable.dirty.ratio": "0.2",
		// A deletion has to outlive the reading of the partition by a shard that has already
		// read what is deleted; the default of a day would leave more deletions than state.
		"delete.retention.ms": "600000",
	}
	return forGood(m, embedded)
}

// smallConfig is for the topics of the low watermarks and of the members: few keys, written
// often.
func smallConfig(embedded bool) map[string]string {
	m := map[string]string{
		"cleanup.policy":            "compact",
		"segment.bytes":             strconv.Itoa(1 << 20), // the least that Kafka allows
		"segment.ms":                "600000",
		"min.cleanable.dirty.ratio": "0.5",
		"delete.retention.ms":       "600000",
	}
	return forGood(m, embedded)
}

// forGood keeps retention away. Kafka applies none to compacted topics, the embedded broker
// does; and that one gives disk space back by the segment.
func forGood(m map[string]string, embedded bool) map[string]string {
	m["retention.ms"], m["retention.bytes"] = "-1", "-1"
	if embedded {
		m["segment.bytes"] = strconv.Itoa(1 << 20)
	}
	return m
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
	names := []string{plan.Jobs, plan.Results, plan.Dead, plan.Progress, plan.Members}
	found, err := a.describe(ctx, append(names, plan.State))
	if err != nil {
		return Info{}, err
	}
	e := &ensuring{admin: a, plan: plan, brokers: info.Brokers, embedded: IsEmbedded(info.ClusterID), found: found}
	if err := e.create(ctx, names...); err != nil {
		return Info{}, err
	}
	info.Partitions = e.found[plan.Jobs]
	if plan.Partitions > 0 && info.Partitions != plan.Partitions {
		return Info{}, &TopicError{
			Topic:   plan.Jobs,
			Problem: fmt.Sprintf("it has %d partitions, but %d are asked for", info.Partitions, plan.Partitions),
			Remedy: fmt.Sprintf("ask for %d, or for 0 to accept whatever exists; to change the count, stop all producers, "+
				"let the jobs drain, and recreate the topic (adding partitions moves keys to others)", info.Partitions),
		}
	}
	if err := e.state(ctx); err != nil {
		return Info{}, err
	}
	return info, e.validate(ctx)
}

// ensuring is the work of one attempt.
type ensuring struct {
	*admin
	plan     TopicPlan
	brokers  int
	embedded bool
	found    map[string]int // partition counts
}

// create makes those of the topics that are missing, and waits until they are visible.
func (e *ensuring) create(ctx context.Context, names ...string) error {
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return e.found[n] > 0 })
	if len(names) == 0 {
		return nil
	}
	specs := make([]ck.TopicSpecification, len(names))
	for i, n := range names {
		specs[i] = e.spec(n)
	}
	res, err := e.a.CreateTopics(ctx, specs, ck.SetAdminOperationTimeout(adminTimeout/2), ck.SetAdminRequestTimeout(adminTimeout/2))
	if err != nil {
		return e.explain(err)
	}
	for _, r := range res {
		if c := r.Error.Code(); c != ck.ErrNoError && c != ck.ErrTopicAlreadyExists { // another member was faster
			return topicError(r.Topic, r.Error, "create", e.plan.Replication, e.brokers)
		}
	}
	return e.await(ctx, func() bool {
		return !slices.ContainsFunc(names, func(n string) bool { return e.found[n] == 0 })
	}, names...)
}

func (e *ensuring) spec(name string) ck.TopicSpecification {
	s := ck.TopicSpecification{Topic: name, NumPartitions: e.plan.Partitions, ReplicationFactor: e.plan.Replication,
		Config: map[string]string{"cleanup.policy": "delete"}}
	if s.NumPartitions == 0 {
		s.NumPartitions = DefaultPartitions
	}
	if s.ReplicationFactor == 0 {
		s.ReplicationFactor = -1
	}
	if e.plan.Retention > 0 && !e.embedded {
		s.Config["retention.ms"] = strconv.FormatInt(e.plan.Retention.Milliseconds(), 10)
	}
	switch name {
	case e.plan.Dead:
		s.NumPartitions = 1 // rare records, read by people
	case e.plan.Progress, e.plan.Members:
		s.NumPartitions, s.Config = 1, smallConfig(e.embedded)
	case e.plan.State:
		s.NumPartitions, s.Config = e.found[e.plan.Jobs], stateConfig(e.embedded)
	}
	return s
}

// await describes the topics again until they are so: news of them reaches all brokers a
// little later.
func (e *ensuring) await(ctx context.Context, so func() bool, names ...string) error {
	for {
		found, err := e.describe(ctx, names)
		if err != nil {
			return err
		}
		maps.Copy(e.found, found)
		if so() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ck.NewError(ck.ErrTimedOut, "new topics or partitions did not become visible in time", false)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// state makes the state topic, and has it follow a jobs topic that was grown.
func (e *ensuring) state(ctx context.Context) error {
	name, want := e.plan.State, e.found[e.plan.Jobs]
	if err := e.create(ctx, name); err != nil {
		return err
	}
	have := e.found[name]
	if have > want {
		return &TopicError{
			Topic:   name,
			Problem: fmt.Sprintf("it has %d partitions, more than the %d of %q, whose state it holds", have, want, e.plan.Jobs),
			Remedy: fmt.Sprintf("recreate %q with %d partitions; or, if the jobs that are still open do not matter any more, "+
				"stop all members and delete %q", e.plan.Jobs, have, name),
		}
	}
	if have == want {
		return nil
	}
	res, err := e.a.CreatePartitions(ctx, []ck.PartitionsSpecification{{Topic: name, IncreaseTo: want}},
		ck.SetAdminOperationTimeout(adminTimeout/2), ck.SetAdminRequestTimeout(adminTimeout/2))
	if err != nil {
		return e.explain(err)
	}
	for _, r := range res {
		// Another member may have been faster; then the count is as it should be.
		if c := r.Error.Code(); c != ck.ErrNoError && c != ck.ErrInvalidPartitions {
			return topicError(r.Topic, r.Error, "add partitions to", 0, e.brokers)
		}
	}
	return e.await(ctx, func() bool { return e.found[name] == want }, name)
}

// validate checks the topics that exist. Without permission to look at their
// configuration, it trusts.
func (e *ensuring) validate(ctx context.Context) error {
	for _, name := range []string{e.plan.Progress, e.plan.Members} {
		if n := e.found[name]; n != 1 {
			return &TopicError{Topic: name, Problem: fmt.Sprintf("it has %d partitions, but has to have 1, so that it is in order", n),
				Remedy: "delete it; it is made anew at the next start"}
		}
	}
	if err := e.permitted(ctx); err != nil {
		return err
	}
	var rs []ck.ConfigResource
	for _, n := range []string{e.plan.Jobs, e.plan.Results, e.plan.State, e.plan.Progress, e.plan.Members} {
		rs = append(rs, ck.ConfigResource{Type: ck.ResourceTopic, Name: n})
	}
	res, err := e.a.DescribeConfigs(ctx, rs, ck.SetAdminRequestTimeout(adminTimeout/2))
	if err != nil {
		return e.explain(err)
	}
	for _, r := range res {
		v := strings.TrimSpace(r.Config["cleanup.policy"].Value)
		compacted := r.Name == e.plan.State || r.Name == e.plan.Progress || r.Name == e.plan.Members
		switch {
		case v == "":
		case compacted && v != "compact":
			return &TopicError{Topic: r.Name, Problem: fmt.Sprintf("its cleanup.policy is %q, which drops records that are still needed", v),
				Remedy: "set cleanup.policy=compact"}
		case !compacted && strings.Contains(v, "compact"):
			return &TopicError{Topic: r.Name, Problem: fmt.Sprintf("its cleanup.policy is %q, which drops records that share a key", v),
				Remedy: "set cleanup.policy=delete"}
		}
	}
	return nil
}

// permitted looks whether this client may do with the topics what it will have to: a
// refusal at the first job, or the first restart, would come late. Brokers that do not say
// are trusted.
func (e *ensuring) permitted(ctx context.Context) error {
	read, write := ck.ACLOperationRead, ck.ACLOperationWrite
	needs := []struct {
		topic string
		ops   []ck.ACLOperation
	}{
		{e.plan.Jobs, []ck.ACLOperation{read}}, // Write only if jobs are submitted through the API
		{e.plan.State, []ck.ACLOperation{read, write}},
		{e.plan.Results, []ck.ACLOperation{write}}, {e.plan.Dead, []ck.ACLOperation{write}},
		{e.plan.Progress, []ck.ACLOperation{write}}, {e.plan.Members, []ck.ACLOperation{read, write}},
	}
	names := make([]string, len(needs))
	for i, n := range needs {
		names[i] = n.topic
	}
	res, err := e.a.DescribeTopics(ctx, ck.NewTopicCollectionOfTopicNames(names),
		ck.SetAdminRequestTimeout(adminTimeout/2), ck.SetAdminOptionIncludeAuthorizedOperations(true))
	if err != nil {
		return e.explain(err)
	}
	may := map[string][]ck.ACLOperation{}
	for _, t := range res.TopicDescriptions {
		may[t.Name] = t.AuthorizedOperations
	}
	for _, n := range needs {
		for _, op := range n.ops {
			if ops := may[n.topic]; len(ops) > 0 && !slices.Contains(ops, op) && !slices.Contains(ops, ck.ACLOperationAll) {
				return &TopicError{Topic: n.topic, Problem: "no permission to " + strings.ToLower(op.String()) + " it",
					Remedy: "grant this client's principal Describe, Read and Write on it"}
			}
		}
	}
	return nil
}
