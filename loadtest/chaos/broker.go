//go:build linux

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/roost-server/roost/loadtest/chaos/apache"
	"github.com/roost-server/roost/loadtest/chaos/kafkawire"
	"github.com/roost-server/roost/loadtest/chaos/process"
	"github.com/roost-server/roost/loadtest/internal/suite"
	"github.com/roost-server/roost/loadtest/internal/wait"
)

// kafka is the broker of a run, of either kind: a process, and the proxy before it by
// which all clients come.
type kafka struct {
	run    *runner
	proxy  *kafkawire.Proxy
	launch func() (*process.Process, error)
	up     *regexp.Regexp // what it says when it serves

	mu   sync.Mutex
	proc *process.Process
}

func newKafka(ctx context.Context, r *runner) (*kafka, error) {
	k := &kafka{run: r}
	var err error
	if k.proxy, err = kafkawire.New(r.opt.Kafka == suite.Embedded && !r.opt.unmended); err != nil {
		return nil, err
	}
	port, err := apache.FreePort()
	if err != nil {
		return nil, err
	}
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	k.proxy.SetTarget(addr)
	if r.opt.Kafka == suite.Embedded {
		k.up = regexp.MustCompile(`embedded broker at `)
		k.launch = func() (*process.Process, error) {
			return r.launcher.Start("broker", r.opt.Roost, "broker", "--listen", addr, "--data", filepath.Join(r.dir, "broker"))
		}
		return k, nil
	}
	a, err := apache.New(ctx, apache.Config{
		Launcher: r.launcher, Dir: filepath.Join(r.dir, "kafka"), Port: port, Kafka: r.opt.KafkaDir, Script: r.opt.KafkaSh, Say: r.say,
	})
	if err != nil {
		return k, err
	}
	k.up, k.launch = apache.Serves, a.Launch
	return k, nil
}

// address is the bootstrap server.
func (k *kafka) address() string { return k.proxy.Addr() }

// start runs the broker and waits until it serves.
func (k *kafka) start(ctx context.Context) error {
	p, err := k.launch()
	if err != nil {
		return err
	}
	k.mu.Lock()
	k.proc = p
	k.mu.Unlock()
	_, err = p.Find(ctx, k.up)
	return err
}

func (k *kafka) process() *process.Process {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.proc
}

func (k *kafka) kill() { k.process().Kill() }

func (k *kafka) freeze(ctx context.Context, d time.Duration) {
	p := k.process()
	p.Signal(syscall.SIGSTOP)
	wait.Pause(ctx, d)
	p.Signal(syscall.SIGCONT)
}

func (k *kafka) stop() {
	if !k.process().Stop(20 * time.Second) {
		k.run.say("the broker did not stop and was killed")
	}
}

// request is a kind of request of Kafka's protocol, and the errors that a broker in
// trouble may answer it with. The codes after done are of brokers that did it all the
// same.
type request struct {
	key   kmsg.Key
	codes []int16
	done  []int16
}

// The errors: NOT_LEADER_OR_FOLLOWER 6, REQUEST_TIMED_OUT 7, COORDINATOR_LOAD_IN_PROGRESS 14,
// COORDINATOR_NOT_AVAILABLE 15, NOT_COORDINATOR 16, NOT_ENOUGH_REPLICAS 19 and 20 (after the
// append), ILLEGAL_GENERATION 22, UNKNOWN_MEMBER_ID 25, REBALANCE_IN_PROGRESS 27,
// INVALID_PRODUCER_EPOCH 47, CONCURRENT_TRANSACTIONS 51, KAFKA_STORAGE_ERROR 56, UNKNOWN_PRODUCER_ID 59,
// UNSTABLE_OFFSET_COMMIT 88, PRODUCER_FENCED 90.
var requests = []request{
	{kmsg.Produce, []int16{6, 19, 47, 56, 59}, []int16{7, 20}},
	{kmsg.Fetch, []int16{6, 56}, nil},
	{kmsg.ListOffsets, []int16{6}, nil},
	{kmsg.OffsetFetch, []int16{14, 16, 88}, nil},
	{kmsg.FindCoordinator, []int16{15}, nil},
	{kmsg.JoinGroup, []int16{14, 16, 25}, nil},
	{kmsg.Heartbeat, []int16{16, 22, 25, 27}, nil},
	{kmsg.SyncGroup, []int16{16, 27}, nil},
	{kmsg.InitProducerID, []int16{14, 16, 51}, nil},
	{kmsg.AddPartitionsToTxn, []int16{14, 16, 51}, nil},
	{kmsg.AddOffsetsToTxn, []int16{14, 16, 51}, nil},
	{kmsg.EndTxn, []int16{14, 16, 47, 51, 90}, nil},
	{kmsg.TxnOffsetCommit, []int16{14, 16, 22, 25}, nil},
}

// ofTransactions are those that commits are made of.
var ofTransactions = []kmsg.Key{kmsg.Produce, kmsg.AddPartitionsToTxn, kmsg.EndTxn, kmsg.TxnOffsetCommit}

func someRequest(rng *rand.Rand) *request {
	want := requests[rng.IntN(len(requests))].key
	if rng.IntN(2) == 0 {
		want = ofTransactions[rng.IntN(len(ofTransactions))]
	}
	for i := range requests {
		if requests[i].key == want {
			return &requests[i]
		}
	}
	return &requests[0]
}

// errors has some requests answered with errors, and tells what it did.
func (k *kafka) errors(rng *rand.Rand) string {
	r := someRequest(rng)
	i := rng.IntN(len(r.codes) + len(r.done))
	t := kafkawire.Trouble{Key: r.key, Count: 1 + rng.IntN(1<<rng.IntN(6)), Within: within(rng)}
	how := "not done"
	if i < len(r.codes) {
		t.Code = r.codes[i]
	} else {
		t.Do, t.Code, how = kafkawire.AnswerAfter, r.done[i-len(r.codes)], "done"
	}
	k.proxy.Add(t)
	return fmt.Sprintf("%d requests %v %s and answered with error %d", t.Count, r.key.Name(), how, t.Code)
}

func within(rng *rand.Rand) time.Duration {
	return time.Duration(500+rng.IntN(4000)) * time.Millisecond
}

// wire troubles connections, and tells what it did.
func (k *kafka) wire(rng *rand.Rand) string {
	part := 0.2 + 0.8*rng.Float64()
	delay := time.Duration(100+rng.IntN(3000)) * time.Millisecond
	r := someRequest(rng)
	t := kafkawire.Trouble{Key: r.key, Count: 1 + rng.IntN(1<<rng.IntN(5)), Within: within(rng)}
	what := ""
	switch rng.IntN(7) {
	case 0:
		return fmt.Sprintf("%d connections to Kafka cut", k.proxy.Cut(rng, part))
	case 1:
		return fmt.Sprintf("%d connections to Kafka stalled for %v", k.proxy.Stall(rng, part, delay), delay)
	case 2:
		t.Do, what = kafkawire.DropBefore, "connection closed before the request"
	case 3, 4, 5:
		t.Do, what = kafkawire.DropAfter, "connection closed instead of an answer"
	default:
		t.Do, t.Delay, what = kafkawire.Late, delay, "answered "+delay.String()+" late"
	}
	k.proxy.Add(t)
	return fmt.Sprintf("%d requests %s: %s", t.Count, r.key.Name(), what)
}
