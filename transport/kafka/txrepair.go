package kafka

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
)

// How kfake writes its files: segments are record batches as they go over the wire, each
// with an entry in the index beside it; logs are framed JSON.
const (
	batchHeaderBytes = 61
	maxBatchOnDisk   = 1 << 30
	indexEntryBytes  = 15
	logFrameBytes    = 10 // length, CRC-32C of what follows, version
	persistVersion   = 1

	attrTransactional = 0x10
	attrControl       = 0x20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// repairTransactions brings the files of a broker that was killed to what kfake expects of
// them, before it reads them. After an orderly end it does nothing.
//
//   - A commit that was not finished is rolled back.
//   - A transaction that was open gets a marker in each of its partitions that says aborted,
//     and its producer a higher epoch. kfake treats it as aborted too, but does not write that
//     down: the producer's next transaction would then vanish for readers, and the crash after
//     next would make both visible.
//   - Ends of files that the kill cut off are removed, and missing index entries added, without
//     which kfake takes what was open for committed.
//   - The sequence numbers as of the last orderly end are dropped: they are those of the past.
func repairTransactions(dir string, intent txIntent, sync bool, log *zap.Logger) error {
	if _, err := os.Stat(filepath.Join(dir, sessionFile)); err == nil {
		return nil
	}
	r := &txRepair{dir: dir, sync: sync, log: log, open: map[int64]int16{}}
	var err error
	if r.epochs, err = r.readPIDs(); err != nil {
		return err
	}
	_, err = trimLog(filepath.Join(dir, groupsLogFile))
	if err != nil {
		return err
	}
	if intent.unfinished && sizeOf(filepath.Join(dir, pidsLogFile)) == intent.pids {
		r.rollback = &intent
		if err := r.rollbackOffsets(); err != nil {
			return err
		}
	}
	if err := os.Remove(filepath.Join(dir, seqWindowsFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parts, err := filepath.Glob(filepath.Join(dir, partitionsDir, "*"))
	if err != nil {
		return err
	}
	for _, p := range parts {
		if err := r.partition(p); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	return r.bumpEpochs()
}

type txRepair struct {
	dir      string
	sync     bool
	log      *zap.Logger
	epochs   map[int64]int16 // of transactional producers, as of pids.log
	open     map[int64]int16 // producers that had a transaction open, and the epoch it had
	rollback *txIntent
}

// rollbackOffsets removes the offsets that the unfinished commit had already written.
func (r *txRepair) rollbackOffsets() error {
	path := filepath.Join(r.dir, groupsLogFile)
	now := sizeOf(path)
	if now.bytes <= r.rollback.groups.bytes || r.rollback.groups.inode != 0 && now.inode != r.rollback.groups.inode {
		return nil
	}
	return r.truncate(path, r.rollback.groups.bytes)
}

// batchHeader is what the repair needs of a batch.
type batchHeader struct {
	pos, size   int64
	base        int64
	leaderEpoch int32
	attributes  uint16
	lastDelta   int32
	maxMs       int64
	pid         int64
	pidEpoch    int16
}

func (h *batchHeader) control() bool { return h.attributes&attrControl != 0 }
func (h *batchHeader) next() int64   { return h.base + int64(h.lastDelta) + 1 }

func parseBatchHeader(b []byte, pos int64) batchHeader {
	be := binary.BigEndian
	return batchHeader{
		pos: pos, size: 12 + int64(be.Uint32(b[8:])), base: int64(be.Uint64(b)), leaderEpoch: int32(be.Uint32(b[12:])),
		attributes: be.Uint16(b[21:]), lastDelta: int32(be.Uint32(b[23:])), maxMs: int64(be.Uint64(b[35:])),
		pid: int64(be.Uint64(b[43:])), pidEpoch: int16(be.Uint16(b[51:])),
	}
}

// partition repairs one partition.
func (r *txRepair) partition(dir string) error {
	bases, err := segmentBases(dir)
	if err != nil || len(bases) == 0 {
		return err
	}
	open := map[int64]int16{}
	var last *batchHeader
	for i, base := range bases {
		path := filepath.Join(dir, fmt.Sprintf("%d.dat", base))
		headers, marker, err := r.segment(path, i == len(bases)-1)
		if err != nil {
			return err
		}
		for j := range headers {
			switch h := &headers[j]; {
			case h.control():
				delete(open, h.pid)
			case h.attributes&attrTransactional != 0:
				open[h.pid] = max(open[h.pid], h.pidEpoch)
			}
		}
		if len(headers) > 0 {
			last = &headers[len(headers)-1]
		}
		if i == len(bases)-1 {
			if err := r.finishSegment(path, headers, marker, open, last); err != nil {
				return err
			}
		}
	}
	for pid, epoch := range open {
		r.open[pid] = max(r.open[pid], epoch)
	}
	return nil
}

// segment reads the headers of a segment. In the last one of a partition it checks each
// batch, stops at the first that is not whole, and leaves out the marker that the rolled back
// commit wrote, which is reported.
func (r *txRepair) segment(path string, isLast bool) (headers []batchHeader, marker bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 1<<18)
	var head [batchHeaderBytes]byte
	var body []byte
	commits := false
	for pos := int64(0); ; {
		if _, err := io.ReadFull(in, head[:]); err != nil {
			break
		}
		h := parseBatchHeader(head[:], pos)
		if h.size < batchHeaderBytes || h.size > maxBatchOnDisk {
			break
		}
		if !isLast {
			if _, err := in.Discard(int(h.size - batchHeaderBytes)); err != nil {
				break
			}
		} else {
			body = slices.Grow(body[:0], int(h.size-batchHeaderBytes))[:h.size-batchHeaderBytes]
			if _, err := io.ReadFull(in, body); err != nil {
				break
			}
			sum := crc32.Update(crc32.Checksum(head[21:], castagnoli), castagnoli, body)
			if sum != binary.BigEndian.Uint32(head[17:]) {
				break
			}
			commits = h.control() && isCommitMarker(body)
		}
		headers = append(headers, h)
		pos += h.size
	}
	if n := len(headers); isLast && n > 0 && commits && r.rollback != nil {
		if h := &headers[n-1]; h.pid == r.rollback.pid && h.pidEpoch == r.rollback.epoch && h.maxMs >= r.rollback.atMs {
			return headers[:n-1], true, nil
		}
	}
	return headers, false, nil
}

func isCommitMarker(records []byte) bool {
	var rec kmsg.Record
	return rec.ReadFrom(records) == nil && len(rec.Key) >= 4 && binary.BigEndian.Uint16(rec.Key[2:]) == 1
}

// finishSegment cuts the last segment to its whole batches, completes its index and ends the
// transactions that are open.
func (r *txRepair) finishSegment(path string, headers []batchHeader, marker bool, open map[int64]int16, last *batchHeader) error {
	var size int64
	if n := len(headers); n > 0 {
		size = headers[n-1].pos + headers[n-1].size
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Size() > size {
		r.log.Warn("embedded kafka: the end of a segment is cut after a crash", zap.String("path", path),
			zap.Int64("bytes", info.Size()-size), zap.Bool("unfinished_commit", marker))
		if err := r.truncate(path, size); err != nil {
			return err
		}
	}
	index := strings.TrimSuffix(path, ".dat") + ".idx"
	entries, err := r.completeIndex(index, headers)
	if err != nil || len(open) == 0 {
		return err
	}
	var data []byte
	next, epoch := last.next(), last.leaderEpoch
	for pid, pidEpoch := range open {
		r.log.Warn("embedded kafka: a transaction that was open at the crash is aborted", zap.String("path", path), zap.Int64("producer", pid))
		data = append(data, abortMarker(pid, pidEpoch, next, epoch)...)
		entries = append(entries, indexEntry(epoch, false)...)
		next++
	}
	if err := r.appendTo(index, entries); err != nil { // entries too many are dropped at the next start, ones too few not
		return err
	}
	return r.appendTo(path, data)
}

// completeIndex cuts the index to whole entries of the batches there are, and returns the
// entries that are missing.
func (r *txRepair) completeIndex(path string, headers []batchHeader) ([]byte, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return missingEntries(headers), nil
	}
	if err != nil {
		return nil, err
	}
	have := min(info.Size()/indexEntryBytes, int64(len(headers)))
	if info.Size() != have*indexEntryBytes {
		if err := r.truncate(path, have*indexEntryBytes); err != nil {
			return nil, err
		}
	}
	return missingEntries(headers[have:]), nil
}

func missingEntries(headers []batchHeader) []byte {
	var entries []byte
	for i := range headers {
		h := &headers[i]
		entries = append(entries, indexEntry(h.leaderEpoch, h.attributes&attrTransactional != 0 && !h.control())...)
	}
	return entries
}

// indexEntry leaves the timestamp at zero, which kfake works out anew.
func indexEntry(epoch int32, inTx bool) []byte {
	b := make([]byte, indexEntryBytes)
	b[0] = persistVersion
	binary.LittleEndian.PutUint32(b[2:], uint32(epoch))
	if inTx {
		b[14] = 1
	}
	b[1] = byte(crc32.Checksum(b[2:], castagnoli))
	return b
}

// abortMarker is the control batch that ends a transaction; see Kafka's protocol guide,
// "Control Batches", and KIP-98.
func abortMarker(pid int64, pidEpoch int16, offset int64, leaderEpoch int32) []byte {
	rec := kmsg.Record{
		Key:   (&kmsg.ControlRecordKey{Type: kmsg.ControlRecordKeyTypeAbort}).AppendTo(nil),
		Value: (&kmsg.EndTxnMarker{}).AppendTo(nil),
	}
	rec.Length = int32(len(rec.AppendTo(nil)) - 1) // the length itself takes one byte
	now := time.Now().UnixMilli()
	b := kmsg.RecordBatch{
		FirstOffset: offset, PartitionLeaderEpoch: leaderEpoch, Magic: 2, Attributes: attrTransactional | attrControl,
		FirstTimestamp: now, MaxTimestamp: now, ProducerID: pid, ProducerEpoch: pidEpoch, FirstSequence: -1,
		NumRecords: 1, Records: rec.AppendTo(nil),
	}
	raw := b.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[8:], uint32(len(raw)-12))
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], castagnoli))
	return raw
}

// pidLine is a line of pids.log.
type pidLine struct {
	Type   string `json:"type"`
	PID    int64  `json:"pid"`
	Epoch  int16  `json:"epoch"`
	Commit *bool  `json:"commit,omitempty"`
}

func (r *txRepair) readPIDs() (map[int64]int16, error) {
	epochs := map[int64]int16{}
	lines, err := trimLog(filepath.Join(r.dir, pidsLogFile))
	for _, l := range lines {
		var p pidLine
		if json.Unmarshal(l, &p) == nil {
			epochs[p.PID] = p.Epoch
		}
	}
	return epochs, err
}

// bumpEpochs shuts out the clients whose transactions were aborted, as Kafka does at a
// timeout; for them the last transaction was not a commit, whatever they ask.
func (r *txRepair) bumpEpochs() error {
	var data []byte
	for pid, used := range r.open {
		known, ok := r.epochs[pid]
		if !ok {
			continue // kfake does not know it either
		}
		no := false
		line, err := json.Marshal(pidLine{Type: "endtx", PID: pid, Epoch: min(max(known, used), math.MaxInt16-2) + 1, Commit: &no})
		if err != nil {
			return err
		}
		data = append(data, frame(line)...)
	}
	if len(data) == 0 {
		return nil
	}
	return r.appendTo(filepath.Join(r.dir, pidsLogFile), data)
}

func frame(line []byte) []byte {
	b := make([]byte, logFrameBytes, logFrameBytes+len(line))
	binary.LittleEndian.PutUint32(b, uint32(2+len(line)))
	binary.LittleEndian.PutUint16(b[8:], persistVersion)
	b = append(b, line...)
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[8:], castagnoli))
	return b
}

// trimLog cuts a log to its whole lines, without which kfake would not find those that it
// writes later, and returns them.
func trimLog(path string) (lines [][]byte, err error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	pos := 0
	for pos+logFrameBytes <= len(raw) {
		length := int64(binary.LittleEndian.Uint32(raw[pos:]))
		end := int64(pos) + 8 + length
		if length < 2 || end > int64(len(raw)) ||
			crc32.Checksum(raw[pos+8:end], castagnoli) != binary.LittleEndian.Uint32(raw[pos+4:]) {
			break
		}
		lines = append(lines, raw[pos+logFrameBytes:end])
		pos = int(end)
	}
	if pos < len(raw) {
		err = os.Truncate(path, int64(pos))
	}
	return lines, err
}

// segmentBases lists the segments of a partition, oldest first.
func segmentBases(dir string) ([]int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var bases []int64
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".dat"); ok {
			if base, err := strconv.ParseInt(name, 10, 64); err == nil {
				bases = append(bases, base)
			}
		}
	}
	slices.Sort(bases)
	return bases, nil
}

func (r *txRepair) truncate(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return r.done(f, f.Truncate(size))
}

func (r *txRepair) appendTo(path string, data []byte) error {
	if len(data) == 0 {
		return nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return r.done(f, err)
}

// done closes a file that was written.
func (r *txRepair) done(f *os.File, err error) error {
	if r.sync && err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
