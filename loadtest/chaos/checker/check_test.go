package checker

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestSound(t *testing.T) {
	t.Parallel()
	s := newStory(t)
	rep := s.tell()
	require.True(t, rep.Sound(), "%v", rep.All)
	require.Equal(t, 7, rep.Submitted)
	require.Equal(t, 7, rep.Records)
	require.Equal(t, 3, rep.Jobs)
	require.Equal(t, 5, rep.Assignments)
	require.Equal(t, map[string]int{"ok": 3, "failed": 1, "cancelled": 1}, rep.Outcomes)
	require.Equal(t, map[string]int{"duplicate": 1, "invalid": 1, "cancel of an unknown job": 1}, rep.Refused)
	require.Equal(t, 1, rep.Cancelled)
	require.Equal(t, 2, rep.Watermarks)
	require.Zero(t, rep.Unseen)
	require.Equal(t, 4, rep.Runs)
}

// TestAborted has what an aborted transaction left beside what counts.
func TestAborted(t *testing.T) {
	t.Parallel()
	s := newStory(t)
	s.before = func() { s.commit(kgo.TryAbort, func(*told) bool { return true }) }
	rep := s.tell()
	require.True(t, rep.Sound(), "%v", rep.All)
	require.Equal(t, 2, rep.Watermarks)
}

// TestUnsure has a record of which Kafka has said nothing: both are right.
func TestUnsure(t *testing.T) {
	t.Parallel()
	s := newStory(t)
	s.subs = append(s.subs, &Submission{Seq: 8, What: Job, ID: "perhaps", Nodes: []string{"n1"}})
	s.fates = append(s.fates, &Fate{Seq: 8, Err: "timed out"})
	s.fates[0] = &Fate{Seq: 1, Err: "timed out"} // it is there all the same
	rep := s.tell()
	require.True(t, rep.Sound(), "%v", rep.All)
	require.Equal(t, 2, rep.Unsure)
}

// TestSteps has watermarks that go with the outcomes, each as early as it may be.
func TestSteps(t *testing.T) {
	t.Parallel()
	s := newStory(t)
	for _, r := range s.results[:1] {
		r.early = true
	}
	s.dead[0].early, s.dead[1].early = true, true
	s.mark(0, 3, 3).early = true
	rep := s.tell()
	require.True(t, rep.Sound(), "%v", rep.All)
	require.Equal(t, 3, rep.Watermarks)
}

// wrongs are stories with one thing wrong each, and what has to be found, which
// begins with lost, duplicate or wrong.
var wrongs = map[string]struct {
	change func(*story)
	found  string
}{
	"an outcome is missing":          {func(s *story) { s.results[2].forgotten = true }, "lost: outcome"},
	"a job has none":                 {func(s *story) { s.results[0].forgotten = true }, "lost: outcome"},
	"an outcome is there twice":      {func(s *story) { s.again(0) }, "duplicate: outcome"},
	"two outcomes of one assignment": {func(s *story) { s.again(2).fields["outcome"] = "lost" }, "duplicate: outcome"},
	"a duplicate has an outcome":     {func(s *story) { s.again(0).fields["offset"] = 1 }, "duplicate: outcome"},
	"no such job":                    {func(s *story) { s.again(0).fields["job"] = "other" }, "wrong: result without a job"},
	"no such index":                  {func(s *story) { s.again(0).fields["index"] = 1 }, "wrong: index"},
	"negative index":                 {func(s *story) { s.again(0).fields["index"] = -1 }, "wrong: index"},
	"not JSON":                       {func(s *story) { s.again(0).record.Value = []byte("{") }, "wrong: result that cannot be understood"},
	"not msgpack":                    {func(s *story) { s.again(1).record.Value = []byte{0xdf, 0xff, 0xff, 0xff, 0xff} }, "wrong: result that cannot be understood"},
	"field missing":                  {func(s *story) { delete(s.again(0).fields, "member") }, "wrong: result that cannot be understood"},
	"another node":                   {func(s *story) { s.set(1, "node", "n2"); s.runs = append(s.runs, Run{"two", "n2", "ok"}) }, "wrong: node"},
	"one node twice in a selection": {func(s *story) {
		s.set(4, "node", "n3")
		s.set(4, "outcome", "failed")
		s.runs = append(s.runs, Run{"some", "n3", "failed"})
	}, "wrong: node"},
	"outcome that is not allowed":     {func(s *story) { s.set(0, "outcome", "expired"); s.set(0, "error", "late") }, "wrong: outcome"},
	"outcome that does not exist":     {func(s *story) { s.set(0, "outcome", "invalid") }, "wrong: outcome"},
	"cancelled by nobody":             {func(s *story) { s.set(0, "outcome", "cancelled") }, "wrong: outcome"},
	"it did not run":                  {func(s *story) { s.runs = s.runs[1:] }, "wrong: outcome of a job that did not run"},
	"it ran with another outcome":     {func(s *story) { s.runs[0].Outcome = "failed" }, "wrong: outcome of a job that did not run"},
	"output of another job":           {func(s *story) { s.set(0, "output", map[string]any{"echo": 8}) }, "wrong: output"},
	"no output":                       {func(s *story) { delete(s.results[1].fields, "output") }, "wrong: output"},
	"no error":                        {func(s *story) { s.set(1, "outcome", "lost"); s.runs = nil }, "wrong: error"},
	"more attempts than allowed":      {func(s *story) { s.set(0, "attempt", 4) }, "wrong: attempt"},
	"no attempt":                      {func(s *story) { s.set(0, "attempt", 0) }, "wrong: attempt"},
	"result's key":                    {func(s *story) { s.results[0].record.Key = []byte("n1") }, "wrong: result's key"},
	"result's encoding":               {func(s *story) { s.results[0].msgpack = true }, "wrong: result's encoding"},
	"result's kind":                   {func(s *story) { s.set(0, "kind", "other") }, "wrong: result's kind"},
	"result's tenant":                 {func(s *story) { s.set(1, "tenant", "acme") }, "wrong: result's tenant"},
	"result's offset":                 {func(s *story) { s.set(0, "offset", 1) }, "wrong: result's place of the job"},
	"result's partition":              {func(s *story) { s.set(0, "partition", 1) }, "wrong: result's place of the job"},
	"result's job_ms":                 {func(s *story) { s.set(0, "job_ms", 1) }, "wrong: result's job_ms"},
	"result from the future":          {func(s *story) { s.set(0, "time_ms", time.Now().Add(time.Hour).UnixMilli()) }, "wrong: result's time_ms"},
	"results of a job all over":       {func(s *story) { s.results[1].record.Partition = 1 }, "wrong: results of one job in several partitions"},
	"an invalid record is ignored":    {func(s *story) { s.dead[1].forgotten = true }, "lost: dead record"},
	"a duplicate is ignored":          {func(s *story) { s.dead[0].forgotten = true }, "lost: dead record"},
	"a cancel of nothing is ignored":  {func(s *story) { s.dead[2].forgotten = true }, "lost: dead record"},
	"refused twice":                   {func(s *story) { s.dead = append(s.dead, &told{record: s.copied(s.dead[1].record)}) }, "duplicate: dead record"},
	"a good job is refused":           {func(s *story) { s.refuse(s.records[0], "why not") }, "wrong: refused"},
	"a cancel of a job is refused":    {func(s *story) { s.refuse(s.records[5], "cancel: no") }, "wrong: refused"},
	"refused out of the blue":         {func(s *story) { s.header(1, headerOffset, "99") }, "wrong: dead record of nothing"},
	"refused from nowhere":            {func(s *story) { s.header(1, headerPartition, "x") }, "wrong: dead record's place"},
	"refused from another topic":      {func(s *story) { s.header(1, headerTopic, "other") }, "wrong: dead record's place"},
	"refused without a reason":        {func(s *story) { s.header(1, headerReason, "") }, "wrong: dead record's reason"},
	"a duplicate's reason":            {func(s *story) { s.header(0, headerReason, "invalid") }, "wrong: dead record's reason"},
	"a cancel's reason":               {func(s *story) { s.header(2, headerReason, "invalid") }, "wrong: dead record's reason"},
	"refused and changed":             {func(s *story) { s.dead[1].record.Value = []byte("other") }, "wrong: dead record's content"},
	"refused with another key":        {func(s *story) { s.dead[1].record.Key = nil }, "wrong: dead record's content"},
	"refused without its headers":     {func(s *story) { s.header(1, "mine", "") }, "wrong: dead record's headers"},
	"Kafka lost a record":             {func(s *story) { s.fates[0].Offset = 99 }, "lost: acknowledged by Kafka and not there"},
	"somebody else's record":          {func(s *story) { s.foreign() }, "wrong: foreign record"},
	"the group is behind":             {func(s *story) { s.commits[1]-- }, "wrong: committed offset"},
	"the group has committed nothing": {func(s *story) { s.commits = map[int32]int64{1: 3} }, "wrong: committed offset"},
	"no watermarks":                   {func(s *story) { s.marks = nil }, "wrong: no watermarks"},
	"watermark before its outcome":    {func(s *story) { s.mark(0, 1, 0).early = true }, "wrong: watermark too early"},
	"watermark before one of two":     {func(s *story) { s.results[2].late = true }, "wrong: watermark too early"},
	"watermark before a dead record":  {func(s *story) { s.dead[2].late = true }, "wrong: watermark too early"},
	"watermark over an open job":      {func(s *story) { s.results[3].late, s.results[4].late = true, true }, "wrong: watermark too early"},
	"watermark goes back":             {func(s *story) { s.mark(0, 3, 2).late = true }, "wrong: watermark went back"},
	"watermark beyond the end":        {func(s *story) { s.mark(1, 4, 6) }, "wrong: watermark beyond the end"},
	"last watermark is missing":       {func(s *story) { s.marks[0].fields["offset"] = 3 }, "wrong: final watermark"},
	"a partition has none":            {func(s *story) { s.marks = s.marks[1:] }, "wrong: final watermark"},
	"watermark of no partition":       {func(s *story) { s.mark(7, 1, 0) }, "wrong: watermark of no partition"},
	"watermark without a transaction": {func(s *story) { s.marks[1].plain = true }, "wrong: watermark without a transaction"},
	"watermark by nobody":             {func(s *story) { s.marks[1].fields["member"] = "" }, "wrong: watermark's fields"},
	"watermark from the future":       {func(s *story) { s.marks[1].fields["time_ms"] = time.Now().Add(time.Hour).UnixMilli() }, "wrong: watermark's fields"},
	"watermark's job_ms":              {func(s *story) { s.marks[1].fields["job_ms"] = 1 }, "wrong: watermark's job_ms"},
	"watermark's key":                 {func(s *story) { s.marks[1].record.Key = []byte("0") }, "wrong: progress record that cannot be understood"},
	"watermark without a field":       {func(s *story) { delete(s.marks[1].fields, "offset") }, "wrong: progress record that cannot be understood"},
}

// again adds a copy of a result.
func (s *story) again(i int) *told {
	t := &told{fields: map[string]any{}, msgpack: s.results[i].msgpack, record: s.copied(s.results[i].record)}
	for k, v := range s.results[i].fields {
		t.fields[k] = v
	}
	s.results = append(s.results, t)
	return t
}

func (s *story) copied(r *kgo.Record) *kgo.Record {
	return &kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers}
}

func (s *story) set(result int, field string, v any) { s.results[result].fields[field] = v }

func (s *story) header(dead int, key, value string) {
	for i := range s.dead[dead].record.Headers {
		if h := &s.dead[dead].record.Headers[i]; h.Key == key {
			h.Value = []byte(value)
		}
	}
}

func (s *story) foreign() {
	r := &kgo.Record{Topic: s.topics.Jobs, Partition: 1, Value: []byte("{}")}
	require.NoError(s.t, s.cl.ProduceSync(s.context(), r).FirstErr())
}

func TestWrong(t *testing.T) {
	t.Parallel()
	for name, w := range wrongs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStory(t)
			w.change(s)
			rep := s.tell()
			require.Positive(t, rep.Kinds[w.found], "%v", rep.All)
			sort, _, _ := strings.Cut(w.found, ":")
			require.Positive(t, map[string]int{"lost": rep.Lost, "duplicate": rep.Duplicates, "wrong": rep.Wrong}[sort])
			require.False(t, rep.Sound())
		})
	}
}

// TestNoTopic is a server without watermarks and state.
func TestNoTopic(t *testing.T) {
	t.Parallel()
	s := newStory(t)
	s.marks = nil
	s.topics.Progress, s.topics.State = "other.progress", "other.state"
	w, err := StartWatch(s.context(), WatchConfig{Brokers: s.addrs, Topics: s.topics, Path: s.path("marks")})
	require.NoError(t, err)
	s.commit(kgo.TryCommit, func(*told) bool { return true })
	require.NoError(t, w.Stop())
	s.commitOffsets()
	s.logs()
	rep, err := Check(s.context(), Config{Brokers: s.addrs, Topics: s.topics, Group: group,
		Submissions: s.path("submissions"), Runs: []string{s.path("runs")}, Marks: s.path("marks")})
	require.NoError(t, err)
	require.Equal(t, map[string]int{"wrong: no watermarks": 1, "wrong: no topic": 1}, rep.Kinds)
}
