package shard

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-server/roost/actors"
)

func TestTimersComeInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var h timers
		all := make([]assignment, 20)
		due := map[*assignment]int64{}
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			x := &all[rapid.IntRange(0, len(all)-1).Draw(t, "timer")]
			if rapid.IntRange(0, 3).Draw(t, "op") == 0 {
				h.stop(x)
				delete(due, x)
				require.Zero(t, x.slot)
				require.Zero(t, h.at(x))
				continue
			}
			due[x] = rapid.Int64Range(1, 50).Draw(t, "due")
			h.set(x, due[x])
			require.Equal(t, due[x], h.at(x))
		}
		now := rapid.Int64Range(0, 60).Draw(t, "now")
		last := int64(-1)
		for len(h) > 0 && h[0].dueMs <= now {
			dueMs := h[0].dueMs
			x := h.due(now)
			require.Equal(t, due[x], dueMs)
			require.GreaterOrEqual(t, dueMs, last)
			last = dueMs
			delete(due, x)
		}
		require.Nil(t, h.due(now))
		require.Len(t, h, len(due))
		for _, d := range due {
			require.Greater(t, d, now)
		}
	})
}

// add takes in a summary.
func (r *recent) add(s *Summary) {
	*r.next() = *s
	r.keep()
}

func TestRecentIsBounded(t *testing.T) {
	var r recent
	for i := range recentJobs + 10 {
		r.add(&Summary{ID: fmt.Sprint(i)})
	}
	require.Equal(t, recentJobs, r.count)
	require.Nil(t, r.find("9"))
	require.Equal(t, "10", r.find("10").ID)
	want := recentJobs + 9
	r.each(func(s *Summary) bool {
		require.Equal(t, fmt.Sprint(want), s.ID)
		want--
		return want > recentJobs
	})

	// By bytes: jobs with large results push out more than one each.
	for i := range 100 {
		r.add(&Summary{ID: fmt.Sprint("large", i), Results: [][]byte{make([]byte, recentBytes/8)}})
		require.LessOrEqual(t, r.bytes, recentBytes)
	}
	require.Equal(t, 7, r.count)
	sum := 0
	r.each(func(s *Summary) bool { sum += s.size(); return true })
	require.Equal(t, sum, r.bytes)

	// One that is too large for itself keeps its first results, and some others stay.
	huge := &Summary{ID: "huge", Targets: 10_000}
	for range huge.Targets {
		huge.Results = append(huge.Results, make([]byte, 4096))
	}
	r.add(huge)
	require.LessOrEqual(t, r.bytes, recentBytes)
	require.NotEmpty(t, r.find("huge").Results)
	require.NotNil(t, r.find("large99"))

	// An id that came again while it was remembered is not forgotten with its older self.
	r = recent{}
	r.add(&Summary{ID: "same"})
	r.add(&Summary{ID: "same", Targets: 2})
	for i := range recentJobs - 1 {
		r.add(&Summary{ID: fmt.Sprint(i)})
	}
	require.Equal(t, 2, r.find("same").Targets)
}

func TestEarlyIsBoundedAndKeepsItsOwnBytes(t *testing.T) {
	e := newEarly()
	out := []byte("output")
	for i := range earlyResults + 10 {
		e.add(1, &actors.Result{Node: "n", JobID: fmt.Append(nil, i), Output: out}, int64(i))
	}
	require.Len(t, e.byKey, earlyResults)
	out[0] = 'X'
	er := e.take("0", "n")
	require.Equal(t, "output", string(er.result.Output))
	require.Nil(t, e.take("0", "n"), "taken once")
	require.Nil(t, e.take("0", "m"))
	due, ok := e.next()
	require.True(t, ok)
	require.Equal(t, int64(1), due, "what was taken is not due")
	n := 0
	for er := e.expired(100); er != nil; er = e.expired(100) {
		n++
	}
	require.Equal(t, 100, n)
	for er := e.expired(1 << 40); er != nil; er = e.expired(1 << 40) {
		n++
	}
	require.Equal(t, earlyResults-1, n)
	require.Zero(t, e.bytes)
	require.Empty(t, e.byKey)
	_, ok = e.next()
	require.False(t, ok)

	// What was taken does not pile up behind one that waits.
	e.add(1, &actors.Result{Node: "n", JobID: []byte("waits")}, 1)
	for i := range 10 * earlyResults {
		e.add(1, &actors.Result{Node: "n", JobID: fmt.Append(nil, i), Output: out}, 2)
		require.NotNil(t, e.take(fmt.Sprint(i), "n"))
	}
	require.LessOrEqual(t, len(e.fifo), 2*earlyResults+1)
	require.Equal(t, "waits", string(e.expired(1).result.JobID))

	large := bytes.Repeat([]byte{1}, earlyBytes/4+1)
	for i := range 10 {
		e.add(1, &actors.Result{Node: "n", JobID: fmt.Append(nil, i), Output: large}, 1)
	}
	require.Len(t, e.byKey, 3)
	require.LessOrEqual(t, e.bytes, earlyBytes)

	// The same key again after it was taken is another result, with another due time.
	e.take("0", "n")
	e.add(2, &actors.Result{Node: "n", JobID: []byte("0")}, 9)
	require.Equal(t, uint32(2), e.take("0", "n").gate)
}
