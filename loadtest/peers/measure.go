//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/roost-server/roost/loadtest/internal/proc"
)

// shape is how much load there is.
type shape struct {
	Nodes  int `json:"nodes"`
	Window int `json:"window"`
}

// times of a measurement.
type times struct {
	Settle   time.Duration // after the nodes are ready, before memory is read
	Warmup   time.Duration // of the jobs
	Duration time.Duration // measured
}

// run is what one measurement of one peer has brought.
type run struct {
	BytesPerNode   float64 `json:"server_rss_bytes_per_node"`
	ConnectPerS    float64 `json:"connect_per_s"`
	ConnectCPUUs   float64 `json:"server_cpu_us_per_connect"`
	JobsPerS       float64 `json:"jobs_per_s"`
	P50Ms          float64 `json:"p50_ms"`
	P99Ms          float64 `json:"p99_ms"`
	CPUUsPerJob    float64 `json:"server_cpu_us_per_job"`
	LoadCPUUs      float64 `json:"load_cpu_us_per_job"`
	ServerCPUShare float64 `json:"server_cpus"` // processors that the server used
	Jobs           int     `json:"jobs"`
	Lost           int     `json:"lost"`
	Strange        int     `json:"strange"` // results of no job that was out, or changed
	Error          string  `json:"error,omitempty"`
}

// measure starts a peer, loads it and ends it.
func measure(ctx context.Context, p peer, at *place, s shape, t times) (r run, err error) {
	srv, err := p.start(ctx, at, s)
	if err != nil {
		return r, err
	}
	defer srv.stop()
	l, err := newLoad(srv.wire, s.Nodes, srv.nodes, srv.dispatch)
	if err != nil {
		return r, err
	}
	defer func() {
		srv.stop() // first, so that it is the server's sockets that go
		err = errors.Join(err, l.close())
	}()
	err = l.connected(ctx, srv.pid(), t, &r)
	if err == nil {
		err = l.loaded(ctx, srv.pid(), s.Window, t, &r)
	}
	if err != nil && ctx.Err() == nil {
		if ended := srv.ended(); ended != nil {
			err = errors.Join(err, ended)
		}
	}
	return r, err
}

// rss is the resident memory of a process at rest.
func (l *load) rss(ctx context.Context, pid int) (float64, error) {
	var readings []int64
	for range 5 {
		n, err := proc.RSS(pid)
		if err != nil {
			return 0, err
		}
		readings = append(readings, n)
		if err := l.idle(ctx, 50*time.Millisecond); err != nil {
			return 0, err
		}
	}
	slices.Sort(readings)
	return float64(readings[len(readings)/2]), nil
}

// connected has all nodes connect and then wait.
func (l *load) connected(ctx context.Context, pid int, t times, r *run) error {
	before, err := l.rss(ctx, pid)
	if err != nil {
		return err
	}
	cpu, err := proc.CPU(pid)
	if err != nil {
		return err
	}
	took, err := l.connect(ctx)
	if err != nil {
		return err
	}
	nodes := float64(len(l.nodes))
	r.ConnectPerS = nodes / took.Seconds()
	now, err := proc.CPU(pid)
	if err != nil {
		return err
	}
	r.ConnectCPUUs = float64((now - cpu).Microseconds()) / nodes
	if err := l.idle(ctx, t.Settle); err != nil {
		return err
	}
	after, err := l.rss(ctx, pid)
	r.BytesPerNode = (after - before) / nodes
	return err
}

// loaded keeps jobs under way and measures.
func (l *load) loaded(ctx context.Context, pid, window int, t times, r *run) error {
	l.open(window)
	if err := l.flush(); err != nil {
		return err
	}
	if err := l.run(ctx, t.Warmup); err != nil {
		return err
	}
	cpu, err := proc.CPU(pid)
	if err != nil {
		return err
	}
	self, began := proc.SelfCPU(), time.Now()
	l.measure = true
	if err := l.run(ctx, t.Duration); err != nil {
		return err
	}
	l.measure = false
	took, own := time.Since(began), proc.SelfCPU()-self
	now, err := proc.CPU(pid)
	if err != nil {
		return err
	}
	r.Jobs = len(l.latency)
	if r.Jobs == 0 {
		return errors.New("no job was answered")
	}
	jobs := float64(r.Jobs)
	r.JobsPerS, r.ServerCPUShare = jobs/took.Seconds(), (now-cpu).Seconds()/took.Seconds()
	r.CPUUsPerJob, r.LoadCPUUs = float64((now-cpu).Microseconds())/jobs, float64(own.Microseconds())/jobs
	slices.Sort(l.latency)
	quantile := func(q float64) float64 { return float64(l.latency[int(q*(jobs-1))]) / 1e6 }
	r.P50Ms, r.P99Ms = quantile(0.5), quantile(0.99)
	r.Lost, err = l.drain(ctx)
	r.Strange = int(l.strange)
	return err
}

// files sees to it that there can be so many nodes.
func files(nodes int) error {
	need := uint64(nodes + 64)
	limit, err := proc.RaiseFileLimit(need)
	if err == nil && limit < need {
		err = fmt.Errorf("--shapes: %d nodes need %d open files, and the limit of process %d is %d; raise it (ulimit -Hn) or use fewer nodes", nodes, need, os.Getpid(), limit)
	}
	return err
}
