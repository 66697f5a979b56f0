//go:build !race

package shard

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAJobCostsFewAllocations holds what BenchmarkShardStep shows: of a job its own
// struct, beside the two of the input; results and texts share theirs, and what is
// remembered of it takes the place of another.
func TestAJobCostsFewAllocations(t *testing.T) {
	step := shardStep(t)
	for range 200 {
		step()
	}
	require.LessOrEqual(t, testing.AllocsPerRun(100, step)/stepJobs, 3.5)
}
