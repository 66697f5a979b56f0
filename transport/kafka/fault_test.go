package kafka

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A broker whose write failed answers UNKNOWN_SERVER_ERROR: the record comes
// back to be produced again, and the producer lives on.
func TestServerErrorComesBackForRetry(t *testing.T) {
	e := startEmbedded(t, EmbeddedConfig{Listen: ":0"})
	cfg := testConfig(t, e.Addr())
	plan := makeTopics(t, cfg, 1)
	produceN(t, cfg, plan.Jobs, "a", 10)
	d := &deliveries{}
	p := newTestProducer(t, cfg, d.add)
	e.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.UnknownServerError})
	require.NoError(t, p.Produce(Message{Topic: plan.Jobs, Value: []byte("v")}))
	flush(t, p)
	require.Len(t, d.snapshot(), 1)
	require.Equal(t, ClassRetry, Classify(d.snapshot()[0].Err))
	require.NoError(t, p.Produce(Message{Topic: plan.Jobs, Value: []byte("v")}))
	flush(t, p)
	require.NoError(t, d.snapshot()[1].Err)
	require.EqualValues(t, 10, d.snapshot()[1].Offset)
	require.NoError(t, p.Err())
}

// A member that the group gave up must drop its partitions without a commit.
func TestLostPartitions(t *testing.T) {
	e := startEmbedded(t, EmbeddedConfig{Listen: ":0"})
	cfg := testConfig(t, e.Addr())
	plan := makeTopics(t, cfg, 2)
	produceN(t, cfg, plan.Jobs, "a", 10)
	rec := newRecorder("c", nil)
	r := runConsumer(t, cfg, plan.Jobs, rec, nil)
	eventually(t, func() bool { return rec.count() == 10 }, "records")
	require.NotNil(t, r.Group())
	var atLost *GroupMetadata
	rec.onLost = func([]int32) { atLost = r.Group() }
	for p := range rec.records {
		r.Pause(p)
	}
	eventually(t, func() bool { return r.Stats().Paused == 2 }, "paused")
	e.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.UnknownMemberID, TopLevel: true})
	eventually(t, func() bool { return rec.has("lost") && rec.ownedCount() == 2 }, "lost, and assigned again")
	require.False(t, rec.has("revoked"))
	eventually(t, func() bool { return rec.count() == 20 }, "nothing was committed: all comes again, and not paused")
	require.EqualValues(t, 2, r.Stats().PartitionsLost)
	require.Nil(t, atLost)
	require.NotNil(t, r.Group())
	require.Zero(t, r.Stats().Paused)
}

// secured starts a broker that wants credentials and checks permissions.
func secured(t *testing.T) (*kfake.Cluster, Config) {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL(), kfake.EnableACLs(),
		kfake.Superuser("PLAIN", "admin", "secret-pw"), kfake.User("PLAIN", "nobody", "secret-pw"))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	cfg := testConfig(t, c.ListenAddrs()[0])
	cfg.Properties = map[string]string{"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN",
		"sasl.username": "admin", "sasl.password": "secret-pw"}
	return c, cfg
}

func TestCredentials(t *testing.T) {
	c, cfg := secured(t)
	_, err := ensure(t, cfg, Topics{}.Plan())
	require.NoError(t, err)

	cfg.Properties["sasl.username"] = "nobody"
	_, err = ensure(t, cfg, Topics{Prefix: "other."}.Plan())
	var te *TopicError
	require.ErrorAs(t, err, &te)
	require.ErrorContains(t, err, "no permission to")
	require.ErrorContains(t, err, "grant")

	// kfake hangs up on a wrong password; Apache Kafka answers with this.
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.SASLAuthenticate}, Err: kerr.SaslAuthenticationFailed, Count: -1})
	_, err = ensure(t, cfg, Topics{}.Plan())
	require.Equal(t, ClassFatal, Classify(err), "%v", err)
	require.ErrorContains(t, err, "credentials")
	require.NotContains(t, err.Error(), "secret-pw")
}
