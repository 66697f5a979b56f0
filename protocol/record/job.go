package record

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/roost-server/roost/protocol"
)

// Defaults of a job's knobs, used where the record says nothing.
const (
	DefaultTimeout  = 30 * time.Second
	DefaultTTL      = time.Hour
	DefaultAttempts = 3
	DefaultBackoff  = time.Second
)

// NoBackoff as a job's Backoff lets further attempts follow at once: `backoff_ms` 0.
// It is the shortest negative duration, so its Milliseconds are 0.
const NoBackoff time.Duration = -1

// Limits of a job record.
const (
	// MaxTargets caps a list of nodes and a selector's count: the fan-out of one record.
	MaxTargets = 10_000
	// MaxTenantBytes caps the tenant's name.
	MaxTenantBytes = 64
	// MaxTTL caps how long a job may wait for its nodes.
	MaxTTL = 30 * 24 * time.Hour
	// MaxBackoff caps a pause between two attempts, the one given as well as what
	// doubling makes of it.
	MaxBackoff = 5 * time.Minute
	// MaxReasonBytes caps why a job was cancelled.
	MaxReasonBytes = 256
)

// Encoding is how a record's value is written.
type Encoding uint8

// The encodings, told apart by the content-type header or, without one, by the
// first byte: a msgpack map never starts with '{' or white space.
const (
	Msgpack Encoding = iota
	JSON
)

// Content types, as found in the record header [HeaderContentType].
const (
	HeaderContentType = "content-type"
	ContentMsgpack    = "application/msgpack"
	ContentJSON       = "application/json"
)

// Headers that a record of the dead topic has beside its own: why it was refused, and
// where it lay. Partition and offset are decimal text.
const (
	HeaderReason    = "roost-reason"
	HeaderTopic     = "roost-topic"
	HeaderPartition = "roost-partition"
	HeaderOffset    = "roost-offset"
)

// What a [HeaderReason] starts with when nothing is wrong with the record's form.
const (
	// ReasonDuplicate: a job with this id was taken before.
	ReasonDuplicate = "duplicate: "
	// ReasonCancel: a cancel record for a job that is not known.
	ReasonCancel = "cancel: "
)

// ContentType returns the encoding's content type.
func (e Encoding) ContentType() string {
	if e == JSON {
		return ContentJSON
	}
	return ContentMsgpack
}

// Detect tells the encoding of a record from its content-type header (may be empty)
// and its value. Parameters such as a charset are ignored. An unknown content type is
// an error.
func Detect(contentType string, value []byte) (Encoding, error) {
	kind, _, _ := strings.Cut(contentType, ";")
	switch strings.ToLower(strings.TrimSpace(kind)) {
	case ContentJSON:
		return JSON, nil
	case ContentMsgpack, "application/x-msgpack", "application/vnd.msgpack":
		return Msgpack, nil
	case "":
	default:
		return 0, fmt.Errorf("%s is %s; allowed are %s and %s", HeaderContentType, quote(contentType), ContentMsgpack, ContentJSON)
	}
	if len(value) > 0 {
		switch value[0] {
		case '{', ' ', '\t', '\r', '\n':
			return JSON, nil
		}
	}
	return Msgpack, nil
}

// Job is one record of the jobs topic: what to run, and on which nodes. With Cancel
// it is a cancel record, which has ID, CancelReason and Tenant beside it and no more.
type Job struct {
	ID          string // chosen by the producer, unique among its jobs
	Kind        string // names the handler on the node
	Target      Target
	Args        []byte        // one encoded msgpack value, whatever the record's encoding
	Timeout     time.Duration // of one attempt, on the node
	DeadlineMs  int64         // Unix time; not delivered yet by then is expired. 0: TTL decides
	TTL         time.Duration // deadline relative to the record's timestamp, when DeadlineMs is 0
	NotBeforeMs int64         // Unix time; 0: at once
	Attempts    uint32        // deliveries that may be tried in all
	Backoff     time.Duration // pause before the second attempt, see [Pause]; 0: the default, [NoBackoff]: none
	Priority    uint8         // 0 to 9, higher first
	Tenant      string        // who the job belongs to; copied to results

	Cancel       bool   // ends the job ID instead of starting one
	CancelReason string // why; the Error of its results

	Encoding Encoding // how the record was written; results are written the same
}

// Pause returns how long attempt number n (the first is 1) waits after the one before
// has ended: nothing before the first, backoff before the second, and twice as long
// for each further one, up to [MaxBackoff]. backoff is a valid job's.
func Pause(backoff time.Duration, n uint32) time.Duration {
	if n < 2 || backoff <= 0 {
		return 0
	}
	for ; n > 2 && backoff < MaxBackoff; n-- {
		backoff *= 2
	}
	return min(backoff, MaxBackoff)
}

// Target says which nodes run a job: exactly one of its fields is set.
type Target struct {
	Node   string
	Nodes  []string
	Select *Selector
}

// Selector chooses Count connected nodes that fit every filter given.
type Selector struct {
	Country  string
	City     string
	ASN      uint32
	Platform string
	Tags     []string // all of them
	Count    uint32   // default 1
}

// String tells the filters, for messages: "country=AU asn=1221".
func (s *Selector) String() string {
	out := ""
	add := func(format string, v any) {
		if out != "" {
			out += " "
		}
		out += fmt.Sprintf(format, v)
	}
	if s.Country != "" {
		add("country=%s", s.Country)
	}
	if s.City != "" {
		add("city=%q", s.City)
	}
	if s.ASN != 0 {
		add("asn=%d", s.ASN)
	}
	if s.Platform != "" {
		add("platform=%s", s.Platform)
	}
	for _, t := range s.Tags {
		add("tag=%s", t)
	}
	if out == "" {
		return "any node"
	}
	return out
}

// Matches reports whether a node with attributes a fits every filter.
func (s *Selector) Matches(a *protocol.Attributes) bool {
	if s.Country != "" && s.Country != a.Country || s.City != "" && s.City != a.City ||
		s.ASN != 0 && s.ASN != a.ASN || s.Platform != "" && s.Platform != a.Platform {
		return false
	}
	for _, want := range s.Tags {
		found := false
		for _, t := range a.Tags {
			found = found || t == want
		}
		if !found {
			return false
		}
	}
	return true
}

// Size returns how many assignments the job has.
func (t *Target) Size() int {
	switch {
	case t.Node != "":
		return 1
	case t.Select != nil:
		return int(t.Select.Count)
	default:
		return len(t.Nodes)
	}
}

// Key returns the Kafka key that a producer gives the job: the node's id when it is
// for one node, so that it lands on that node's shard; else the job's id. A cancel
// record needs the key of the job's record, which it does not know itself: its Key is
// right only for a job that was not for one node.
func (j *Job) Key() string {
	if j.Target.Node != "" {
		return j.Target.Node
	}
	return j.ID
}

// Validate checks every field and fills in the defaults. The error names the field
// and what is allowed.
func (j *Job) Validate() error {
	if len(j.Args) > 0 {
		if err := protocol.CheckPayload(j.Args); err != nil {
			return fmt.Errorf("args: %w", err)
		}
	}
	return j.validate()
}

// validate is Validate without the look into Args, for those that were scanned.
func (j *Job) validate() error {
	if err := checkID("id", j.ID, protocol.MaxJobIDBytes); err != nil {
		return err
	}
	if j.Cancel {
		return j.validateCancel()
	}
	if j.CancelReason != "" {
		return fmt.Errorf("reason: only allowed beside cancel: true")
	}
	if err := checkID("kind", j.Kind, protocol.MaxKindBytes); err != nil {
		return err
	}
	if err := j.Target.validate(); err != nil {
		return err
	}
	if len(j.Args) > protocol.MaxPayloadBytes {
		return fmt.Errorf("args: %d bytes as msgpack; at most %d are allowed", len(j.Args), protocol.MaxPayloadBytes)
	}
	return j.validateKnobs()
}

// validateCancel names the first field that a cancel record must not have.
func (j *Job) validateCancel() error {
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"kind", j.Kind != ""},
		{"target", j.Target.Node != "" || len(j.Target.Nodes) > 0 || j.Target.Select != nil},
		{"args", len(j.Args) > 0},
		{"timeout_ms", j.Timeout != 0},
		{"deadline_ms", j.DeadlineMs != 0},
		{"ttl_ms", j.TTL != 0},
		{"not_before_ms", j.NotBeforeMs != 0},
		{"attempts", j.Attempts != 0},
		{"backoff_ms", j.Backoff != 0},
		{"priority", j.Priority != 0},
	} {
		if f.set {
			return notInCancel(f.name)
		}
	}
	switch {
	case len(j.CancelReason) > MaxReasonBytes:
		return fmt.Errorf("reason: %d bytes; at most %d are allowed", len(j.CancelReason), MaxReasonBytes)
	case !utf8.ValidString(j.CancelReason):
		return fmt.Errorf("reason: not valid UTF-8")
	}
	return j.validateTenant()
}

func notInCancel(field string) error {
	return fmt.Errorf("%s: not allowed in a cancel record; allowed are %s", field, strings.Join(cancelNames, ", "))
}

func (j *Job) validateKnobs() error {
	if j.Timeout == 0 {
		j.Timeout = DefaultTimeout
	}
	if j.TTL == 0 {
		j.TTL = DefaultTTL
	}
	if j.Attempts == 0 {
		j.Attempts = DefaultAttempts
	}
	switch {
	case j.Backoff == 0:
		j.Backoff = DefaultBackoff
	case j.Backoff < 0:
		j.Backoff = NoBackoff
	}
	switch {
	case j.Timeout < time.Millisecond || j.Timeout > protocol.MaxTimeoutMs*time.Millisecond:
		return fmt.Errorf("timeout_ms: %d; allowed are 1 to %d", j.Timeout.Milliseconds(), protocol.MaxTimeoutMs)
	case j.TTL < time.Millisecond || j.TTL > MaxTTL:
		return fmt.Errorf("ttl_ms: %d; allowed are 1 to %d", j.TTL.Milliseconds(), MaxTTL.Milliseconds())
	case j.DeadlineMs < 0:
		return badDeadline(j.DeadlineMs)
	case j.NotBeforeMs < 0:
		return fmt.Errorf("not_before_ms: %d; it is a Unix time in milliseconds", j.NotBeforeMs)
	case j.Attempts > protocol.MaxAttempts:
		return fmt.Errorf("attempts: %d; allowed are 1 to %d", j.Attempts, protocol.MaxAttempts)
	case j.Backoff > MaxBackoff || j.Backoff > 0 && j.Backoff < time.Millisecond:
		return fmt.Errorf("backoff_ms: %v; allowed are 0 to %d", float64(j.Backoff)/1e6, MaxBackoff.Milliseconds())
	case j.Priority > protocol.MaxPriority:
		return fmt.Errorf("priority: %d; allowed are 0 to %d", j.Priority, protocol.MaxPriority)
	}
	return j.validateTenant()
}

func badDeadline(ms int64) error {
	return fmt.Errorf("deadline_ms: %d; it is a Unix time in milliseconds", ms)
}

func (j *Job) validateTenant() error {
	switch {
	case len(j.Tenant) > MaxTenantBytes:
		return fmt.Errorf("tenant: %d bytes; at most %d are allowed", len(j.Tenant), MaxTenantBytes)
	case !utf8.ValidString(j.Tenant):
		return fmt.Errorf("tenant: not valid UTF-8")
	}
	return nil
}

func (t *Target) validate() error {
	set := 0
	if t.Node != "" {
		set++
	}
	if len(t.Nodes) > 0 {
		set++
	}
	if t.Select != nil {
		set++
	}
	if set != 1 {
		return fmt.Errorf("target: %d of node, nodes and select are given; exactly one has to be", set)
	}
	switch {
	case t.Node != "":
		return checkID("target.node", t.Node, protocol.MaxNodeIDBytes)
	case t.Select != nil:
		return t.Select.validate()
	}
	if len(t.Nodes) > MaxTargets {
		return fmt.Errorf("target.nodes: %d entries; at most %d are allowed", len(t.Nodes), MaxTargets)
	}
	seen := make(map[string]struct{}, len(t.Nodes))
	for _, n := range t.Nodes {
		if err := checkID("target.nodes", n, protocol.MaxNodeIDBytes); err != nil {
			return err
		}
		if _, dup := seen[n]; dup {
			return fmt.Errorf("target.nodes: %q is there twice", n)
		}
		seen[n] = struct{}{}
	}
	return nil
}

func (s *Selector) validate() error {
	if s.Count == 0 {
		s.Count = 1
	}
	switch {
	case s.Count > MaxTargets:
		return fmt.Errorf("target.select.count: %d; allowed are 1 to %d", s.Count, MaxTargets)
	case !validCountry(s.Country):
		return fmt.Errorf("target.select.country: %s; an ISO 3166-1 code in capitals such as AU is expected", quote(s.Country))
	case len(s.City) > protocol.MaxTextBytes:
		return fmt.Errorf("target.select.city: %d bytes; at most %d are allowed", len(s.City), protocol.MaxTextBytes)
	case len(s.Platform) > protocol.MaxTextBytes:
		return fmt.Errorf("target.select.platform: %d bytes; at most %d are allowed", len(s.Platform), protocol.MaxTextBytes)
	case len(s.Tags) > protocol.MaxTags:
		return fmt.Errorf("target.select.tags: %d entries; at most %d are allowed", len(s.Tags), protocol.MaxTags)
	}
	for _, t := range s.Tags {
		if t == "" || len(t) > protocol.MaxTagBytes {
			return fmt.Errorf("target.select.tags: %d bytes in one; allowed are 1 to %d", len(t), protocol.MaxTagBytes)
		}
	}
	return nil
}

// validCountry refuses what no node can have: filters are compared byte for byte, so
// "au" would wait for ever.
func validCountry(s string) bool {
	if len(s) == 1 || len(s) > protocol.MaxCountryBytes {
		return false
	}
	for i := range len(s) {
		if s[i] < 'A' || s[i] > 'Z' {
			return false
		}
	}
	return true
}

func checkID(field, s string, limit int) error {
	switch {
	case s == "":
		return fmt.Errorf("%s: missing", field)
	case len(s) > limit:
		return fmt.Errorf("%s: %d bytes; at most %d are allowed", field, len(s), limit)
	case !protocol.ValidID(s):
		return fmt.Errorf("%s: %q; printable UTF-8 without spaces is expected", field, s)
	}
	return nil
}
