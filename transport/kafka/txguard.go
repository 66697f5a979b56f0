package kafka

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
)

// Names within a data directory of kfake.
const (
	txJournalFile  = "txn.journal" // ours
	partitionsDir  = "partitions"
	groupsLogFile  = "groups.log"
	pidsLogFile    = "pids.log"
	sessionFile    = "session_state.json" // written last by an orderly end, removed at the next start
	seqWindowsFile = "seq_windows.json"
)

// txGuard makes transactions of the embedded broker whole over a kill of the process.
//
// kfake commits by writing a marker to each partition, then the offsets, then a line that
// the transaction ended, and recovers from what it finds of that. So the guard notes in a
// journal, before a commit is handled, that it begins and how long the logs are; at the next
// start an unfinished commit is rolled back: nobody was told of it, and nobody read any of it,
// for kfake handles one request after the other. See repairTransactions for the rest.
type txGuard struct {
	dir     string
	sync    bool
	log     *zap.Logger
	journal *os.File // nil: in memory; there is no crash to survive

	// Only used by the broker's goroutine.
	pending bool
	lastMs  int64
	buf     [journalBytes]byte
}

// txIntent is a commit that was begun.
type txIntent struct {
	unfinished bool
	pid        int64
	epoch      int16
	atMs       int64 // markers of this commit are not older
	groups     logSize
	pids       logSize
}

// logSize tells whether an append-only file has changed.
type logSize struct {
	inode uint64
	bytes int64
}

const (
	journalBytes = 64
	journalMagic = 0x31585452
)

// openTxGuard repairs the data directory, of a broker that does not run, and opens the
// journal for the one that will. No directory, no journal.
func openTxGuard(dir string, sync bool, log *zap.Logger) (*txGuard, error) {
	g := &txGuard{dir: dir, sync: sync, log: log}
	if dir == "" {
		return g, nil
	}
	fail := func(err error) error {
		return fmt.Errorf("embedded kafka: transactions in %s cannot be repaired: %w", dir, err)
	}
	f, err := os.OpenFile(filepath.Join(dir, txJournalFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fail(err)
	}
	g.journal = f
	intent, err := g.read()
	if err == nil {
		err = repairTransactions(dir, intent, sync, log)
	}
	if err == nil {
		err = g.write(txIntent{})
	}
	if err != nil {
		f.Close()
		return nil, fail(err)
	}
	return g, nil
}

// install has the guard see every request before it is handled. It comes before all other
// faults, which could hide requests from it.
func (g *txGuard) install(c *kfake.Cluster) {
	if g.journal != nil {
		c.Fault(kfake.Fault{Count: -1, When: g.observe})
	}
}

// observe runs on the broker's goroutine. A request that comes tells that the one before was
// handled to its end.
func (g *txGuard) observe(req kmsg.Request) bool {
	if g.pending {
		g.pending = false
		g.warnIf(g.write(txIntent{}))
	}
	if end, ok := req.(*kmsg.EndTxnRequest); ok && end.Commit {
		g.pending = true
		g.warnIf(g.write(g.intend(end)))
	}
	return false
}

func (g *txGuard) intend(end *kmsg.EndTxnRequest) txIntent {
	now := time.Now().UnixMilli()
	for now <= g.lastMs { // no marker of an earlier commit may look like one of this
		time.Sleep(100 * time.Microsecond)
		now = time.Now().UnixMilli()
	}
	g.lastMs = now
	return txIntent{
		unfinished: true, pid: end.ProducerID, epoch: end.ProducerEpoch, atMs: now,
		groups: sizeOf(filepath.Join(g.dir, groupsLogFile)),
		pids:   sizeOf(filepath.Join(g.dir, pidsLogFile)),
	}
}

func (g *txGuard) warnIf(err error) {
	if err != nil {
		g.log.Warn("embedded kafka: a crash now could tear a transaction", zap.Error(err))
	}
}

// sizeOf is zero for a file that does not exist.
func sizeOf(path string) logSize {
	info, err := os.Stat(path)
	if err != nil {
		return logSize{}
	}
	st, _ := info.Sys().(*syscall.Stat_t)
	if st == nil {
		return logSize{bytes: info.Size()}
	}
	return logSize{inode: st.Ino, bytes: info.Size()}
}

// write replaces what the journal holds.
func (g *txGuard) write(i txIntent) error {
	b := g.buf[:0]
	b = binary.LittleEndian.AppendUint32(b, journalMagic)
	var unfinished uint16
	if i.unfinished {
		unfinished = 1
	}
	b = binary.LittleEndian.AppendUint16(b, unfinished)
	b = binary.LittleEndian.AppendUint16(b, uint16(i.epoch))
	for _, v := range []uint64{uint64(i.pid), uint64(i.atMs), i.groups.inode, uint64(i.groups.bytes), i.pids.inode, uint64(i.pids.bytes)} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	if _, err := g.journal.WriteAt(b, 0); err != nil {
		return err
	}
	if g.sync && i.unfinished { // that it is finished the logs tell, too
		return g.journal.Sync()
	}
	return nil
}

// read returns what the journal holds; one that is new or torn holds nothing, for it is
// written before what it speaks of.
func (g *txGuard) read() (txIntent, error) {
	b := g.buf[:]
	n, err := g.journal.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return txIntent{}, err
	}
	const fixed = 4 + 2 + 2 + 6*8
	if n < fixed+4 || binary.LittleEndian.Uint32(b) != journalMagic ||
		crc32.ChecksumIEEE(b[:fixed]) != binary.LittleEndian.Uint32(b[fixed:]) {
		return txIntent{}, nil
	}
	var v [6]uint64
	for i := range v {
		v[i] = binary.LittleEndian.Uint64(b[8+8*i:])
	}
	return txIntent{
		unfinished: binary.LittleEndian.Uint16(b[4:]) == 1, epoch: int16(binary.LittleEndian.Uint16(b[6:])),
		pid: int64(v[0]), atMs: int64(v[1]), groups: logSize{v[2], int64(v[3])}, pids: logSize{v[4], int64(v[5])},
	}, nil
}

func (g *txGuard) close() {
	if g.journal != nil {
		g.journal.Close()
	}
}
