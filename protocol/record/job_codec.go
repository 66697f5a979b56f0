package record

import (
	"fmt"
	"time"

	"github.com/roost-server/roost/protocol"
)

// The fields of a job record, its target and its selector. Both encodings use these
// names: JSON is turned into msgpack first, so that there is one set of rules.
var (
	jobNames = []string{"id", "kind", "target", "args", "timeout_ms", "deadline_ms",
		"ttl_ms", "not_before_ms", "attempts", "backoff_ms", "priority", "tenant", "cancel", "reason"}
	cancelNames   = []string{"id", "cancel", "reason", "tenant"}
	targetNames   = []string{"node", "nodes", "select"}
	selectorNames = []string{"country", "city", "asn", "platform", "tags", "count"}
)

// ParseJob reads a record of the jobs topic and fills in the defaults. contentType
// is the record's header or empty. The job's strings and Args may alias value, which
// must not be changed afterwards. The error says which field is wrong and what is
// allowed; the job that comes with it holds the encoding and those of id, kind and
// tenant that could be read and are valid, and nothing else.
func ParseJob(contentType string, value []byte) (Job, error) {
	enc, err := Detect(contentType, value)
	if err != nil {
		return Job{}, err
	}
	b := value
	if enc == JSON {
		if b, err = FromJSON(value); err != nil {
			return Job{Encoding: enc}, err
		}
	}
	r, err := openReader(b)
	if err != nil {
		return Job{Encoding: enc}, err
	}
	defer r.close()
	j := Job{Encoding: enc}
	r.job(&j)
	if err = r.err; err == nil {
		err = j.validate()
	}
	if err != nil {
		return salvage(r, enc), err
	}
	return j, nil
}

// AppendJob appends the job as a record value in its encoding; of one with Cancel only
// what a cancel record has. The error is about Args: not one msgpack value, or without a JSON form.
func AppendJob(dst []byte, j *Job) ([]byte, error) {
	if len(j.Args) > 0 {
		if err := protocol.CheckPayload(j.Args); err != nil {
			return dst, fmt.Errorf("args: %w", err)
		}
	}
	w := writers.Get().(*writer)
	defer writers.Put(w)
	if j.Encoding != JSON {
		w.b = dst
		w.job(j)
		return w.take(), nil
	}
	out, err := w.toJSON(dst, func(w *writer) { w.job(j) })
	if err != nil {
		return dst, fmt.Errorf("args: %w", err)
	}
	return out, nil
}

func (r *reader) job(j *Job) {
	var seen uint32
	var ofJob string // the first field that a cancel record must not have
	for range r.mapLen("the record") {
		key, ok := r.field("", jobNames, &seen)
		switch {
		case r.err != nil:
			return
		case !ok:
			continue
		}
		switch key {
		case "id", "tenant", "cancel", "reason":
			r.anyField(j, key)
			continue
		}
		if ofJob == "" {
			ofJob = key
		}
		r.jobField(j, key)
	}
	if r.err == nil && j.Cancel && ofJob != "" {
		r.err = notInCancel(ofJob)
	}
}

// anyField reads what jobs and cancel records both may have.
func (r *reader) anyField(j *Job, key string) {
	switch key {
	case "id":
		j.ID = r.text(key)
	case "tenant":
		j.Tenant = r.text(key)
	case "cancel":
		j.Cancel = r.bool(key)
	case "reason":
		j.CancelReason = r.text(key)
	}
}

func (r *reader) jobField(j *Job, key string) {
	switch key {
	case "kind":
		j.Kind = r.text(key)
	case "target":
		r.target(&j.Target)
	case "args":
		j.Args = r.raw(key)
	case "timeout_ms":
		j.Timeout = r.millis(key, protocol.MaxTimeoutMs)
	case "deadline_ms":
		if j.DeadlineMs = r.int(key); r.err == nil && j.DeadlineMs <= 0 {
			r.err = badDeadline(j.DeadlineMs)
		}
	case "ttl_ms":
		j.TTL = r.millis(key, MaxTTL.Milliseconds())
	case "not_before_ms":
		j.NotBeforeMs = r.int(key)
	case "attempts":
		j.Attempts = uint32(r.uint(key, 1, protocol.MaxAttempts))
	case "backoff_ms":
		j.Backoff = r.backoff(key)
	case "priority":
		j.Priority = uint8(r.uint(key, 0, protocol.MaxPriority))
	}
}

// backoff tells none from an absent one, which stays 0.
func (r *reader) backoff(field string) time.Duration {
	ms := r.uint(field, 0, MaxBackoff.Milliseconds())
	if ms == 0 {
		return NoBackoff
	}
	return time.Duration(ms) * time.Millisecond
}

func (r *reader) millis(field string, most int64) time.Duration {
	return time.Duration(r.uint(field, 1, most)) * time.Millisecond
}

func (r *reader) target(t *Target) {
	var seen uint32
	for range r.mapLen("target") {
		key, ok := r.field("target: ", targetNames, &seen)
		switch {
		case r.err != nil:
			return
		case !ok:
			continue
		}
		switch key {
		case "node":
			t.Node = r.text("target.node")
		case "nodes":
			t.Nodes = r.texts("target.nodes", MaxTargets)
		case "select":
			t.Select = &Selector{}
			r.selector(t.Select)
		}
	}
}

func (r *reader) selector(s *Selector) {
	var seen uint32
	for range r.mapLen("target.select") {
		key, ok := r.field("target.select: ", selectorNames, &seen)
		switch {
		case r.err != nil:
			return
		case !ok:
			continue
		}
		switch key {
		case "country":
			s.Country = r.text("target.select.country")
		case "city":
			s.City = r.text("target.select.city")
		case "asn":
			s.ASN = uint32(r.uint("target.select.asn", 0, 1<<32-1))
		case "platform":
			s.Platform = r.text("target.select.platform")
		case "tags":
			s.Tags = r.texts("target.select.tags", protocol.MaxTags)
		case "count":
			s.Count = uint32(r.uint("target.select.count", 1, MaxTargets))
		}
	}
}

// salvage reads what identifies a job whose record is refused: the record's result
// is to carry it. Only valid values are taken, so they can go anywhere.
func salvage(r *reader, enc Encoding) Job {
	j := Job{Encoding: enc}
	r.pos, r.err = 0, nil
	for range r.mapLen("the record") {
		key := r.str("a field's name")
		at := r.pos
		r.raw(key)
		next := r.pos
		if r.err != nil {
			return j
		}
		r.pos = at
		switch key {
		case "id":
			if s := r.text(key); checkID(key, s, protocol.MaxJobIDBytes) == nil {
				j.ID = s
			}
		case "kind":
			if s := r.text(key); checkID(key, s, protocol.MaxKindBytes) == nil {
				j.Kind = s
			}
		case "tenant":
			if s := r.text(key); len(s) <= MaxTenantBytes {
				j.Tenant = s
			}
		}
		r.pos, r.err = next, nil
	}
	return j
}

func (w *writer) job(j *Job) {
	outer := w.begin()
	w.text("id", j.ID)
	if j.Cancel {
		w.cancel(j)
		w.end(outer)
		return
	}
	w.text("kind", j.Kind)
	w.key("target")
	w.target(&j.Target)
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
	switch {
	case j.Backoff > 0:
		w.int("backoff_ms", j.Backoff.Milliseconds())
	case j.Backoff < 0:
		w.int("backoff_ms", 0)
	}
	if j.Priority > 0 {
		w.int("priority", int64(j.Priority))
	}
	if j.Tenant != "" {
		w.text("tenant", j.Tenant)
	}
	w.end(outer)
}

func (w *writer) cancel(j *Job) {
	w.bool("cancel", true)
	if j.CancelReason != "" {
		w.text("reason", j.CancelReason)
	}
	if j.Tenant != "" {
		w.text("tenant", j.Tenant)
	}
}

func (w *writer) target(t *Target) {
	outer := w.begin()
	if t.Node != "" {
		w.text("node", t.Node)
	}
	if len(t.Nodes) > 0 {
		w.texts("nodes", t.Nodes)
	}
	if t.Select != nil {
		w.key("select")
		w.selector(t.Select)
	}
	w.end(outer)
}

func (w *writer) selector(s *Selector) {
	outer := w.begin()
	if s.Country != "" {
		w.text("country", s.Country)
	}
	if s.City != "" {
		w.text("city", s.City)
	}
	if s.ASN != 0 {
		w.int("asn", int64(s.ASN))
	}
	if s.Platform != "" {
		w.text("platform", s.Platform)
	}
	if len(s.Tags) > 0 {
		w.texts("tags", s.Tags)
	}
	if s.Count > 0 {
		w.int("count", int64(s.Count))
	}
	w.end(outer)
}
