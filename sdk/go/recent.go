package roost

import "container/list"

// recentResults remembers the last acknowledged results that are small, by job id,
// least recently used out first. Guarded by Client.mu.
type recentResults struct {
	max   int
	byJob map[string]*list.Element // of *Entry
	order *list.List               // newest in front
}

func newRecent(limit int) *recentResults {
	return &recentResults{max: limit, byJob: make(map[string]*list.Element), order: list.New()}
}

// add takes a result; one that is too large makes the job forgotten.
func (r *recentResults) add(e *Entry) {
	if old := r.byJob[e.JobID]; old != nil {
		r.drop(old)
	}
	if r.max <= 0 || len(e.Output)+len(e.Error) > RecentBytes {
		return
	}
	r.byJob[e.JobID] = r.order.PushFront(e)
	if r.order.Len() > r.max {
		r.drop(r.order.Back())
	}
}

// get returns the result of a job, or nil.
func (r *recentResults) get(jobID []byte) *Entry {
	el := r.byJob[string(jobID)]
	if el == nil {
		return nil
	}
	r.order.MoveToFront(el)
	return el.Value.(*Entry)
}

func (r *recentResults) drop(el *list.Element) {
	r.order.Remove(el)
	delete(r.byJob, el.Value.(*Entry).JobID)
}
