package shard

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors"
	"github.com/roost-server/roost/protocol"
	"github.com/roost-server/roost/protocol/record"
)

// endedWith returns the write of a job that ended with this result.
func endedWith(t *testing.T, enc record.Encoding, r actors.Result) *Write {
	c, eff := newCore(DefaultConfig())
	j := record.Job{ID: "a", Target: record.Target{Node: "n"}, Encoding: enc}
	c.Records(t0, []actors.Record{{TimestampMs: t0, Value: value(t, j)}}, eff)
	b := actors.NewFromGate(1)
	r.Node, r.JobID = "n", []byte("a")
	b.Results = append(b.Results, r)
	c.FromGate(t0, b, eff)
	var batch Batch
	require.True(t, c.Cut(t0, &batch))
	require.Equal(t, 1, batch.Outcomes)
	return &batch.Writes[0]
}

func TestDropOutput(t *testing.T) {
	for _, enc := range []record.Encoding{record.Msgpack, record.JSON} {
		w := endedWith(t, enc, actors.Result{Outcome: protocol.OutcomeFailed, Error: []byte("it broke"), Output: []byte{0xa2, 'h', 'i'}})
		require.Equal(t, "a", string(w.Key))
		require.Equal(t, enc, w.Encoding)
		before := bytes.Clone(w.Value)
		require.True(t, w.DropOutput(errors.New("too large")))
		require.NotEqual(t, before, w.Value)
		r, err := record.ParseResult(enc.ContentType(), w.Value)
		require.NoError(t, err)
		require.Empty(t, r.Output)
		require.Equal(t, "it broke (output dropped, Kafka refused it: too large)", r.Error)
		require.Equal(t, protocol.OutcomeFailed, r.Outcome)
		require.False(t, w.DropOutput(errors.New("too large")), "it has none")
	}
	require.False(t, (&Write{Stream: State, Value: []byte{1}}).DropOutput(errors.New("x")))
	require.False(t, (&Write{Stream: Results, Value: []byte{0xc1}}).DropOutput(errors.New("x")))
}

// TestAJobThatIsTooLarge for a record of ours is refused, and its dead record made
// smaller when it is too large as well.
func TestAJobThatIsTooLarge(t *testing.T) {
	cfg := DefaultConfig()
	cfg.MaxJobBytes = 1000
	c, eff := newCore(cfg)
	large := record.Job{ID: "a", Target: record.Target{Node: "n"}, Args: append([]byte{0xc5, 4, 0}, make([]byte, 1024)...)}
	c.Records(t0, []actors.Record{{Offset: 3, TimestampMs: t0, Value: value(t, large)}}, eff)
	var b Batch
	require.True(t, c.Cut(t0, &b))
	w := &b.Writes[0]
	require.Equal(t, Dead, w.Stream)
	require.Regexp(t, `^the record has 1\d\d\d bytes as msgpack; at most 1000 are allowed$`, w.Reason)
	require.True(t, w.DropOutput(errors.New("too large")))
	require.Nil(t, w.Record.Value)
	require.Contains(t, w.Reason, "1000 are allowed (value dropped, Kafka refused it: too large)")
	require.False(t, w.DropOutput(errors.New("too large")))
	require.Equal(t, uint64(1), c.Stats().Invalid)
}

// TestAnOutputThatCannotBeWritten is recorded without it.
func TestAnOutputThatCannotBeWritten(t *testing.T) {
	w := endedWith(t, record.JSON, actors.Result{Outcome: protocol.OutcomeOK, Output: []byte{0xc1}})
	r, err := record.ParseResult("", w.Value)
	require.NoError(t, err)
	require.Equal(t, protocol.OutcomeOK, r.Outcome)
	require.Empty(t, r.Output)
	require.Contains(t, r.Error, "output dropped")
}

// TestOverfull checks each of the bounds, and that none is both over and under.
func TestOverfull(t *testing.T) {
	fill := func(cfg Config, end bool) (full int) {
		c, eff := newCore(cfg)
		for i := range 100 {
			j := record.Job{ID: fmt.Sprint(i), Target: record.Target{Node: "n"}, Args: append([]byte{0xc4, 100}, make([]byte, 100)...)}
			if end {
				j.DeadlineMs = 1
			}
			c.Records(t0, []actors.Record{{Offset: int64(i), Value: value(t, j)}}, eff)
			require.False(t, c.Overfull() && c.Hungry())
			if c.Overfull() {
				return i + 1
			}
		}
		return 0
	}
	big := DefaultConfig()
	require.Zero(t, fill(big, false))
	require.Zero(t, fill(big, true))
	for name, x := range map[string]struct {
		change func(*Config)
		end    bool
		low    int
		high   int
	}{
		"jobs":            {func(c *Config) { c.MaxPending = 7 }, false, 7, 7},
		"bytes":           {func(c *Config) { c.MaxPendingBytes = 6000 }, false, 8, 14},
		"one job":         {func(c *Config) { c.MaxPendingBytes = 1 }, false, 1, 1},
		"outcomes":        {func(c *Config) { c.MaxUncommitted = 5 }, true, 5, 5},
		"result bytes":    {func(c *Config) { c.MaxUncommittedBytes = 2000 }, true, 5, 12},
		"with the result": {func(c *Config) { c.MaxPendingBytes = 6000 }, true, 5, 10},
	} {
		cfg := big
		x.change(&cfg)
		n := fill(cfg, x.end)
		require.True(t, n >= x.low && n <= x.high, "%s: %d", name, n)
	}
}

// TestUncommittedOutcomesAreGivenBack has Kafka away for a while.
func TestUncommittedOutcomesAreGivenBack(t *testing.T) {
	cfg := DefaultConfig()
	cfg.MaxUncommitted = 10
	c, eff := newCore(cfg)
	offset := int64(0)
	end := func(n int) {
		for range n {
			v := value(t, record.Job{ID: fmt.Sprint(offset), Target: record.Target{Node: "n"}, DeadlineMs: 1})
			c.Records(t0, []actors.Record{{Offset: offset, Value: v}}, eff)
			offset++
		}
	}
	end(6)
	var first, second Batch
	require.True(t, c.Cut(t0, &first))
	require.False(t, c.Cut(t0, &second), "one at a time")
	end(4)
	require.True(t, c.Overfull())
	require.Equal(t, 10, c.Status().Uncommitted)
	c.Committed(t0, &second, eff) // not ours
	require.Equal(t, 10, c.Status().Uncommitted)
	eff.Reset()
	c.Committed(t0, &first, eff)
	require.True(t, eff.Dirty, "there is more")
	require.True(t, c.Hungry())
	require.Equal(t, 4, c.Status().Uncommitted)
	require.True(t, c.Cut(t0, &second))
	eff.Reset()
	c.Committed(t0, &second, eff)
	require.False(t, eff.Dirty)
	require.Zero(t, c.Status().Uncommitted)
	require.Zero(t, c.books.bytes)
}
