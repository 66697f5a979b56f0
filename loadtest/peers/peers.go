//go:build linux

package main

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"

	"github.com/roost-server/roost/loadtest/peers/servers"
)

// peer is one server to be measured.
type peer struct {
	name  string
	about string
	// find says which version there is. An error is that it is missing, and how to get it.
	find func(*place) (version string, err error)
	// start starts it; nil for the whole Roost, which brings its own load.
	start func(context.Context, *place, shape) (*running, error)
}

// running is a server that listens.
type running struct {
	*child
	nodes, dispatch netip.AddrPort
	wire            wire
}

// place is where programs and files are.
type place struct {
	bin      string // of "make peers": the servers of this folder, hop
	roost    string
	loadtest string
	dir      string // temporary
	hopArgs  []string
}

// all are the peers, the floor first.
func all() []peer {
	return []peer{
		{"gnetraw", "bare gnet, one event loop, one map: the floor", module("gnetraw", "github.com/panjf2000/gnet/v2"), raws("gnetraw")},
		{"mosquitto", "C, epoll, MQTT 3.1.1 QoS 0", findMosquitto, startMosquitto},
		{"mochi", "Go MQTT broker, two goroutines a client", module("mochi", "github.com/mochi-mqtt/server/v2"), listening("mochi", func() wire { return &mqtt{} })},
		{"nats", "NATS server, core subjects", module("nats", "github.com/nats-io/nats-server/v2"), listening("nats", func() wire { return nats{} })},
		{"erl", "Erlang/OTP, a gen_server for each socket", findErlang, startErlang},
		{"goroutines", "Go, a reader and a writer goroutine for each socket", module("goroutines", ""), raws("goroutines")},
		{"hop", "Roost without Kafka: job in at the shard, result out at the shard", module("hop", "github.com/roost-server/roost"), hops()},
		{"hop-acks", "the same, and RESULT_ACK to the node for each result", module("hop", "github.com/roost-server/roost"), hops("-acks")},
		{"roost", "Roost: Kafka in, exactly once, Kafka out; processor time and memory of the server alone", findRoost, nil},
	}
}

// module finds a server of this module, or hop, and the version of what it is made of.
func module(program, path string) func(*place) (string, error) {
	return func(p *place) (string, error) {
		info, err := buildinfo.ReadFile(filepath.Join(p.bin, program))
		if err != nil {
			return "", fmt.Errorf("%s is not built (%w); make peers does", program, err)
		}
		for _, d := range info.Deps {
			if d.Path == path {
				return d.Version, nil
			}
		}
		if path == "" {
			return info.GoVersion, nil
		}
		return roostVersion(p)
	}
}

func raws(program string) func(context.Context, *place, shape) (*running, error) {
	return listening(program, func() wire { return raw{} })
}

// listening starts a server of this module.
func listening(program string, w func() wire) func(context.Context, *place, shape) (*running, error) {
	return func(ctx context.Context, p *place, _ shape) (*running, error) {
		return at(ctx, w(), func(a netip.AddrPort) (*child, error) {
			return spawn(nil, filepath.Join(p.bin, program), "-listen", a.String())
		})
	}
}

// at starts a server on a port that is free just before, since it cannot tell which one
// it got.
func at(ctx context.Context, w wire, start func(netip.AddrPort) (*child, error)) (*running, error) {
	a, err := freePort()
	if err != nil {
		return nil, err
	}
	c, err := start(a)
	if err != nil {
		return nil, err
	}
	if err := c.listens(ctx, a); err != nil {
		c.stop()
		return nil, err
	}
	return &running{child: c, nodes: a, dispatch: a, wire: w}, nil
}

func findMosquitto(*place) (string, error) {
	program, err := mosquitto()
	if err != nil {
		return "", err
	}
	out, _ := exec.Command(program, "-h").Output() // it exits with 1 or 3 then
	first, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimPrefix(first, "mosquitto version "), nil
}

// mosquitto is where Debian has it, which is not in everybody's path.
func mosquitto() (string, error) {
	for _, name := range []string{"mosquitto", "/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"} {
		if program, err := exec.LookPath(name); err == nil {
			return program, nil
		}
	}
	return "", errors.New("mosquitto is not installed; on Debian: apt-get install mosquitto")
}

func startMosquitto(ctx context.Context, p *place, _ shape) (*running, error) {
	program, err := mosquitto()
	if err != nil {
		return nil, err
	}
	return at(ctx, &mqtt{}, func(a netip.AddrPort) (*child, error) {
		config := filepath.Join(p.dir, "mosquitto.conf")
		// What waits for the dispatcher is more than the default's 1,000 messages.
		text := fmt.Sprintf("listener %d %v\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\nmax_queued_messages 100000\nlog_dest stderr\nlog_type error\n", a.Port(), a.Addr())
		if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
			return nil, err
		}
		return spawn(nil, program, "-c", config)
	})
}

func findErlang(*place) (string, error) {
	for _, program := range []string{"erl", "erlc"} {
		if _, err := exec.LookPath(program); err != nil {
			return "", fmt.Errorf("%s is not installed; on Debian: apt-get install erlang-base", program)
		}
	}
	out, err := exec.Command("erl", "-noshell", "-eval",
		`io:format("OTP ~s, ERTS ~s", [erlang:system_info(otp_release), erlang:system_info(version)]), halt().`).Output()
	if err != nil {
		return "", fmt.Errorf("erl does not run: %w", err)
	}
	return string(out), nil
}

// startErlang compiles the application and runs it with room for processes and sockets,
// and without the virtual machine's busy waiting, which is no work.
func startErlang(ctx context.Context, p *place, _ shape) (*running, error) {
	sources, err := fs.Glob(servers.Erlang, "erlang/*.erl")
	if err != nil {
		return nil, err
	}
	args := []string{"-o", p.dir}
	for _, s := range sources {
		text, err := servers.Erlang.ReadFile(s)
		if err != nil {
			return nil, err
		}
		file := filepath.Join(p.dir, filepath.Base(s))
		if err := os.WriteFile(file, text, 0o644); err != nil {
			return nil, err
		}
		args = append(args, file)
	}
	if out, err := exec.CommandContext(ctx, "erlc", args...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("erlc: %w: %s", err, out)
	}
	return at(ctx, raw{}, func(a netip.AddrPort) (*child, error) {
		return spawn(nil, "erl", "+P", "1000000", "+Q", "65536", "+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none",
			"-noinput", "-pa", p.dir, "-run", "hop", "main", strconv.Itoa(int(a.Port())))
	})
}

var hopListens = regexp.MustCompile(`^listening nodes=(\S+) dispatcher=(\S+) partitions=(\d+)$`)

// hops starts Roost's hop; see loadtest/hop. Results leave a quarter of the window at a
// time: larger cuts cost less, and the jobs that wait for one are missing elsewhere.
func hops(args ...string) func(context.Context, *place, shape) (*running, error) {
	return func(ctx context.Context, p *place, s shape) (*running, error) {
		all := append([]string{"-cut-outcomes", strconv.Itoa(max(1, s.Window/4))}, args...)
		c, m, err := announced(ctx, hopListens, filepath.Join(p.bin, "hop"), append(all, p.hopArgs...)...)
		if err != nil {
			return nil, err
		}
		r := &running{child: c}
		partitions, err1 := strconv.Atoi(m[2])
		var err2, err3, err4 error
		r.nodes, err2 = netip.ParseAddrPort(m[0])
		r.dispatch, err3 = netip.ParseAddrPort(m[1])
		if r.wire, err4 = newRoost(partitions, bodyBytes); errors.Join(err1, err2, err3, err4) != nil {
			c.stop()
			return nil, errors.Join(err1, err2, err3, err4)
		}
		return r, nil
	}
}

func findRoost(p *place) (string, error) {
	for _, program := range []string{p.roost, p.loadtest} {
		if _, err := exec.LookPath(program); err != nil {
			return "", fmt.Errorf("%s is not built; make peers does", program)
		}
	}
	return roostVersion(p)
}

func roostVersion(p *place) (string, error) {
	out, err := exec.Command(p.roost, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", p.roost, err)
	}
	words := strings.Fields(string(out))
	if len(words) == 0 {
		return "", fmt.Errorf("%s --version says nothing", p.roost)
	}
	return words[len(words)-1] + ", " + runtime.Version(), nil
}
