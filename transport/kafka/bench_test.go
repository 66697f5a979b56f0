package kafka

import (
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// benchBrokers runs the benchmark against brokers in a process of their own,
// so that the CPU time reported is that of the client alone.
func benchBrokers(b *testing.B, run func(b *testing.B, cfg Config)) {
	embedded := func(dir string, env ...string) func(b *testing.B) {
		return func(b *testing.B) {
			addr, _ := startBrokerProcess(b, ":0", dir, env...)
			run(b, testConfig(b, addr))
		}
	}
	b.Run("memory", embedded(""))
	b.Run("disk", embedded(b.TempDir()))
	b.Run("sync", embedded(b.TempDir(), childEnv+"_SYNC=1"))
	if addr := os.Getenv("ROOST_TEST_KAFKA"); addr != "" {
		b.Run("apache", func(b *testing.B) { run(b, testConfig(b, addr)) })
	}
}

func cpu() time.Duration {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		return 0
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

func report(b *testing.B, before time.Duration) {
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64((cpu()-before).Nanoseconds())/float64(b.N), "cpu-ns/record")
}

func mustProduce(p *Producer, m Message) {
	for p.Produce(m) != nil {
		time.Sleep(time.Millisecond) // the queue is full
	}
}

func fill(b *testing.B, cfg Config, topic string, n int) {
	p := newTestProducer(b, cfg, func([]Delivery) {})
	key := make([]byte, 0, 20)
	value := make([]byte, 200)
	for i := range n {
		key = fmt.Appendf(key[:0], "node-%d", i)
		mustProduce(p, Message{Topic: topic, Partition: PartitionByKey, Key: key, Value: value})
	}
	flush(b, p)
}

func BenchmarkProduce(b *testing.B) {
	benchBrokers(b, func(b *testing.B, cfg Config) {
		plan := makeTopics(b, cfg, 16)
		p := newTestProducer(b, cfg, func([]Delivery) {})
		key, value := []byte("node-00000"), make([]byte, 200)
		opaque := any(&key)
		b.ReportAllocs()
		b.ResetTimer()
		before := cpu()
		for i := range b.N {
			key[9], key[8] = byte('0'+i%10), byte('0'+i/10%10)
			mustProduce(p, Message{Topic: plan.Jobs, Partition: PartitionByKey, Key: key, Value: value, Opaque: opaque})
		}
		flush(b, p)
		report(b, before)
	})
}

func BenchmarkConsume(b *testing.B) {
	benchBrokers(b, func(b *testing.B, cfg Config) {
		plan := makeTopics(b, cfg, 16)
		fill(b, cfg, plan.Jobs, b.N)
		got, done := 0, make(chan struct{})
		rec := newRecorder("c", nil)
		h := sink{rec, func(_ int32, rs []Record) {
			if got += len(rs); got == b.N {
				close(done)
			}
		}}
		b.ReportAllocs()
		b.ResetTimer()
		before := cpu()
		runConsumer(b, cfg, plan.Jobs, h, nil)
		<-done
		report(b, before)
	})
}

// sink keeps nothing.
type sink struct {
	*recorder
	f func(int32, []Record)
}

func (s sink) Records(p int32, rs []Record) { s.f(p, rs) }
