//go:build linux

package vm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Config says what machine the guest is.
type Config struct {
	QEMU      string // program; "": qemu-system-x86_64 in PATH
	Kernel    string // image; "": the newest cloud kernel of /boot
	Initramfs string
	Program   string // in the initramfs, that runs as the guest's first process
	Accel     string // "kvm", "tcg", or "": kvm where the machine has it
	CPU       string // QEMU's model of the processor; "": one that suits Accel
	CPUs      int
	MemoryMiB int64
	Nice      int    // of QEMU's processes
	Console   string // file for what the kernel says
}

// install says how to get what is missing.
const install = "on Debian: apt-get install --no-install-recommends qemu-system-x86 linux-image-cloud-amd64"

// Complete fills in what is left out, and says what to install when something is missing.
func (c *Config) Complete() error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("the guest is an amd64 machine that runs this machine's programs, and they are for %s", runtime.GOARCH)
	}
	if c.QEMU == "" {
		c.QEMU = "qemu-system-x86_64"
	}
	path, err := exec.LookPath(c.QEMU)
	if err != nil {
		return fmt.Errorf("%w; %s", err, install)
	}
	c.QEMU = path
	if c.Kernel == "" {
		if c.Kernel, err = newest("/boot/vmlinuz-*-cloud-amd64"); err != nil {
			return fmt.Errorf("%w; %s, or name one by --kernel", err, install)
		}
	}
	if f, err := os.Open(c.Kernel); err != nil {
		return fmt.Errorf("kernel: %w", err)
	} else {
		f.Close()
	}
	if c.Accel == "" {
		c.Accel = "tcg"
		if virtual() {
			c.Accel = "kvm"
		}
	}
	if c.Accel != "kvm" && c.Accel != "tcg" {
		return fmt.Errorf("--accel: %q; allowed are kvm and tcg", c.Accel)
	}
	return c.room()
}

// room refuses a guest that the machine's memory cannot hold.
func (c *Config) room() error {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "MemAvailable:" {
			continue
		}
		kb, err := strconv.ParseInt(f[1], 10, 64)
		if err == nil && c.MemoryMiB > kb>>10 {
			return fmt.Errorf("--memory: %d MiB for the guest, and %d MiB are available here; use fewer --nodes", c.MemoryMiB, kb>>10)
		}
	}
	return nil
}

// virtual tells whether guests run on the processor itself. The device alone says little:
// where this machine is a guest too it may be there and not work.
func virtual() bool {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil || !hasFlag(string(b)) {
		return false
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// hasFlag looks for the processor's virtualization, of Intel or of AMD.
func hasFlag(cpuinfo string) bool {
	for line := range strings.Lines(cpuinfo) {
		name, list, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) != "flags" {
			continue
		}
		for f := range strings.FieldsSeq(list) {
			if f == "vmx" || f == "svm" {
				return true
			}
		}
		return false
	}
	return false
}

// newest returns the file that was changed last.
func newest(pattern string) (string, error) {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return "", err
	}
	var best string
	var at time.Time
	for _, f := range files {
		if i, err := os.Stat(f); err == nil && (best == "" || i.ModTime().After(at)) {
			best, at = f, i.ModTime()
		}
	}
	if best == "" {
		return "", fmt.Errorf("no kernel: %s", pattern)
	}
	return best, nil
}

// emulated is a processor that is quick to emulate: without the wide registers that every
// switch between threads would save, and without the string instructions that kernel and
// memmove prefer where they are fast, and that are emulated byte by byte.
const emulated = "Nehalem,+rdtscp"

// args is QEMU's command line.
func (c *Config) args() []string {
	accel, cpu := "tcg,thread=multi", emulated
	if c.Accel == "kvm" {
		accel, cpu = "kvm", "host"
	}
	if c.CPU != "" {
		cpu = c.CPU
	}
	return []string{
		"-accel", accel, "-cpu", cpu, "-smp", strconv.Itoa(c.CPUs), "-m", strconv.FormatInt(c.MemoryMiB, 10),
		"-nodefaults", "-no-user-config", "-nic", "none", "-display", "none", "-monitor", "none", "-no-reboot",
		"-serial", "file:" + c.Console, "-serial", "stdio",
		"-kernel", c.Kernel, "-initrd", c.Initramfs,
		"-append", "console=ttyS0 loglevel=4 panic=-1 mitigations=off tsc=reliable rdinit=" + c.Program,
	}
}

// Run boots the guest, hands every event to on, and returns when the guest has powered
// off. When ctx ends it is switched off. The error holds what the kernel said of trouble.
func Run(ctx context.Context, c *Config, on func(Event)) error {
	cmd := exec.Command(c.QEMU, c.args()...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	var said bytes.Buffer // QEMU's own complaints
	cmd.Stderr = &said
	runtime.LockOSThread() // the guest dies with the thread that started it
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", c.QEMU, err)
	}
	if c.Nice != 0 {
		_ = unix.Setpriority(unix.PRIO_PROCESS, cmd.Process.Pid, c.Nice)
	}
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })()
	read(out, on)
	err = cmd.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", c.QEMU, err, bytes.TrimSpace(said.Bytes()))
	}
	log, e := os.ReadFile(c.Console)
	if e != nil {
		return errors.Join(err, e)
	}
	if lines := Distress(string(log)); len(lines) > 0 {
		err = errors.Join(err, fmt.Errorf("the guest's kernel: %s", strings.Join(lines[:min(len(lines), 5)], "; ")))
	}
	return err
}

// maxLine bounds a line of the guest.
const maxLine = 1 << 20

// read hands on every event until the port is closed.
func read(r io.Reader, on func(Event)) {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, maxLine)
	for sc.Scan() {
		if e, ok := Parse(sc.Text()); ok {
			on(e)
		}
	}
	_, _ = io.Copy(io.Discard, r)
}
