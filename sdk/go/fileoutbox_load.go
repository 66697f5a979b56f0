package roost

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/roost-server/roost/protocol"
)

// errTorn means that the file ends within a record, as after a crash.
var errTorn = errors.New("the record ends early")

// open reads the log, or begins one.
func (o *FileOutbox) open() error {
	_ = os.Remove(o.path + ".new") // a rewrite that a crash interrupted
	file, err := os.OpenFile(o.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	o.file = file
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.Size() < int64(len(fileHeader)) { // new, or its very creation was cut short
		return o.begin(info.Size())
	}
	r := bufio.NewReaderSize(file, keepBytes)
	var head [len(fileHeader)]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	if string(head[:]) != fileHeader {
		return fmt.Errorf("is no outbox: it begins with %q instead of %q", head[:], fileHeader)
	}
	o.size = int64(len(fileHeader))
	dec := protocol.NewDecoder()
	for {
		n, err := o.load(r, dec)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return o.cut(err, info.Size())
		}
		o.size += n
	}
}

// begin writes the header of a new file.
func (o *FileOutbox) begin(size int64) error {
	var old [len(fileHeader)]byte
	if _, err := o.file.ReadAt(old[:size], 0); err != nil {
		return err
	}
	if string(old[:size]) != fileHeader[:size] {
		return fmt.Errorf("is no outbox: it holds %q", old[:size])
	}
	if _, err := o.file.WriteAt([]byte(fileHeader), 0); err != nil {
		return err
	}
	o.size = int64(len(fileHeader))
	if o.noSync {
		return nil
	}
	if err := o.file.Sync(); err != nil {
		return err
	}
	return syncDir(filepath.Dir(o.path))
}

// load applies the next record and returns its size. io.EOF is the end of the log;
// other errors are a record that cannot be used.
func (o *FileOutbox) load(r io.Reader, dec *protocol.Decoder) (int64, error) {
	var head [recordHeader]byte
	if _, err := io.ReadFull(r, head[:]); err == io.EOF {
		return 0, io.EOF
	} else if err != nil {
		return 0, tornOr(err)
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n == 0 || n > maxRecord {
		return 0, fmt.Errorf("record of %d bytes", n)
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, tornOr(err)
	}
	if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
		return 0, errors.New("checksum does not match")
	}
	size := int64(recordHeader) + int64(n)
	switch payload[0] {
	case recordPut:
		var m protocol.Result
		if err := dec.Decode(payload[1:], &m); err != nil {
			return 0, err
		}
		e := Entry{
			JobID: string(m.JobID), Shard: m.Shard, Attempt: m.Attempt, Outcome: m.Outcome,
			Duration: time.Duration(m.DurationUs) * time.Microsecond, Error: string(m.Error), Output: m.Output,
		}
		o.live += size - o.recordSize(e.JobID)
		o.set.put(e, size)
	case recordRemove:
		if n < 5 {
			return 0, errors.New("removal without its attempt")
		}
		id := string(payload[5:])
		was := o.recordSize(id)
		if o.set.remove(id, binary.LittleEndian.Uint32(payload[1:])) {
			o.live -= was
		}
	default:
		return 0, fmt.Errorf("record of unknown kind %d", payload[0])
	}
	return size, nil
}

func tornOr(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return errTorn
	}
	return err
}

// cut ends the log before a record that cannot be used. What is more than a torn
// record is saved first: it may have held results that were sent.
func (o *FileOutbox) cut(why error, fileSize int64) error {
	if errors.Is(why, errTorn) {
		return o.file.Truncate(o.size)
	}
	o.damaged = o.path + ".damaged"
	to, err := os.OpenFile(o.damaged, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("save damaged records (%w): %w", why, err)
	}
	_, err = io.Copy(to, io.NewSectionReader(o.file, o.size, fileSize-o.size))
	if err = errors.Join(err, to.Sync(), to.Close()); err != nil {
		return fmt.Errorf("save damaged records (%w): %w", why, err)
	}
	return o.file.Truncate(o.size)
}

// writeLive writes a whole log of what the outbox holds, and returns its size.
func (o *FileOutbox) writeLive(f *os.File) (int64, error) {
	w := bufio.NewWriterSize(f, keepBytes)
	n, err := w.WriteString(fileHeader)
	size := int64(n)
	for _, e := range o.set.all() {
		if err != nil {
			break
		}
		var record []byte
		if record, err = o.putRecord(&e); err == nil {
			n, err = w.Write(record)
			size += int64(n)
		}
	}
	if err == nil {
		err = w.Flush()
	}
	return size, err
}

// syncDir makes a rename or a new name in dir last.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // directories cannot be synced there
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
