package roost

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"

	"github.com/roost-server/roost/protocol"
)

// The file of a FileOutbox is a log: an 8-byte header, then records of
//
//	length uint32 | CRC-32C of the payload uint32 | payload     (little endian)
//
// The payload's first byte is its kind. A put has the body of a RESULT frame after
// it; a remove the attempt as uint32 and the job id. Later records win.
const (
	fileHeader   = "ROOSTOB1"
	recordHeader = 8
	recordPut    = 1
	recordRemove = 2

	// maxRecord refuses a length that no record can have.
	maxRecord = protocol.MaxBodyBytes + 1

	// compactBytes is the smallest log that is rewritten; less is not worth it.
	compactBytes = 256 << 10
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)

	errOutboxClosed = errors.New("outbox is closed")
)

// FileOptions are the knobs of a [FileOutbox]; the zero value is good.
type FileOptions struct {
	// MaxEntries and MaxBytes are as for [NewMemoryOutbox]. What is held stands in
	// memory too.
	MaxEntries int
	MaxBytes   int

	// NoSync leaves it to the operating system when results reach the disk: they
	// survive a crash of the process, and not one of the machine. Otherwise Put
	// returns after an fsync, which Puts at the same time share.
	NoSync bool
}

// FileOutbox is an [Outbox] in one file that survives crashes. The file is locked
// (by a file beside it, path + ".lock") where the system has flock.
type FileOutbox struct {
	path    string
	noSync  bool
	lock    *os.File
	damaged string

	mu      sync.Mutex
	file    *os.File
	set     entries
	size    int64 // of the file's good part
	live    int64 // bytes that a rewritten file would have
	enc     *protocol.Encoder
	buf     []byte
	bad     error // a failed fsync: the file cannot be trusted, and is rewritten
	closed  bool
	written uint64 // puts so far
	synced  uint64 // of them, those on disk
	syncing bool
	woken   *sync.Cond // after each fsync
}

// OpenFileOutbox opens or creates the outbox at path, in a directory that exists. A
// last record that a crash cut short is dropped: its result was never sent. Anything
// else that cannot be read is moved to path + ".damaged"; see [FileOutbox.Damaged].
func OpenFileOutbox(path string, opts FileOptions) (*FileOutbox, error) {
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return nil, fmt.Errorf("roost: outbox %s: %w", path, err)
	}
	o := &FileOutbox{
		path: path, noSync: opts.NoSync, lock: lock, enc: protocol.NewEncoder(),
		set: newEntries(opts.MaxEntries, opts.MaxBytes), live: int64(len(fileHeader)),
	}
	o.woken = sync.NewCond(&o.mu)
	if err := o.open(); err != nil {
		if o.file != nil {
			o.file.Close()
		}
		lock.Close()
		return nil, fmt.Errorf("roost: outbox %s: %w", path, err)
	}
	return o, nil
}

// Damaged returns the file to which unreadable records were moved when the outbox
// was opened, or "".
func (o *FileOutbox) Damaged() string { return o.damaged }

// Put implements [Outbox].
func (o *FileOutbox) Put(e Entry) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.usable(); err != nil {
		return err
	}
	record, err := o.putRecord(&e)
	if err != nil {
		return fmt.Errorf("outbox: result of job %s: %w", e.JobID, err)
	}
	o.live += int64(len(record)) - o.recordSize(e.JobID)
	o.set.put(e, int64(len(record))) // kept even when the write fails: the next rewrite has it then
	if err := o.append(record); err != nil {
		o.bad = err
		return fmt.Errorf("outbox: %w", err)
	}
	o.written++
	if o.size > compactBytes && o.size > 2*o.live {
		if err := o.rewrite(); err != nil {
			o.bad = err
			return fmt.Errorf("outbox: rewrite: %w", err)
		}
	}
	return o.sync(o.written)
}

// Remove implements [Outbox]. It does not wait for the disk: a removal that is lost
// only sends a result once more.
func (o *FileOutbox) Remove(jobID string, attempt uint32) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return errOutboxClosed
	}
	size := o.recordSize(jobID)
	if !o.set.remove(jobID, attempt) {
		return nil
	}
	o.live -= size
	if o.bad != nil {
		return nil // the next Put rewrites the file without it
	}
	payload := append(make([]byte, 0, 128), recordRemove)
	payload = binary.LittleEndian.AppendUint32(payload, attempt)
	if err := o.append(seal(append(make([]byte, recordHeader), append(payload, jobID...)...))); err != nil {
		o.bad = err
		return fmt.Errorf("outbox: %w", err)
	}
	return nil
}

// All implements [Outbox].
func (o *FileOutbox) All() ([]Entry, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil, errOutboxClosed
	}
	return o.set.all(), nil
}

// Full returns an error while the outbox is over its limits.
func (o *FileOutbox) Full() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.set.full()
}

// Close implements [Outbox].
func (o *FileOutbox) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil
	}
	o.closed = true
	o.woken.Broadcast()
	return errors.Join(o.file.Sync(), o.file.Close(), o.lock.Close())
}

// usable rewrites a file that failed before. Under mu, as are all below.
func (o *FileOutbox) usable() error {
	if o.closed {
		return errOutboxClosed
	}
	if o.bad == nil {
		return nil
	}
	if err := o.rewrite(); err != nil {
		return fmt.Errorf("outbox: rewrite after %w: %w", o.bad, err)
	}
	return nil
}

// sync waits until put number n is on disk. One caller syncs for all that wrote
// before it began; mu is released meanwhile.
func (o *FileOutbox) sync(n uint64) error {
	for !o.noSync && o.synced < n {
		switch {
		case o.closed:
			return errOutboxClosed
		case o.bad != nil:
			return fmt.Errorf("outbox: %w", o.bad)
		case o.syncing:
			o.woken.Wait()
			continue
		}
		o.syncing = true
		file, upTo := o.file, o.written
		o.mu.Unlock()
		err := file.Sync()
		o.mu.Lock()
		o.syncing = false
		if file == o.file { // else it was rewritten meanwhile, and that synced
			if err != nil {
				o.bad = err // the kernel may have dropped what it could not write
			} else {
				o.synced = max(o.synced, upTo)
			}
		}
		o.woken.Broadcast()
	}
	return nil
}

// append writes a sealed record at the end of the good part.
func (o *FileOutbox) append(record []byte) error {
	if _, err := o.file.WriteAt(record, o.size); err != nil {
		_ = o.file.Truncate(o.size) // a part of it; overwritten if this fails as well
		return err
	}
	o.size += int64(len(record))
	return nil
}

// putRecord returns e's record, valid until the next call.
func (o *FileOutbox) putRecord(e *Entry) ([]byte, error) {
	m := e.frame()
	// The frame's own header leaves room for the last 4 of our 9 bytes before the body.
	const before = recordHeader + 1 - protocol.HeaderBytes
	buf, err := o.enc.Append(append(o.buf[:0], make([]byte, before)...), &m)
	if o.buf = buf; err != nil {
		return nil, err
	}
	if cap(o.buf) > keepBytes {
		o.buf = nil
	}
	buf[recordHeader] = recordPut
	return seal(buf), nil
}

// recordSize is the size of the live record of a job, 0 without one.
func (o *FileOutbox) recordSize(jobID string) int64 {
	if old := o.set.byJob[jobID]; old != nil {
		return old.disk
	}
	return 0
}

// seal fills in the header before the payload.
func seal(record []byte) []byte {
	payload := record[recordHeader:]
	binary.LittleEndian.PutUint32(record, uint32(len(payload)))
	binary.LittleEndian.PutUint32(record[4:], crc32.Checksum(payload, castagnoli))
	return record
}

// rewrite replaces the file by one with the live records only.
func (o *FileOutbox) rewrite() (err error) {
	next, err := os.OpenFile(o.path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			next.Close()
			os.Remove(next.Name())
		}
	}()
	size, err := o.writeLive(next)
	if err == nil && !o.noSync {
		err = next.Sync()
	}
	if err != nil {
		return err
	}
	if err = os.Rename(next.Name(), o.path); err != nil {
		return err
	}
	if !o.noSync {
		if err := syncDir(filepath.Dir(o.path)); err != nil {
			return err
		}
	}
	o.file.Close()
	o.file, o.size, o.live = next, size, size
	o.bad, o.synced = nil, o.written
	return nil
}
