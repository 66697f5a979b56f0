//go:build !race

package shard

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAJobCostsFewAllocations holds what BenchmarkShardStep shows: of a job its own
// struct, and what is remembered of it, beside the two of the input; results and texts
// share theirs.
func TestAJobCostsFewAllocations(t *testing.T) {
	step := shardStep(t)
	for range 200 {
		step()
	}
	require.LessOrEqual(t, testing.AllocsPerRun(100, step)/stepJobs, 4.5)
}
