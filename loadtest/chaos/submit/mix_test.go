package submit

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/loadtest/chaos/checker"
	"github.com/roost-server/roost/loadtest/chaos/nodes"
	"github.com/roost-server/roost/protocol/record"
)

// TestMix holds what the submitter says of its records against what the records are.
func TestMix(t *testing.T) {
	t.Parallel()
	var ids []string
	for i := range 50 {
		ids = append(ids, nodes.ID("n-", i))
	}
	m := newMix(rand.New(rand.NewPCG(1, 2)), ids, 8)
	classes := map[string]int{}
	keys := map[string]string{} // by job id
	for i := range 20_000 {
		r := m.next(1_790_000_000_000 + int64(i)*3)
		classes[r.sub.Class]++
		contentType := ""
		for _, h := range r.headers {
			contentType = string(h.Value)
		}
		enc, err := record.Detect(contentType, r.value)
		require.NoError(t, err)
		job, err := record.ParseJob(contentType, r.value)
		if r.sub.What == checker.Invalid {
			require.Error(t, err, "%q is taken", r.value)
			continue
		}
		require.NoError(t, err, "%s: %q", r.sub.Class, r.value)
		require.Equal(t, r.sub.ID, job.ID)
		if key, known := keys[job.ID]; known {
			require.Equal(t, record.Partition(key, 8), record.Partition(r.key, 8), "records of one job go to one partition")
		}
		keys[job.ID] = r.key
		require.Equal(t, r.sub.What == checker.Cancel, job.Cancel)
		if job.Cancel {
			continue
		}
		require.Equal(t, r.sub.Size(), job.Target.Size())
		require.LessOrEqual(t, r.sub.Size(), 64)
		require.Equal(t, r.sub.Kind, job.Kind)
		require.Equal(t, r.sub.Tenant, job.Tenant)
		require.Equal(t, r.sub.JSON, enc == record.JSON)
		require.EqualValues(t, r.sub.Attempts, job.Attempts)
		require.NotEmpty(t, r.sub.Allowed)
	}
	total := 0
	for _, s := range sorts {
		total += s.weight
		require.Positive(t, classes[s.class], s.class)
	}
	require.Equal(t, 1000, total)
	require.Positive(t, classes["cancel"])
	require.Positive(t, classes["duplicate's second"])
}
