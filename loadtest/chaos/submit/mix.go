package submit

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/roost-server/roost/loadtest/chaos/checker"
	"github.com/roost-server/roost/loadtest/chaos/nodes"
	"github.com/roost-server/roost/protocol/record"
)

// mix makes records of all sorts. It belongs to one goroutine.
type mix struct {
	rng        *rand.Rand
	nodes      []string
	byShard    map[int32][]string // nodes by the partition that their ids hash to
	partitions int32
	n          int
	nowMs      int64
	later      []*delayed // duplicates and cancels of jobs that were made
}

type delayed struct {
	atMs int64
	m    *made
}

func newMix(rng *rand.Rand, ids []string, partitions int32) *mix {
	m := &mix{rng: rng, nodes: ids, partitions: partitions, byShard: map[int32][]string{}}
	for _, id := range ids {
		p := record.Partition(id, partitions)
		m.byShard[p] = append(m.byShard[p], id)
	}
	return m
}

// Outcomes that may come of jobs.
var (
	wentWell   = []string{"ok", "timeout", "lost", "expired"}
	wentBadly  = []string{"failed", "timeout", "lost", "expired"}
	neverEnds  = []string{"timeout", "lost", "expired"}
	refusedOr  = []string{"refused", "timeout", "lost", "expired"}
	onlyLate   = []string{"expired"}
	selected   = []string{"ok", "timeout", "lost", "expired", "unmatched"}
	impossible = []string{"unmatched", "expired"}
)

// sorts are the sorts of records, with how many of a thousand are of each.
var sorts = []struct {
	class  string
	weight int
	make   func(*mix, *draft)
}{
	{"single", 550, (*mix).single},
	{"list", 50, (*mix).list},
	{"scattered list", 20, (*mix).scattered},
	{"select", 70, (*mix).choose},
	{"select rare", 20, (*mix).chooseRare},
	{"select nobody", 10, (*mix).chooseNobody},
	{"away", 30, (*mix).away},
	{"partly away", 15, (*mix).partlyAway},
	{"unknown kind", 20, (*mix).unknownKind},
	{"not before", 30, (*mix).notBefore},
	{"deadline past", 10, (*mix).deadlinePast},
	{"deadline before start", 10, (*mix).deadlineFirst},
	{"fails", 30, (*mix).fails},
	{"node says timeout", 10, (*mix).saysTimeout},
	{"silent once", 15, (*mix).silentOnce},
	{"silent", 10, (*mix).silent},
	{"big", 5, (*mix).big},
	{"cancelled while it runs", 15, (*mix).cancelRunning},
	{"cancelled while it waits", 20, (*mix).cancelWaiting},
	{"cancelled anyway", 15, (*mix).cancelAny},
	{"duplicate", 20, (*mix).duplicate},
	{"cancel of nothing", 10, nil},
	{"invalid", 15, nil},
}

// next makes the next record.
func (m *mix) next(nowMs int64) *made {
	m.nowMs = nowMs
	for i, d := range m.later {
		if d.atMs <= nowMs {
			m.later = append(m.later[:i], m.later[i+1:]...)
			return d.m
		}
	}
	m.n++
	at := m.rng.IntN(1000)
	for i := range sorts {
		s := &sorts[i]
		if at -= s.weight; at >= 0 && i < len(sorts)-1 {
			continue
		}
		switch s.class {
		case "invalid":
			return m.invalid()
		case "cancel of nothing":
			return m.cancelNothing()
		}
		d := m.draft(s.class)
		s.make(m, d)
		return m.encode(d)
	}
	return nil // not reached: the last sort takes what is left
}

// draft is a job record in the making.
type draft struct {
	id     string
	class  string
	key    string // "": the rule of docs/RECORDS.md
	node   string
	nodes  []string
	sel    map[string]any
	count  int
	kind   string
	args   nodes.Args
	fields map[string]any // further ones
	allow  []string
}

func (m *mix) draft(class string) *draft {
	d := &draft{
		id: m.id("job"), class: class, kind: nodes.Echo, fields: map[string]any{},
		args: nodes.Args{Echo: m.rng.Int64N(1 << 40), Do: nodes.DoOK, Ms: m.rng.Int64N(40)},
	}
	d.fields["timeout_ms"] = 3000 + m.rng.IntN(2000)
	d.fields["ttl_ms"] = ttlMs
	d.fields["attempts"] = 3 + m.rng.IntN(4)
	if m.rng.IntN(4) > 0 { // else the default, with which a few attempts take half a minute
		d.fields["backoff_ms"] = m.rng.IntN(400)
	}
	if m.rng.IntN(4) == 0 {
		d.fields["priority"] = m.rng.IntN(10)
	}
	if m.rng.IntN(4) == 0 {
		d.fields["tenant"] = fmt.Sprintf("tenant-%d", m.rng.IntN(5))
	}
	return d
}

// ttlMs is how long jobs for nodes that are there may take: long enough for nearly all
// to end by their nodes, whatever happens. Those for nodes that are away have less.
const ttlMs = 60_000

func (m *mix) id(sort string) string { return fmt.Sprintf("%s-%07d", sort, m.n) }

func (m *mix) anyNode() string { return m.nodes[m.rng.IntN(len(m.nodes))] }

func (m *mix) encode(d *draft) *made {
	job := map[string]any{"id": d.id, "kind": d.kind, "args": d.args}
	out := &made{sub: checker.Submission{What: checker.Job, Class: d.class, ID: d.id, Kind: d.kind, Echo: d.args.Echo, Allowed: d.allow}}
	switch {
	case d.node != "":
		job["target"] = map[string]any{"node": d.node}
		out.sub.Nodes, out.key = []string{d.node}, d.node
	case d.sel != nil:
		if d.count != 1 || m.rng.IntN(2) == 0 {
			d.sel["count"] = d.count
		}
		job["target"] = map[string]any{"select": d.sel}
		out.sub.Count, out.key = d.count, d.id
	default:
		job["target"] = map[string]any{"nodes": d.nodes}
		out.sub.Nodes, out.key = d.nodes, d.id
	}
	if d.key != "" {
		out.key = d.key
	}
	for k, v := range d.fields {
		job[k] = v
	}
	out.sub.Tenant, _ = d.fields["tenant"].(string)
	out.sub.Attempts, _ = d.fields["attempts"].(int)
	out.sub.JSON = m.rng.IntN(2) == 0
	m.write(out, job)
	return out
}

// write encodes a record, with or without a content type.
func (m *mix) write(out *made, job map[string]any) {
	var err error
	contentType := record.ContentMsgpack
	if out.sub.JSON {
		contentType = record.ContentJSON
		out.value, err = json.Marshal(job)
	} else {
		out.value, err = msgpack.Marshal(job)
	}
	if err != nil {
		panic(fmt.Sprintf("a record that cannot be encoded: %v", err)) // maps of plain values always can
	}
	if m.rng.IntN(3) > 0 {
		out.headers = append(out.headers, kgo.RecordHeader{Key: record.HeaderContentType, Value: []byte(contentType)})
	}
}

// after plans a record for later.
func (m *mix) after(ms int64, r *made) { m.later = append(m.later, &delayed{m.nowMs + ms, r}) }
