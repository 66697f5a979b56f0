package record

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The values of testMurmur2 in Kafka's own UtilsTest.
func TestMurmur2OfKafka(t *testing.T) {
	for key, want := range map[string]int32{
		"21":                         -973932308,
		"foobar":                     -790332482,
		"a-little-bit-long-string":   -985981536,
		"a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		require.Equal(t, want, int32(murmur2(key)), key)
		require.Equal(t, want, int32(murmur2([]byte(key))), key)
		require.Equal(t, (want&0x7fffffff)%12, Partition(key, 12), key)
	}
}

func TestPartitionIsWithinRange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOf(rapid.Byte()).Draw(t, "key")
		n := rapid.Int32Range(1, 100_000).Draw(t, "n")
		p := Partition(key, n)
		if p < 0 || p >= n || p != Partition(string(key), n) {
			t.Fatal(p)
		}
	})
	require.Zero(t, testing.AllocsPerRun(100, func() { Partition("node-17", 64) }))
}
