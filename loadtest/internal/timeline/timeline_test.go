package timeline

import (
	"encoding/json"
	"testing"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/stretchr/testify/require"
)

func TestKeysAreKept(t *testing.T) {
	b, err := json.Marshal(Timeline{
		Phases:  []Phase{{}},
		Storms:  []Storm{{}},
		Samples: []Sample{{Whole: &Latency{Buckets: []byte("x")}, Servers: []Process{{}}}},
	})
	require.NoError(t, err)
	require.Equal(t, `{"meta":{"scenario":"","yaml":"","command":null,"seed":0,"started_at":"0001-01-01T00:00:00Z",`+
		`"machine":{"cpu":"","cores":0,"memory_bytes":0,"kernel":"","guest":false},"versions":null,"workers":null},`+
		`"phases":[{"name":"","begin_ms":0,"end_ms":0}],`+
		`"samples":[{"at_ms":0,"connected":0,"sessions":0,"broken":0,"submitted":0,"delivered":0,"answered":0,"recorded":0,`+
		`"duplicates":0,"not_ok":0,"unacked":0,"whole":{"count":0,"p50_ms":0,"p99_ms":0,"p999_ms":0,"max_ms":0,"buckets":"eA=="},`+
		`"servers":[{"name":"","cpu_ms":0,"rss_bytes":0}],"load":{"name":"","cpu_ms":0,"rss_bytes":0}}],`+
		`"account":{"nodes":0,"connected":0,"jobs":0,"submitted":0,"delivered":0,"answered":0,"recorded":0,"lost":0,"twice":0,`+
		`"outcomes":null,"connect_took_ms":0},"storms":[{"phase":"","at_ms":0,"cut":0,"reconnected_ms":0,"recovered_ms":0}],"problems":null}`, string(b))
}

func latency(t *testing.T, highest int64, values ...int64) *Latency {
	t.Helper()
	h := hdrhistogram.New(1, highest, 3)
	for _, v := range values {
		require.NoError(t, h.RecordValue(v))
	}
	l, err := NewLatency(h)
	require.NoError(t, err)
	return l
}

func TestLatenciesAddUp(t *testing.T) {
	require.Nil(t, latency(t, 1000))
	one, two := latency(t, 1_000_000, 1000, 2000, 3000), latency(t, 1_000_000, 100_000)
	require.EqualValues(t, 3, one.Count)
	require.InEpsilon(t, 2.0, one.P50Ms, 0.001)
	require.InEpsilon(t, 3.0, one.MaxMs, 0.001)
	sum, err := Add(nil, one, nil, two)
	require.NoError(t, err)
	require.EqualValues(t, 4, sum.Count)
	require.InEpsilon(t, 2.0, sum.P50Ms, 0.001)
	require.InEpsilon(t, 100.0, sum.MaxMs, 0.001)
	require.EqualValues(t, 3, one.Count)

	none, err := Add(nil, nil)
	require.NoError(t, err)
	require.Nil(t, none)
	h, err := (&Latency{Count: 3}).Histogram()
	require.NoError(t, err)
	require.Nil(t, h)

	_, err = Add(latency(t, 2_000, 10), two)
	require.ErrorContains(t, err, "beyond the range")
	for _, bad := range []string{"x", "AAAA", "HISTFAAAAAR4nA=="} {
		_, err = Add(&Latency{Count: 1, Buckets: []byte(bad)})
		require.Error(t, err, bad)
	}
}
