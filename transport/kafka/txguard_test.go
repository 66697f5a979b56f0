package kafka

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
)

// What a kill can leave of the files of a broker is repaired: transactions that were open are
// aborted for good, and ends that were cut off do no harm later.
func TestRepairAfterKill(t *testing.T) {
	const partitions = 4
	dir := t.TempDir()
	addr, kill := startBrokerProcess(t, ":0", dir)
	cfg := testConfig(t, addr)
	plan := makeTopics(t, cfg, partitions)
	m := joinGroup(t, cfg, plan.Jobs)
	eventually(t, func() bool { return len(m.owned()) == partitions }, "assigned")
	id := unique()
	tr := readyTransactor(t, cfg, id)
	tx := func(prefix string, offset int64) *Transaction {
		return &Transaction{Messages: messages(plan.Results, prefix, 20, partitions), Topic: plan.Jobs,
			Offsets: map[int32]int64{0: offset, 1: offset}, Group: m.metadata(t)}
	}
	var want []string
	for round := range int64(3) {
		one := tx(fmt.Sprintf("round %d, ", round), round)
		_, errs := commitByTheBook(t, tr, m, one)
		t.Log(errs)
		want = append(want, values(one.Messages)...)
		open := tx(fmt.Sprintf("never %d, ", round), 100)
		_, err := tr.fill(within(t, patience), tr.client.Load(), open)
		require.NoError(t, err)
		kill()
		switch round {
		case 0: // the index entry of a batch that was written is missing
			path := segmentPath(t, dir, plan.Results, 1, ".idx")
			info, err := os.Stat(path)
			require.NoError(t, err)
			require.NoError(t, os.Truncate(path, info.Size()-indexEntryBytes))
		case 1: // writes were cut off
			for _, path := range []string{segmentPath(t, dir, plan.Results, 2, ".dat"), filepath.Join(dir, groupsLogFile), filepath.Join(dir, pidsLogFile)} {
				f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
				require.NoError(t, err)
				_, err = f.Write([]byte("\x00\x00\x00\x00\x00\x00\x01\x02\x00\x00"))
				require.NoError(t, err)
				require.NoError(t, f.Close())
			}
		}
		_, kill = startBrokerProcess(t, addr, dir)
		eventually(t, func() bool { return len(m.owned()) == partitions && committedOffset(t, m, plan.Jobs, 1) == round }, "back")
		// The client whose transaction was aborted is shut out.
		err = tr.client.Load().p.CommitTransaction(within(t, patience))
		require.ErrorContains(t, err, "fenced")
		require.NoError(t, tr.Reset(within(t, patience)))
	}
	require.ElementsMatch(t, want, readCommitted(t, cfg.Bootstrap, plan.Results).settle(t, cfg, plan.Results, partitions))
	kill()
	startBrokerProcess(t, addr, dir)
	require.ElementsMatch(t, want, readCommitted(t, cfg.Bootstrap, plan.Results).settle(t, cfg, plan.Results, partitions))
}

func segmentPath(t *testing.T, dir, topic string, partition int, ext string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, partitionsDir, fmt.Sprintf("%s-%d", topic, partition), "*"+ext))
	require.NoError(t, err)
	require.Len(t, found, 1)
	return found[0]
}

// An orderly end keeps open transactions open, over the restart of the broker.
func TestOrderlyRestartKeepsTransactions(t *testing.T) {
	dir := t.TempDir()
	e := startEmbedded(t, EmbeddedConfig{Listen: ":0", DataDir: dir})
	cfg := testConfig(t, e.Addr())
	plan := makeTopics(t, cfg, 2)
	tr := readyTransactor(t, cfg, unique())
	tx := &Transaction{Messages: messages(plan.Results, "a", 10, 2)}
	c := tr.client.Load()
	_, err := tr.fill(within(t, patience), c, tx)
	require.NoError(t, err)
	require.NoError(t, e.Close())
	startEmbedded(t, EmbeddedConfig{Listen: e.Addr(), DataDir: dir})
	require.Nil(t, tr.finish(within(t, patience), &txLife{c: c, tx: tx, started: time.Now()}))
	require.ElementsMatch(t, values(tx.Messages), readCommitted(t, cfg.Bootstrap, plan.Results).settle(t, cfg, plan.Results, 2))
}

func TestTxJournal(t *testing.T) {
	dir := t.TempDir()
	g, err := openTxGuard(dir, true, zap.NewNop())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, pidsLogFile), make([]byte, 10), 0o600))
	g.observe(&kmsg.EndTxnRequest{ProducerID: 1 << 40, ProducerEpoch: 7, Commit: true})
	first, err := g.read()
	require.NoError(t, err)
	require.True(t, first.unfinished)
	require.Equal(t, int64(1<<40), first.pid)
	require.Equal(t, int16(7), first.epoch)
	require.Equal(t, sizeOf(filepath.Join(dir, pidsLogFile)), first.pids)
	require.Equal(t, logSize{}, first.groups)
	g.observe(&kmsg.EndTxnRequest{ProducerID: 2, Commit: true})
	second, err := g.read()
	require.NoError(t, err)
	require.Greater(t, second.atMs, first.atMs)
	g.observe(&kmsg.FetchRequest{})
	done, err := g.read()
	require.NoError(t, err)
	require.Zero(t, done)
	require.NoError(t, g.journal.Truncate(20))
	torn, err := g.read()
	require.NoError(t, err)
	require.Zero(t, torn)
	g.close()
}
