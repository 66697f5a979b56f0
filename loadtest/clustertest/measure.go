//go:build linux

package main

import (
	"maps"
	"slices"
	"time"

	"github.com/roost-server/roost/loadtest/chaos/nodes"
)

// Limits of the figures. They are far above what a healthy cluster shows on a machine of
// two processors, and far below what a user would call an outage.
const (
	backLimit    = 45 * time.Second // until the last lost socket is back
	shardLimit   = 30 * time.Second // until the last shard of a lost member works elsewhere
	p99Limit     = 2 * time.Second  // of jobs that have nothing to do with what is broken
	p99Growth    = 10               // or this many times what it was before
	recoverLimit = 5 * time.Second  // of jobs that are submitted once all is well
)

// event is what a scenario did to some of the members.
type event struct {
	stage    *stage
	hit      []*member
	begin    time.Time
	end      time.Time        // when it was healed
	shards   map[int32]string // that the hit members owned
	affected map[string]bool  // nodes that had their session with one of them
}

// strike notes what is there just before something breaks.
func (s *stage) strike(hit ...*member) *event {
	e := &event{stage: s, hit: hit, shards: map[int32]string{}, affected: map[string]bool{}}
	for p, name := range s.load.owners() {
		if e.isHit(name) {
			e.shards[p] = name
		}
	}
	h := s.history()
	e.begin = time.Now()
	for _, m := range hit {
		for node := range h.at(m.Name, e.begin) {
			e.affected[node] = true
		}
	}
	return e
}

// over notes that it is healed.
func (e *event) over() { e.end = time.Now() }

func (e *event) isHit(name string) bool {
	for _, m := range e.hit {
		if m.Name == name {
			return true
		}
	}
	return false
}

// aside tells which jobs have nothing to do with the hit members: neither their shard
// nor their node.
func (e *event) aside(partition int32, node string) bool {
	_, moved := e.shards[partition]
	return !moved && (!e.stage.single() || !e.affected[node])
}

// single tells whether a node has one session, and not one to each member.
func (s *stage) single() bool { return s.can.cluster || s.entry != "" }

// others judges what must not notice: jobs and sockets of members that were not hit.
func (e *event) others() {
	s := e.stage
	before, beforeC := s.load.latencies(e.begin.Add(-baseline), e.begin.Add(-time.Second), e.aside)
	during, duringC := s.load.latencies(e.begin, e.end, e.aside)
	was, is := quantile(before, 0.99), quantile(during, 0.99)
	s.figure("p99_others_before_ms", ms(was))
	s.figure("p99_others_during_ms", ms(is))
	s.figure("p50_others_during_ms", ms(quantile(during, 0.5)))
	s.figure("p99_others_committed_before_ms", ms(quantile(beforeC, 0.99)))
	s.figure("p99_others_committed_during_ms", ms(quantile(duringC, 0.99)))
	s.show("jobs of other shards and nodes: p99 %v before, %v during (%d, %d jobs); to readers of committed results %v, %v",
		round(was), round(is), len(before), len(during), round(quantile(beforeC, 0.99)), round(quantile(duringC, 0.99)))
	if is > max(p99Limit, p99Growth*was) {
		s.fail("p99 of jobs that were not concerned went from %v to %v", round(was), round(is))
	}
	fell := s.history().downs(e.begin, e.end, func(c *nodes.Change) bool { return !e.isHit(c.Member) })
	s.figure("others_sockets_lost", float64(len(fell)))
	s.show("sockets of other members that fell: %d", len(fell))
	if len(fell) > 0 {
		s.fail("%d sockets of members that nothing happened to fell: %s", len(fell), fell.examples())
	}
}

// moves judges how fast the shards of the hit members worked again elsewhere.
func (e *event) moves() {
	s := e.stage
	took, none := s.load.moved(e.shards, e.begin)
	last := quantile(took, 1)
	s.figure("moved_shards", float64(len(e.shards)))
	s.figure("shards_again_ms", ms(last))
	s.show("%d shards moved: worked again after %v (first) to %v (last)", len(e.shards), round(quantile(took, 0)), round(last))
	if none > 0 || last > shardLimit {
		s.fail("shards of the lost member: %d never worked elsewhere, the last after %v; the limit is %v", none, round(last), shardLimit)
	}
}

// returns judges how the sockets of the hit members came back.
func (e *event) returns() {
	s, h := e.stage, e.stage.history()
	took, spread := h.returned(e.affected, e.begin)
	busiest := h.busiest(e.begin, time.Now())
	last := quantile(took, 1)
	s.figure("sockets_lost", float64(len(e.affected)))
	s.figure("sockets_back_p50_ms", ms(quantile(took, 0.5)))
	s.figure("sockets_back_ms", ms(last))
	s.figure("connects_per_s_max", float64(busiest))
	if len(took) > 0 {
		s.figure("sockets_back_largest_share", float64(slices.Max(slices.Collect(maps.Values(spread))))/float64(len(took)))
	}
	s.show("%d sockets lost: back after %v (half), %v (99 %%), %v (all), at %s; %d connects/s at most", len(e.affected),
		round(quantile(took, 0.5)), round(quantile(took, 0.99)), round(last), describe(spread), busiest)
	if missing := len(e.affected) - len(took); missing > 0 {
		s.fail("%d of %d lost sockets never came back", missing, len(e.affected))
	} else if s.single() && last > backLimit {
		s.fail("the last lost socket was back after %v; the limit is %v", round(last), backLimit)
	}
}

// stays judges that no socket fell at all.
func (e *event) stays() {
	s := e.stage
	fell := s.history().downs(e.begin, time.Now(), func(*nodes.Change) bool { return true })
	s.figure("sockets_lost", float64(len(fell)))
	s.show("sockets that fell: %d", len(fell))
	if len(fell) > 0 {
		s.fail("%d sockets fell: %s", len(fell), fell.examples())
	}
}

// recovers judges jobs of all shards and nodes that were submitted a while after the
// end.
func (e *event) recovers() {
	s := e.stage
	all := func(int32, string) bool { return true }
	from := e.end.Add(aftermath / 2)
	_, took := s.load.latencies(from, time.Now(), all)
	is := quantile(took, 0.99)
	pause := s.load.longestPause(e.begin, e.end, func(int32) bool { return true })
	s.figure("p99_after_ms", ms(is))
	s.figure("longest_pause_ms", ms(pause))
	s.show("longest pause of a shard %v; p99 of all jobs %v once it was over (%d jobs)", round(pause), round(is), len(took))
	if s.single() && !s.can.cluster {
		return // jobs for nodes of another member wait for ever
	}
	if is > recoverLimit {
		s.fail("p99 of jobs submitted %v after all was well is %v; the limit is %v", aftermath/2, round(is), recoverLimit)
	}
}

func ms(d time.Duration) float64 { return float64(d.Milliseconds()) }

func round(d time.Duration) time.Duration {
	if d > 10*time.Second {
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(time.Millisecond)
}
