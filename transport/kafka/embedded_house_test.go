package kafka

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func diskUse(t testing.TB, dir string) (n int64) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(_ string, d fs.DirEntry, _ error) error {
		if d != nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil { // else it was removed meanwhile
				n += info.Size()
			}
		}
		return nil
	}))
	return n
}

// Under steady load the disk use stays bounded, and compacted topics keep the newest value
// of each key though they get much more than the retention allows.
func TestEmbeddedKeepsHouse(t *testing.T) {
	for name, dir := range map[string]string{"disk": t.TempDir(), "memory": ""} {
		t.Run(name, func(t *testing.T) {
			const retention, partitions, rounds = 1 << 20, 4, 150
			e := startEmbedded(t, EmbeddedConfig{Listen: freeAddr(t), DataDir: dir, RetentionBytes: retention, houseEvery: 50 * time.Millisecond})
			cfg := testConfig(t, e.Addr())
			plan := makeTopics(t, cfg, partitions)
			x := newRawTx(t, cfg, "tx-"+unique())
			want := [partitions]map[string]string{}
			for p := range want {
				want[p] = map[string]string{}
			}
			value := make([]byte, 1000)
			most := int64(0)
			for round := range rounds { // 150 x 4 x 200 x 1 KB: 120 MB
				x.begin()
				abort := round%10 == 7
				for p := range int32(partitions) {
					for range 200 {
						k := fmt.Sprint("k", rand.IntN(500))
						v := append(fmt.Appendf(nil, "%d ", round), value...)
						if rand.IntN(2) == 0 {
							v = nil
						}
						x.produce(plan.State, p, []byte(k), v)
						switch {
						case abort:
						case v == nil:
							delete(want[p], k)
						default:
							want[p][k] = string(v)
						}
					}
				}
				x.produce(plan.Results, 0, nil, value)
				if abort {
					x.flush()
					require.NoError(t, x.abort())
				} else {
					require.NoError(t, x.commit())
				}
				if dir != "" {
					most = max(most, diskUse(t, dir))
				}
			}
			check := func() {
				t.Helper()
				s := readStateAgain(t, cfg, plan.State, []int32{0, 1, 2, 3})
				for p := range want {
					require.Equal(t, want[p], s.keys(int32(p)))
				}
			}
			check()
			var log int64
			for _, p := range e.cluster.PartitionInfos(plan.State) {
				log += p.NumBytes
			}
			require.Less(t, log, int64(2*partitions*compactMinBytes))
			if dir == "" {
				return
			}
			t.Logf("at most %d MiB on disk, for %d MiB written", most>>20, rounds*partitions*200/1024/2)
			// What compaction waits for, what comes until its turn, and a segment of each.
			require.Less(t, most, int64(3*partitions*compactMinBytes))
			x.close()
			require.NoError(t, e.Close())
			startEmbedded(t, EmbeddedConfig{Listen: e.Addr(), DataDir: dir, RetentionBytes: retention, houseEvery: 50 * time.Millisecond})
			check()
		})
	}
}

// A compacted topic that somebody made without retention settings is not cut either; others
// are.
func TestEmbeddedRetentionSparesCompactedTopics(t *testing.T) {
	e := startEmbedded(t, EmbeddedConfig{Listen: ":0", RetentionBytes: 100_000, houseEvery: 20 * time.Millisecond})
	cfg := testConfig(t, e.Addr())
	a := testAdmin(t, cfg)
	compacted, plain := "c"+unique(), "p"+unique()
	a.create(compacted, 1, "compact")
	a.create(plain, 1, "delete")
	p := newTestProducer(t, cfg, (&deliveries{}).add)
	for i := range 1000 {
		for _, topic := range []string{compacted, plain} {
			require.NoError(t, p.Produce(Message{Topic: topic, Partition: 0, Key: fmt.Append(nil, i), Value: make([]byte, 1000)}))
		}
		if i%100 == 99 {
			flush(t, p) // batches that can be dropped one by one
		}
	}
	eventually(t, func() bool { return e.cluster.PartitionInfos(plain)[0].NumBytes < 300_000 }, "retention is applied")
	require.Equal(t, "-1", a.config(compacted)["retention.bytes"])
	info := e.cluster.PartitionInfos(compacted)[0]
	require.Zero(t, info.LogStartOffset)
	require.Greater(t, info.NumBytes, int64(1_000_000))
}

// A broker that compacts without rest is killed again and again, by SIGKILL: the newest
// value of each key is that of the last transaction that was committed, and nothing that was
// deleted comes back.
func TestHousekeepingSurvivesSigkill(t *testing.T) {
	const partitions = 3
	dir := t.TempDir()
	addr, kill := startBrokerProcess(t, ":0", dir, childEnv+"_BUSY=1")
	cfg := testConfig(t, addr)
	plan := makeTopics(t, cfg, partitions)
	tr := readyTransactor(t, cfg, "writer-"+unique())
	want := [partitions]map[string]string{}
	for p := range want {
		want[p] = map[string]string{}
	}
	found := func() (m [partitions]map[string]string) {
		s := readStateAgain(t, cfg, plan.State, []int32{0, 1, 2})
		for p := range m {
			m[p] = s.keys(int32(p))
		}
		return m
	}
	n, unknown := 0, 0
	commit := func() {
		n++
		tx := &Transaction{}
		next := [partitions]map[string]string{}
		put := func(p int, k, v string) {
			m := Message{Topic: plan.State, Partition: int32(p), Key: []byte(k)}
			if v == "" {
				delete(next[p], k)
			} else {
				m.Value, next[p][k] = []byte(v), v
			}
			tx.Messages = append(tx.Messages, m)
		}
		for p := range next {
			next[p] = maps.Clone(want[p])
			put(p, "head", fmt.Sprint(n))
			for range 10 {
				k := fmt.Sprint("k", rand.IntN(40))
				if rand.IntN(2) == 0 {
					put(p, k, "")
				} else {
					put(p, k, fmt.Sprintf("%d %0500d", n, 0))
				}
			}
		}
		for {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			err := tr.Commit(ctx, tx)
			cancel()
			if err == nil {
				want = next
				return
			}
			te := txError(t, err)
			if te.Outcome == TxUnknown {
				unknown++
				require.NoError(t, tr.Reset(within(t, patience)))
				if found()[0]["head"] == fmt.Sprint(n) {
					want = next
					return
				}
				continue
			}
			require.Equal(t, TxAborted, te.Outcome, "%v", err)
		}
	}
	for round := range 6 {
		for end := time.Now().Add(time.Second + rand.N(time.Second)); time.Now().Before(end); {
			commit()
		}
		var killed sync.WaitGroup
		killed.Go(func() {
			time.Sleep(rand.N(30 * time.Millisecond)) // anywhere in what comes now
			kill()
			_, kill = startBrokerProcess(t, addr, dir, childEnv+"_BUSY=1")
		})
		for range 10 {
			commit()
		}
		killed.Wait()
		commit()
		require.Equal(t, want, found(), "round %d", round)
	}
	used := diskUse(t, filepath.Join(dir, "partitions"))
	t.Logf("%d transactions, %d of unknown outcome, %d KiB on disk", n, unknown, used>>10)
}
