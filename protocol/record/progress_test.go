package record

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestProgress(t *testing.T) {
	p := Progress{Partition: 3, Offset: 1041, JobMs: 1790000000000, TimeMs: 1790000000431, Member: "roost-1"}
	require.Equal(t, "3", p.Key())
	require.Equal(t, `x{"partition":3,"offset":1041,"job_ms":1790000000000,"time_ms":1790000000431,"member":"roost-1"}`, string(AppendProgress([]byte("x"), &p)))
	got, err := ParseProgress([]byte(` {"later":{"a":[1]},"member":"m","offset":7} `))
	require.NoError(t, err)
	require.Equal(t, Progress{Offset: 7, Member: "m"}, got)
	for value, why := range map[string]string{
		"": "JSON", "{": "JSON", "7": "a map is expected", `{"offset":-1}`: "offset: -1", `{"offset":1.0}`: "offset: an integer", `{"offset":null}`: "offset: an integer",
		`{"partition":2147483648}`: "partition: 2147483648", `{"partition":-1}`: "partition: -1", `{"member":1}`: "member: a string", `{"time_ms":"x"}`: "time_ms: an integer",
		`{} {}`: "JSON", "\x80": "JSON",
	} {
		_, err := ParseProgress([]byte(value))
		require.ErrorContains(t, err, why, value)
	}
}

func TestProgressRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Progress{Partition: rapid.Int32Min(0).Draw(t, "partition"), Offset: rapid.Int64Min(0).Draw(t, "offset"),
			JobMs: rapid.Int64().Draw(t, "job"), TimeMs: rapid.Int64().Draw(t, "time"), Member: rapid.String().Draw(t, "member")}
		b := AppendProgress(nil, &p)
		got, err := ParseProgress(b)
		require.NoError(t, err)
		require.Equal(t, p, got)
		var v struct {
			Partition int32
			Offset    int64
			Member    string
		}
		require.NoError(t, json.Unmarshal(b, &v))
		require.Equal(t, p.Partition, v.Partition)
		require.Equal(t, p.Offset, v.Offset)
		require.Equal(t, p.Member, v.Member)
	})
}
