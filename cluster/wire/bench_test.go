package wire

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/roost-server/roost/actors"
)

// batchOf is how many deliveries or results a busy member sends at once.
const batchOf = 64

func deliveries(n int) *actors.ToGate {
	b := actors.NewToGate()
	for i := range n {
		b.Deliveries = append(b.Deliveries, actors.Delivery{Node: fmt.Sprintf("node-%07d", i), JobID: fmt.Sprintf("01J%023d", i), Kind: "http",
			Args: bytes.Repeat([]byte{byte(i)}, 128), Shard: 5, Attempt: 1, TimeoutMs: 30_000, Priority: 4})
	}
	return b
}

func results(n int) *actors.FromGate {
	b := actors.NewFromGate(1)
	for i := range n {
		b.Results = append(b.Results, actors.Result{Node: fmt.Sprintf("node-%07d", i), JobID: fmt.Appendf(nil, "01J%023d", i), Attempt: 1,
			DurationUs: 12_345, Output: bytes.Repeat([]byte{byte(i)}, 128)})
	}
	return b
}

// BenchmarkToGate is what deliveries of 128 B of arguments cost; ns/item is for one of them.
func BenchmarkToGate(b *testing.B) {
	for _, n := range []int{1, batchOf} {
		batch := deliveries(n)
		var bodies [][]byte
		b.Run(fmt.Sprintf("encode/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				bodies = AppendToGate(bodies[:0], 5, 1_800_000_000_000, 1, batch)
			}
			perItem(b, n)
		})
		b.Run(fmt.Sprintf("decode/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, x, err := DecodeToGate(bodies[0])
				if err != nil {
					b.Fatal(err)
				}
				x.Release()
			}
			perItem(b, n)
		})
	}
}

// BenchmarkFromGate is what results of 128 B of output cost.
func BenchmarkFromGate(b *testing.B) {
	for _, n := range []int{1, batchOf} {
		batch := results(n)
		var bodies [][]byte
		b.Run(fmt.Sprintf("encode/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				bodies = AppendFromGate(bodies[:0], 5, 1_800_000_000_000, 1, batch)
			}
			perItem(b, n)
		})
		b.Run(fmt.Sprintf("decode/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, x, err := DecodeFromGate(bodies[0], 3)
				if err != nil {
					b.Fatal(err)
				}
				x.Release()
			}
			perItem(b, n)
		})
	}
}

func perItem(b *testing.B, n int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/item")
}
