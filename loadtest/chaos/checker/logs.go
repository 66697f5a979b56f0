package checker

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// SeqHeader is the header of a submitted record that names its [Submission], as
// decimal text.
const SeqHeader = "chaos-seq"

// What a submitted record is.
const (
	Job     = "job"     // a job, or a second one with an id that was used before
	Cancel  = "cancel"  // a cancel record
	Invalid = "invalid" // a record that has to be refused for what is in it
)

// Submission is what the submitter knows of a record that it produces. It is logged
// before the record is.
type Submission struct {
	Seq      int64    `json:"seq"`
	What     string   `json:"what"`
	Class    string   `json:"class"` // for people: what it was made to provoke
	ID       string   `json:"id,omitempty"`
	Nodes    []string `json:"nodes,omitempty"` // target.node or target.nodes
	Count    int      `json:"count,omitempty"` // target.select.count
	Kind     string   `json:"kind,omitempty"`
	Tenant   string   `json:"tenant,omitempty"`
	Attempts int      `json:"attempts,omitempty"`
	JSON     bool     `json:"json,omitempty"`
	Echo     int64    `json:"echo,omitempty"`    // a result ok has {"echo": this} as its output
	Allowed  []string `json:"allowed,omitempty"` // outcomes; cancelled is, where a cancel record is
}

// Size is how many assignments the job has.
func (s *Submission) Size() int { return max(len(s.Nodes), s.Count) }

// Fate is what became of producing a record. One without a fate, or whose Err is
// set, may be in Kafka or not.
type Fate struct {
	Seq       int64  `json:"seq"`
	Acked     bool   `json:"acked,omitempty"`
	Partition int32  `json:"partition,omitempty"`
	Offset    int64  `json:"offset,omitempty"`
	Err       string `json:"err,omitempty"`
}

// submissions reads a log of submissions and fates, one JSON object a line; those of
// a fate have no "what".
func submissions(path string) (subs map[int64]*Submission, fates map[int64]*Fate, err error) {
	subs, fates = map[int64]*Submission{}, map[int64]*Fate{}
	err = lines(path, func(line []byte) error {
		s := &Submission{}
		if err := json.Unmarshal(line, s); err != nil {
			return err
		}
		if s.What != "" {
			subs[s.Seq] = s
			return nil
		}
		f := &Fate{}
		if err := json.Unmarshal(line, f); err != nil {
			return err
		}
		fates[f.Seq] = f
		return nil
	})
	return subs, fates, err
}

// Run is one execution of a job on a node, logged before its result is sent.
type Run struct {
	Job, Node, Outcome string
}

// Append appends the run as a line of a log.
func (r *Run) Append(dst []byte) []byte {
	return fmt.Appendf(dst, "%s %s %s\n", r.Job, r.Node, r.Outcome)
}

// runs reads logs of runs. The last line of a node process that was killed may be cut.
func runs(paths []string) (map[Run]int, error) {
	all := map[Run]int{}
	for _, path := range paths {
		if err := lines(path, func(line []byte) error {
			f := strings.Fields(string(line))
			if len(f) == 3 {
				all[Run{f[0], f[1], f[2]}]++
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Mark is one record of roost.progress as a live reader met it, or a [Snapshot].
type Mark struct {
	Partition   int32  `json:"partition"` // of roost.jobs, by the record's key
	Offset      int64  `json:"offset"`
	JobMs       int64  `json:"job_ms"`
	TimeMs      int64  `json:"time_ms"`
	Member      string `json:"member"`
	At          int64  `json:"at"`                    // offset in roost.progress
	CommittedMs int64  `json:"committed_ms"`          // of the commit marker of its transaction; else of the record
	Transaction bool   `json:"transaction,omitempty"` // it was written in one
	Bad         string `json:"bad,omitempty"`         // the record cannot be understood
	Snapshot    int    `json:"snapshot,omitempty"`    // taken after the mark was seen; 0: none could be
	Ends        *Ends  `json:"ends,omitempty"`        // set on snapshots alone
}

// Ends are end offsets by partition, of all records, committed or not: everything that
// was committed before the snapshot lies below, and possibly more.
type Ends struct {
	Results []int64 `json:"results"`
	Dead    []int64 `json:"dead"`
}

func marks(path string) (list []*Mark, snapshots map[int]*Ends, err error) {
	snapshots = map[int]*Ends{}
	err = lines(path, func(line []byte) error {
		m := &Mark{}
		if err := json.Unmarshal(line, m); err != nil {
			return err
		}
		if m.Ends != nil {
			snapshots[m.Snapshot] = m.Ends
		} else {
			list = append(list, m)
		}
		return nil
	})
	return list, snapshots, err
}

func lines(path string, fn func([]byte) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	in.Buffer(nil, 4<<20)
	for n := 1; in.Scan(); n++ {
		if err := fn(in.Bytes()); err != nil {
			return fmt.Errorf("%s:%d: %w", path, n, err)
		}
	}
	return in.Err()
}

func seqOf(value []byte) (int64, bool) {
	n, err := strconv.ParseInt(string(value), 10, 64)
	return n, err == nil
}
