package cluster

import (
	"runtime"
	"sync/atomic"
	"testing"
)

// BenchmarkSend carries messages of 128 bytes from one member to another over loopback.
func BenchmarkSend(b *testing.B) {
	all := joinAll(b, "a", "b")
	var got atomic.Int64
	all[1].mu.Lock()
	all[1].onMsg = func(uint16, []byte) { got.Add(1) }
	all[1].mu.Unlock()
	slot := all[0].slotOf("b")
	b.ReportAllocs()
	b.SetBytes(128)
	for b.Loop() {
		body := make([]byte, 128)
		for !all[0].Send(slot, body) {
			runtime.Gosched()
		}
	}
	for got.Load() < int64(b.N) {
		runtime.Gosched()
	}
}

// BenchmarkRoundTrip is one message and its answer.
func BenchmarkRoundTrip(b *testing.B) {
	all := joinAll(b, "a", "b")
	answered := make(chan struct{}, 1)
	all[1].mu.Lock()
	all[1].onMsg = func(slot uint16, body []byte) { all[1].Send(slot, body) }
	all[1].mu.Unlock()
	all[0].mu.Lock()
	all[0].onMsg = func(uint16, []byte) { answered <- struct{}{} }
	all[0].mu.Unlock()
	slot := all[0].slotOf("b")
	for b.Loop() {
		all[0].Send(slot, []byte("ping"))
		<-answered
	}
}
