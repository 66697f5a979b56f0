//go:build linux

package netlab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Prefix begins the names of all namespaces.
const Prefix = "rct"

const (
	bridgeHost = "wire" // the namespace with the bridge; no host has this name
	bridge     = "br0"
	netnsDir   = "/run/netns"
)

// subnet is the lab's: it exists inside the namespaces alone.
var subnet = netip.MustParsePrefix("10.77.0.0/24")

// Lab is a set of hosts that reach one another.
type Lab struct {
	owner string // part of the names
	names []string
}

// Create makes the hosts. They belong to this process: [Sweep] of another removes them
// when this one is gone.
func Create(names ...string) (*Lab, error) {
	owner, err := identify(os.Getpid())
	if err != nil {
		return nil, err
	}
	l := Open(owner, names...)
	for _, what := range []func() error{l.createBridge, l.createHosts} {
		if err := what(); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	return l, nil
}

// Open is the lab of an owner, which another process has created with the same names.
func Open(owner string, names ...string) *Lab { return &Lab{owner: owner, names: names} }

// Owner stands for the process that the lab belongs to.
func (l *Lab) Owner() string { return l.owner }

// identify names a process: its id, and when it started, for ids are given out again.
func identify(pid int) (string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// Field 22 is the start in ticks since boot; the second, in parentheses, may have spaces.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return "", fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	return fmt.Sprintf("%d.%s", pid, fields[19]), nil
}

func (l *Lab) createBridge() error {
	ns := l.namespace(bridgeHost)
	return ip([][]string{
		{"netns", "add", ns},
		{"-n", ns, "link", "set", "lo", "up"},
		{"-n", ns, "link", "add", bridge, "type", "bridge", "stp_state", "0", "mcast_snooping", "0"},
		{"-n", ns, "link", "set", bridge, "up"},
	})
}

func (l *Lab) createHosts() error {
	wire := l.namespace(bridgeHost)
	for _, name := range l.names {
		ns := l.namespace(name)
		if err := ip([][]string{
			{"netns", "add", ns},
			{"-n", ns, "link", "set", "lo", "up"},
			{"-n", wire, "link", "add", port(name), "type", "veth", "peer", "name", "eth0", "netns", ns},
			{"-n", wire, "link", "set", port(name), "master", bridge, "up"},
			{"-n", ns, "addr", "add", fmt.Sprintf("%s/%d", l.Addr(name), subnet.Bits()), "dev", "eth0"},
			{"-n", ns, "link", "set", "eth0", "up"},
		}); err != nil {
			return err
		}
		if err := l.Within(name, tune); err != nil {
			return fmt.Errorf("namespace %s: %w", ns, err)
		}
	}
	return nil
}

// tune gives a host room for the connections of a load test.
func tune() error {
	for key, value := range map[string]string{
		"net/ipv4/ip_local_port_range": "1024 65000",
		"net/ipv4/tcp_max_syn_backlog": "8192",
		"net/core/somaxconn":           "8192",
	} {
		if err := os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Close removes all of it. What still runs there goes on without a network that others
// reach.
func (l *Lab) Close() error {
	_, err := remove(func(owner string) bool { return owner == l.owner })
	return err
}

// Sweep removes the labs of processes that are gone, and returns the names of their
// namespaces.
func Sweep() ([]string, error) {
	return remove(func(owner string) bool {
		id, _, _ := strings.Cut(owner, ".")
		pid, err := strconv.Atoi(id)
		if err != nil {
			return false // it is not from here
		}
		now, err := identify(pid)
		return err != nil || now != owner
	})
}

func remove(which func(owner string) bool) (removed []string, err error) {
	list, err := os.ReadDir(netnsDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	for _, e := range list {
		rest, ours := strings.CutPrefix(e.Name(), Prefix)
		owner, _, ok := strings.Cut(rest, "-")
		if !ours || !ok || !which(owner) {
			continue
		}
		if e := ip([][]string{{"netns", "del", e.Name()}}); e != nil {
			err = errors.Join(err, e)
			continue
		}
		removed = append(removed, e.Name())
	}
	return removed, err
}

func (l *Lab) namespace(host string) string {
	return Prefix + l.owner + "-" + host
}

// port is the end of a host's link at the bridge.
func port(host string) string { return "p-" + host }

// Addr is the address of a host. It panics when there is no such host.
func (l *Lab) Addr(host string) netip.Addr {
	i := slices.Index(l.names, host)
	if i < 0 {
		panic("netlab: there is no host " + host)
	}
	a := subnet.Addr().As4()
	a[3] = byte(10 + i)
	return netip.AddrFrom4(a)
}

// Command returns the program and the arguments that run another on a host. The
// process that it starts becomes that other: signals reach it.
func (l *Lab) Command(host, program string, args ...string) (string, []string) {
	return "ip", append([]string{"netns", "exec", l.namespace(host), program}, args...)
}

// Within runs fn on a thread that is on a host; goroutines that it starts are not.
func (l *Lab) Within(host string, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- func() error {
			f, err := os.Open(filepath.Join(netnsDir, l.namespace(host)))
			if err != nil {
				return err
			}
			defer f.Close()
			if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
				return os.NewSyscallError("setns", err)
			}
			return fn()
		}()
	}()
	return <-done
}

// Check tells what is missing to make a lab, or nil.
func Check() error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root: run it with sudo")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return errors.New("the program ip is missing: install iproute2")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return fmt.Errorf("%w: the kernel module tun is needed to impair connections", err)
	}
	return nil
}

// ip runs the program ip with each of the argument lists, until one fails.
func ip(calls [][]string) error {
	for _, args := range calls {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}
