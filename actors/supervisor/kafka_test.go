package supervisor

import (
	"math/rand/v2"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/shard"
	"github.com/roost-server/roost/protocol/record"
)

// partition is one of the jobs topic and what belongs to it, with transactions that
// fail now and then.
type partition struct {
	jobs  []actors.Record
	state map[string][]byte
	next  int64 // committed
	epoch uint64
	timer *time.Timer
}

// cutAfter is the pause between the first thing to commit and its transaction.
const cutAfter = 5 * time.Millisecond

// Dirty implements shard.Ledger.
func (f *fleet) Dirty(p uint32, _ int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if k := f.kafka[p]; k.timer == nil && !f.over {
		f.commits.Add(1)
		k.timer = time.AfterFunc(cutAfter, func() { defer f.commits.Done(); f.commit(p) })
	}
}

// commit is one transaction of one shard. Now and then nobody knows what became of it,
// and the shard starts again from what Kafka has.
func (f *fleet) commit(p uint32) {
	f.mu.Lock()
	f.kafka[p].timer = nil
	f.mu.Unlock()
	reply := make(chan *shard.Batch, 1)
	if !f.tree.Router().ToShard(p, &shard.Cut{Reply: reply}) {
		return
	}
	var b *shard.Batch
	select {
	case b = <-reply:
	case <-time.After(time.Second): // it has failed
	}
	if b == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	k := f.kafka[p]
	dice := rand.IntN(100)
	if f.still {
		dice = 99
	}
	if b.Epoch != k.epoch {
		return
	}
	if dice != 0 {
		f.apply(k, b)
	}
	if dice <= 1 {
		k.epoch++
		f.tree.Router().ToShard(p, &shard.Again{})
		return
	}
	f.tree.Router().ToShard(p, &shard.Committed{Batch: b})
}

func (f *fleet) apply(k *partition, b *shard.Batch) {
	k.next = max(k.next, b.Next)
	for i := range b.Writes {
		switch w := &b.Writes[i]; w.Stream {
		case shard.State:
			if w.Value == nil {
				delete(k.state, string(w.Key))
			} else {
				k.state[string(w.Key)] = append([]byte(nil), w.Value...)
			}
		case shard.Results:
			r, err := record.ParseResult("", append([]byte(nil), w.Value...))
			require.NoError(f.t, err)
			if f.outcomes[r.Job] == nil {
				f.outcomes[r.Job] = map[uint32]int{}
			}
			f.outcomes[r.Job][r.Index]++
			f.ended[r.Outcome]++
		case shard.Dead:
			f.fatal = append(f.fatal, &deadRecord{w.Reason})
		}
	}
}

type deadRecord struct{ reason string }

func (d *deadRecord) Error() string { return "a dead record: " + d.reason }

// Taken implements shard.Feed.
func (f *fleet) Taken(int32, int) {}

// Pause implements shard.Feed.
func (f *fleet) Pause(int32) {}

// Resume implements shard.Feed.
func (f *fleet) Resume(int32) {}

// Rebuild implements shard.Feed: the shard gets its state, then what is not committed.
func (f *fleet) Rebuild(p int32) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := f.kafka[uint32(p)]
	k.epoch++
	go f.restore(uint32(p), k.epoch)
	return k.epoch
}

func (f *fleet) restore(p uint32, epoch uint64) {
	if !f.here(p) { // it is being spawned
		f.mu.Lock()
		over := f.over
		f.mu.Unlock()
		if over {
			return
		}
		time.AfterFunc(time.Millisecond, func() { f.restore(p, epoch) })
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	k := f.kafka[p]
	if k.epoch != epoch {
		return
	}
	m := &shard.Restore{Epoch: epoch}
	for key, v := range k.state {
		m.Records = append(m.Records, shard.StateRecord{Key: []byte(key), Value: append([]byte(nil), v...)})
	}
	router := f.tree.Router()
	router.ToShard(p, m)
	router.ToShard(p, &shard.Restored{Epoch: epoch, Next: k.next})
	router.ToShard(p, &actors.Records{Epoch: epoch, Records: append([]actors.Record(nil), k.jobs[max(0, k.next):]...)})
}

func (f *fleet) here(p uint32) bool {
	for _, s := range f.tree.Router().Shards() {
		if s == p {
			return true
		}
	}
	return false
}

func (f *fleet) submit(j record.Job) {
	v, err := record.AppendJob(nil, &j)
	require.NoError(f.t, err)
	p := uint32(record.Partition(j.Key(), int32(f.cfg.Partitions)))
	f.mu.Lock()
	defer f.mu.Unlock()
	k := f.kafka[p]
	r := actors.Record{Offset: int64(len(k.jobs)), TimestampMs: nowMs(), Value: v}
	k.jobs = append(k.jobs, r)
	f.tree.Router().ToShard(p, &actors.Records{Epoch: k.epoch, Records: []actors.Record{r}})
}
