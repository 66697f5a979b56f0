//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/actors/shard"
	"github.com/roost-server/roost/actors/supervisor"
)

// life is the number of each shard's only life.
const life = 1

const (
	readBytes     = 64 << 10 // read from the dispatcher at once, at most
	maxFrameBytes = 1 << 20
	frameHead     = 4     // the length
	jobHead       = 4 + 2 // partition and length of the key
)

// seam is in Kafka's place: what the dispatcher sends is fed to the shards, and what
// they cut goes back to it. Shards and gates call it from their goroutines.
type seam struct {
	net.Listener
	router   *supervisor.Router
	fail     func(error)
	interval time.Duration
	outcomes int

	offsets []int64           // of the next record, by partition; the reader's
	batches []*actors.Records // by partition, of one read; the reader's
	out     []byte            // the cutter's
	cuts    []*shard.Batch    // the cutter's
	reply   chan *shard.Batch // the cutter's
	ask     []uint32          // the cutter's
	done    sync.WaitGroup    // reader and cutter
	wake    chan struct{}     // capacity 1
	closed  func() error      // of the listener, once

	mu     sync.Mutex
	hungry *sync.Cond // no shard has enough, or the end
	paused int        // shards that have enough
	ended  bool
	dirty  []bool // by partition
	list   []uint32
	since  time.Time
	fresh  int
	conn   net.Conn // the dispatcher's; nil without one
}

func newSeam(cfg settings, router *supervisor.Router, fail func(error)) (*seam, error) {
	l, err := net.Listen("tcp", cfg.dispatch)
	if err != nil {
		return nil, fmt.Errorf("-dispatch: %w", err)
	}
	s := &seam{
		Listener: l, router: router, fail: fail, interval: cfg.cutInterval, outcomes: cfg.cutOutcomes,
		offsets: make([]int64, cfg.partitions), batches: make([]*actors.Records, cfg.partitions),
		reply: make(chan *shard.Batch, cfg.partitions), wake: make(chan struct{}, 1),
		dirty: make([]bool, cfg.partitions), closed: sync.OnceValue(l.Close),
	}
	s.hungry = sync.NewCond(&s.mu)
	return s, nil
}

// run starts the goroutines, which end with ctx and close.
func (s *seam) run(ctx context.Context) {
	s.done.Go(s.accept)
	s.done.Go(func() { s.cutter(ctx) })
}

// close ends them, when the context of run has ended.
func (s *seam) close() error {
	err := s.closed()
	s.mu.Lock()
	s.ended = true
	if s.conn != nil {
		s.conn.Close()
	}
	s.mu.Unlock()
	s.hungry.Broadcast()
	s.done.Wait()
	return err
}

// Send implements gate.Shards.
func (s *seam) Send(shard uint32, b *actors.FromGate) bool {
	if s.router.ToShard(shard, b) {
		return true
	}
	b.Release()
	return false
}

// Taken implements shard.Feed.
func (s *seam) Taken(int32, int) {}

// Pause implements shard.Feed.
func (s *seam) Pause(int32) { s.pause(1) }

// Resume implements shard.Feed.
func (s *seam) Resume(int32) { s.pause(-1) }

func (s *seam) pause(n int) {
	s.mu.Lock()
	s.paused += n
	s.mu.Unlock()
	s.hungry.Broadcast()
}

// Rebuild implements shard.Feed. There is nothing to rebuild from: who starts the shard
// says so to it.
func (s *seam) Rebuild(int32) uint64 { return life }

// Dirty implements shard.Ledger.
func (s *seam) Dirty(shard uint32, outcomes int) {
	s.mu.Lock()
	first := len(s.list) == 0
	if first {
		s.since = time.Now()
	}
	if !s.dirty[shard] {
		s.dirty[shard] = true
		s.list = append(s.list, shard)
	}
	before := s.fresh
	s.fresh += outcomes
	full := before < s.outcomes && s.fresh >= s.outcomes
	s.mu.Unlock()
	if first || full {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// due returns how long to wait until the next cut; false when there is nothing to cut.
func (s *seam) due() (time.Duration, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case len(s.list) == 0:
		return 0, false
	case s.fresh >= s.outcomes:
		return 0, true
	}
	return max(0, time.Until(s.since.Add(s.interval))), true
}

// cutter asks dirty shards for what they have, writes that, and gives it back as
// committed.
func (s *seam) cutter(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait, some := s.due()
		if some && wait == 0 {
			s.cut(ctx)
			continue
		}
		if !some {
			wait = time.Hour
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-timer.C:
		}
	}
}

func (s *seam) cut(ctx context.Context) {
	s.mu.Lock()
	s.ask = append(s.ask[:0], s.list...)
	s.list, s.fresh = s.list[:0], 0
	clear(s.dirty)
	conn := s.conn
	s.mu.Unlock()
	asked := 0
	for _, p := range s.ask {
		if s.router.ToShard(p, &shard.Cut{Reply: s.reply}) {
			asked++
		}
	}
	s.out, s.cuts = s.out[:0], s.cuts[:0]
	for ; asked > 0; asked-- {
		select {
		case <-ctx.Done():
			return
		case b := <-s.reply:
			if b != nil {
				s.cuts = append(s.cuts, b)
				s.results(b)
			}
		}
	}
	if len(s.out) > 0 && conn != nil {
		_, _ = conn.Write(s.out) // when it is gone, its reader says so
	}
	for _, b := range s.cuts {
		s.router.ToShard(b.Shard, &shard.Committed{Batch: b})
	}
}

// results appends a cut's results; its state is for a restart, and here is none.
func (s *seam) results(b *shard.Batch) {
	for i := range b.Writes {
		w := &b.Writes[i]
		switch w.Stream {
		case shard.Results:
			s.out = binary.BigEndian.AppendUint32(s.out, uint32(len(w.Value)))
			s.out = append(s.out, w.Value...)
		case shard.Dead:
			s.fail(fmt.Errorf("a job record was refused: %s", w.Reason))
		}
	}
}

// accept serves one dispatcher after the other.
func (s *seam) accept() {
	for {
		conn, err := s.Accept()
		if err != nil {
			return // closed
		}
		if !s.serves(conn) {
			return
		}
		if err := s.read(conn); err != nil {
			s.fail(fmt.Errorf("from the dispatcher: %w", err))
		}
		s.serves(nil)
		conn.Close()
	}
}

// serves sets who gets the results; false after the end.
func (s *seam) serves(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended && conn != nil {
		conn.Close()
		return false
	}
	s.conn = conn
	return true
}

// read feeds the shards until the dispatcher leaves.
func (s *seam) read(conn net.Conn) error {
	buf := make([]byte, readBytes)
	have := 0
	for {
		n, err := conn.Read(buf[have:])
		if err != nil {
			return nil // it left, or the server stops
		}
		have += n
		rest, err := s.feed(bytes.Clone(buf[:have])) // which the records keep
		if err != nil {
			return err
		}
		if have = len(rest); have == len(buf) {
			buf = make([]byte, 2*have)
		}
		copy(buf, rest)
	}
}

// feed gives the whole records in b to their shards, in one batch each, and returns what
// is left.
func (s *seam) feed(b []byte) ([]byte, error) {
	now := nowMs()
	for len(b) >= frameHead {
		size := int(binary.BigEndian.Uint32(b))
		if size < jobHead || size > maxFrameBytes {
			return nil, fmt.Errorf("a frame of %d bytes; allowed are %d to %d", size, jobHead, maxFrameBytes)
		}
		if len(b) < frameHead+size {
			break
		}
		frame := b[frameHead : frameHead+size : frameHead+size]
		b = b[frameHead+size:]
		p, key := binary.BigEndian.Uint32(frame), int(binary.BigEndian.Uint16(frame[4:]))
		if int(p) >= len(s.offsets) || jobHead+key > size {
			return nil, errors.New("a frame whose partition or key is out of bounds")
		}
		batch := s.batches[p]
		if batch == nil {
			batch = &actors.Records{Epoch: life}
			s.batches[p] = batch
		}
		batch.Records = append(batch.Records, actors.Record{Offset: s.offsets[p], TimestampMs: now,
			Key: frame[jobHead : jobHead+key], Value: frame[jobHead+key:]})
		s.offsets[p]++
	}
	for p, batch := range s.batches {
		if batch != nil {
			s.batches[p] = nil
			s.router.ToShard(uint32(p), batch)
		}
	}
	s.rest()
	return b, nil
}

// rest waits while a shard has enough.
func (s *seam) rest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.paused > 0 && !s.ended {
		s.hungry.Wait()
	}
}

var (
	_ shard.Feed   = (*seam)(nil)
	_ shard.Ledger = (*seam)(nil)
)
