package directory

import "slices"

// awaiting is who waits for a node, and until when.
type awaiting struct {
	shards  []uint32
	untilMs int64
}

// sweepEveryMs is the pause between two looks for shards that wait no more.
const sweepEveryMs = 10_000

// Await notes that a shard wants to hear when the node registers, until a Unix time in
// milliseconds: by then it has asked again, or waits no more.
func (d *Directory) Await(node string, shard uint32, untilMs int64) {
	w := d.waiting[node]
	if !slices.Contains(w.shards, shard) {
		w.shards = append(w.shards, shard)
	}
	w.untilMs = max(w.untilMs, untilMs)
	d.waiting[node] = w
}

// Awaited returns, once, the shards that wait for the node.
func (d *Directory) Awaited(node string) []uint32 {
	w, ok := d.waiting[node]
	if ok {
		delete(d.waiting, node)
	}
	return w.shards
}

// Forget drops who waits no more, now and then, and the index when nothing was searched for
// long. Call it as often as is convenient.
func (d *Directory) Forget(nowMs int64) {
	d.unindex(nowMs)
	if nowMs < d.sweepMs || len(d.waiting) == 0 {
		return
	}
	d.sweepMs = nowMs + sweepEveryMs
	for node, w := range d.waiting {
		if w.untilMs <= nowMs {
			delete(d.waiting, node)
		}
	}
}
