package supervisor

import (
	"runtime"
	"sync"
)

// runners run the mailboxes of shards: a few goroutines that stay, instead of a new one
// whenever a message comes to a mailbox that was empty, whose stack would grow anew each time.
// Shards never wait for anything, so as many as there are processors are enough.
// It implements actor.Dispatcher.
type runners struct {
	mu    sync.Mutex
	queue []func() // guarded by mu; begins at head
	head  int      // guarded by mu
	idle  int      // guarded by mu: that wait for wake
	over  bool     // guarded by mu: nobody is left, or soon
	wake  chan struct{}
}

// throughput is after how many messages in a row a mailbox lets others run.
const throughput = 300

func newRunners() *runners {
	n := runtime.GOMAXPROCS(0)
	r := &runners{wake: make(chan struct{}, n)}
	for range n {
		go r.run()
	}
	return r
}

// Schedule implements actor.Dispatcher.
func (r *runners) Schedule(fn func()) {
	r.mu.Lock()
	if r.over { // the last messages of actors that outlive the tree
		r.mu.Unlock()
		go fn()
		return
	}
	r.queue = append(r.queue, fn)
	wake := r.idle > 0
	if wake {
		r.idle--
	}
	r.mu.Unlock()
	if wake {
		r.wake <- struct{}{} // there is room for all
	}
}

// Throughput implements actor.Dispatcher.
func (r *runners) Throughput() int { return throughput }

func (r *runners) run() {
	for {
		r.mu.Lock()
		if r.head == len(r.queue) {
			r.queue, r.head = r.queue[:0], 0
			if r.over {
				r.mu.Unlock()
				return
			}
			r.idle++
			r.mu.Unlock()
			<-r.wake
			continue
		}
		fn := r.queue[r.head]
		r.queue[r.head] = nil
		r.head++
		r.mu.Unlock()
		fn()
		runtime.Gosched() // event loops wait for a processor no longer than for one mailbox
	}
}

// stop ends the runners, after what was given to them. It does not wait.
func (r *runners) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return
	}
	r.over = true
	for ; r.idle > 0; r.idle-- {
		r.wake <- struct{}{}
	}
}
