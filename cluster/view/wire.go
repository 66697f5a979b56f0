package view

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Kinds of packets; the first byte of each.
const (
	kindHello = 1
	kindBeat  = 2
)

// Limits of what is in a packet, in bytes unless they say otherwise.
const (
	maxName        = 255
	maxAddress     = 280 // the longest host name, a port, and brackets
	maxVersionText = 64
	maxWhy         = 512
	maxGossip      = 1024 // addresses in one packet
)

// Flags of hellos and beats.
const (
	flagUp      = 1 << iota // hello: the sender takes the receiver for up
	flagGoodbye             // beat: the sender leaves, why follows
	flagBye                 // beat: the goodbye was heard
	flagClaims              // beat: all claims of the sender follow
	flagGossip              // beat: addresses follow
)

// refusal is why a member does not come together with another.
type refusal uint8

// The refusals; the numbers are on the wire.
const (
	accepted refusal = iota
	otherCluster
	otherVersion
	otherPartitions
	clockApart
	nameTaken
	otherCertificate
	refusedThere // not on the wire: the other side refuses
)

// times let both sides learn how far their clocks are apart, as NTP does (RFC 5905,
// section 8): when this packet was sent, and when the last one from the receiver was sent
// and arrived. Unix ms by the clock of whoever did it.
type times struct{ sent, echo, arrived int64 }

// hello is sent until both sides know each other's session.
type hello struct {
	cluster, name  string
	instance       uint64
	start          int64
	address        string
	minVer, maxVer uint64
	version        string
	partitions     uint64
	nodes, api     string
	to             string // the address that this is sent to
	via            string // an address at which the receiver has reached the sender
	session        uint64 // the sender's for the receiver; 0: it does not know who that is
	seen           uint64 // the receiver's, as the sender knows it
	flags          uint64
	times          times
	refusal        refusal
	why            string
	rival          uint64 // with nameTaken: the instance that has the name,
	rivalStart     int64  // and its start
	state          State
	addresses      []string // where the sender hears others
}

// beat says that the sender is alive, within a pair of sessions.
type beat struct {
	from, to      uint64
	flags         uint64
	times         times
	state         State
	sockets       uint64
	claimsVersion uint64 // of the sender's claims
	claimsAck     uint64 // of the receiver's, as the sender has them
	why           string
	claims        []claim
	addresses     []string
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func appendStrings(b []byte, all []string) []byte {
	all = all[:min(len(all), maxGossip)]
	b = binary.AppendUvarint(b, uint64(len(all)))
	for _, s := range all {
		b = appendString(b, s)
	}
	return b
}

func appendTimes(b []byte, t times) []byte {
	b = binary.AppendUvarint(b, uint64(t.sent))
	b = binary.AppendUvarint(b, uint64(t.echo))
	return binary.AppendUvarint(b, uint64(t.arrived))
}

// append encodes h. Later versions only add fields at the end, which are skipped by those
// that do not know them.
func (h *hello) append(b []byte) []byte {
	b = append(b, kindHello)
	b = appendString(b, h.cluster)
	b = appendString(b, h.name)
	b = binary.BigEndian.AppendUint64(b, h.instance)
	b = binary.AppendUvarint(b, uint64(h.start))
	b = appendString(b, h.address)
	b = binary.AppendUvarint(b, h.minVer)
	b = binary.AppendUvarint(b, h.maxVer)
	b = appendString(b, h.version)
	b = binary.AppendUvarint(b, h.partitions)
	b = appendString(b, h.nodes)
	b = appendString(b, h.api)
	b = appendString(b, h.to)
	b = appendString(b, h.via)
	b = binary.BigEndian.AppendUint64(b, h.session)
	b = binary.BigEndian.AppendUint64(b, h.seen)
	b = binary.AppendUvarint(b, h.flags)
	b = appendTimes(b, h.times)
	b = append(b, byte(h.refusal))
	b = appendString(b, h.why)
	b = binary.BigEndian.AppendUint64(b, h.rival)
	b = binary.AppendUvarint(b, uint64(h.rivalStart))
	b = append(b, byte(h.state))
	return appendStrings(b, h.addresses)
}

func (m *beat) append(b []byte) []byte {
	b = append(b, kindBeat)
	b = binary.BigEndian.AppendUint64(b, m.from)
	b = binary.BigEndian.AppendUint64(b, m.to)
	b = binary.AppendUvarint(b, m.flags)
	b = appendTimes(b, m.times)
	b = append(b, byte(m.state))
	b = binary.AppendUvarint(b, m.sockets)
	b = binary.AppendUvarint(b, m.claimsVersion)
	b = binary.AppendUvarint(b, m.claimsAck)
	if m.flags&flagGoodbye != 0 {
		b = appendString(b, m.why)
	}
	if m.flags&flagClaims != 0 {
		b = binary.AppendUvarint(b, uint64(len(m.claims)))
		last := uint32(0)
		for _, c := range m.claims {
			b = binary.AppendUvarint(b, uint64(c.partition-last))
			b = binary.AppendUvarint(b, c.epoch)
			last = c.partition
		}
	}
	if m.flags&flagGossip != 0 {
		b = appendStrings(b, m.addresses)
	}
	return b
}

var errShort = errors.New("it ends too early")

// reader takes a packet apart; the first mistake stays.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.b = nil
}

func (r *reader) uvarint() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.fail(errShort)
		return 0
	}
	r.b = r.b[size:]
	return n
}

// time is a uvarint that is a moment: it fits an int64 with room for sums.
func (r *reader) time() int64 {
	n := r.uvarint()
	if n > maxEpoch {
		r.fail(fmt.Errorf("time %d is none", n))
		return 0
	}
	return int64(n)
}

func (r *reader) times() times { return times{r.time(), r.time(), r.time()} }

func (r *reader) fixed() uint64 {
	if len(r.b) < 8 {
		r.fail(errShort)
		return 0
	}
	n := binary.BigEndian.Uint64(r.b)
	r.b = r.b[8:]
	return n
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail(errShort)
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *reader) string(limit int) string {
	n := r.uvarint()
	switch {
	case n > uint64(limit):
		r.fail(fmt.Errorf("a text of %d bytes: at most %d are allowed", n, limit))
		return ""
	case n > uint64(len(r.b)):
		r.fail(errShort)
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

// strings reads addresses; the list grows with what is there, not with what is announced.
func (r *reader) strings() (all []string) {
	n := r.uvarint()
	if n > maxGossip || n > uint64(len(r.b)) {
		r.fail(fmt.Errorf("%d addresses: at most %d are allowed, in as many bytes", n, maxGossip))
		return nil
	}
	for range n {
		all = append(all, r.string(maxAddress))
		if r.err != nil {
			return nil
		}
	}
	return all
}

func decodeHello(b []byte) (h hello, err error) {
	r := reader{b: b}
	h.cluster = r.string(maxName)
	h.name = r.string(maxName)
	h.instance = r.fixed()
	h.start = r.time()
	h.address = r.string(maxAddress)
	h.minVer, h.maxVer = r.uvarint(), r.uvarint()
	h.version = r.string(maxVersionText)
	h.partitions = r.uvarint()
	h.nodes = r.string(maxAddress)
	h.api = r.string(maxAddress)
	h.to = r.string(maxAddress)
	h.via = r.string(maxAddress)
	h.session, h.seen = r.fixed(), r.fixed()
	h.flags = r.uvarint()
	h.times = r.times()
	h.refusal = refusal(r.byte())
	h.why = r.string(maxWhy)
	h.rival = r.fixed()
	h.rivalStart = r.time()
	h.state = State(r.byte())
	h.addresses = r.strings()
	if r.err == nil && (!printable(h.name) || !printable(h.cluster) || h.instance == 0 || !printable(h.address)) {
		r.fail(errors.New("it lacks a name, a cluster, an instance or an address, or they are not printable"))
	}
	if r.err != nil {
		return hello{}, fmt.Errorf("view: hello: %w", r.err)
	}
	return h, nil
}

// printable says whether s is a word that can stand in logs: neither empty nor with control
// characters.
func printable(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' || c == 0x7f {
			return false
		}
	}
	return s != ""
}

// decodeBeat reads the claims into a slice that is reused; partitions bounds them.
func decodeBeat(b []byte, partitions uint32, claims []claim) (m beat, err error) {
	r := reader{b: b}
	m.from, m.to = r.fixed(), r.fixed()
	m.flags = r.uvarint()
	m.times = r.times()
	m.state = State(r.byte())
	m.sockets = r.uvarint()
	m.claimsVersion, m.claimsAck = r.uvarint(), r.uvarint()
	if m.flags&flagGoodbye != 0 {
		m.why = r.string(maxWhy)
	}
	if m.flags&flagClaims != 0 {
		m.claims = r.claims(partitions, claims[:0])
	}
	if m.flags&flagGossip != 0 {
		m.addresses = r.strings()
	}
	if r.err != nil {
		return beat{}, fmt.Errorf("view: beat: %w", r.err)
	}
	return m, nil
}

func (r *reader) claims(partitions uint32, into []claim) []claim {
	n := r.uvarint()
	if n > uint64(partitions) || n > uint64(len(r.b))/2 {
		r.fail(fmt.Errorf("%d claims in %d bytes, of %d partitions", n, len(r.b), partitions))
		return nil
	}
	last := uint64(0)
	for i := range n {
		step := r.uvarint()
		epoch := r.uvarint()
		if r.err != nil {
			return nil
		}
		if step >= uint64(partitions) || last+step >= uint64(partitions) || i > 0 && step == 0 || epoch == 0 || epoch > maxEpoch {
			r.fail(fmt.Errorf("claim %d, of partition %d+%d in epoch %d, is none", i, last, step, epoch))
			return nil
		}
		last += step
		into = append(into, claim{uint32(last), epoch})
	}
	return into
}
