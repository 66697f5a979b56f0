package member

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/roost-server/roost/protocol"
)

// metrics reads the counters of all parts when somebody asks. docs/METRICS.md lists
// them. No metric has a label for each node.
type metrics struct {
	m       *Member
	handler http.Handler
}

// scrapeTimeout bounds how long shards may take to answer a scrape.
const scrapeTimeout = 2 * time.Second

var (
	partition = []string{"partition"}

	descSessions    = desc("sessions", "Nodes connected now.", nil)
	descOpened      = desc("sessions_opened_total", "Sessions opened.", nil)
	descReplaced    = desc("sessions_replaced_total", "Sessions ended by a newer one of the same node.", nil)
	descRefused     = desc("handshakes_refused_total", "HELLO answered by CLOSE.", nil)
	descResults     = desc("node_results_total", "RESULT frames taken.", nil)
	descUnexpected  = desc("node_results_unexpected_total", "RESULT frames for a job that the session did not have.", nil)
	descDeliveries  = desc("deliveries_total", "Jobs handed to sessions.", nil)
	descUndelivered = desc("deliveries_undelivered_total", "Deliveries for a node without a session.", nil)
	descMisrouted   = desc("batches_misrouted_total", "Batches for a shard that is not on this member.", nil)

	descConns     = desc("connections", "Sockets open now.", nil)
	descMaxConns  = desc("connections_max", "Sockets above which new ones are refused.", nil)
	descAccepted  = desc("connections_accepted_total", "Sockets accepted, refused ones included.", nil)
	descConnRef   = desc("connections_refused_total", "Sockets refused at accept.", nil)
	descClosed    = desc("connections_closed_total", "Sockets closed, by reason.", []string{"reason"})
	descBytesIn   = desc("received_bytes_total", "Bytes read from nodes.", nil)
	descBytesOut  = desc("sent_bytes_total", "Bytes written to nodes.", nil)
	descFramesIn  = desc("received_frames_total", "Frames read from nodes.", nil)
	descFramesOut = desc("sent_frames_total", "Frames written to nodes.", nil)
	descPanics    = desc("panics_total", "Panics recovered on event loops.", nil)

	descJobs       = desc("jobs_total", "Job records taken.", partition)
	descDuplicates = desc("jobs_duplicate_total", "Job records whose id was known already.", partition)
	descOutcomes   = desc("outcomes_total", "Assignments that ended, by outcome.", []string{"partition", "outcome"})
	descUnknown    = desc("results_unknown_total", "Results for a job that is not known.", partition)
	descLate       = desc("results_late_total", "Results for an assignment that had its outcome.", partition)
	descPending    = desc("jobs_pending", "Jobs without all their outcomes recorded.", partition)
	descWatermark  = desc("watermark_offset", "Offset before which every job has its outcomes recorded.", partition)
	descMarkMs     = desc("watermark_timestamp_ms", "Unix time, in milliseconds, of the first job record that is open; without one, of the newest that was read.", partition)
	descNext       = desc("committed_offset", "Offset from which the partition is read after a restart; -1 before the first.", partition)
	descPaused     = desc("partition_paused", "1 while a partition is not read because too much is pending.", partition)
	descUncommit   = desc("outcomes_uncommitted", "Outcomes that are not in a committed transaction yet.", partition)
	descRebuilding = desc("shard_rebuilding", "1 while the shard is rebuilt from the state topic.", partition)
	descRestored   = desc("shard_restored_jobs", "Jobs that the latest rebuilding has found, so far.", partition)
	descMissing    = desc("shard_missing_jobs", "Jobs that the latest rebuilding should have found and did not: they are lost.", partition)

	descReachable  = desc("kafka_reachable", "1 while the brokers answer.", []string{"client"})
	descLag        = desc("kafka_lag_records", "Records in the partition that are not read.", partition)
	descCommitted  = desc("transactions_committed_total", "Transactions that were committed.", nil)
	descAborted    = desc("transactions_aborted_total", "Transactions that were aborted and tried again.", nil)
	descUnresolved = desc("transactions_unresolved_total", "Transactions of which it was not known whether they were committed: the shards were rebuilt.", nil)
	descTxRecords  = desc("transaction_records_total", "Records in committed transactions.", nil)
	descTxResults  = desc("transaction_outcomes_total", "Outcomes in committed transactions.", nil)
	descProduced   = desc("kafka_produced_total", "Submitted job records that Kafka acknowledged.", nil)
	descInFlight   = desc("kafka_produce_in_flight", "Submitted job records on their way to Kafka.", nil)
	descChanged    = desc("partitions_changed", "1 when the jobs topic has another number of partitions than when the member started.", nil)

	descRestarts = desc("actor_failures_total", "Failures of actors; sessions of a gate count together.", []string{"actor"})
	descBuild    = desc("build_info", "Always 1.", []string{"version", "member"})
)

func desc(name, help string, labels []string) *prometheus.Desc {
	return prometheus.NewDesc("roost_"+name, help, labels, nil)
}

func newMetrics(m *Member) *metrics {
	x := &metrics{m: m}
	registry := prometheus.NewRegistry()
	registry.MustRegister(x, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	x.handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	return x
}

// Describe implements prometheus.Collector; the collector is unchecked, since labels
// come and go with partitions.
func (x *metrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (x *metrics) Collect(ch chan<- prometheus.Metric) {
	c := sink{ch}
	x.sessions(c)
	x.sockets(c)
	x.cluster(c)
	x.kafka(c)
	x.shards(c)
	_, failures := x.m.tree.Failures()
	for actor, n := range failures {
		c.counter(descRestarts, float64(n), actor)
	}
	c.gauge(descBuild, 1, x.m.cfg.Version, x.m.cfg.Name)
}

type sink struct{ ch chan<- prometheus.Metric }

func (s sink) counter(d *prometheus.Desc, v float64, labels ...string) {
	s.ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

func (s sink) gauge(d *prometheus.Desc, v float64, labels ...string) {
	s.ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (x *metrics) sessions(c sink) {
	g := x.m.gateStats
	c.gauge(descSessions, float64(g.Sessions.Load()))
	c.counter(descOpened, float64(g.Opened.Load()))
	c.counter(descReplaced, float64(g.Replaced.Load()))
	c.counter(descRefused, float64(g.Refused.Load()))
	c.counter(descResults, float64(g.Results.Load()))
	c.counter(descUnexpected, float64(g.Unexpected.Load()))
	c.counter(descDeliveries, float64(g.Deliveries.Load()))
	c.counter(descUndelivered, float64(g.Undelivered.Load()))
	c.counter(descMisrouted, float64(g.Misrouted.Load()))
}

func (x *metrics) sockets(c sink) {
	s := x.m.server.Stats()
	c.gauge(descConns, float64(s.Open))
	c.gauge(descMaxConns, float64(s.MaxConns))
	c.counter(descAccepted, float64(s.Accepted))
	c.counter(descConnRef, float64(s.Refused))
	c.counter(descBytesIn, float64(s.BytesIn))
	c.counter(descBytesOut, float64(s.BytesOut))
	c.counter(descFramesIn, float64(s.FramesIn))
	c.counter(descFramesOut, float64(s.FramesOut))
	c.counter(descPanics, float64(s.Panics))
	for reason := range protocol.Reasons() {
		c.counter(descClosed, float64(s.Closed[reason]), reason.String())
	}
}

func (x *metrics) kafka(c sink) {
	consumer, producer, tx := x.m.source.consumer.Stats(), x.m.submitter.producer.Stats(), &x.m.committer.stats
	c.gauge(descReachable, truth(consumer.Reachable), "consumer")
	c.gauge(descReachable, truth(producer.Reachable), "producer")
	for p, lag := range consumer.Lag {
		c.gauge(descLag, float64(lag), strconv.Itoa(int(p)))
	}
	c.gauge(descReachable, truth(x.m.transactor.Reachable()), "transactor")
	c.counter(descCommitted, float64(tx.committed.Load()))
	c.counter(descAborted, float64(tx.aborted.Load()))
	c.counter(descUnresolved, float64(tx.unknown.Load()))
	c.counter(descTxRecords, float64(tx.records.Load()))
	c.counter(descTxResults, float64(tx.outcomes.Load()))
	c.gauge(descChanged, truth(int(x.m.partitions.Load()) != x.m.info.Partitions))
	c.counter(descProduced, float64(producer.Delivered))
	c.gauge(descInFlight, float64(producer.InFlight))
}

func (x *metrics) shards(c sink) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	shards, err := (&backend{x.m}).statuses(ctx)
	if err != nil {
		return // what is missing from the scrape says so
	}
	for i := range shards {
		s := &shards[i]
		p := strconv.Itoa(int(s.Partition))
		c.counter(descJobs, float64(s.Stats.Jobs), p)
		c.counter(descDuplicates, float64(s.Stats.Duplicates), p)
		c.counter(descUnknown, float64(s.Stats.Unknown), p)
		c.counter(descLate, float64(s.Stats.Late), p)
		c.gauge(descPending, float64(s.Pending), p)
		c.gauge(descWatermark, float64(s.Watermark), p)
		c.gauge(descMarkMs, float64(s.WatermarkMs), p)
		c.gauge(descNext, float64(s.Next), p)
		c.gauge(descPaused, truth(s.Paused), p)
		c.gauge(descUncommit, float64(s.Uncommitted), p)
		c.gauge(descRebuilding, truth(s.Rebuilding), p)
		c.gauge(descRestored, float64(s.Restored), p)
		c.gauge(descMissing, float64(s.Missing), p)
		for _, o := range protocol.Outcomes() {
			c.counter(descOutcomes, float64(s.Stats.Outcomes[o]), p, o.String())
		}
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
