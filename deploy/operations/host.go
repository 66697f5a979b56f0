//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// lab is the machine's part: the wire between the hosts, and their files.
type lab struct {
	show   string // blocks with this in them are printed
	dir    string // of everything
	repo   string
	prefix string // of the namespaces' names
	wire   string // namespace of the bridge
	hosts  map[string]*host
	spaces []string
	procs  []*exec.Cmd
}

// host is a network namespace and a mount namespace, held by a process that sleeps.
type host struct {
	lab  *lab
	name string
	pid  int
}

func run(args ...string) error {
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// start runs a command until the lab is closed.
func (l *lab) start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	l.procs = append(l.procs, cmd)
	return nil
}

func (l *lab) space(name string) (string, error) {
	ns := l.prefix + name
	if err := run("ip", "netns", "add", ns); err != nil {
		return "", err
	}
	l.spaces = append(l.spaces, ns)
	return ns, run("ip", "-n", ns, "link", "set", "lo", "up")
}

// newLab makes the wire.
func newLab(repo string) (*lab, error) {
	dir, err := os.MkdirTemp("", "roost-operations-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // members run as another user
		return nil, err
	}
	l := &lab{dir: dir, repo: repo, prefix: fmt.Sprintf("rop%d-", os.Getpid()), hosts: map[string]*host{}}
	if l.wire, err = l.space("wire"); err != nil {
		return l, err
	}
	if err := run("ip", "-n", l.wire, "link", "add", "br0", "type", "bridge"); err != nil {
		return l, err
	}
	return l, run("ip", "-n", l.wire, "link", "set", "br0", "up")
}

// layers gives a host its own /etc, /usr, /var and /root.
const layers = `set -e
mkdir -p "$1" && mount -t tmpfs -o mode=755 tmpfs "$1"
for d in etc usr var; do
  mkdir -p "$1/$d/up" "$1/$d/work"
  mount -t overlay overlay -o "lowerdir=/$d,upperdir=$1/$d/up,workdir=$1/$d/work" "/$d"
done
mkdir -p "$2" && mount --bind "$2" /root
cp "$3" /etc/hosts
echo ready
exec sleep infinity`

// add makes a host with an address.
func (l *lab) add(name, address string) error {
	ns, err := l.space(name)
	if err != nil {
		return err
	}
	port := "p" + name
	for _, args := range [][]string{
		{"ip", "link", "add", "eth0", "netns", ns, "type", "veth", "peer", "name", port, "netns", l.wire},
		{"ip", "-n", l.wire, "link", "set", port, "master", "br0", "up"},
		{"ip", "-n", ns, "addr", "add", address + "/24", "dev", "eth0"},
		{"ip", "-n", ns, "link", "set", "eth0", "up"},
	} {
		if err := run(args...); err != nil {
			return err
		}
	}
	root := filepath.Join(l.dir, name, "root")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	cmd := exec.Command("ip", "netns", "exec", ns, "unshare", "-m", "--propagation", "private", "bash", "-c", layers, "-",
		filepath.Join(l.dir, name, "layers"), root, filepath.Join(l.dir, "hosts"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	var failed bytes.Buffer
	cmd.Stderr = &failed
	if err := l.start(cmd); err != nil {
		return err
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		return fmt.Errorf("host %s: %q %w: %s", name, line, err, &failed)
	}
	l.hosts[name] = &host{lab: l, name: name, pid: cmd.Process.Pid}
	return nil
}

// command is one that runs on the host. The shims come first in its path.
func (h *host) command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, "nsenter", append([]string{"-t", fmt.Sprint(h.pid), "-m", "-n", "--wd=/root", "--"}, args...)...)
	c.Env = append(h.lab.env(), "HOST="+h.name, "HOME=/root")
	return c
}

func (l *lab) env() []string {
	return []string{"LAB=" + l.dir, "REPO=" + l.repo, "PATH=" + l.dir + "/shims:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
}

// bash runs commands as a reader of the document would, and stops at the first that fails.
func (h *host) bash(ctx context.Context, text string, out io.Writer) error {
	return shell(h.command(ctx, "bash", "-euo", "pipefail"), text, out)
}

// patience is how long a block may take: a restart drains first.
const patience = 3 * time.Minute

func shell(c *exec.Cmd, text string, out io.Writer) error {
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(text), out, out
	c.WaitDelay = time.Second // what a block has left behind may hold its output
	err := c.Run()
	if err == exec.ErrWaitDelay { //nolint:errorlint // returned as it is
		err = nil
	}
	return err
}

// close ends what was started and removes what was made.
func (l *lab) close(keep bool) {
	for i := len(l.procs) - 1; i >= 0; i-- {
		_ = syscall.Kill(-l.procs[i].Process.Pid, syscall.SIGKILL)
		_ = l.procs[i].Wait()
	}
	for name := range l.hosts {
		for _, file := range []string{"roost.pid", "haproxy.pid"} {
			b, err := os.ReadFile(filepath.Join(l.dir, name, file))
			var pid int
			if _, scanned := fmt.Sscan(string(b), &pid); err == nil && scanned == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
	for _, ns := range l.spaces {
		if err := run("ip", "netns", "del", ns); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	if keep {
		fmt.Println("kept:", l.dir)
		return
	}
	if err := os.RemoveAll(l.dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}
