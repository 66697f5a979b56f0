package record

import (
	"math"
	"strconv"
)

// Progress is one record of the progress topic, always JSON: the low watermark of a
// partition of the jobs topic.
type Progress struct {
	Partition int32
	Offset    int64  // every job record before it has all of its outcomes recorded
	JobMs     int64  // Unix time of the first job record that has not; without one, of the newest that was read; 0: none was
	TimeMs    int64  // Unix time when this was found
	Member    string // the member that found it
}

// Key returns the record's Kafka key: the partition as decimal text.
func (p *Progress) Key() string { return strconv.Itoa(int(p.Partition)) }

// AppendProgress appends p as a record value. Text that is not UTF-8 is replaced.
func AppendProgress(dst []byte, p *Progress) []byte {
	dst = append(dst, `{"partition":`...)
	dst = strconv.AppendInt(dst, int64(p.Partition), 10)
	dst = append(dst, `,"offset":`...)
	dst = strconv.AppendInt(dst, p.Offset, 10)
	dst = append(dst, `,"job_ms":`...)
	dst = strconv.AppendInt(dst, p.JobMs, 10)
	dst = append(dst, `,"time_ms":`...)
	dst = strconv.AppendInt(dst, p.TimeMs, 10)
	dst = append(dst, `,"member":`...)
	return append(appendJSONString(dst, p.Member), '}')
}

// ParseProgress reads a record of the progress topic. Fields that it does not know
// are skipped, missing ones are zero. The result does not alias value.
func ParseProgress(value []byte) (Progress, error) {
	b, err := FromJSON(value)
	if err != nil {
		return Progress{}, err
	}
	r, err := openReader(b)
	if err != nil {
		return Progress{}, err
	}
	defer r.close()
	var p Progress
	for range r.mapLen("the record") {
		if r.err != nil {
			break
		}
		switch key := r.str("a field's name"); key {
		case "partition":
			p.Partition = int32(r.uint(key, 0, math.MaxInt32))
		case "offset":
			p.Offset = int64(r.uint(key, 0, math.MaxInt64))
		case "job_ms":
			p.JobMs = r.int(key)
		case "time_ms":
			p.TimeMs = r.int(key)
		case "member":
			p.Member = r.str(key)
		default: // a later version's field
			r.raw(key)
		}
	}
	return p, r.err
}
