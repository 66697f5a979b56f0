package shard

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestWatermarkAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := NewWatermark()
		type entry struct {
			offset int64
			done   bool
		}
		var entries []entry
		offset := int64(rapid.IntRange(0, 5).Draw(t, "first"))
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			before := w.Next()
			if len(entries) == 0 || rapid.Bool().Draw(t, "add") {
				require.Equal(t, uint64(len(entries)), w.Add(offset))
				entries = append(entries, entry{offset: offset})
				offset += int64(rapid.IntRange(1, 4).Draw(t, "gap"))
				require.Equal(t, before, w.Next(), "Add moves nothing")
			} else { // also those that are done already
				i := rapid.IntRange(0, len(entries)-1).Draw(t, "which")
				entries[i].done = true
				next, moved := w.Done(uint64(i))
				require.Equal(t, next, w.Next())
				require.Equal(t, next != before, moved)
			}
			want, open := int64(-1), len(entries)
			for _, e := range entries {
				if !e.done {
					break
				}
				want = e.offset + 1
				open--
			}
			require.Equal(t, want, w.Next())
			require.Equal(t, open, w.Open())
		}
	})
}

func TestWatermarkIgnoresWhatItDoesNotKnow(t *testing.T) {
	w := NewWatermark()
	next, moved := w.Done(0)
	require.Equal(t, int64(-1), next)
	require.False(t, moved)
	seq := w.Add(7)
	_, moved = w.Done(seq + 1)
	require.False(t, moved)
	next, moved = w.Done(seq)
	require.Equal(t, int64(8), next)
	require.True(t, moved)
	_, moved = w.Done(seq)
	require.False(t, moved, "done twice")
}
