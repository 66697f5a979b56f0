//go:build !race

// The race detector makes sync.Pool forget at random, so this is not counted with it.

package record

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHotPathDoesNotAllocate(t *testing.T) {
	value := benchRecords(t)["msgpack"]
	require.Zero(t, testing.AllocsPerRun(200, func() {
		if _, err := ParseJob("", value); err != nil {
			t.Fatal(err)
		}
	}), "ParseJob")
	r := sampleResult()
	for _, enc := range []Encoding{Msgpack, JSON} {
		var rw ResultWriter
		buf := make([]byte, 0, 1024)
		require.Zero(t, testing.AllocsPerRun(200, func() {
			var err error
			if buf, err = rw.Append(buf[:0], enc, &r); err != nil {
				t.Fatal(err)
			}
		}), "Append %v", enc)
	}
}
