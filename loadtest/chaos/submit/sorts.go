package submit

import (
	"slices"

	"github.com/roost-server/roost/loadtest/chaos/checker"
	"github.com/roost-server/roost/loadtest/chaos/nodes"
	"github.com/roost-server/roost/protocol/record"
)

func (m *mix) single(d *draft) {
	d.id = m.id("one")
	d.node, d.allow = m.anyNode(), wentWell
}

// list is for nodes of one partition, with a key of that partition: their member is
// the job's.
func (m *mix) list(d *draft) {
	first := m.anyNode()
	near := m.byShard[record.Partition(first, m.partitions)]
	for range 2 + m.rng.IntN(5) {
		if n := near[m.rng.IntN(len(near))]; !slices.Contains(d.nodes, n) {
			d.nodes = append(d.nodes, n)
		}
	}
	d.key, d.allow = d.nodes[0], wentWell
}

// scattered is for nodes of any partition: those of another member's are not reached.
func (m *mix) scattered(d *draft) {
	for range 1 + m.rng.IntN(4) {
		if n := m.anyNode(); !slices.Contains(d.nodes, n) {
			d.nodes = append(d.nodes, n)
		}
	}
	d.fields["ttl_ms"], d.allow = 6000, wentWell
}

func (m *mix) choose(d *draft) {
	d.sel, d.count, d.allow = map[string]any{}, 1+m.rng.IntN(5), selected
	if m.rng.IntN(2) == 0 {
		d.sel["country"] = pick(m, nodes.Countries)
	}
	if m.rng.IntN(4) == 0 {
		d.sel["city"] = pick(m, nodes.Cities)
	}
	if m.rng.IntN(4) == 0 {
		d.sel["tags"] = []string{pick(m, nodes.Tags)}
	}
	d.fields["ttl_ms"] = 12_000
}

func pick(m *mix, list []string) string { return list[m.rng.IntN(len(list))] }

func (m *mix) chooseRare(d *draft) {
	d.sel, d.count, d.allow, d.kind = map[string]any{}, 1+m.rng.IntN(3), selected, nodes.Rare
	d.fields["ttl_ms"] = 12_000
}

func (m *mix) chooseNobody(d *draft) {
	d.sel, d.count, d.allow = map[string]any{"country": "AQ"}, 1+m.rng.IntN(3), impossible
	d.fields["ttl_ms"] = 5000
}

func (m *mix) away(d *draft) {
	d.node, d.allow = "away-"+d.id, onlyLate
	d.fields["ttl_ms"] = 500 + m.rng.IntN(6000)
}

func (m *mix) partlyAway(d *draft) {
	d.nodes, d.allow = []string{m.anyNode(), "away-" + d.id}, wentWell
	d.key = d.nodes[0]
	d.fields["ttl_ms"] = 2000 + m.rng.IntN(4000)
}

func (m *mix) unknownKind(d *draft) {
	d.kind = "nobody.offers.this"
	if m.rng.IntN(3) == 0 {
		d.sel, d.count, d.allow = map[string]any{}, 1, impossible
		d.fields["ttl_ms"] = 5000
		return
	}
	d.node, d.allow = m.anyNode(), refusedOr
}

func (m *mix) notBefore(d *draft) {
	m.single(d)
	d.fields["not_before_ms"] = m.nowMs + m.rng.Int64N(6000) - 500
}

func (m *mix) deadlinePast(d *draft) {
	d.fields["deadline_ms"] = m.nowMs - m.rng.Int64N(100_000) - 1000
	d.allow = onlyLate
	if m.rng.IntN(2) == 0 {
		d.node = m.anyNode()
	} else {
		m.list(d)
		d.allow = onlyLate
	}
}

func (m *mix) deadlineFirst(d *draft) {
	d.node, d.allow = m.anyNode(), onlyLate
	d.fields["not_before_ms"] = m.nowMs + 60_000
	d.fields["deadline_ms"] = m.nowMs + 500 + m.rng.Int64N(3000)
}

func (m *mix) fails(d *draft) {
	m.single(d)
	d.args.Do, d.allow = nodes.DoFail, wentBadly
}

func (m *mix) saysTimeout(d *draft) {
	m.single(d)
	d.args.Do, d.allow = nodes.DoTimeout, neverEnds
	d.fields["attempts"] = 1 + m.rng.IntN(2)
}

func (m *mix) silentOnce(d *draft) {
	m.single(d)
	d.args.Do = nodes.DoOnce
	d.fields["timeout_ms"], d.fields["backoff_ms"] = 1000, m.rng.IntN(400)
}

func (m *mix) silent(d *draft) {
	m.single(d)
	d.args.Do, d.allow = nodes.DoNothing, neverEnds
	d.fields["timeout_ms"], d.fields["attempts"] = 700, 1+m.rng.IntN(2)
}

func (m *mix) big(d *draft) {
	m.single(d)
	d.args.Pad = 1 << (10 + m.rng.IntN(9))
}

// cancelRunning cancels a job that takes long; the node stops it, or is through before.
func (m *mix) cancelRunning(d *draft) {
	m.single(d)
	d.args.Ms = 2000
	m.cancelLater(d, 200+m.rng.Int64N(2500))
}

func (m *mix) cancelWaiting(d *draft) {
	m.away(d)
	if m.rng.IntN(2) == 0 {
		d.node, d.nodes = "", []string{m.anyNode(), "away-" + d.id, "off-" + d.id}
		d.key, d.allow = d.nodes[0], wentWell
	}
	d.fields["ttl_ms"] = 8000
	m.cancelLater(d, m.rng.Int64N(3000))
}

// cancelAny cancels whatever, at once or when it has ended long since.
func (m *mix) cancelAny(d *draft) {
	if m.rng.IntN(2) == 0 {
		m.choose(d)
	} else {
		m.single(d)
	}
	m.cancelLater(d, m.rng.Int64N(2)*m.rng.Int64N(10_000))
}

func (m *mix) cancelLater(d *draft, ms int64) {
	key := d.key
	if key == "" {
		key = d.id
		if d.node != "" {
			key = d.node
		}
	}
	m.after(ms, m.cancelRecord(d.id, key, "cancel"))
}

func (m *mix) cancelRecord(id, key, class string) *made {
	out := &made{sub: checker.Submission{What: checker.Cancel, Class: class, ID: id, JSON: m.rng.IntN(2) == 0}, key: key}
	job := map[string]any{"id": id, "cancel": true}
	if m.rng.IntN(2) == 0 {
		job["reason"] = "no longer needed"
	}
	m.write(out, job)
	return out
}

func (m *mix) cancelNothing() *made {
	return m.cancelRecord(m.id("never"), m.anyNode(), "cancel of nothing")
}

// duplicate is a job whose id comes again, with the same key, at once or later, the
// same or as something else.
func (m *mix) duplicate(d *draft) {
	m.single(d)
	again := *d
	again.class = "duplicate's second"
	if m.rng.IntN(2) == 0 {
		again.args.Echo, again.node, again.key = -1, m.anyNode(), d.node
	}
	m.after(m.rng.Int64N(2)*m.rng.Int64N(8000), m.encode(&again))
}

// invalid is a record that has to be refused, for any of many reasons.
func (m *mix) invalid() *made {
	out := &made{sub: checker.Submission{What: checker.Invalid, Class: "invalid"}, key: m.anyNode()}
	id, node := m.id("bad"), m.anyNode()
	forms := []string{
		``, `{`, `{}`, `[]`, `null`, `"text"`, "\x93\x01\x02\x03", "\xc1", "\xdf\xff\xff\xff\xff", "\x81\xa2id",
		`{"id":"` + id + `"}`,
		`{"id":"` + id + `","kind":"echo"}`,
		`{"id":"` + id + `","kind":"echo","target":{}}`,
		`{"id":"` + id + `","kind":"echo","target":{"node":"` + node + `","nodes":["a"]}}`,
		`{"id":"` + id + `","kind":"echo","target":{"nodes":["a","a"]}}`,
		`{"id":"` + id + `","kind":"echo","target":{"node":"` + node + `"},"timeout":5}`,
		`{"id":"` + id + `","kind":"echo","target":{"node":"` + node + `"},"timeout_ms":"5"}`,
		`{"id":"` + id + `","kind":"echo","target":{"node":"` + node + `"},"timeout_ms":1.5}`,
		`{"id":"` + id + `","kind":"echo","target":{"node":"` + node + `"},"attempts":1000}`,
		`{"id":"` + id + `","kind":"echo","target":{"node":"` + node + `"},"priority":10}`,
		`{"id":"` + id + `","id":"` + id + `","kind":"echo","target":{"node":"` + node + `"}}`,
		`{"id":"two words","kind":"echo","target":{"node":"` + node + `"}}`,
		`{"id":"` + id + `","kind":"echo","target":{"select":{"country":"nz"}}}`,
		`{"id":"` + id + `","kind":"echo","target":{"select":{"contry":"NZ"}}}`,
		`{"id":"` + id + `","cancel":true,"kind":"echo"}`,
		`{"cancel":true}`,
	}
	out.value = []byte(forms[m.rng.IntN(len(forms))])
	if m.rng.IntN(20) == 0 {
		out.value = nil
	}
	return out
}
