package stamp

import "golang.org/x/sys/unix"

func hostClock() int64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return 1
	}
	return ts.Nano()
}
