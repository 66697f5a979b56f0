//go:build linux

package e2e

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/roost-server/roost/protocol"
)

// configure sets one setting of a topic.
func (c *cluster) configure(topic, key, value string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	r, s := kmsg.NewIncrementalAlterConfigsRequestResource(), kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, c.topic(topic)
	s.Name, s.Op, s.Value = key, kmsg.IncrementalAlterConfigOpSet, kmsg.StringPtr(value)
	r.Configs = append(r.Configs, s)
	req.Resources = append(req.Resources, r)
	resp, err := req.RequestWith(ctx, c.plainClient())
	require.NoError(c.t, err)
	require.NoError(c.t, kerr.ErrorForCode(resp.Resources[0].ErrorCode), "%v", resp.Resources[0].ErrorMessage)
}

// deleteBefore deletes what lies before these offsets of a topic.
func (c *cluster) deleteBefore(topic string, offsets map[int32]int64) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req := kmsg.NewPtrDeleteRecordsRequest()
	rt := kmsg.NewDeleteRecordsRequestTopic()
	rt.Topic = c.topic(topic)
	for p, offset := range offsets {
		rp := kmsg.NewDeleteRecordsRequestTopicPartition()
		rp.Partition, rp.Offset = p, offset
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(ctx, c.plainClient())
	require.NoError(c.t, err)
	for _, rp := range resp.Topics[0].Partitions {
		require.NoError(c.t, kerr.ErrorForCode(rp.ErrorCode), "partition %d", rp.Partition)
	}
}

// addPartitions makes them so many.
func (c *cluster) addPartitions(topic string, n int32) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req := kmsg.NewPtrCreatePartitionsRequest()
	rt := kmsg.NewCreatePartitionsRequestTopic()
	rt.Topic, rt.Count = c.topic(topic), n
	req.Topics = append(req.Topics, rt)
	req.TimeoutMillis = int32(patience.Milliseconds())
	resp, err := req.RequestWith(ctx, c.plainClient())
	require.NoError(c.t, err)
	require.NoError(c.t, kerr.ErrorForCode(resp.Topics[0].ErrorCode), "%v", resp.Topics[0].ErrorMessage)
}

// TestTruncatedState deletes the first part of the state topic by hand while no member
// runs: the rest goes on, and the member says how many jobs are missing.
func TestTruncatedState(t *testing.T) {
	onEachBroker(t, func(t *testing.T, b broker) {
		const gone, kept = 40, 20
		c := newCluster(t, b)
		m := c.serve()
		p, results := c.producer(), c.read("results")
		held := waitingJobs(p, gone+kept, 10)
		p.send(held[:gone]...)
		c.requireAllCommitted(held[:gone])
		_, cut := c.bounds("state")
		p.send(held[gone:]...)
		c.requireAllCommitted(held[gone:])
		m.stop(interrupt)
		require.Len(t, ends(held[gone:]), 4, "a partition has nothing after the cut")
		c.configure("state", "cleanup.policy", "delete") // or Kafka refuses
		c.deleteBefore("state", cut)
		c.configure("state", "cleanup.policy", "compact")

		m = c.serve()
		m.awaitRestored(kept)
		require.EqualValues(t, gone, m.metric("roost_shard_missing_jobs"))
		require.Regexp(t, `(?i)missing`, m.roost("status").out)
		require.EqualValues(t, kept, m.metric("roost_jobs_pending"))
		f := newFleet(t)
		for i := range 10 {
			f.node(awayID(i), 0, m.nodes)
		}
		f.node("n", 0, m.nodes)
		p.send(p.json(job("after", "n", echoKind, nil)))
		results.await(kept+1, patience)
		f.awaitDrained()
		m.says(`(?i)missing`)
		m.stop(interrupt)
		requireAllOK(t, kept+1, results, f)
		for i := range gone {
			require.Zero(t, results.has(fmt.Sprintf("waiting-%d", i)))
		}

		m = c.serve() // what was missing once is not told for ever
		m.awaitRestored(0)
		require.Zero(t, m.metric("roost_shard_missing_jobs"))
		m.stop(interrupt)
	})
}

// TestNewerStateIsRefused starts the member on a state that a later version has written:
// it ends, says what to do, and has changed nothing.
func TestNewerStateIsRefused(t *testing.T) {
	onEachBroker(t, func(t *testing.T, b broker) {
		c := newCluster(t, b)
		args := []string{"--partitions", "1"}
		m := c.serve(args...)
		p, results, state := c.producer(), c.read("results"), c.read("state")
		held := waitingJobs(p, 5, 1)
		p.send(held...)
		c.requireAllCommitted(held)
		m.stop(interrupt)
		state.upToEnd()
		for _, newer := range []string{"the next version", "the last version"} {
			t.Run(newer, func(t *testing.T) {
				was := state.records()
				r := was[len(was)-1]
				value := append([]byte(nil), r.Value...)
				require.NotEmpty(t, value, "the last state record is a deletion")
				value[0]++
				if newer == "the last version" {
					value[0] = 0xff
				}
				p.send(&kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: value})
				before, offsets := c.allEnds(), c.committedOf(1)

				refused := start(t, "serve", c.args(args...)...)
				refused.brief = true
				require.NotZero(t, refused.wait(), "%s", refused.err.String())
				require.Regexp(t, `(?is)version`, refused.err.String())
				require.Regexp(t, `(?is)newer|later|upgrade`, refused.err.String())
				t.Log(refused.err.tail())
				require.Equal(t, before, c.allEnds(), "it has written something")
				require.Equal(t, offsets, c.committedOf(1))

				p.send(&kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value})
				state.upToEnd()
			})
		}
		m = c.serve(args...)
		m.awaitRestored(5)
		newFleet(t).node(awayID(0), 0, m.nodes)
		results.await(5, patience)
		m.stop(interrupt)
		results.once(5)
	})
}

// allEnds are the ends of all topics that a member writes.
func (c *cluster) allEnds() map[string]int64 {
	c.t.Helper()
	out := map[string]int64{}
	for _, topic := range []string{"state", "results", "dead", "progress"} {
		_, ends := c.bounds(topic)
		for p, end := range ends {
			out[fmt.Sprintf("%s/%d", topic, p)] = end
		}
	}
	return out
}

// TestPartitionsAdded adds partitions under a running member: it says so, goes on with
// those it knows, and takes the new ones when it is started again.
func TestPartitionsAdded(t *testing.T) {
	onEachBroker(t, func(t *testing.T, b broker) {
		const was, is = 4, 6
		c := newCluster(t, b)
		m := c.serve()
		f := newFleet(t)
		f.nodes(3, 0, m.nodes)
		m.awaitNodes(3)
		p, results := c.producer(), c.read("results")
		held := waitingJobs(p, 8, 8)
		p.send(held...)
		c.requireAllCommitted(held)
		c.addPartitions("jobs", is)

		into := c.plainClient(kgo.RecordPartitioner(kgo.ManualPartitioner()))
		var added []*kgo.Record
		for partition := int32(was); partition < is; partition++ {
			r := p.json(job(fmt.Sprintf("added-%d", partition), nodeID(0), echoKind, nil))
			r.Partition = partition
			added = append(added, r)
		}
		(&producer{c, into}).send(added...)
		m.awaitMetric(1, "roost_partitions_changed")
		m.says(`(?i)number of partitions`)
		status := m.roost("status").out
		require.Regexp(t, `(?i)partitions`, status)
		require.Regexp(t, `(?i)restart`, status)
		known := p.json(job("known", nodeID(1), echoKind, nil))
		known.Partition = 1
		(&producer{c, into}).send(known)
		require.Equal(t, "ok", results.outcome("known").Outcome)
		require.Equal(t, 1, results.count(), "a partition that is not known was read")
		m.stop(interrupt)

		at := freeAddr(t)
		m = c.serve("--partitions", "0", "--nodes-listen", at)
		require.EqualValues(t, is, c.partitionsOf(p.cl, "state"))
		m.awaitPartitions(is)
		require.Zero(t, m.metric("roost_partitions_changed"))
		f.nodes(3, 0, at)
		for i := range 8 {
			f.node(awayID(i), 0, at)
		}
		results.await(1+len(added)+len(held), patience)
		all := results.once(1 + len(added) + len(held))
		for _, r := range added {
			require.Equal(t, "ok", all[idOf(r)+"/0"].Outcome)
			require.Equal(t, r.Partition, all[idOf(r)+"/0"].Partition)
		}
		f.awaitDrained()
		m.stop(interrupt)
	})
}

// TestLargeResults sends results that are over the size that the topic takes: they are
// recorded without their output, and those beside them with it.
func TestLargeResults(t *testing.T) {
	onEachBroker(t, func(t *testing.T, b broker) {
		c := newCluster(t, b)
		m := c.serve()
		c.configure("results", "max.message.bytes", "50000")
		node := dial(t, m.nodes)
		node.open("n", "")
		p, results := c.producer(), c.read("results")
		const jobs = 12
		for i := range jobs {
			p.send(p.json(job(fmt.Sprintf("job-%d", i), "n", echoKind, nil, "timeout_ms", 600_000)))
		}
		large := map[string]bool{}
		var frames []byte
		for range jobs {
			j := &protocol.Job{}
			node.expect(j)
			r := &protocol.Result{JobID: j.JobID, Shard: j.Shard, Attempt: j.Attempt, DurationUs: 1500, Output: []byte{0xa1, 'x'}}
			if len(large) < jobs/2 {
				large[string(j.JobID)] = true
				r.Output = bigString(200_000)
			}
			frames = append(frames, encode(t, r)...)
		}
		node.write(frames)
		acks := map[string]bool{}
		for len(acks) < jobs {
			ack := &protocol.ResultAck{}
			node.expect(ack)
			for _, a := range ack.Acks {
				acks[string(a.JobID)] = true
			}
		}
		t.Logf("transactions aborted: %v", m.metric("roost_transactions_aborted_total"))
		for _, o := range results.once(jobs) {
			require.Equal(t, "ok", o.Outcome, "%+v", o)
			require.EqualValues(t, 1.5, o.Duration)
			if large[o.Job] {
				require.Nil(t, o.Output)
				require.Regexp(t, `(?i)output|large|size|bytes`, o.Error)
				t.Log(o.Error)
			} else {
				require.Equal(t, "x", o.Output)
				require.Empty(t, o.Error)
			}
		}
		m.stop(interrupt)
	})
}

// bigString is a msgpack string of so many bytes, at least 64 KiB.
func bigString(n int) []byte {
	b := []byte{0xdb, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
	for range n {
		b = append(b, 'y')
	}
	return b
}
