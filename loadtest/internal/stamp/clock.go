package stamp

import "time"

// began is a moment of this process, and beganNs the same on the host's clock.
var began, beganNs = time.Now(), hostClock()

// Now is the clock of all stamps, in nanoseconds: CLOCK_MONOTONIC, so that processes of
// one host compare, and it never goes back. Go's own clock is the same one, read without
// a system call.
func Now() int64 { return beganNs + int64(time.Since(began)) }
