package shard

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/directory"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

var update = flag.Bool("update", false, "rewrite the expected output of the scenarios in testdata")

// TestScenarios runs the stories in testdata/*.txt. A block is commands, a line of
// four dashes, and what they print, up to an empty line.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(f)
			require.NoError(t, err)
			got := runScenario(t, string(text))
			if *update {
				require.NoError(t, os.WriteFile(f, []byte(got), 0o644))
				return
			}
			require.Equal(t, string(text), got, "run with -update when the new output is right")
		})
	}
}

func runScenario(t *testing.T, text string) string {
	s := newScript(t)
	var out strings.Builder
	for _, block := range strings.Split(strings.TrimRight(text, "\n"), "\n\n") {
		commands, _, _ := strings.Cut(block, "\n----")
		out.WriteString(commands + "\n----\n")
		s.out.Reset()
		for _, line := range strings.Split(commands, "\n") {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				s.run(line)
			}
		}
		out.WriteString(s.out.String() + "\n")
	}
	return strings.TrimRight(out.String(), "\n") + "\n"
}

// script is a core under commands.
type script struct {
	t      *testing.T
	cfg    Config
	shards []uint32
	core   *Core
	now    int64
	offset int64
	eff    Effects
	log    []actors.Record // the jobs topic
	kafka  *kafka          // what was committed
	cut    *Batch          // not committed yet
	seen   int             // of the core's writes, those that were printed
	batch  *actors.FromGate
	out    strings.Builder
}

func newScript(t *testing.T) *script {
	s := &script{t: t, cfg: DefaultConfig(), shards: []uint32{0}, now: t0}
	s.cfg.Partitions, s.cfg.Member, s.cfg.Owner = 1, "m", "o"
	s.begin()
	return s
}

// begin starts with nothing.
func (s *script) begin() {
	s.kafka, s.log = newKafka(), nil
	s.restart()
	s.core.Restored(s.now, -1, &s.eff)
	s.eff.Reset()
}

// restart begins another life of the core, which knows nothing yet.
func (s *script) restart() {
	s.core = NewCore(s.cfg, func() []uint32 { return s.shards })
	s.eff.Reset()
	s.cut, s.seen = nil, 0
}

// restored gives the core what was committed, and feeds it again.
func (s *script) restored() {
	for _, r := range s.kafka.records() {
		require.NoError(s.t, s.core.Restore(r))
	}
	s.core.Restored(s.now, s.kafka.next, &s.eff)
	var again []actors.Record
	for _, r := range s.log {
		if r.Offset >= s.kafka.next {
			again = append(again, r)
		}
	}
	s.core.Records(s.now, again, &s.eff)
	st := s.core.Status()
	fmt.Fprintf(&s.out, "restored %d jobs, %d missing, then %d records from %d\n", st.Restored, st.Missing, len(again), s.kafka.next)
}

// words are a command's arguments: some by position, some key=value.
type words struct {
	s    *script
	pos  []string
	opts map[string]string
}

func (s *script) words(line string) words {
	w := words{s: s, opts: map[string]string{}}
	for _, f := range strings.Fields(line) {
		if k, v, ok := strings.Cut(f, "="); ok && k != "" {
			w.opts[k] = v
		} else {
			w.pos = append(w.pos, f)
		}
	}
	return w
}

func (w words) num(key string, or int64) int64 {
	if w.opts[key] == "" {
		return or
	}
	n, err := strconv.ParseInt(w.opts[key], 10, 64)
	require.NoError(w.s.t, err, key)
	return n
}

// gate is a gate of this member, or of another one by its slot.
func (w words) gate() uint32 {
	return actors.GateOf(uint16(w.num("member", 0)), uint32(w.num("gate", 1)))
}

func (w words) dur(key string) time.Duration {
	if w.opts[key] == "" {
		return 0
	}
	d, err := time.ParseDuration(w.opts[key])
	require.NoError(w.s.t, err, key)
	return d
}

// at is a time relative to the beginning, as Unix time; 0 when not given.
func (w words) at(key string) int64 {
	if w.opts[key] == "" {
		return 0
	}
	return t0 + w.dur(key).Milliseconds()
}

func (w words) list(key string) []string {
	if w.opts[key] == "" {
		return nil
	}
	return strings.Split(w.opts[key], ",")
}

func (s *script) run(line string) {
	w := s.words(line)
	name := w.pos[0]
	w.pos = w.pos[1:]
	switch name {
	case "config":
		s.config(w)
	case "restart": // begins to rebuild
		s.restart()
	case "restored": // ends it
		s.restored()
	case "crash":
		s.restart()
		s.restored()
	case "lose": // something of the state topic
		s.kafka.lose(s.t, w.pos[0])
	case "at": // the clock alone
		s.now = t0 + s.duration(w.pos[0])
	case "tick":
		if len(w.pos) > 0 {
			s.now = t0 + s.duration(w.pos[0])
		}
		s.core.Tick(s.now, &s.eff)
	case "record":
		s.feed(s.record(w))
	case "cancel":
		s.feed(s.cancel(w))
	case "batch":
		s.batch = actors.NewFromGate(w.gate())
		return
	case "end":
		b := s.batch
		s.batch = nil
		s.fromGate(b)
		return
	case "cut":
		s.makeCut()
	case "commit": // cuts unless that was done
		if s.cut == nil {
			s.makeCut()
		}
		if s.cut != nil {
			s.kafka.commit(s.cut)
			s.core.Committed(s.now, s.cut, &s.eff)
			s.cut = nil
		}
	case "state":
		s.state()
	case "job":
		s.job(w.pos[0])
	default:
		if !s.peer(name, w) {
			s.gate(name, w)
			return
		}
	}
	s.print()
}

func (s *script) duration(text string) int64 {
	d, err := time.ParseDuration(text)
	require.NoError(s.t, err)
	return d.Milliseconds()
}

func (s *script) config(w words) {
	s.cfg.Partition = uint32(w.num("partition", 0))
	s.cfg.Partitions = uint32(w.num("partitions", 1))
	s.cfg.MaxPending = int(w.num("pending", int64(s.cfg.MaxPending)))
	if l := w.list("shards"); l != nil {
		s.shards = nil
		for _, x := range l {
			n, err := strconv.Atoi(x)
			require.NoError(s.t, err)
			s.shards = append(s.shards, uint32(n))
		}
	}
	s.begin()
}

func (s *script) feed(r actors.Record) {
	s.log = append(s.log, r)
	s.core.Records(s.now, []actors.Record{r}, &s.eff)
}

func (s *script) cancel(w words) actors.Record {
	r := actors.Record{Offset: w.num("offset", s.offset), TimestampMs: s.now}
	s.offset = r.Offset + 1
	var err error
	r.Value, err = record.AppendJob(nil, &record.Job{ID: w.pos[0], Cancel: true, CancelReason: w.opts["reason"]})
	require.NoError(s.t, err)
	return r
}

func (s *script) record(w words) actors.Record {
	r := actors.Record{Offset: w.num("offset", s.offset), TimestampMs: s.now + w.dur("ts").Milliseconds()}
	s.offset = r.Offset + 1
	if raw := w.opts["raw"]; raw != "" {
		r.Value = []byte(raw)
		return r
	}
	j := record.Job{
		ID: w.pos[0], Kind: "ping", Timeout: w.dur("timeout"), TTL: w.dur("ttl"), DeadlineMs: w.at("deadline"),
		NotBeforeMs: w.at("notbefore"), Attempts: uint32(w.num("attempts", 0)),
		Backoff: w.dur("backoff"), Priority: uint8(w.num("priority", 0)),
	}
	if w.opts["backoff"] == "0s" {
		j.Backoff = record.NoBackoff
	}
	if k := w.opts["kind"]; k != "" {
		j.Kind = k
	}
	switch {
	case w.opts["nodes"] != "":
		j.Target.Nodes = w.list("nodes")
	case w.opts["count"] != "":
		j.Target.Select = &record.Selector{Count: uint32(w.num("count", 1)), Country: w.opts["country"], Tags: w.list("tags")}
	default:
		j.Target.Node = w.opts["node"]
	}
	var err error
	r.Value, err = record.AppendJob(nil, &j)
	require.NoError(s.t, err)
	return r
}

func (s *script) profile(w words) *actors.Profile {
	p := &actors.Profile{Attributes: protocol.Attributes{Country: w.opts["country"], City: w.opts["city"],
		ASN: uint32(w.num("asn", 0)), Tags: w.list("tags"), Kinds: w.list("kinds")}}
	if p.Kinds == nil {
		p.Kinds = []string{"ping"}
	}
	return p
}

func (s *script) location(w words, node string) Location {
	return Location{Node: node, Gate: w.gate(), Incarnation: uint64(w.num("inc", 1)), Profile: s.profile(w)}
}

// peer runs what other shards say.
func (s *script) peer(name string, w words) bool {
	switch name {
	case "locate":
		s.core.Locate(s.now, &Locate{From: uint32(w.num("from", 1)), Node: w.pos[0]}, &s.eff)
	case "located":
		loc := s.location(w, w.pos[0])
		s.core.Located(s.now, &loc, &s.eff)
	case "select":
		s.core.Select(s.now, &Select{From: uint32(w.num("from", 1)), JobID: w.pos[0], Round: uint32(w.num("round", 1)),
			Kind: "ping", Selector: &record.Selector{Country: w.opts["country"]}, Count: int(w.num("count", 1)), Exclude: w.list("except")}, &s.eff)
	case "gone": // a member, by its slot
		s.core.MemberGone(s.now, uint16(w.num("member", 0)), &s.eff)
	case "misplaced":
		s.core.Misplaced(s.now, w.pos[0], &s.eff)
	case "rebuilt":
		s.core.Rebuilt(s.now, &Rebuilt{Shard: uint32(w.num("shard", 1))}, &s.eff)
	case "silent":
		s.core.Silent(s.now, &Silent{Node: w.pos[0], UntilMs: w.at("until")}, &s.eff)
	case "candidates":
		m := &Candidates{JobID: w.pos[0], Round: uint32(w.num("round", 1))}
		m.Funnel[directory.Connected] = int(w.num("connected", 0))
		for _, node := range w.pos[1:] {
			m.Nodes = append(m.Nodes, s.location(w, node))
		}
		s.core.Candidates(s.now, m, &s.eff)
	default:
		return false
	}
	return true
}

var noticeNames = map[string]actors.NoticeKind{
	"undelivered": actors.Undelivered, "queued": actors.Queued, "sent": actors.Sent, "busy": actors.Busy,
	"accepted": actors.Accepted, "running": actors.Running, "held": actors.Held, "lost": actors.Lost,
}

// gate adds to the batch under way, or makes one of its own.
func (s *script) gate(name string, w words) {
	b := s.batch
	if b == nil {
		b = actors.NewFromGate(w.gate())
		defer s.fromGate(b)
	}
	switch name {
	case "register":
		l := s.location(w, w.pos[0])
		b.Registrations = append(b.Registrations, actors.Registration{Node: l.Node, Incarnation: l.Incarnation, Profile: l.Profile})
	case "depart":
		b.Departures = append(b.Departures, actors.Departure{Node: w.pos[0], Incarnation: uint64(w.num("inc", 1))})
	case "result": // result JOB NODE OUTCOME
		o, err := outcome(w.pos[2])
		require.NoError(s.t, err)
		b.Results = append(b.Results, actors.Result{JobID: b.Keep([]byte(w.pos[0])), Node: w.pos[1], Outcome: o,
			Attempt: uint32(w.num("attempt", 1)), Error: b.Keep([]byte(w.opts["error"]))})
	case "progress":
		b.Progress = append(b.Progress, actors.Progress{JobID: w.pos[0], Node: w.pos[1], Attempt: uint32(w.num("attempt", 1))})
	default: // NOTICE JOB NODE
		kind, ok := noticeNames[name]
		require.True(s.t, ok, "command %q", name)
		incarnation := int64(1)
		if kind == actors.Undelivered { // by a gate that has no session
			incarnation = 0
		}
		b.Notices = append(b.Notices, actors.Notice{Kind: kind, JobID: w.pos[0], Node: w.pos[1],
			Attempt: uint32(w.num("attempt", 1)), Incarnation: uint64(w.num("inc", incarnation))})
	}
}

func (s *script) fromGate(b *actors.FromGate) {
	s.core.FromGate(s.now, b, &s.eff)
	s.print()
	b.Release()
}

// makeCut shows what a cut has, but for the head and what is the same in all of them.
func (s *script) makeCut() {
	b := &Batch{}
	if !s.core.Cut(s.now, b) {
		s.out.WriteString("nothing to cut\n")
		return
	}
	s.cut, s.seen = b, 0
	fmt.Fprintf(&s.out, "cut: next %d, %d outcomes\n", b.Next, b.Outcomes)
	for i := range b.Writes {
		w := &b.Writes[i]
		verb := "put"
		if w.Value == nil {
			verb = "delete"
		}
		switch {
		case w.Stream == Progress:
			p, err := record.ParseProgress(w.Value)
			require.NoError(s.t, err)
			fmt.Fprintf(&s.out, "  watermark %d\n", p.Offset)
		case w.Stream != State:
		case w.Key[0] == keyJob:
			fmt.Fprintf(&s.out, "  %s job %s\n", verb, w.Key[1:])
		case w.Key[0] == keyChunk:
			fmt.Fprintf(&s.out, "  %s chunk %d of job %s\n", verb, w.Key[2], w.Key[3:])
		}
	}
}

func (s *script) state() {
	ids := make([]string, 0, len(s.core.pending.byID))
	for id := range s.core.pending.byID {
		ids = append(ids, id)
	}
	sort.Strings(ids)
	names := [...]string{"choosing", "waiting", "queued", "sent", "detached", "ending", "recorded"}
	for _, id := range ids {
		all := s.core.pending.byID[id].all()
		for i := range all {
			a := &all[i]
			fmt.Fprintf(&s.out, "%s[%d] node=%q %s attempt=%d\n", id, i, a.node, names[a.state], a.attempt)
		}
	}
	next := "nothing"
	if len(s.core.timers) > 0 {
		next = "due at " + (time.Duration(s.core.timers[0].dueMs-t0) * time.Millisecond).String()
	}
	st := s.core.Status()
	fmt.Fprintf(&s.out, "%d jobs, %s, next %d, watermark %d\n", st.Pending, next, st.Next, st.Watermark)
}

func (s *script) job(id string) {
	sum := s.core.Job(id)
	if sum == nil {
		fmt.Fprintf(&s.out, "job %s is not known\n", id)
		return
	}
	fmt.Fprintf(&s.out, "job %s %s: %d targets, %d results\n", sum.ID, sum.State, sum.Targets, len(sum.Results))
}
