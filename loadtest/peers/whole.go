//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"
)

var (
	brokerListens = regexp.MustCompile(`embedded broker at ([0-9.:]+)`)
	serveListens  = regexp.MustCompile(`serves: nodes ([^ ,]+), API`)
)

// figures are the keys of "loadtest --json" that are used here; docs/LOADTEST.md.
type figures struct {
	ConnectPerS  float64  `json:"connect_per_s"`
	RSS          *float64 `json:"server_rss_bytes"`
	JobsPerS     float64  `json:"jobs_per_s"`
	P50Ms        float64  `json:"p50_ms"`
	P99Ms        float64  `json:"p99_ms"`
	ServerCPUUs  *float64 `json:"server_cpu_us_per_job"`
	LoadCPUUs    float64  `json:"simulator_cpu_us_per_job"`
	MeasuredJobs int      `json:"measured_jobs"`
	Lost         int      `json:"lost"`
	Duplicates   int      `json:"duplicates"`
	NotOK        int      `json:"not_ok"`
	Corrupt      int      `json:"corrupt"`
}

// fewNodes are enough for the server to give back the memory of its start when they have
// settled; what more nodes take is what these take.
const fewNodes = 1000

// whole measures the whole Roost: "roost serve" on an embedded broker in a process of its
// own, with the load of bin/loadtest. Jobs wait for the transaction that records them, so
// the window is a larger one.
func whole(ctx context.Context, at *place, s shape, t times) (r run, err error) {
	broker, m, err := announced(ctx, brokerListens, at.roost, "broker", "--listen", "127.0.0.1:0")
	if err != nil {
		return r, fmt.Errorf("the broker: %w", err)
	}
	defer broker.stop()
	kafka := m[0]
	hold := func(addr string, pid, nodes int) (figures, error) {
		return at.load(ctx, "hold", "--server", addr, "--server-pid", strconv.Itoa(pid), "--nodes", strconv.Itoa(nodes), "--duration", (2 * t.Settle).String(), "--json") // its second half counts
	}
	var few figures
	if s.Nodes >= 5*fewNodes { // else it would be lost in what two starts differ by
		srv, addr, err := at.serve(ctx, kafka)
		if err != nil {
			return r, err
		}
		few, err = hold(addr, srv.pid(), fewNodes)
		srv.stop()
		if err != nil {
			return r, err
		}
	}
	srv, addr, err := at.serve(ctx, kafka)
	if err != nil {
		return r, err
	}
	defer srv.stop()
	full, err := hold(addr, srv.pid(), s.Nodes)
	if err != nil {
		return r, err
	}
	jobs, err := at.load(ctx, "jobs", "--kafka", kafka, "--server", addr, "--server-pid", strconv.Itoa(srv.pid()), "--nodes", strconv.Itoa(s.Nodes),
		"--window", strconv.Itoa(s.Window), "--size", strconv.Itoa(bodyBytes), "--warmup", t.Warmup.String(), "--duration", (t.Warmup + t.Duration).String(), "--json")
	if err != nil {
		return r, err
	}
	if full.RSS == nil || jobs.ServerCPUUs == nil {
		return r, errors.New("loadtest did not measure the server")
	}
	if few.RSS != nil {
		r.BytesPerNode = (*full.RSS - *few.RSS) / float64(s.Nodes-fewNodes)
	}
	r.ConnectPerS = full.ConnectPerS
	r.JobsPerS, r.P50Ms, r.P99Ms, r.Jobs = jobs.JobsPerS, jobs.P50Ms, jobs.P99Ms, jobs.MeasuredJobs
	r.CPUUsPerJob, r.LoadCPUUs, r.ServerCPUShare = *jobs.ServerCPUUs, jobs.LoadCPUUs, *jobs.ServerCPUUs*jobs.JobsPerS/1e6
	r.Lost, r.Strange = jobs.Lost, jobs.Duplicates+jobs.NotOK+jobs.Corrupt
	return r, nil
}

// serve starts a member.
func (p *place) serve(ctx context.Context, kafka string) (*child, string, error) {
	c, m, err := announced(ctx, serveListens, p.roost, "serve", "--kafka", kafka, "--unsafe-embedded-broker",
		"--nodes-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0", "--log-level", "error")
	if err != nil {
		return nil, "", fmt.Errorf("roost serve: %w", err)
	}
	return c, m[0], nil
}

// load runs bin/loadtest.
func (p *place) load(ctx context.Context, args ...string) (f figures, err error) {
	var out bytes.Buffer // written until done
	c, err := spawn(&out, p.loadtest, args...)
	if err != nil {
		return f, err
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		c.stop()
		return f, ctx.Err()
	}
	if c.err != nil && out.Len() == 0 {
		return f, fmt.Errorf("loadtest %s: %w: %s", args[0], c.err, c.lastWords())
	}
	// One that lost a job says so by its exit code, and in its figures.
	if err := json.Unmarshal(out.Bytes(), &f); err != nil {
		return f, fmt.Errorf("loadtest %s says what cannot be understood: %w", args[0], err)
	}
	return f, nil
}

// longest is how long one measurement may take, whatever hangs.
const longest = 3 * time.Minute
