package protocol

import (
	"unicode"
	"unicode/utf8"
)

// Ref names one attempt of one assignment, as JOB gave it. Shard routes what a
// node says about it; the node only repeats it.
// On the wire, inside HELLO: [job_id, shard, attempt].
type Ref struct {
	JobID   string
	Shard   uint32
	Attempt uint32
}

// Hello is HELLO, a node's first frame.
// On the wire: [version, node_id, credential, credit, agent, attributes, running, held,
// last_incarnation].
type Hello struct {
	Version    uint32 // the highest protocol version that the node speaks
	NodeID     string // stable over reconnects and restarts
	Credential []byte // a bearer token, or empty; aliases the body after decoding
	Credit     uint32 // how many jobs the node runs at once; 0 is read as 1
	Agent      string // software and version, for operators
	Attributes Attributes
	Running    []Ref // assignments that the node still runs from an earlier session
	Held       []Ref // results that it holds unacknowledged, and sends after WELCOME
	// LastIncarnation is that of the last WELCOME, 0 for none: the new session's is higher,
	// even when the member's clock is behind that of the last one.
	LastIncarnation uint64
}

// Type implements [Message].
func (*Hello) Type() Type { return TypeHello }

func (m *Hello) encode(e *Encoder) {
	e.array(9)
	e.uint("version", uint64(m.Version), MaxVersion)
	e.str("node_id", m.NodeID, MaxNodeIDBytes)
	e.bin("credential", m.Credential, MaxCredentialBytes)
	e.uint("credit", uint64(m.Credit), MaxCredit)
	e.str("agent", m.Agent, MaxTextBytes)
	e.attributes(&m.Attributes)
	e.refs("running", m.Running)
	e.refs("held", m.Held)
	e.uint("last_incarnation", m.LastIncarnation, 1<<64-1)
}

func (m *Hello) decode(d *Decoder) {
	m.Version = uint32(d.uint("version", true, MaxVersion))
	m.NodeID = d.str("node_id", true, MaxNodeIDBytes)
	if d.err == nil && !ValidID(m.NodeID) {
		d.fail("node_id has to be printable UTF-8 without spaces")
	}
	m.Credential = d.text("credential", false, MaxCredentialBytes)
	m.Credit = max(1, uint32(d.uint("credit", false, MaxCredit)))
	m.Agent = d.str("agent", false, MaxTextBytes)
	m.Attributes = d.attributes(false)
	m.Running = d.refs("running")
	m.Held = d.refs("held")
	m.LastIncarnation = d.uint("last_incarnation", false, 1<<64-1)
}

// ValidID reports whether s may be a node or job id: not empty, UTF-8, printable,
// and without spaces, so that it is safe in a log line, a URL path and a terminal.
func ValidID(s string) bool {
	if s == "" {
		return false
	}
	i := 0
	for i < len(s) && s[i] > ' ' && s[i] < 0x7f {
		i++
	}
	if !utf8.ValidString(s[i:]) {
		return false
	}
	for _, r := range s[i:] {
		if r == ' ' || !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

func (e *Encoder) refs(field string, refs []Ref) {
	if len(refs) > MaxResume {
		e.fail("%s has %d entries; at most %d are allowed", field, len(refs), MaxResume)
		return
	}
	e.array(len(refs))
	for i := range refs {
		e.array(3)
		e.str("job_id", refs[i].JobID, MaxJobIDBytes)
		e.uint("shard", uint64(refs[i].Shard), 1<<32-1)
		e.uint("attempt", uint64(refs[i].Attempt), MaxAttempts)
	}
}

func (d *Decoder) refs(field string) (refs []Ref) {
	d.list(field, MaxResume, func() {
		refs = append(refs, Ref{
			JobID:   d.str("job_id", true, MaxJobIDBytes),
			Shard:   uint32(d.uint("shard", true, 1<<32-1)),
			Attempt: uint32(d.uint("attempt", true, MaxAttempts)),
		})
	})
	return refs
}
