package tcp

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxFiles is read for a file limit that is larger or infinite.
const maxFiles = 1 << 30

// raiseFileLimit raises the soft limit of open files to the hard one and returns it.
func raiseFileLimit() (int, error) {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return 0, fmt.Errorf("tcp: reading the limit of open files: %w", err)
	}
	if lim.Cur < lim.Max {
		raised := unix.Rlimit{Cur: lim.Max, Max: lim.Max}
		// Refused in some sandboxes; the limit that stands is then what counts.
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &raised); err == nil {
			lim = raised
		}
	}
	return int(min(lim.Cur, maxFiles)), nil
}

// ceilings are the numbers of connections that the file limit allows.
type ceilings struct {
	admitted int // served
	refused  int // kept for a moment so that their CLOSE can be read
}

// plan divides the files: FileReserve for the rest of the process, some for
// refusals, the others for admitted connections.
func (c Config) plan(files int) (ceilings, error) {
	refused := max(8, min(1024, files/32))
	room := files - c.FileReserve - refused
	if room < 1 {
		return ceilings{}, fmt.Errorf("tcp: the limit of open files is %d, which leaves nothing after file_reserve (%d) and %d for refusals; raise the limit (ulimit -n, LimitNOFILE) or lower file_reserve",
			files, c.FileReserve, refused)
	}
	if c.MaxConns > room {
		return ceilings{}, fmt.Errorf("tcp: max_conns is %d, but the limit of open files, %d, allows from 1 to %d after file_reserve (%d) and %d for refusals; raise the limit (ulimit -n, LimitNOFILE) or set max_conns to 0 to derive it",
			c.MaxConns, files, room, c.FileReserve, refused)
	}
	if c.MaxConns > 0 {
		room = c.MaxConns
	}
	return ceilings{admitted: room, refused: refused}, nil
}

// rate is a token bucket: perSecond tokens come each second, and at most as many lie
// in it. Any goroutine may take; it is locked because accepting is not a hot path.
type rate struct {
	perSecond float64

	mu     sync.Mutex
	tokens float64
	atMs   int64
}

func newRate(perSecond int) *rate {
	return &rate{perSecond: float64(perSecond), tokens: float64(perSecond)}
}

// take reports whether a token was there at nowMs. A rate of zero has always one.
func (r *rate) take(nowMs int64) bool {
	if r.perSecond == 0 {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.atMs == 0 {
		r.atMs = nowMs
	}
	if past := nowMs - r.atMs; past > 0 { // loops' clocks differ by a little
		r.tokens = min(r.perSecond, r.tokens+r.perSecond*float64(past)/1000)
		r.atMs = nowMs
	}
	if r.tokens < 1 {
		return false
	}
	r.tokens--
	return true
}

// spread returns a random time from half of d to one and a half of it.
func spread(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d/2 + rand.N(d)
}
