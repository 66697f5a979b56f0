//go:build linux

// Package guest is the first process of the guest: it makes the machine ready, starts
// broker and server, does the steps, and powers off. What it has to say it writes to the
// second serial port.
package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/roost-server/roost/loadtest/internal/broker"
	"github.com/roost-server/roost/loadtest/internal/fleet"
	"github.com/roost-server/roost/loadtest/internal/nodes"
	"github.com/roost-server/roost/loadtest/internal/server"
	"github.com/roost-server/roost/loadtest/million/steps"
	"github.com/roost-server/roost/loadtest/million/vm"
)

// Where things are in the guest.
const (
	Program    = "/million" // this program
	ConfigFile = "/million.json"
	Roost      = "/roost"

	port = "/dev/ttyS1" // events go there
)

// Folders are what the guest mounts on.
var Folders = []string{"/proc", "/sys", "/dev", "/tmp", "/etc", "/root"}

// Config is what the guest is told; it lies in ConfigFile.
type Config struct {
	Plan      steps.Plan `json:"plan"`
	DrainRate int        `json:"drain_rate"` // nodes a second
	InFlight  int        `json:"in_flight"`
	Files     uint64     `json:"files"` // that one process may have open
	Accel     string     `json:"accel"`
	Seed      uint64     `json:"seed"`
	Serve     []string   `json:"serve"` // more arguments of roost serve
}

// IsInit tells whether this process is the first one of a guest.
func IsInit() bool { return os.Getpid() == 1 && len(os.Args) > 0 && os.Args[0] == Program }

// guest is the state of Main.
type guest struct {
	cfg   Config
	began time.Time
	mu    sync.Mutex // of out
	out   io.Writer
}

// Main is the life of the guest. It does not return.
func Main() {
	g := &guest{began: time.Now(), out: os.Stderr}
	err := lazyTimers()
	if err == nil {
		err = g.run()
	}
	if err != nil {
		g.say(vm.KindFailed, err.Error(), nil)
	}
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Fprintln(os.Stderr, "power off:", err) // the kernel panics when this process ends
	}
	select {}
}

// say sends an event.
func (g *guest) say(kind, text string, data any) {
	e := vm.Event{Kind: kind, AtMs: time.Since(g.began).Milliseconds(), Text: text}
	if data != nil {
		b, err := json.Marshal(data)
		if err != nil {
			e.Text = fmt.Sprintf("%s: %v", text, err)
		}
		e.Data = b
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	_ = vm.Write(g.out, &e) // there is nobody else to tell
}

func (g *guest) run() error {
	if err := mounts(); err != nil {
		return err
	}
	out, err := openPort(port)
	if err != nil {
		return err
	}
	g.out = out
	b, err := os.ReadFile(ConfigFile)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &g.cfg); err != nil {
		return fmt.Errorf("%s: %w", ConfigFile, err)
	}
	if err := settings(g.cfg.Files); err != nil {
		return err
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	clock, err := os.ReadFile("/sys/devices/system/clocksource/clocksource0/current_clocksource")
	if err != nil {
		return err
	}
	g.say(vm.KindUp, fmt.Sprintf("Linux %s, %d processors, %s clock, %d open files a process", unix.ByteSliceToString(u.Release[:]), runtime.NumCPU(), strings.TrimSpace(string(clock)), g.cfg.Files), nil)
	for _, kv := range []string{"PATH=/", "HOME=/root", "TMPDIR=/tmp"} {
		k, v, _ := strings.Cut(kv, "=")
		if err := os.Setenv(k, v); err != nil {
			return err
		}
	}
	return g.test(context.Background())
}

// test starts the processes, does the steps and sends the account.
func (g *guest) test(ctx context.Context) error {
	g.say(vm.KindStep, "start broker and server", nil)
	starting, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	b, err := broker.Start(starting, Roost)
	if err != nil {
		return err
	}
	defer b.Kill()
	// SIGTERM drains when there is another member to go to; here nodes are sent away before.
	args := append([]string{
		"serve", "--name", "m1", "--kafka", b.Address, "--unsafe-embedded-broker", "--nodes-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0",
		"--heartbeat", g.cfg.Plan.Heartbeat.String(), "--drain-rate", strconv.Itoa(g.cfg.DrainRate), "--drain-timeout", "2h",
		"--hello-timeout", "5m", "--session-timeout", "1m", "--commit-interval", "500ms", "--commit-outcomes", "20000",
	}, g.cfg.Serve...)
	srv, err := server.Start(starting, Roost, args...)
	if err != nil {
		return err
	}
	defer srv.Kill()
	if err := srv.AwaitReady(starting); err != nil {
		return err
	}
	group, ids, err := g.nodes(srv.Nodes)
	if err != nil {
		return err
	}
	a, err := steps.Run(ctx, g.cfg.Plan, steps.Env{
		Group: group, IDs: ids, Brokers: []string{b.Address}, PIDs: []int{srv.PID()}, Kernel: kernelBytes,
		Drain: func(ctx context.Context, show func(string)) (int, error) {
			return drain(ctx, srv, group, g.cfg.DrainRate, show)
		},
		Step: func(name string) { g.say(vm.KindStep, name, nil) },
		Show: func(text string) { g.say(vm.KindShow, text, nil) },
	})
	if a == nil {
		return err
	}
	if err != nil {
		a.Problems = append(a.Problems, err.Error())
	}
	if a.ServersOK == 0 {
		srv.Kill()
		a.Problems = append(a.Problems, srv.Ended().Error()) // with the end of its log
	}
	a.Guest = g.cfg.Accel
	g.say(vm.KindResult, "", a)
	return group.Stop()
}

// startTimeout bounds the start of broker and server.
const startTimeout = 10 * time.Minute

// nodes makes the group, and the ids of its nodes.
func (g *guest) nodes(address string) (nodes.Group, []string, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, nil, err
	}
	p := &g.cfg.Plan
	spec := nodes.Spec{
		Servers: []netip.AddrPort{to}, Sources: Sources(p.Nodes), Nodes: p.Nodes, Of: p.Nodes, NodePrefix: prefix, Seed: g.cfg.Seed,
		Credit: 4, InFlight: g.cfg.InFlight, OpenTimeout: 10 * time.Minute,
	}
	group, err := fleet.NewGroup(spec)
	if err != nil {
		return nil, nil, err
	}
	return group, spec.IDs(), nil
}

const prefix = "sim-"

// portsPerSource is how many nodes connect from one address: it has 64,511 ports, and the
// kernel's search for a free one takes longer the fewer are left.
const portsPerSource = 30_000

// Sources returns loopback addresses for so many nodes to connect from.
func Sources(n int) []netip.Addr {
	var out []netip.Addr
	for k := 0; k*portsPerSource < n; k++ {
		out = append(out, netip.AddrFrom4([4]byte{127, 64, byte((k + 1) >> 8), byte(k + 1)}))
	}
	return out
}
