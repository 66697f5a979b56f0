package kafka

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// runChild serves an embedded broker, set up by the environment, until it is
// killed.
func runChild(role string) int {
	switch role {
	case "broker":
	case "consumer":
		return runConsumerChild()
	default:
		return 2
	}
	sync := os.Getenv(childEnv+"_SYNC") == "1"
	cfg := EmbeddedConfig{Listen: os.Getenv(childEnv + "_LISTEN"), DataDir: os.Getenv(childEnv + "_DIR"), Sync: sync}
	if os.Getenv(childEnv+"_BUSY") == "1" {
		cfg.houseEvery, cfg.compactMin = 10*time.Millisecond, 64<<10
	}
	e, err := StartEmbedded(cfg)
	if err != nil {
		fmt.Println("error:", err)
		return 1
	}
	dieInCommit(e)
	fmt.Println(e.Addr())
	select {} // the parent kills it
}

// startBrokerProcess runs the test binary again, as a broker.
func startBrokerProcess(t testing.TB, listen, dir string, env ...string) (addr string, kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), childEnv+"=broker", childEnv+"_LISTEN="+listen, childEnv+"_DIR="+dir), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var once sync.Once
	kill = func() {
		once.Do(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
	}
	t.Cleanup(kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.NotContains(t, line, "error")
	return line[:len(line)-1], kill
}

// Every acknowledged record and commit outlives SIGKILL, again and again, with
// the clients going on.
func TestEmbeddedSurvivesSigkill(t *testing.T) {
	dir := t.TempDir()
	addr, kill := startBrokerProcess(t, ":0", dir)
	cfg := testConfig(t, addr)
	plan := makeTopics(t, cfg, 4)

	var mu sync.Mutex
	acked := map[string]bool{}
	p := newTestProducer(t, cfg, func(ds []Delivery) {
		mu.Lock()
		defer mu.Unlock()
		for _, d := range ds {
			if d.Err == nil {
				acked[d.Opaque.(string)] = true
			} else {
				t.Errorf("delivery failed: %v", d.Err)
			}
		}
	})
	ackedCount := func() int { mu.Lock(); defer mu.Unlock(); return len(acked) }
	rec := newRecorder("c", nil)
	k := attachCommitter(t, cfg, plan.Jobs, rec)
	r := runConsumer(t, cfg, plan.Jobs, rec, nil)

	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	sent := 0
	wg.Add(1)
	go func() {
		defer wg.Done()
		for tick := time.NewTicker(time.Millisecond); ctx.Err() == nil; <-tick.C {
			v := []byte(fmt.Sprint(sent))
			if p.Produce(Message{Topic: plan.Jobs, Partition: PartitionByKey, Key: v, Value: v, Opaque: string(v)}) == nil {
				sent++
			}
		}
	}()
	for range 3 {
		before := ackedCount()
		commits := k.commits.Load()
		eventually(t, func() bool { return ackedCount() > before+200 && k.commits.Load() > commits+1 }, "records flow")
		kill()
		_, kill = startBrokerProcess(t, addr, dir)
	}
	stop()
	wg.Wait()
	flush(t, p)
	require.Equal(t, sent, ackedCount())
	eventually(t, func() bool { return len(rec.values()) == sent }, "the consumer that lived on has all")
	// The broker forgot the group's members, so the commits go on only after
	// the consumer joined it again.
	stored := 0
	eventually(t, func() bool {
		ends, committed := 0, 0
		for id := range int32(4) {
			_, high, err := r.client.QueryWatermarkOffsets(plan.Jobs, id, 1000)
			if err != nil {
				return false
			}
			ends += int(high)
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			if at, err := r.StableOffset(ctx, id); err == nil {
				committed += int(at)
			}
			cancel()
		}
		stored = ends
		return committed == ends
	}, "everything is committed")
	kill() // before the consumer ends: no help from its leaving
	r.stop(t)()

	// What is on disk now, read by others.
	startBrokerProcess(t, addr, dir)
	rest := newRecorder("same group", nil)
	runConsumer(t, cfg, plan.Jobs, rest, nil)
	cfg.Group = "group-" + unique()
	all := newRecorder("new group", nil)
	runConsumer(t, cfg, plan.Jobs, all, nil)
	eventually(t, func() bool { return len(all.values()) == sent }, "all %d acknowledged records are on disk, %d seen", sent, len(all.values()))
	require.Equal(t, stored, all.count())
	require.Zero(t, rest.count(), "commits are on disk")
	t.Logf("%d records, %d stored twice", sent, all.count()-sent)
}
