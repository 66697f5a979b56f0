package shard

// endedJob is a job that ended lately.
type endedJob struct {
	hash   idHash
	offset int64
}

// The ids of ended jobs that a shard remembers, over restarts: a ring of slots, each
// of which is a record of the state topic. While one is overwritten, the others hold
// endedAtLeast.
const (
	endedAtLeast = 16_384
	slotSize     = 128
	endedSlots   = endedAtLeast/slotSize + 1
	endedMost    = endedSlots * slotSize
)

// entryOf is an entry of ended's table: the place in the ring plus one, and beside it
// as much of the hash as there is room for; 0 is empty.
type entryOf uint64

func entryAt(at uint32, h idHash) entryOf { return entryOf(h.hi>>32<<32 | uint64(at+1)) }

func (x entryOf) at() uint32 { return uint32(x) - 1 }

// maybe reports whether the entry may be of a hash.
func (x entryOf) maybe(h idHash) bool { return uint32(x>>32) == uint32(h.hi>>32) }

// ended remembers which jobs ended lately.
type ended struct {
	ring  []endedJob // job number n is at n % endedMost; grows until then
	table []entryOf  // hash table with linear probing
	count int        // in table
	next  uint64     // the number of the next job
	saved uint64     // jobs before this number are in the state topic, as of the last cut
}

// add remembers a job.
func (e *ended) add(h idHash, offset int64) {
	e.place(e.next, endedJob{h, offset})
	e.next++
}

// place puts a job at its number's place in the ring.
func (e *ended) place(n uint64, x endedJob) {
	at := int(n % endedMost)
	for len(e.ring) <= at {
		e.ring = append(e.ring, endedJob{})
	}
	if old := e.ring[at]; old.hash != (idHash{}) {
		e.forget(uint32(at))
	}
	e.ring[at] = x
	if 2*(e.count+1) > len(e.table) {
		e.grow()
	}
	e.insert(uint32(at))
	e.count++
}

// find returns the offset of a job's record, and whether it ended lately.
func (e *ended) find(h idHash) (offset int64, ok bool) {
	if len(e.table) == 0 {
		return 0, false
	}
	for i := e.home(h); e.table[i] != 0; i = e.after(i) {
		if !e.table[i].maybe(h) {
			continue
		}
		if x := &e.ring[e.table[i].at()]; x.hash == h {
			return x.offset, true
		}
	}
	return 0, false
}

func (e *ended) home(h idHash) uint32            { return uint32(h.lo) & uint32(len(e.table)-1) }
func (e *ended) after(i uint32) uint32           { return (i + 1) & uint32(len(e.table)-1) }
func (e *ended) distance(from, to uint32) uint32 { return (to - from) & uint32(len(e.table)-1) }

func (e *ended) insert(at uint32) {
	h := e.ring[at].hash
	i := e.home(h)
	for e.table[i] != 0 {
		i = e.after(i)
	}
	e.table[i] = entryAt(at, h)
}

func (e *ended) grow() {
	old := e.table
	e.table = make([]entryOf, max(64, 2*len(old)))
	for _, x := range old {
		if x != 0 {
			e.insert(x.at())
		}
	}
}

// forget takes a place of the ring out of the table, and moves up what follows.
func (e *ended) forget(at uint32) {
	i := e.home(e.ring[at].hash)
	for e.table[i].at() != at {
		i = e.after(i)
	}
	e.count--
	for next := e.after(i); e.table[next] != 0; next = e.after(next) {
		home := e.home(e.ring[e.table[next].at()].hash)
		if e.distance(home, next) >= e.distance(i, next) {
			e.table[i] = e.table[next]
			i = next
		}
	}
	e.table[i] = 0
}

// unsaved calls fn for each slot that has jobs which are not saved, with the number of
// its first job and all that it holds, and takes them as saved.
func (e *ended) unsaved(fn func(slot int, first uint64, jobs []endedJob)) {
	for e.saved < e.next {
		first := e.saved - e.saved%slotSize
		last := min(first+slotSize, e.next)
		at := int(first % endedMost)
		fn(at/slotSize, first, e.ring[at:at+int(last-first)])
		e.saved = last
	}
}

// restore takes in a slot of the state topic.
func (e *ended) restore(first uint64, jobs []endedJob) {
	for i := range jobs {
		e.place(first+uint64(i), jobs[i])
	}
	e.next = max(e.next, first+uint64(len(jobs)))
	e.saved = e.next
}
