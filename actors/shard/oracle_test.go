package shard

import (
	"slices"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol/record"
)

// fact is what there is to know of one record of the jobs topic from the log alone.
type fact struct {
	rec     actors.Record
	job     string // of a job that stands; else empty
	dead    string // why the record is to be refused; else empty
	targets int
	nodes   []string // by index, where the record names them
	tries   uint32
}

// oracle knows what a partition's log demands, and checks what is committed against it:
// it sees no more than a reader of the topics does.
type oracle struct {
	t        require.TestingT
	log      []*fact
	ids      map[string]bool
	done     map[string]map[uint32]record.Result // by job and index, as committed
	buried   map[int64]string
	seen     int // of the committed results, dead records and watermarks
	seenDead int
	seenLow  int
	low      int64
	next     int64
}

func newOracle(t require.TestingT) *oracle {
	return &oracle{t: t, ids: map[string]bool{}, done: map[string]map[uint32]record.Result{}, buried: map[int64]string{}, next: -1}
}

// add notes a record. job is what it holds, nil when that cannot be understood.
func (o *oracle) add(r actors.Record, job *record.Job) {
	f := &fact{rec: r}
	switch {
	case job == nil:
		f.dead = "msgpack"
	case job.Cancel:
		if !o.ids[job.ID] {
			f.dead = record.ReasonCancel
		}
	case o.ids[job.ID]:
		f.dead = record.ReasonDuplicate
	default:
		o.ids[job.ID] = true
		f.job, f.targets, f.tries = job.ID, job.Target.Size(), job.Attempts
		if job.Target.Node != "" {
			f.nodes = []string{job.Target.Node}
		} else if job.Target.Select == nil {
			f.nodes = job.Target.Nodes
		}
		o.done[f.job] = map[uint32]record.Result{}
	}
	o.log = append(o.log, f)
}

func (o *oracle) find(job string) *fact {
	for _, f := range o.log {
		if f.job == job {
			return f
		}
	}
	return nil
}

// open reports whether a job lacks outcomes in Kafka.
func (o *oracle) open(f *fact) bool { return f.job != "" && len(o.done[f.job]) < f.targets }

// committed checks everything after a transaction.
func (o *oracle) committed(k *kafka) {
	require.GreaterOrEqual(o.t, k.next, o.next)
	o.next = k.next
	for ; o.seen < len(k.results); o.seen++ {
		r := k.results[o.seen]
		f := o.find(r.Job)
		require.NotNil(o.t, f, "an outcome of %s, which is no job", r.Job)
		require.Equal(o.t, f.rec.Offset, r.Offset)
		require.Less(o.t, r.Offset, k.next)
		require.Less(o.t, int(r.Index), f.targets)
		require.NotContains(o.t, o.done[r.Job], r.Index, "two outcomes for %s[%d]", r.Job, r.Index)
		require.LessOrEqual(o.t, r.Attempt, max(f.tries, 4), "%+v", r) // what nodes say goes up to 4
		if f.nodes != nil {
			require.Equal(o.t, f.nodes[r.Index], r.Node)
		}
		o.done[r.Job][r.Index] = r
	}
	for ; o.seenDead < len(k.dead); o.seenDead++ {
		d := &k.dead[o.seenDead]
		require.NotContains(o.t, o.buried, d.Record.Offset, "refused twice")
		o.buried[d.Record.Offset] = d.Reason
	}
	low := o.checkLog(k)
	for ; o.seenLow < len(k.progress); o.seenLow++ {
		p := k.progress[o.seenLow]
		require.Greater(o.t, p.Offset, o.low)
		require.LessOrEqual(o.t, p.Offset, low, "the watermark is wrong")
		o.low = p.Offset
	}
}

// checkLog checks that each record before the offset committed is accounted for, and
// none after it; and that the state topic has exactly what is pending. It returns how
// far everything is done.
func (o *oracle) checkLog(k *kafka) (low int64) {
	low = k.next
	pending := 0
	for _, f := range o.log {
		before := f.rec.Offset < k.next
		_, put := k.state[string(appendJobKey(nil, f.job))]
		reason, buried := o.buried[f.rec.Offset]
		switch {
		case !before:
			require.False(o.t, buried || f.job != "" && (put || len(o.done[f.job]) > 0), "record %d is not before %d", f.rec.Offset, k.next)
		case f.dead != "":
			require.True(o.t, buried, "record %d was not refused: %s", f.rec.Offset, f.dead)
			require.Contains(o.t, reason, f.dead)
		default:
			require.False(o.t, buried, "record %d was refused: %s", f.rec.Offset, reason)
		}
		if before && o.open(f) {
			require.True(o.t, put, "%s is pending and was not put", f.job)
			low = min(low, f.rec.Offset)
			pending++
		} else if f.job != "" {
			require.False(o.t, put, "%s is not pending and was put", f.job)
		}
	}
	o.checkKeys(k, pending)
	return low
}

// checkKeys checks that there is nothing else in the state topic.
func (o *oracle) checkKeys(k *kafka, pending int) {
	jobs := 0
	for key, value := range k.state {
		switch key[0] {
		case keyJob:
			jobs++
		case keyChunk:
			require.Contains(o.t, k.state, string(keyJob)+key[3:], "a chunk without its job")
		case keySlot, keyHead:
		default:
			require.Fail(o.t, "what is this?", "%q", key)
		}
		require.Equal(o.t, byte(stateVersion), value[0])
	}
	require.Equal(o.t, pending, jobs)
}

// from returns the records to be fed when the committed offset is next.
func (o *oracle) from(next int64) []actors.Record {
	var out []actors.Record
	for _, f := range o.log {
		if f.rec.Offset >= next {
			out = append(out, f.rec)
		}
	}
	return out
}

// mayBeOn reports whether a job may be delivered to a node.
func (f *fact) mayBeOn(node string) bool { return f.nodes == nil || slices.Contains(f.nodes, node) }
