package kafka

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/stretchr/testify/require"
)

func ensure(t *testing.T, cfg Config, plan TopicPlan) (Info, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return EnsureTopics(ctx, cfg, plan, func(err error, _ time.Duration) { t.Logf("progress: %v", err) })
}

func TestEnsureTopics(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := Topics{Prefix: unique()}.Plan()
		plan.Retention = time.Hour
		info, err := ensure(t, cfg, plan) // nothing exists, nothing asked for
		require.NoError(t, err)
		require.Equal(t, DefaultPartitions, info.Partitions)
		require.Equal(t, 1, info.Brokers)
		require.NotEmpty(t, info.ClusterID)

		plan.Partitions = DefaultPartitions // what exists is asked for
		_, err = ensure(t, cfg, plan)
		require.NoError(t, err)

		plan.Partitions = 5
		_, err = ensure(t, cfg, plan)
		var te *TopicError
		require.ErrorAs(t, err, &te)
		require.Equal(t, plan.Jobs, te.Topic)
		require.ErrorContains(t, err, "16 partitions")
		require.ErrorContains(t, err, "5 are asked for")
		require.ErrorContains(t, err, "0 to accept")

		other := Topics{Prefix: unique()}.Plan()
		other.Replication = 3
		_, err = ensure(t, cfg, other)
		require.ErrorAs(t, err, &te)
		require.ErrorContains(t, err, "replication factor 3 is not possible with 1 brokers")
		require.ErrorContains(t, err, "1 to 1")
	})
}

// Many members start at once on an empty cluster.
func TestEnsureTopicsConcurrently(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := Topics{Prefix: unique()}.Plan()
		plan.Partitions = 3
		var wg sync.WaitGroup
		errs := make([]error, 4)
		for i := range errs {
			wg.Add(1)
			go func() { defer wg.Done(); _, errs[i] = ensure(t, cfg, plan) }()
		}
		wg.Wait()
		require.NoError(t, errors.Join(errs...))
	})
}

func TestEnsureTopicsRefusesCompaction(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := Topics{Prefix: unique()}.Plan()
		a, err := newAdmin(cfg)
		require.NoError(t, err)
		defer a.close()
		res, err := a.a.CreateTopics(context.Background(), []ck.TopicSpecification{{Topic: plan.Jobs, NumPartitions: 2,
			ReplicationFactor: 1, Config: map[string]string{"cleanup.policy": "compact"}}})
		require.NoError(t, err)
		require.Equal(t, ck.ErrNoError, res[0].Error.Code())
		_, err = ensure(t, cfg, plan)
		require.ErrorContains(t, err, `cleanup.policy is "compact"`)
		require.ErrorContains(t, err, plan.Jobs)
	})
}

func TestTopicPlanRefusals(t *testing.T) {
	ok := Topics{}.Plan()
	require.Equal(t, "roost.jobs", ok.Jobs)
	require.NoError(t, ok.validate())
	for want, change := range map[string]func(*TopicPlan){
		"used twice":     func(p *TopicPlan) { p.Results = p.Jobs },
		"is used twice":  func(p *TopicPlan) { p.State = p.Progress },
		"name State":     func(p *TopicPlan) { p.State = "" },
		"name Members":   func(p *TopicPlan) { p.Members = "" },
		"Jobs":           func(p *TopicPlan) { p.Jobs = "" },
		"letters":        func(p *TopicPlan) { p.Dead = "a b" },
		"neither":        func(p *TopicPlan) { p.Dead = ".." },
		"Partitions is":  func(p *TopicPlan) { p.Partitions = -1 },
		"Replication is": func(p *TopicPlan) { p.Replication = -1 },
		"Retention is":   func(p *TopicPlan) { p.Retention = -1 },
	} {
		plan := ok
		change(&plan)
		require.ErrorContains(t, plan.validate(), want)
	}
}

// The broker is absent at first: progress is reported, and all goes well when
// it appears.
func TestEnsureTopicsWaitsForBroker(t *testing.T) {
	addr := freeAddr(t)
	cfg := testConfig(t, addr)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	waiting := make(chan error, 100)
	done := make(chan error, 1)
	go func() {
		_, err := EnsureTopics(ctx, cfg, Topics{}.Plan(), func(err error, next time.Duration) {
			if next <= 0 {
				err = errors.New("no time given")
			}
			waiting <- err
		})
		done <- err
	}()
	require.ErrorContains(t, <-waiting, addr)
	e := startEmbedded(t, EmbeddedConfig{Listen: addr})
	require.NoError(t, <-done)
	require.Equal(t, addr, e.Addr())
}

func TestEnsureTopicsEndsWithContext(t *testing.T) {
	cfg := testConfig(t, freeAddr(t))
	ctx, cancel := context.WithCancel(context.Background())
	_, err := EnsureTopics(ctx, cfg, Topics{}.Plan(), func(error, time.Duration) { cancel() })
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, cfg.Bootstrap)
}

// The topics of the state follow the jobs topic, and are compacted.
func TestEnsureStateTopics(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		a := testAdmin(t, cfg)
		plan := Topics{Prefix: unique()}.Plan()
		plan.Partitions, plan.Retention = 3, time.Hour
		_, err := ensure(t, cfg, plan)
		require.NoError(t, err)
		require.Equal(t, map[string]int{plan.State: 3, plan.Progress: 1, plan.Members: 1}, a.counts(plan.State, plan.Progress, plan.Members))
		for _, name := range []string{plan.State, plan.Progress, plan.Members} {
			c := a.config(name)
			require.Equal(t, "compact", c["cleanup.policy"])
			require.Equal(t, "-1", c["retention.ms"])
			require.Equal(t, "-1", c["retention.bytes"])
			require.Equal(t, "600000", c["segment.ms"])
			require.Equal(t, "600000", c["delete.retention.ms"])
		}

		// The jobs topic was grown.
		a.grow(plan.Jobs, 5)
		plan.Partitions = 0
		info, err := ensure(t, cfg, plan)
		require.NoError(t, err)
		require.Equal(t, 5, info.Partitions)
		require.Equal(t, map[string]int{plan.State: 5}, a.counts(plan.State))

		// The state topic has more than the jobs topic.
		a.grow(plan.State, 6)
		_, err = ensure(t, cfg, plan)
		var te *TopicError
		require.ErrorAs(t, err, &te)
		require.Equal(t, plan.State, te.Topic)
		require.ErrorContains(t, err, "6 partitions, more than the 5")
		require.ErrorContains(t, err, "recreate")
	})
}

func TestEnsureStateTopicsConcurrently(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		a := testAdmin(t, cfg)
		plan := Topics{Prefix: unique()}.Plan()
		_, err := ensure(t, cfg, plan)
		require.NoError(t, err)
		a.grow(plan.Jobs, 20)
		var wg sync.WaitGroup
		errs := make([]error, 4)
		for i := range errs {
			wg.Go(func() { _, errs[i] = ensure(t, cfg, plan) })
		}
		wg.Wait()
		require.NoError(t, errors.Join(errs...))
		require.Equal(t, map[string]int{plan.State: 20}, a.counts(plan.State))
	})
}

// Existing topics of the state that would lose it are refused.
func TestEnsureStateTopicsRefusals(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		a := testAdmin(t, cfg)
		for _, policy := range []string{"delete", "compact,delete"} {
			for _, pick := range []func(TopicPlan) string{
				func(p TopicPlan) string { return p.State },
				func(p TopicPlan) string { return p.Progress },
				func(p TopicPlan) string { return p.Members },
			} {
				plan := Topics{Prefix: unique()}.Plan()
				plan.Partitions = 1
				a.create(pick(plan), 1, policy)
				_, err := ensure(t, cfg, plan)
				var te *TopicError
				require.ErrorAs(t, err, &te)
				require.Equal(t, pick(plan), te.Topic)
				require.ErrorContains(t, err, "cleanup.policy is")
				require.ErrorContains(t, err, "set cleanup.policy=compact")
			}
		}
		plan := Topics{Prefix: unique()}.Plan()
		a.create(plan.Progress, 2, "compact")
		_, err := ensure(t, cfg, plan)
		require.ErrorContains(t, err, "2 partitions, but has to have 1")
	})
}

// adminFor is an admin client for tests.
type adminFor struct {
	t *testing.T
	*admin
}

func testAdmin(t *testing.T, cfg Config) adminFor {
	t.Helper()
	a, err := newAdmin(cfg)
	require.NoError(t, err)
	t.Cleanup(a.close)
	return adminFor{t, a}
}

func (a adminFor) counts(names ...string) map[string]int {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	m, err := a.describe(ctx, names)
	require.NoError(a.t, err)
	return m
}

func (a adminFor) config(name string) map[string]string {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	res, err := a.a.DescribeConfigs(ctx, []ck.ConfigResource{{Type: ck.ResourceTopic, Name: name}})
	require.NoError(a.t, err)
	m := map[string]string{}
	for k, v := range res[0].Config {
		m[k] = v.Value
	}
	return m
}

func (a adminFor) create(name string, partitions int, policy string) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	res, err := a.a.CreateTopics(ctx, []ck.TopicSpecification{{Topic: name, NumPartitions: partitions, ReplicationFactor: 1,
		Config: map[string]string{"cleanup.policy": policy}}})
	require.NoError(a.t, err)
	require.Equal(a.t, ck.ErrNoError, res[0].Error.Code())
	require.Eventually(a.t, func() bool { return a.counts(name)[name] == partitions }, patience, 20*time.Millisecond)
}

func (a adminFor) grow(name string, to int) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	res, err := a.a.CreatePartitions(ctx, []ck.PartitionsSpecification{{Topic: name, IncreaseTo: to}})
	require.NoError(a.t, err)
	require.Equal(a.t, ck.ErrNoError, res[0].Error.Code())
	require.Eventually(a.t, func() bool { return a.counts(name)[name] == to }, patience, 20*time.Millisecond)
}
