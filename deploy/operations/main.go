//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// addresses are those of the document's table.
var addresses = []struct{ name, address string }{
	{"roost-1", "10.0.0.1"}, {"roost-2", "10.0.0.2"}, {"roost-3", "10.0.0.3"}, {"roost-4", "10.0.0.4"},
	{"lb", "10.0.0.10"}, {"nodes", "10.0.0.20"},
}

// fleet are the nodes that are there all the time, and have to get their jobs after each section.
const fleet = 3

func main() {
	keep := flag.Bool("keep", false, "leave the hosts' files")
	doc := flag.String("doc", "docs/OPERATIONS.md", "the document")
	show := flag.String("show", "", "also print what the blocks with this text in them print")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := operate(ctx, *doc, *show, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "operations:", err)
		os.Exit(1)
	}
}

func operate(ctx context.Context, doc, show string, keep bool) error {
	repo, err := os.Getwd()
	if err != nil {
		return err
	}
	blocks, err := parse(doc)
	if err != nil {
		return err
	}
	l, err := newLab(repo)
	if l != nil {
		defer l.close(keep)
	}
	if err != nil {
		return err
	}
	l.show = show
	if err := l.furnish(ctx); err != nil {
		return err
	}
	return l.follow(ctx, blocks)
}

// furnish makes the hosts, Kafka, and the desk.
func (l *lab) furnish(ctx context.Context) error {
	if err := writeShims(filepath.Join(l.dir, "shims")); err != nil {
		return err
	}
	names := "127.0.0.1 localhost kafka-1\n"
	for _, a := range addresses {
		names += a.address + " " + a.name + "\n"
	}
	if err := os.WriteFile(filepath.Join(l.dir, "hosts"), []byte(names), 0o644); err != nil { //nolint:gosec // /etc/hosts
		return err
	}
	for _, a := range addresses {
		if err := l.add(a.name, a.address); err != nil {
			return err
		}
	}
	if err := l.kafka(); err != nil {
		return err
	}
	// The desk is this machine, in a directory of its own.
	desk := filepath.Join(l.dir, "desk")
	if err := os.Mkdir(desk, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"bin", "deploy"} {
		if err := os.Symlink(filepath.Join(l.repo, name), filepath.Join(desk, name)); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// kafka runs the embedded broker, which serves its loopback only, and a way to it from each
// host's loopback.
func (l *lab) kafka() error {
	ns, err := l.space("kafka")
	if err != nil {
		return err
	}
	broker := exec.Command("ip", "netns", "exec", ns, filepath.Join(l.repo, "bin/roost"), "broker", "--listen", "127.0.0.1:9092")
	broker.Stderr = os.Stderr
	if err := l.start(broker); err != nil {
		return err
	}
	socket := filepath.Join(l.dir, "kafka.sock")
	relay := func(netns, name, bind, server string) error {
		file := filepath.Join(l.dir, name+".relay.cfg")
		text := "defaults\n  mode tcp\n  timeout connect 3s\n  timeout client 1h\n  timeout server 1h\nlisten kafka\n  bind " + bind + "\n  server kafka " + server + "\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return err
		}
		return l.start(exec.Command("ip", "netns", "exec", netns, "haproxy", "-db", "-f", file))
	}
	if err := relay(ns, "kafka", "unix@"+socket, "127.0.0.1:9092"); err != nil {
		return err
	}
	for name := range l.hosts {
		if strings.HasPrefix(name, "roost-") {
			if err := relay(l.prefix+name, name, "127.0.0.1:9092", "unix@"+socket); err != nil {
				return err
			}
		}
	}
	return nil
}

// follow does what the document says, in its order.
func (l *lab) follow(ctx context.Context, blocks []block) error {
	for i, b := range blocks {
		if err := l.do(ctx, b); err != nil {
			return err
		}
		last := i+1 == len(blocks) || blocks[i+1].section != b.section
		switch {
		// "Then do on roost-4 what was done on the first three."
		case b.section == "Grow" && b.hosts[0] == "desk":
			for _, again := range on(blocks, "Three hosts", "One address for nodes: HAProxy") {
				again.hosts = []string{"roost-4"}
				if err := l.do(ctx, again); err != nil {
					return err
				}
			}
			last = false
		case last && b.section == "Three hosts":
			if err := l.fleet(); err != nil {
				return err
			}
		}
		if last && b.section != "One address for nodes: HAProxy" { // whose settings take effect with the next restart
			if err := l.well(ctx); err != nil {
				return fmt.Errorf("after %q: %w", b.section, err)
			}
		}
	}
	fmt.Println("all blocks ran, and the cluster was well after each section")
	return nil
}

func (l *lab) do(ctx context.Context, b block) error {
	for _, name := range b.hosts {
		ctx, cancel := context.WithTimeout(ctx, patience)
		began := time.Now()
		var out bytes.Buffer
		var err error
		if name == "desk" {
			c := exec.CommandContext(ctx, "bash", "-euo", "pipefail")
			c.Dir, c.Env = filepath.Join(l.dir, "desk"), append(os.Environ(), l.env()...)
			c.Env = append(c.Env, "PATH="+filepath.Join(l.dir, "shims")+":"+os.Getenv("PATH"))
			err = shell(c, b.text, &out)
		} else {
			err = l.hosts[name].bash(ctx, b.text, &out)
		}
		err = errors.Join(err, context.Cause(ctx))
		cancel()
		fmt.Printf("%-32.32s line %-4d %-8s %6.1f s\n", b.section, b.line, name, time.Since(began).Seconds())
		if l.show != "" && strings.Contains(b.text, l.show) {
			fmt.Print(out.String())
		}
		if err != nil {
			return fmt.Errorf("%q, line %d, on %s: %w\n%s%s", b.section, b.line, name, err, b.text, &out)
		}
	}
	return nil
}

// fleet starts nodes that know HAProxy and all members.
func (l *lab) fleet() error {
	token, err := os.ReadFile(filepath.Join(l.dir, "desk", "roost.env"))
	if err != nil {
		return err
	}
	for i := range fleet {
		c := l.hosts["nodes"].command(context.Background(), filepath.Join(l.repo, "bin/roost"), "node", "--allow-private",
			"--id", fmt.Sprintf("fleet-%d", i), "--tag", "fleet", "--server", "lb:7400,roost-1:7400,roost-2:7400,roost-3:7400")
		for line := range strings.Lines(string(token)) {
			c.Env = append(c.Env, strings.TrimSpace(line))
		}
		if err := l.start(c); err != nil {
			return err
		}
	}
	return nil
}

// well asks whether every node of the fleet gets a job, whichever member it is at, by way of
// each member that serves.
func (l *lab) well(ctx context.Context) error {
	ask := fmt.Sprintf(`export $(grep -h ^ROOST_API_TOKEN= /etc/roost/roost.env)
for _ in $(seq 60); do
  [ $(roost nodes --prefix fleet- --json | wc -l) = %d ] && break
  sleep 1
done
roost run tcp 10.0.0.1:7946 --tag fleet --count %d --ttl 30s`, fleet, fleet)
	for name, h := range l.hosts {
		if !strings.HasPrefix(name, "roost-") {
			continue
		}
		if _, err := os.Stat(filepath.Join(l.dir, name, "roost.pid")); err != nil {
			continue // it does not run
		}
		ctx, cancel := context.WithTimeout(ctx, patience)
		var out bytes.Buffer
		err := h.bash(ctx, ask, &out)
		cancel()
		if err != nil {
			log, _ := os.ReadFile(filepath.Join(l.dir, name, "roost.log"))
			return fmt.Errorf("asked %s: %w\n%s\n%s", name, err, &out, log[max(0, len(log)-4000):])
		}
	}
	return nil
}
