package remote

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roost-server/roost/cluster/certs"
)

// BenchmarkSend is one peer sending to another over loopback with TLS, with 1 MiB in flight as a link
// has: two ends of a connection in one process.
func BenchmarkSend(b *testing.B) {
	dir := b.TempDir()
	_, err := certs.CreateCA(dir, time.Now(), time.Hour)
	if err != nil {
		b.Fatal(err)
	}
	made, err := certs.CreateMember(dir, "a", nil, time.Now(), time.Hour)
	if err != nil {
		b.Fatal(err)
	}
	store, err := certs.Load(dir+"/"+certs.CAFile, made.CertFile, made.KeyFile)
	if err != nil {
		b.Fatal(err)
	}
	for _, size := range []int{100, 4 << 10, 64 << 10} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			var got atomic.Int64
			credit := make(chan struct{}, max(1, 1<<20/size))
			to, err := Start(Config{Listen: "127.0.0.1:0", TLS: store, Receive: func(Inbound) {
				got.Add(1)
				<-credit
			}})
			if err != nil {
				b.Fatal(err)
			}
			defer to.Close(context.Background())
			from, err := Start(Config{Listen: "127.0.0.1:0", TLS: store, Receive: func(Inbound) {}})
			if err != nil {
				b.Fatal(err)
			}
			defer from.Close(context.Background())
			body := make([]byte, size) // never changed, so it may be sent again and again
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				credit <- struct{}{}
				from.Send(to.Addr(), body)
			}
			for got.Load() < int64(b.N) {
				time.Sleep(100 * time.Microsecond)
			}
		})
	}
}
