package kafka

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestEmbeddedRefusals(t *testing.T) {
	for listen, want := range map[string]string{
		"0.0.0.0:0":   "only loopback",
		"10.0.0.1:1":  "only loopback",
		"example.org": "want a loopback host:port",
	} {
		_, err := StartEmbedded(EmbeddedConfig{Listen: listen})
		require.ErrorContains(t, err, want)
	}
	_, err := StartEmbedded(EmbeddedConfig{Listen: ":0", MinFreeBytes: -1})
	require.ErrorContains(t, err, "negative")

	e := startEmbedded(t, EmbeddedConfig{Listen: ":0"})
	_, err = StartEmbedded(EmbeddedConfig{Listen: e.Addr()})
	require.ErrorContains(t, err, "another broker")
	require.False(t, e.LowSpace())
}

func TestEmbeddedDataDirRefusals(t *testing.T) {
	dir := t.TempDir()
	e := startEmbedded(t, EmbeddedConfig{Listen: ":0", DataDir: dir})
	_, err := StartEmbedded(EmbeddedConfig{Listen: ":0", DataDir: dir})
	require.ErrorContains(t, err, "in use by another process")
	require.NoError(t, e.Close())
	require.NoError(t, e.Close()) // twice is fine

	foreign := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(foreign, "thesis.txt"), []byte("x"), 0o600))
	_, err = StartEmbedded(EmbeddedConfig{Listen: ":0", DataDir: foreign})
	require.ErrorContains(t, err, "thesis.txt")

	require.NoError(t, os.WriteFile(filepath.Join(dir, metaFile), []byte(`{"version":1,"cluster_id":"prod"}`), 0o600))
	_, err = StartEmbedded(EmbeddedConfig{Listen: ":0", DataDir: dir})
	require.ErrorContains(t, err, `cluster "prod"`)
	require.NoError(t, os.WriteFile(filepath.Join(dir, metaFile), []byte(`{`), 0o600))
	_, err = StartEmbedded(EmbeddedConfig{Listen: ":0", DataDir: dir})
	require.ErrorContains(t, err, "cannot be read")
}

func TestEmbeddedIsTold(t *testing.T) {
	dir := t.TempDir()
	for range 2 { // the second start reads the id from disk
		e := startEmbedded(t, EmbeddedConfig{Listen: "localhost:0", DataDir: dir})
		info, err := ensure(t, testConfig(t, e.Addr()), Topics{}.Plan())
		require.NoError(t, err)
		require.True(t, IsEmbedded(info.ClusterID))
		require.NoError(t, e.Close())
	}
	require.False(t, IsEmbedded("MkU3OEVBNTcwNTJENDM2Qk"))
}

// Bytes that are no Kafka requests must not end the process, nor allocate what
// they announce.
func TestEmbeddedLivesThroughGarbage(t *testing.T) {
	e := startEmbedded(t, EmbeddedConfig{Listen: ":0"})
	frame := func(size uint32, key uint16, body string) []byte {
		b := binary.BigEndian.AppendUint32(nil, size)
		b = binary.BigEndian.AppendUint16(b, key)
		return append(b, body...)
	}
	for name, data := range map[string][]byte{
		"http":        []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"unknown key": frame(12, 30000, "0123456789"),
		"huge":        frame(1<<31-1, 0, ""),
		"tiny":        frame(2, 3, "xxxxxx"),
		"bad body":    frame(30, 0, "\x00\x09\x00\x00\x00\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
		"bad version": frame(14, 18, "\x7f\xff\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00"),
	} {
		conn, err := net.Dial("tcp", e.Addr())
		require.NoError(t, err)
		_, err = conn.Write(data)
		require.NoError(t, err, name)
		if name != "bad version" { // that one gets a proper answer
			_, err = io.ReadAll(conn)
			_ = err // closed or reset
		}
		conn.Close()
	}
	_, err := ensure(t, testConfig(t, e.Addr()), Topics{}.Plan())
	require.NoError(t, err)
}

// smallDisk mounts a file system of this size.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("mounting a small file system needs privileges that this environment lacks: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
	return dir
}

func TestEmbeddedDiskFull(t *testing.T) {
	for name, reserve := range map[string]int64{"with a reserve": 1 << 20, "to the last byte": 1} {
		t.Run(name, func(t *testing.T) { testDiskFull(t, reserve) })
	}
}

func testDiskFull(t *testing.T, reserve int64) {
	dir := smallDisk(t, "4m")
	e := startEmbedded(t, EmbeddedConfig{Listen: freeAddr(t), DataDir: filepath.Join(dir, "kafka"), MinFreeBytes: reserve})
	filler := filepath.Join(dir, "filler")
	require.NoError(t, os.WriteFile(filler, make([]byte, 2<<20), 0o600))
	cfg := testConfig(t, e.Addr())
	plan := makeTopics(t, cfg, 2)
	rec := newRecorder("c", nil)
	attachCommitter(t, cfg, plan.Jobs, rec)
	r := runConsumer(t, cfg, plan.Jobs, rec, nil)

	// Failed records are produced again, as a member does with class retry.
	var mu sync.Mutex
	acked := map[string]bool{}
	failed := 0
	var p *Producer
	produce := func(v string) {
		require.NoError(t, p.Produce(Message{Topic: plan.Jobs, Partition: PartitionByKey, Key: []byte(v),
			Value: append([]byte(v+" "), make([]byte, 1000)...), Opaque: v}))
	}
	p = newTestProducer(t, cfg, func(ds []Delivery) {
		mu.Lock()
		defer mu.Unlock()
		for _, d := range ds {
			if d.Err == nil {
				acked[d.Opaque.(string)] = true
				continue
			}
			failed++
			if Classify(d.Err) == ClassRetry {
				produce(d.Opaque.(string))
			} else {
				t.Errorf("%v", d.Err)
			}
		}
	})
	const total = 2400 // about 2.5 MB: more than fits beside the filler, less than without it
	for i := range 100 {
		produce(fmt.Sprint(i))
	}
	flush(t, p)
	for i := 100; i < total; i++ {
		produce(fmt.Sprint(i))
	}
	eventually(t, func() bool { return e.LowSpace() || p.Stats().Failed > 0 }, "the disk fills up")
	require.Positive(t, p.Len(), "records wait")
	ackedNow := func() map[string]bool {
		mu.Lock()
		defer mu.Unlock()
		m := make(map[string]bool, len(acked))
		for k := range acked {
			m[k] = true
		}
		return m
	}

	// A restart with the disk still full loses nothing that was acknowledged.
	early := ackedNow()
	require.GreaterOrEqual(t, len(early), 100)
	require.NoError(t, e.Close())
	e = startEmbedded(t, EmbeddedConfig{Listen: e.Addr(), DataDir: filepath.Join(dir, "kafka"), MinFreeBytes: reserve})
	require.NoError(t, os.Remove(filler)) // there is space again
	eventually(t, func() bool { return p.Len() == 0 && len(ackedNow()) == total }, "all records are taken")
	require.False(t, e.LowSpace())
	eventually(t, func() bool { return len(rec.values()) == total }, "all are consumed")
	r.stop(t)()

	cfg.Group = "group-" + unique()
	again := newRecorder("again", nil)
	ra := runConsumer(t, cfg, plan.Jobs, again, nil)
	eventually(t, func() bool { return len(again.values()) == total }, "all are stored")
	ra.stop(t)()
	mu.Lock()
	defer mu.Unlock()
	t.Logf("%d acknowledged before the restart, %d deliveries failed, %d records stored for %d", len(early), failed, again.count(), total)
	require.NoError(t, e.Close())
}

// Transactions on a disk that fills up: they wait, or are aborted and tried again, and in
// the end each is there once.
func TestEmbeddedDiskFullOfTransactions(t *testing.T) {
	dir := smallDisk(t, "6m")
	data := filepath.Join(dir, "kafka")
	e := startEmbedded(t, EmbeddedConfig{Listen: freeAddr(t), DataDir: data, MinFreeBytes: 1 << 20})
	filler := filepath.Join(dir, "filler")
	require.NoError(t, os.WriteFile(filler, make([]byte, 4<<20), 0o600))
	cfg := testConfig(t, e.Addr())
	cfg.TransactionTimeout = 2 * time.Second
	plan := makeTopics(t, cfg, 2)
	m := joinMember(t, cfg, plan.Jobs, "m")
	eventually(t, func() bool { return m.rec.ownedCount() == 2 }, "assigned")
	tr := readyTransactor(t, cfg, "tx-"+unique())
	stored := func(n int) bool {
		s := newStateSink()
		readState(t, cfg, plan.State, []int32{0}, s)
		_, ok := s.keys(0)[fmt.Sprint(n)]
		return ok
	}
	aborted, unknown := 0, 0
	commit := func(n int) {
		tx := &Transaction{Topic: plan.Jobs, Offsets: map[int32]int64{0: int64(n), 1: int64(n)}}
		for i := range int32(2) {
			tx.Messages = append(tx.Messages, Message{Topic: plan.State, Partition: i, Key: fmt.Append(nil, n), Value: make([]byte, 20_000)})
		}
		for deadline := time.Now().Add(2 * patience); ; {
			require.True(t, time.Now().Before(deadline))
			if tx.Group = m.Group(); tx.Group == nil {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			err := tr.Commit(ctx, tx)
			cancel()
			if err == nil {
				return
			}
			switch te := txError(t, err); te.Outcome {
			case TxAborted:
				aborted++
			case TxUnknown:
				unknown++
				require.NoError(t, tr.Reset(within(t, patience)))
				if stored(n) {
					return
				}
			default:
				require.NoError(t, err)
			}
		}
	}
	const total = 60 // 2.4 MB: more than fits beside the filler, less than without it
	var freed sync.WaitGroup
	freed.Go(func() {
		for limit := time.Now().Add(patience); !e.LowSpace() && time.Now().Before(limit); {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(5 * time.Second) // more than the transaction's timeout
		assert.NoError(t, os.Remove(filler))
	})
	early := 0
	for n := range total {
		if commit(n); aborted == 0 {
			early = n
		}
	}
	freed.Wait()
	require.Positive(t, aborted)
	require.False(t, e.LowSpace())
	s := newStateSink()
	readState(t, cfg, plan.State, []int32{0, 1}, s)
	require.Len(t, s.records[0], total)
	require.Len(t, s.records[1], total)
	at, err := m.StableOffset(t.Context(), 1)
	require.NoError(t, err)
	require.EqualValues(t, total-1, at)
	t.Logf("%d before it was full, %d attempts aborted, %d of unknown outcome", early, aborted, unknown)

	// All of it is on the disk.
	m.tx.close()
	m.stop(t)()
	require.NoError(t, tr.Close(within(t, patience)))
	require.NoError(t, e.Close())
	e = startEmbedded(t, EmbeddedConfig{Listen: e.Addr(), DataDir: data, MinFreeBytes: 1 << 20})
	again := newStateSink()
	readState(t, cfg, plan.State, []int32{0, 1}, again)
	require.Equal(t, s.keys(0), again.keys(0))
	require.Equal(t, s.keys(1), again.keys(1))
	require.NoError(t, e.Close())
}
