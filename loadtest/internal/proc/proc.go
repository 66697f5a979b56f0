//go:build linux

// Package proc reads what a load test has to know of processes: resident memory and
// CPU time of the server from /proc, and the limit of open files of its own. Linux
// only; any goroutine may call it.
package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ticksPerSecond is USER_HZ, the unit of times in /proc/PID/stat; it is 100 on every
// architecture that Go runs Linux on.
const ticksPerSecond = 100

// Check tells whether a process can be measured.
func Check(pid int) error {
	if pid < 1 {
		return fmt.Errorf("--server-pid %d: a process id is a positive number", pid)
	}
	if _, err := CPU(pid); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("--server-pid %d: there is no such process on this machine", pid)
		}
		return fmt.Errorf("--server-pid %d: %w", pid, err)
	}
	if _, err := RSS(pid); err != nil {
		return fmt.Errorf("--server-pid %d: %w", pid, err)
	}
	return nil
}

// RSS returns the resident memory of a process in bytes. It comes from smaps_rollup,
// which counts pages, where that may be read; else from status, which may lag behind
// by some pages for each thread.
func RSS(pid int) (int64, error) {
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid)); err == nil {
		if n, err := field(b, "Rss:"); err == nil {
			return n, nil
		}
	}
	return QuickRSS(pid)
}

// QuickRSS is RSS from status: it costs the same for a process of any size, and may lag
// behind by some pages for each thread.
func QuickRSS(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("resident memory: %w", err)
	}
	n, err := field(b, "VmRSS:")
	if err != nil {
		return 0, fmt.Errorf("resident memory of process %d: %w", pid, err)
	}
	return n, nil
}

// PeakRSS returns the most resident memory that a process ever had, in bytes.
func PeakRSS(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("peak memory: %w", err)
	}
	n, err := field(b, "VmHWM:")
	if err != nil {
		return 0, fmt.Errorf("peak memory of process %d: %w", pid, err)
	}
	return n, nil
}

// field finds "name  123 kB" at the start of a line and returns bytes.
func field(b []byte, name string) (int64, error) {
	for line := range bytes.Lines(b) {
		rest, ok := bytes.CutPrefix(line, []byte(name))
		if !ok {
			continue
		}
		f := bytes.Fields(rest)
		if len(f) != 2 || string(f[1]) != "kB" {
			return 0, fmt.Errorf("cannot understand %q", bytes.TrimSpace(line))
		}
		kb, err := strconv.ParseInt(string(f[0]), 10, 54)
		if err != nil {
			return 0, fmt.Errorf("cannot understand %q: %w", bytes.TrimSpace(line), err)
		}
		return kb << 10, nil
	}
	return 0, fmt.Errorf("no %s line", name)
}

// CPU returns the user and system time that a process has used, with all its threads.
// It moves in steps of 10 ms.
func CPU(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("CPU time: %w", err)
	}
	d, err := parseStat(b)
	if err != nil {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	return d, nil
}

// parseStat takes utime and stime, fields 14 and 15 of proc(5). The second field is
// the program's name, which may hold spaces and parentheses.
func parseStat(b []byte) (time.Duration, error) {
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 13 {
		return 0, fmt.Errorf("cannot understand stat line %q", b)
	}
	var ticks uint64
	for _, s := range f[11:13] {
		n, err := strconv.ParseUint(string(s), 10, 48)
		if err != nil {
			return 0, fmt.Errorf("cannot understand stat line %q: %w", b, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / ticksPerSecond), nil
}

// SelfCPU returns the user and system time of this process.
func SelfCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Steady returns the value on which readings taken in order have settled: the median
// of their second half. It returns 0 without readings.
func Steady(readings []int64) int64 {
	if len(readings) == 0 {
		return 0
	}
	half := slices.Clone(readings[len(readings)/2:])
	slices.Sort(half)
	return half[len(half)/2]
}

// RaiseFileLimit raises this process's limit of open files to at least need, past the
// hard limit where the process may do that. It returns the limit that holds now, which
// may be lower than need.
func RaiseFileLimit(need uint64) (uint64, error) {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 0, fmt.Errorf("limit of open files: %w", err)
	}
	if r.Cur >= need {
		return r.Cur, nil
	}
	want := unix.Rlimit{Cur: need, Max: max(r.Max, need)}
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &want) == nil {
		return need, nil
	}
	want = unix.Rlimit{Cur: min(need, r.Max), Max: r.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &want); err != nil {
		return r.Cur, nil // no privilege: what there is has to do
	}
	return want.Cur, nil
}
