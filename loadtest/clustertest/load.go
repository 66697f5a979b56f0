//go:build linux

package main

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/roost-server/roost/loadtest/chaos/checker"
	"github.com/roost-server/roost/protocol/record"
)

// load knows what was submitted and what came of it, with times: which assignments are
// open, who owns a shard by its results, and how long jobs took. Whether the outcomes
// are right is the checker's business.
type load struct {
	partitions int32

	mu       sync.Mutex
	jobs     map[string]*job
	size     int // assignments that Kafka has
	outcomes int
	unsized  int                   // outcomes of jobs whose acknowledgement is still to come
	owner    map[int32]string      // by the newest result
	moves    map[int32][]move      // changes of that, in order
	results  map[int32][]time.Time // when there were some
}

type job struct {
	at        time.Time     // it was produced
	took      time.Duration // until its newest result was committed
	wrote     time.Duration // until its first result was written
	size      int
	seen      uint64 // a bit for each index
	n         int
	partition int32
	node      string // of a plain job for one node; else ""
}

type move struct {
	at time.Time
	to string
}

// maxIndex is how many assignments of a job can be told apart: more than the mix has.
const maxIndex = 64

// plain is the class of jobs for one node that answers at once, which latencies are of.
const plain = "single"

func newLoad(partitions int) *load {
	return &load{partitions: int32(partitions), jobs: map[string]*job{}, owner: map[int32]string{}, moves: map[int32][]move{}, results: map[int32][]time.Time{}}
}

func (l *load) job(id string) *job {
	j := l.jobs[id]
	if j == nil {
		j = &job{}
		l.jobs[id] = j
	}
	return j
}

// made is for submit.Config.
func (l *load) made(s *checker.Submission) {
	if s.What != checker.Job {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	j := l.job(s.ID)
	if j.at.IsZero() {
		j.at = time.Now()
		if s.Class == plain {
			j.node, j.partition = s.Nodes[0], record.Partition(s.Nodes[0], l.partitions)
		}
	}
}

// acked is for submit.Config.
func (l *load) acked(id string, assignments int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if j := l.job(id); j.size == 0 {
		j.size = assignments
		l.size += assignments
		l.unsized -= j.n
	}
}

// seen is for checker.WatchConfig.
func (l *load) seen(s checker.Seen) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.results[s.Partition] = append(l.results[s.Partition], now)
	if l.owner[s.Partition] != s.Member {
		l.owner[s.Partition] = s.Member
		l.moves[s.Partition] = append(l.moves[s.Partition], move{now, s.Member})
	}
	j := l.job(s.Job)
	if s.Index < 0 || s.Index >= maxIndex || j.seen&(1<<s.Index) != 0 {
		return
	}
	j.seen |= 1 << s.Index
	j.n++
	l.outcomes++
	if j.size == 0 {
		l.unsized++
	}
	j.took = now.Sub(j.at)
}

func (l *load) counts() (assignments, outcomes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size, l.outcomes
}

func (l *load) open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size - (l.outcomes - l.unsized)
}

// some returns ids of jobs that are open.
func (l *load) some(n int) (ids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, j := range l.jobs {
		if j.size > j.n && len(ids) < n {
			ids = append(ids, id)
		}
	}
	return ids
}

// stuck returns the nodes of plain jobs that are open, by shard.
func (l *load) stuck() map[int32][]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := map[int32][]string{}
	for _, j := range l.jobs {
		if j.node != "" && j.size > j.n {
			list[j.partition] = append(list[j.partition], j.node)
		}
	}
	return list
}

// owners returns who wrote the newest result of each shard that has had one.
func (l *load) owners() map[int32]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.owner)
}

// moved returns how long after a moment each of the shards had its first result by
// another owner, the shortest first, and how many had none.
func (l *load) moved(shards map[int32]string, since time.Time) (took []time.Duration, none int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p := range shards {
		i := slices.IndexFunc(l.moves[p], func(m move) bool { return m.at.After(since) })
		if i < 0 {
			none++
			continue
		}
		took = append(took, l.moves[p][i].at.Sub(since))
	}
	slices.Sort(took)
	return took, none
}

// longestPause is the longest time between two results of one shard, of those that keep
// wants.
func (l *load) longestPause(from, to time.Time, keep func(int32) bool) (longest time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p := range l.partitions {
		if !keep(p) {
			continue
		}
		last := from
		for _, at := range l.results[p] {
			if at.After(from) && at.Before(to) {
				longest = max(longest, at.Sub(last))
				last = at
			}
		}
		longest = max(longest, to.Sub(last))
	}
	return longest
}

// latencies are how long plain jobs took that were submitted between two moments, from
// producing the record to reading its result: as it was written, and when it was
// committed; the shortest first. One without an outcome counts as if it came now.
func (l *load) latencies(from, to time.Time, keep func(partition int32, node string) bool) (wrote, took []time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, j := range l.jobs {
		if j.node == "" || j.at.Before(from) || !j.at.Before(to) || !keep(j.partition, j.node) {
			continue
		}
		w, t := j.wrote, j.took
		if w == 0 {
			w = time.Since(j.at)
		}
		if j.n == 0 {
			t = time.Since(j.at)
		}
		wrote, took = append(wrote, w), append(took, t)
	}
	slices.Sort(wrote)
	slices.Sort(took)
	return wrote, took
}

// quantile of sorted values; 0 when there are none.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
