package shard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// decoder walks a state record; after a fault everything that it reads is zero. It
// never takes more memory than the record has.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) fail() { d.b, d.bad = nil, true }

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	x := d.b[0]
	d.b = d.b[1:]
	return x
}

func (d *decoder) uint(most uint64) uint64 {
	x, n := binary.Uvarint(d.b)
	if n <= 0 || x > most {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return x
}

func (d *decoder) int() int64 {
	x, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return x
}

func (d *decoder) fixed64() uint64 {
	if len(d.b) < 8 {
		d.fail()
		return 0
	}
	x := binary.LittleEndian.Uint64(d.b)
	d.b = d.b[8:]
	return x
}

// text returns a view.
func (d *decoder) text(most int) string {
	n := int(d.uint(uint64(most)))
	if n > len(d.b) {
		d.fail()
	}
	if n == 0 || d.bad {
		return ""
	}
	s := unsafe.String(&d.b[0], n) // state records are never changed
	d.b = d.b[n:]
	return s
}

// end returns an error unless all was read, and was right.
func (d *decoder) end() error {
	if d.bad || len(d.b) > 0 {
		return errDamaged
	}
	return nil
}

var errDamaged = errors.New("it is damaged")

// versionOf checks a state record's version and returns what follows it.
func versionOf(value []byte) (decoder, error) {
	switch v := value[0]; {
	case v > stateVersion:
		return decoder{}, fmt.Errorf("it has format version %d, and this member knows versions up to %d: it was written by a newer version of Roost. "+
			"Start that version, or a newer one; nothing is lost", v, stateVersion)
	case v == 0:
		return decoder{}, errDamaged
	}
	return decoder{b: value[1:]}, nil
}

const maxInt64 = 1<<63 - 1

func decodeHead(value []byte) (*head, error) {
	d, err := versionOf(value)
	if err != nil {
		return nil, err
	}
	h := &head{jobs: d.uint(maxInt64), sum: d.fixed64(), partitions: uint32(d.uint(1<<32 - 1)),
		next: d.int(), progress: int64(d.uint(maxInt64)), newestMs: d.int(), owner: d.text(len(d.b))}
	return h, d.end()
}

// Owner tells whose head record rec is: the transactional id of the member that
// wrote it, which may have left a transaction open. It reports false for every other
// record of the state topic.
func Owner(rec *StateRecord) (transactionalID string, ok bool) {
	if len(rec.Key) != 1 || rec.Key[0] != keyHead || len(rec.Value) == 0 {
		return "", false
	}
	h, err := decodeHead(rec.Value)
	if err != nil {
		return "", false
	}
	return h.owner, true
}

// slot is a decoded record of ended jobs.
type slot struct {
	first uint64
	jobs  []endedJob
}

func decodeSlot(value []byte) (slot, error) {
	d, err := versionOf(value)
	if err != nil {
		return slot{}, err
	}
	s := slot{first: d.uint(maxInt64)}
	n := d.uint(slotSize)
	if s.first%slotSize != 0 || n*17 > uint64(len(d.b)) {
		return slot{}, errDamaged
	}
	s.jobs = make([]endedJob, n)
	for i := range s.jobs {
		h := idHash{d.fixed64(), d.fixed64()}
		s.jobs[i] = endedJob{h, int64(d.uint(maxInt64))}
	}
	return s, d.end()
}

// entry is a decoded assignment.
type entry struct {
	flags   byte
	attempt uint8
	what    protocol.Outcome
	dueMs   int64
	node    string
	tried   []string
}

func (d *decoder) entry() (e entry) {
	e.flags = d.byte()
	if e.flags&(hasEnded|isLive|isOver) != 0 {
		e.attempt, e.what = d.byte(), protocol.Outcome(d.byte())
	}
	if e.attempt > protocol.MaxAttempts || e.what > protocol.OutcomeInvalid {
		d.fail()
	}
	if e.flags&isOver != 0 {
		e.dueMs = int64(d.uint(maxInt64))
	}
	if e.flags&hasNode != 0 {
		e.node = d.text(protocol.MaxNodeIDBytes)
	}
	if e.flags&hasTried != 0 {
		for range d.uint(protocol.MaxAttempts) {
			e.tried = append(e.tried, d.text(protocol.MaxNodeIDBytes))
		}
	}
	return e
}

// decodeChunk calls fn for each assignment of a chunk, by its index among them.
func decodeChunk(value []byte, fn func(i int, e *entry)) error {
	d, err := versionOf(value)
	if err != nil {
		return err
	}
	for i := 0; len(d.b) > 0 && !d.bad; i++ {
		e := d.entry()
		if i == chunkSize {
			d.fail()
		}
		if !d.bad {
			fn(i, &e)
		}
	}
	return d.end()
}

// decodeJob makes the job of a record of the state topic, and returns what its
// assignment was at, for one that has no chunks.
func decodeJob(id string, value []byte) (*job, entry, error) {
	d, err := versionOf(value)
	if err != nil {
		return nil, entry{}, err
	}
	var e entry
	flags := d.byte()
	offset, timestampMs, deadlineMs := int64(d.uint(maxInt64)), d.int(), d.int()
	if flags&jobChunked == 0 {
		e = d.entry()
	}
	if d.bad {
		return nil, e, errDamaged
	}
	rec, err := record.ParseJob(record.ContentMsgpack, d.b)
	switch {
	case err != nil:
		return nil, e, fmt.Errorf("%w: %w", errDamaged, err)
	case rec.Cancel || rec.ID != id || (rec.Target.Size() > 1) != (flags&jobChunked != 0):
		return nil, e, errDamaged
	}
	if flags&jobJSON != 0 {
		rec.Encoding = record.JSON
	}
	j := newJob(&rec, d.b, offset, timestampMs)
	j.deadlineMs = deadlineMs
	return j, e, nil
}
