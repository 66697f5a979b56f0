package record

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"
)

func benchRecords(b testing.TB) map[string][]byte {
	out := map[string][]byte{}
	for name, enc := range map[string]Encoding{"msgpack": Msgpack, "JSON": JSON} {
		args, err := FromJSON([]byte(`{"url":"https://example.org/health","method":"GET","headers":{"accept":"*/*"},"expect":{"status":200},"n":17}`))
		require.NoError(b, err)
		j := Job{ID: "01J9ZK3W8Q2V7X5N4M1B6C0D9E", Kind: "http.get", Target: Target{Node: "syd-01"}, Args: args, Timeout: 5e9, Attempts: 2, Encoding: enc}
		out[name], err = AppendJob(nil, &j)
		require.NoError(b, err)
	}
	return out
}

func BenchmarkParseJob(b *testing.B) {
	for name, value := range benchRecords(b) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(value)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParseJob("", value); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("msgpack.Unmarshal", func(b *testing.B) {
		type target struct {
			Node string `msgpack:"node"`
		}
		type job struct {
			ID        string             `msgpack:"id"`
			Kind      string             `msgpack:"kind"`
			Target    target             `msgpack:"target"`
			Args      msgpack.RawMessage `msgpack:"args"`
			TimeoutMs int64              `msgpack:"timeout_ms"`
			Attempts  int                `msgpack:"attempts"`
		}
		value := benchRecords(b)["msgpack"]
		b.ReportAllocs()
		for b.Loop() {
			var j job
			if err := msgpack.Unmarshal(value, &j); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkAppendJob(b *testing.B) {
	for name, value := range benchRecords(b) {
		j, err := ParseJob("", value)
		require.NoError(b, err)
		b.Run(name, func(b *testing.B) {
			var buf []byte
			b.ReportAllocs()
			for b.Loop() {
				if buf, err = AppendJob(buf[:0], &j); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkResult(b *testing.B) {
	r := sampleResult()
	for _, enc := range []Encoding{Msgpack, JSON} {
		var rw ResultWriter
		b.Run("Append/"+enc.ContentType(), func(b *testing.B) {
			var buf []byte
			var err error
			b.ReportAllocs()
			for b.Loop() {
				if buf, err = rw.Append(buf[:0], enc, &r); err != nil {
					b.Fatal(err)
				}
			}
		})
		value, err := rw.Append(nil, enc, &r)
		require.NoError(b, err)
		b.Run("Parse/"+enc.ContentType(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParseResult("", value); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkPartition(b *testing.B) {
	for b.Loop() {
		Partition("01J9ZK3W8Q2V7X5N4M1B6C0D9E", 64)
	}
}
