//go:build linux

package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// timerSlack is how late the kernel may wake a sleeper. Go's runtime sleeps for 20 us at a
// time while it has work, and with the kernel's 50 us of slack an emulated processor does
// little else than to wake up for that.
const timerSlack = 5 * time.Millisecond

// lazyMark is in the environment once timers are lazy.
const lazyMark = "MILLION_TIMERS=lazy"

// lazyTimers has this process, and all that it starts, wake late. It replaces the process
// by itself, since threads that are there already keep their slack.
func lazyTimers() error {
	if slices.Contains(os.Environ(), lazyMark) {
		return nil
	}
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(timerSlack.Nanoseconds()), 0, 0, 0); err != nil {
		return fmt.Errorf("timer slack: %w", err)
	}
	return fmt.Errorf("start again: %w", unix.Exec(Program, os.Args, append(os.Environ(), lazyMark)))
}

// mounts makes /proc, /sys, /dev and /tmp what they should be.
func mounts() error {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	return nil
}

// openPort opens a serial port so that bytes pass unchanged.
func openPort(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err == nil {
		t.Oflag &^= unix.OPOST
		err = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), f.Close())
	}
	return f, nil
}

// sysctls are the kernel's settings for a million sockets with both ends here; see
// Documentation/networking/ip-sysctl.rst. The pages of tcp_mem are half of the memory at
// most by default, and more than half is needed.
func sysctls(files uint64, pages int64) [][2]string {
	return [][2]string{
		{"fs.nr_open", strconv.FormatUint(files, 10)},
		{"fs.file-max", strconv.FormatUint(3*files, 10)},
		{"fs.epoll.max_user_watches", strconv.FormatUint(4*files, 10)},
		{"net.core.somaxconn", "65535"},
		{"net.core.netdev_max_backlog", "100000"},
		{"net.ipv4.tcp_max_syn_backlog", "65535"},
		{"net.ipv4.ip_local_port_range", "1024 65535"},
		{"net.ipv4.tcp_mem", fmt.Sprintf("%d %d %d", pages/2, pages*3/4, pages)},
		{"net.ipv4.tcp_rmem", "4096 16384 1048576"},
		{"net.ipv4.tcp_wmem", "4096 16384 1048576"},
		{"net.ipv4.tcp_tw_reuse", "1"},
		{"net.ipv4.tcp_max_orphans", "1000000"},
		{"net.ipv4.tcp_syn_retries", "10"},
		{"net.ipv4.tcp_retries2", "15"},
		{"vm.overcommit_memory", "1"},
	}
}

// settings makes room for files and sockets, and brings loopback up.
func settings(files uint64) error {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return err
	}
	pages := int64(si.Totalram) * int64(si.Unit) / int64(os.Getpagesize())
	for _, s := range sysctls(files, pages) {
		path := filepath.Join("/proc/sys", strings.ReplaceAll(s[0], ".", "/"))
		if err := os.WriteFile(path, []byte(s[1]), 0); err != nil {
			return fmt.Errorf("sysctl %s=%s: %w", s[0], s[1], err)
		}
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: files}); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	return linkUp("lo")
}

// linkUp brings a network device up.
func linkUp(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// kernelBytes is the memory that is neither free nor a process's nor of files.
func kernelBytes() (int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	return parseKernel(string(b))
}

func parseKernel(meminfo string) (int64, error) {
	kb := map[string]int64{}
	for line := range strings.Lines(meminfo) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, err := strconv.ParseInt(f[1], 10, 54)
		if err != nil {
			return 0, fmt.Errorf("/proc/meminfo: %q: %w", strings.TrimSpace(line), err)
		}
		kb[strings.TrimSuffix(f[0], ":")] = n
	}
	for _, k := range []string{"MemTotal", "MemFree", "Buffers", "Cached", "AnonPages"} {
		if _, ok := kb[k]; !ok {
			return 0, fmt.Errorf("/proc/meminfo has no %s", k)
		}
	}
	return (kb["MemTotal"] - kb["MemFree"] - kb["Buffers"] - kb["Cached"] - kb["AnonPages"]) << 10, nil
}
