package record

import (
	"encoding/binary"

	"github.com/vmihailenco/msgpack/v5"
)

// appender lets the msgpack encoder append to a slice.
type appender struct{ b []byte }

func (a *appender) Write(p []byte) (int, error) { a.b = append(a.b, p...); return len(p), nil }
func (a *appender) WriteByte(c byte) error      { a.b = append(a.b, c); return nil }

// writer builds a map whose number of fields is known only at its end. Writing to
// memory cannot fail, so the encoder's errors are dropped.
type writer struct {
	appender
	mp     *msgpack.Encoder
	start  int
	fields uint16
}

func (w *writer) open(dst []byte) {
	w.start, w.fields = len(dst), 0
	w.b = append(dst, 0xde, 0, 0)
	if w.mp == nil {
		w.mp = msgpack.NewEncoder(&w.appender)
		w.mp.UseCompactInts(true)
	}
}

func (w *writer) close() []byte {
	binary.BigEndian.PutUint16(w.b[w.start+1:], w.fields)
	out := w.b
	w.b = nil
	return out
}

func (w *writer) key(k string) {
	w.fields++
	_ = w.mp.EncodeString(k)
}

func (w *writer) str(k, v string) {
	w.key(k)
	_ = w.mp.EncodeString(v)
}

func (w *writer) int(k string, v int64) {
	w.key(k)
	_ = w.mp.EncodeInt(v)
}

func (w *writer) raw(k string, v []byte) {
	w.key(k)
	w.b = append(w.b, v...)
}

func (w *writer) strs(k string, list []string) {
	w.key(k)
	_ = w.mp.EncodeArrayLen(len(list))
	for _, s := range list {
		_ = w.mp.EncodeString(s)
	}
}

func appendJobMsgpack(dst []byte, j *Job) []byte {
	var w writer
	w.open(dst)
	w.str("id", j.ID)
	w.str("kind", j.Kind)
	w.key("target")
	w.b = appendTarget(w.b, &j.Target)
	if len(j.Args) > 0 {
		w.raw("args", j.Args)
	}
	if j.Timeout > 0 {
		w.int("timeout_ms", j.Timeout.Milliseconds())
	}
	if j.DeadlineMs > 0 {
		w.int("deadline_ms", j.DeadlineMs)
	}
	if j.TTL > 0 {
		w.int("ttl_ms", j.TTL.Milliseconds())
	}
	if j.NotBeforeMs > 0 {
		w.int("not_before_ms", j.NotBeforeMs)
	}
	if j.Attempts > 0 {
		w.int("attempts", int64(j.Attempts))
	}
	if j.Priority > 0 {
		w.int("priority", int64(j.Priority))
	}
	if j.Tenant != "" {
		w.str("tenant", j.Tenant)
	}
	return w.close()
}

func appendTarget(dst []byte, t *Target) []byte {
	var w writer
	w.open(dst)
	if t.Node != "" {
		w.str("node", t.Node)
	}
	if len(t.Nodes) > 0 {
		w.strs("nodes", t.Nodes)
	}
	if t.Select != nil {
		w.key("select")
		w.b = appendSelector(w.b, t.Select)
	}
	return w.close()
}

func appendSelector(dst []byte, s *Selector) []byte {
	var w writer
	w.open(dst)
	if s.Country != "" {
		w.str("country", s.Country)
	}
	if s.City != "" {
		w.str("city", s.City)
	}
	if s.ASN != 0 {
		w.int("asn", int64(s.ASN))
	}
	if s.Platform != "" {
		w.str("platform", s.Platform)
	}
	if len(s.Tags) > 0 {
		w.strs("tags", s.Tags)
	}
	if s.Count > 0 {
		w.int("count", int64(s.Count))
	}
	return w.close()
}
