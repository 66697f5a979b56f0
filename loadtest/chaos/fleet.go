//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/roost-server/roost/loadtest/chaos/nodes"
	"github.com/roost-server/roost/loadtest/chaos/process"
)

// fleet is a place for a process with nodes.
type fleet struct {
	run    *runner
	prefix string
	count  int
	busy   target

	mu    sync.Mutex
	proc  *process.Process
	lives int
}

var nodesUp = regexp.MustCompile(`nodes are up`)

func (f *fleet) ids() []string {
	ids := make([]string, f.count)
	for i := range ids {
		ids[i] = nodes.ID(f.prefix, i)
	}
	return ids
}

func (f *fleet) start(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	f.lives++
	runs := filepath.Join(f.run.dir, fmt.Sprintf("runs-%s%d.log", f.prefix, f.lives))
	p, err := f.run.launcher.Start("nodes-"+strings.TrimSuffix(f.prefix, "-"), self, "nodes", "--members", strings.Join(f.run.nodeAddrs(), ","),
		"--prefix", f.prefix, "--count", strconv.Itoa(f.count), "--seed", strconv.FormatUint(f.run.opt.Seed+uint64(f.lives), 10), "--runs", runs)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.proc = p
	f.mu.Unlock()
	_, err = p.Find(ctx, nodesUp)
	return err
}

func (f *fleet) process() *process.Process {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.proc
}

// stats are the newest that the process said.
func (f *fleet) stats() (s nodes.Stats) {
	if p := f.process(); p != nil {
		_ = json.Unmarshal([]byte(p.Last()), &s) // zero until it says some
	}
	return s
}

func (f *fleet) kill() {
	f.complain()
	f.process().Kill()
}

// complain takes over what the nodes hold against the members.
func (f *fleet) complain() {
	for _, b := range f.stats().Blames {
		f.run.blame("what a node was told", b)
	}
}

func (f *fleet) stop() {
	p := f.process()
	if p == nil {
		return
	}
	f.complain()
	p.In.Close() // they end with it
	select {
	case <-p.Done():
	case <-time.After(10 * time.Second):
		f.run.say("the nodes %s* did not stop and were killed", f.prefix)
		p.Kill()
		return
	}
	if p.Code() != 0 {
		f.run.check(fmt.Errorf("the nodes %s* ended with code %d; see %s", f.prefix, p.Code(), p.Log))
	}
}
