//go:build linux

package fleet

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/roost-server/roost/protocol"
)

const (
	readBytes   = 256 << 10 // shared read buffer: larger reads only take longer from other nodes
	maxEvents   = 512
	tickMs      = 20      // how often timers and heartbeats are looked at when no socket speaks
	publishMs   = 5       // how old Stats may be under load
	dialBatch   = 64      // dials between two looks at the sockets
	maxOutBytes = 4 << 20 // output kept for a member that does not read
	maxAddrs    = 256     // addresses known, with those learnt from GOAWAY
)

// Fleet is a running set of simulated nodes.
type Fleet struct {
	cfg     Config // static
	started time.Time
	settled chan struct{} // closed when all nodes are connected or dead, once
	done    chan struct{} // closed when the loop has ended
	stop    atomic.Bool
	once    sync.Once // of Stop

	mu     sync.Mutex
	shown  Stats
	asked  []func() // what the loop is to do
	wakeFD int      // -1 when Stop has closed it, after the loop

	// The loop's own.
	ep            int
	nodes         []node
	addrs         []netip.AddrPort
	later         heap[timer]
	answers       heap[answer] // of jobs that run
	rampTo        int          // how many nodes are to be connected, of all
	rampPerS      float64      // 0: as fast as they are welcomed
	rampBegan     time.Time    // the first
	rampDue       float64      // nodes that the ramp may dial now
	rampMs        int64
	churnPerS     float64
	churnDue      float64 // sockets that churn may cut now
	churnMs       int64
	slow          float64 // fraction of the nodes that do not read
	cuts          uint64  // calls of Cut
	minAccept     int64   // the shortest time after which any WELCOME wants a job to be accepted
	parting       bool    // what a failed connection still holds is being read
	opening       int     // nodes in stateConnecting or stateHello
	openQueue     []timer
	fresh         int // the next node that was never dialled
	nowMs         int64
	lastPublish   int64
	sweepAt       int // the next node that the heartbeat sweep looks at
	sweepMs       int64
	sweepDebt     float64 // looks that the sweep is behind its pace
	minHeartbeat  int64   // the shortest heartbeat that any WELCOME asked for; 0: none yet
	rng           *rand.Rand
	buf           []byte
	out           []byte
	enc           *protocol.Encoder
	dec           *protocol.Decoder
	msg           messages
	st            Stats
	closes        map[protocol.Reason]uint64
	closesChanged bool
}

// messages are reused for every frame, so that decoding allocates nothing.
type messages struct {
	job     protocol.Job
	result  protocol.Result
	acks    protocol.ResultAck
	ping    protocol.Ping
	pong    protocol.Pong
	welcome protocol.Welcome
	goAway  protocol.GoAway
	close   protocol.Close
}

// Start validates the configuration and begins to connect all nodes, as fast as they
// are welcomed. The caller ends the fleet with [Fleet.Stop].
func Start(cfg Config) (*Fleet, error) {
	f, err := open(cfg)
	if err != nil {
		return nil, err
	}
	f.ramp(len(f.nodes), 0)
	go f.run()
	return f, nil
}

// open makes a fleet whose loop does not run yet.
func open(cfg Config) (*Fleet, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	f := &Fleet{
		cfg: cfg, started: time.Now(),
		settled: make(chan struct{}), done: make(chan struct{}),
		nodes: make([]node, cfg.Nodes), addrs: append([]netip.AddrPort(nil), cfg.Servers...),
		rng: rand.New(rand.NewPCG(cfg.Seed, 0x726f6f7374+uint64(cfg.First))),
		buf: make([]byte, readBytes), enc: protocol.NewEncoder(), dec: protocol.NewDecoder(),
		closes: map[protocol.Reason]uint64{}, closesChanged: true,
	}
	for i := range f.nodes {
		f.nodes[i].fd = -1
		f.nodes[i].addr = uint16((cfg.First + i) % len(cfg.Servers))
	}
	var err error
	if f.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if f.wakeFD, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		_ = unix.Close(f.ep)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(f.wakeFD), Pad: -1}
	if err := unix.EpollCtl(f.ep, unix.EPOLL_CTL_ADD, f.wakeFD, &ev); err != nil {
		f.closeLoopFiles()
		return nil, fmt.Errorf("epoll: %w", err)
	}
	f.publish()
	return f, nil
}

// Settled is closed once every node is connected or has been told never to come back.
func (f *Fleet) Settled() <-chan struct{} { return f.settled }

// Done is closed when the loop has ended: after [Fleet.Stop], or when it failed, which
// Stats().LastError then tells.
func (f *Fleet) Done() <-chan struct{} { return f.done }

// Stop says CLOSE (bye) for every node, closes all sockets and waits for the loop's
// end. Any goroutine may call it, more than once.
func (f *Fleet) Stop() {
	f.once.Do(func() {
		f.stop.Store(true)
		f.wake()
		<-f.done
		f.mu.Lock()
		_ = unix.Close(f.wakeFD)
		f.wakeFD = -1
		f.mu.Unlock()
	})
}

// wake ends the loop's sleep.
func (f *Fleet) wake() {
	one := [8]byte{0: 1}
	f.mu.Lock()
	if f.wakeFD >= 0 {
		_, _ = unix.Write(f.wakeFD, one[:])
	}
	f.mu.Unlock()
}

func (f *Fleet) closeLoopFiles() {
	_ = unix.Close(f.ep)
	_ = unix.Close(f.wakeFD)
}

// run is the loop. Its thread is locked so that LoopCPU is the node side's alone.
func (f *Fleet) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(f.done)
	events := make([]unix.EpollEvent, maxEvents)
	for !f.stop.Load() {
		n, err := unix.EpollWait(f.ep, events, f.waitMs())
		if err != nil && err != unix.EINTR {
			f.st.LastError = sysError("epoll_wait", err)
			break
		}
		f.nowMs = time.Since(f.started).Milliseconds()
		for i := range max(n, 0) {
			f.onEvent(&events[i])
		}
		f.obey()
		f.answerDue()
		f.churn()
		f.dial()
		f.expireOpening()
		f.heartbeats()
		f.settleAndPublish()
	}
	f.leaveAll()
	f.publish()
	_ = unix.Close(f.ep)
}

func (f *Fleet) settleAndPublish() {
	f.settle()
	if f.nowMs-f.lastPublish >= publishMs {
		f.publish()
	}
}

// waitMs is how long the loop may sleep: not at all while nodes can be dialled.
func (f *Fleet) waitMs() int {
	wait := int64(tickMs)
	if f.opening < f.cfg.InFlight {
		if f.fresh < f.rampTo {
			if f.rampPerS == 0 {
				return 0
			}
			wait = min(wait, int64((1-f.rampDue)/f.rampPerS*1000)+1)
		}
		if len(f.later) > 0 {
			wait = min(wait, f.later[0].dueMs-f.nowMs)
		}
	}
	if len(f.answers) > 0 {
		wait = min(wait, f.answers[0].dueMs-f.nowMs)
	}
	return int(max(0, wait))
}

func (f *Fleet) onEvent(ev *unix.EpollEvent) {
	if ev.Pad < 0 { // woken
		var b [8]byte
		_, _ = unix.Read(int(ev.Fd), b[:])
		return
	}
	n := &f.nodes[ev.Pad]
	if n.fd != ev.Fd {
		return // an event of a socket closed earlier in this batch
	}
	if n.state == stateConnecting {
		f.onConnected(n, int(ev.Pad))
		return
	}
	if ev.Events&unix.EPOLLOUT != 0 && !f.flush(n, int(ev.Pad)) {
		return
	}
	if ev.Events&^uint32(unix.EPOLLOUT) != 0 {
		f.onReadable(n, int(ev.Pad))
	}
}

// leaveAll ends every session politely.
func (f *Fleet) leaveAll() {
	bye, err := f.enc.Append(nil, &protocol.Close{Reason: protocol.ReasonBye})
	for i := range f.nodes {
		n := &f.nodes[i]
		if n.state == stateOpen && err == nil && len(n.out) == 0 {
			_, _ = unix.Write(int(n.fd), bye)
		}
		f.drop(n)
		n.state = stateDead
	}
}

// threadCPU returns the CPU time of the calling thread.
func threadCPU() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
