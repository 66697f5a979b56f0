package shard

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors"
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

// t0 is the scenarios' beginning of time.
const t0 = int64(1_700_000_000_000)

// script is a core under commands.
type script struct {
	t      *testing.T
	cfg    Config
	shards []uint32
	core   *Core
	now    int64
	offset int64
	eff    Effects
	tokens []*Token // not recorded yet
	batch  *actors.FromGate
	out    strings.Builder
}

func newScript(t *testing.T) *script {
	s := &script{t: t, cfg: DefaultConfig(), shards: []uint32{0}, now: t0}
	s.cfg.Partitions, s.cfg.Member = 1, "m"
	s.restart()
	return s
}

func (s *script) restart() {
	s.core = NewCore(s.cfg, func() []uint32 { return s.shards })
	s.eff.Reset()
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
	case "restart":
		s.restart()
	case "at": // the clock alone
		s.now = t0 + s.duration(w.pos[0])
	case "tick":
		if len(w.pos) > 0 {
			s.now = t0 + s.duration(w.pos[0])
		}
		s.core.Tick(s.now, &s.eff)
	case "record":
		s.core.Records(s.now, []actors.Record{s.record(w)}, &s.eff)
	case "batch":
		s.batch = actors.NewFromGate(uint32(w.num("gate", 1)))
		return
	case "end":
		b := s.batch
		s.batch = nil
		s.fromGate(b)
		return
	case "recorded":
		s.recorded(w)
		return
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
	s.restart()
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
		NotBeforeMs: w.at("notbefore"), Attempts: uint32(w.num("attempts", 0)), Priority: uint8(w.num("priority", 0)),
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
	return Location{Node: node, Gate: uint32(w.num("gate", 1)), Incarnation: uint64(w.num("inc", 1)), Profile: s.profile(w)}
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
			Kind: "ping", Selector: &record.Selector{Country: w.opts["country"]}, Count: int(w.num("count", 1))}, &s.eff)
	case "candidates":
		m := &Candidates{JobID: w.pos[0], Round: uint32(w.num("round", 1))}
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
		b = actors.NewFromGate(uint32(w.num("gate", 1)))
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

// recorded says that Kafka has everything, or only the records of the named jobs.
func (s *script) recorded(w words) {
	var rest []*Token
	for _, t := range s.tokens {
		if len(w.pos) > 0 && (t.a == nil || !slices.Contains(w.pos, t.a.job.rec.ID)) {
			rest = append(rest, t)
			continue
		}
		s.core.Recorded(s.now, t, &s.eff)
		s.print()
	}
	s.tokens = rest
}

func (s *script) state() {
	ids := make([]string, 0, len(s.core.jobs))
	for id := range s.core.jobs {
		ids = append(ids, id)
	}
	sort.Strings(ids)
	names := [...]string{"choosing", "waiting", "queued", "sent", "detached", "ending", "recorded"}
	for _, id := range ids {
		j := s.core.jobs[id]
		for i := range j.assignments {
			a := &j.assignments[i]
			fmt.Fprintf(&s.out, "%s[%d] node=%q %s attempt=%d\n", id, i, a.node, names[a.state], a.attempt)
		}
	}
	next := "nothing"
	if due, ok := s.core.Next(); ok {
		next = "due at " + (time.Duration(due-t0) * time.Millisecond).String()
	}
	fmt.Fprintf(&s.out, "%d jobs, %d open, %s, watermark %d\n", s.core.Pending(), s.core.mark.Open(), next, s.core.mark.Next())
}

func (s *script) job(id string) {
	sum := s.core.Job(id)
	if sum == nil {
		fmt.Fprintf(&s.out, "job %s is not known\n", id)
		return
	}
	fmt.Fprintf(&s.out, "job %s %s: %d targets, %d results\n", sum.ID, sum.State, sum.Targets, len(sum.Results))
}

// print shows the effects and empties them.
func (s *script) print() {
	p := func(format string, args ...any) { fmt.Fprintf(&s.out, format+"\n", args...) }
	e := &s.eff
	for _, w := range e.Withdrawals {
		x := w.Withdrawal
		p("withdraw %s#%d from %s at gate %d: %s", x.JobID, x.Attempt, x.Node, w.Gate, x.Reason)
	}
	for _, d := range e.Deliveries {
		x := d.Delivery
		p("deliver %s#%d to %s at gate %d, timeout %dms", x.JobID, x.Attempt, x.Node, d.Gate, x.TimeoutMs)
	}
	for _, x := range e.Acks {
		p("ack %s#%d to %s at gate %d", x.Ack.JobID, x.Ack.Attempt, x.Ack.Node, x.Gate)
	}
	for _, x := range e.Evictions {
		p("evict %s up to incarnation %d at gate %d", x.Eviction.Node, x.Eviction.Incarnation, x.Gate)
	}
	for _, x := range e.Outcomes {
		p("outcome %s[%d] on %q: %v after attempt %d %s", x.Result.Job, x.Result.Index, x.Result.Node, x.Result.Outcome, x.Result.Attempt, x.Result.Error)
		x.Token.Value = []byte("value")
		s.tokens = append(s.tokens, x.Token)
	}
	for _, x := range e.Dead {
		p("dead record %d: %s", x.Record.Offset, x.Reason)
		s.tokens = append(s.tokens, x.Token)
	}
	for _, x := range e.Asks {
		p("ask shard %d: %s", x.Shard, describe(x.Message))
	}
	for _, x := range e.Events {
		switch {
		case x.Progress != nil:
			p("event: progress of %s on %s", x.JobID, x.Progress.Node)
		case x.Done:
			p("event: %s is done", x.JobID)
		default:
			p("event: a result of %s", x.JobID)
		}
	}
	if e.Commit >= 0 {
		p("commit %d", e.Commit)
	}
	e.Reset()
}

func describe(m any) string {
	switch m := m.(type) {
	case *Locate:
		return "where is " + m.Node
	case *Located:
		return fmt.Sprintf("%s is at gate %d, incarnation %d", m.Location.Node, m.Location.Gate, m.Location.Incarnation)
	case *Select:
		return fmt.Sprintf("%d nodes for %s, %v, round %d", m.Count, m.JobID, m.Selector, m.Round)
	case *Candidates:
		var nodes []string
		for _, l := range m.Nodes {
			nodes = append(nodes, l.Node)
		}
		sort.Strings(nodes)
		return fmt.Sprintf("for %s in round %d: %s", m.JobID, m.Round, strings.Join(nodes, " "))
	}
	return fmt.Sprintf("%T", m)
}

func outcome(name string) (protocol.Outcome, error) {
	for _, o := range protocol.Outcomes() {
		if o.String() == name {
			return o, nil
		}
	}
	return 0, fmt.Errorf("%q is no outcome", name)
}
