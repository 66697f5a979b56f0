//go:build linux

package main

import "sync"

// tracker knows which assignments have no outcome yet: to tell when all is done, not
// whether it was done well.
type tracker struct {
	mu       sync.Mutex
	jobs     map[string]*tracked
	open     int
	outcomes int
	acked    int // assignments
}

type tracked struct {
	size int    // 0: not acknowledged by Kafka yet
	seen uint64 // a bit for each index
	n    int
}

// maxTracked is how many assignments of a job can be told apart.
const maxTracked = 64

func newTracker() *tracker { return &tracker{jobs: map[string]*tracked{}} }

func (t *tracker) job(id string) *tracked {
	j := t.jobs[id]
	if j == nil {
		j = &tracked{}
		t.jobs[id] = j
	}
	return j
}

func (t *tracker) submitted(id string, assignments int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	j := t.job(id)
	if j.size == 0 {
		j.size = assignments
		t.acked += assignments
		t.open += assignments - j.n
	}
}

func (t *tracker) outcome(id string, index int, _ string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	j := t.job(id)
	if index < 0 || index >= maxTracked || j.seen&(1<<index) != 0 {
		return
	}
	j.seen |= 1 << index
	j.n++
	t.outcomes++
	if j.size > 0 {
		t.open--
	}
}

func (t *tracker) counts() (acked, outcomes, open int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.acked, t.outcomes, t.open
}

// some returns ids of jobs that are open.
func (t *tracker) some(n int) (ids []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, j := range t.jobs {
		if j.size > j.n && len(ids) < n {
			ids = append(ids, id)
		}
	}
	return ids
}
