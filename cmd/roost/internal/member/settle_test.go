package member

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSettling(t *testing.T) {
	var s settling
	now := time.Unix(0, 0)
	run := func(counts ...int64) (freed []int) {
		for i, n := range counts {
			now = now.Add(time.Second)
			if s.tick(now, n) {
				freed = append(freed, i)
			}
		}
		return freed
	}
	require.Empty(t, run(0, 0, 0, 0), "nothing has changed")
	require.Empty(t, run(500, 500, 500, 500), "too little to matter")
	require.Equal(t, []int{4}, run(5000, 10000, 15000, 15000, 15010, 15010, 15010, 15010), "once, after the ramp is over")
	require.Empty(t, run(15100, 15100, 15100, 15100), "a small part of the fleet")
	require.Empty(t, run(9000, 9000, 9000, 9000), "not twice within a minute")
	now = now.Add(time.Minute)
	require.Equal(t, []int{0}, run(9000, 9000), "the minute is over")
}
