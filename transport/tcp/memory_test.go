package tcp

import (
	"net"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-server/roost/protocol"
)

func TestConnIsSmall(t *testing.T) {
	require.LessOrEqual(t, unsafe.Sizeof(Conn{}), uintptr(96), "the next size class is 112")
}

func TestIdleConnHoldsNoBuffer(t *testing.T) {
	n := &node{}
	s := start(t, testConfig(), n)
	c := join(t, s)
	b := c.frames(nil, &protocol.Ping{Nonce: 1}, result(100<<10), &protocol.Ping{Nonce: 2})
	c.write(b[:7])
	c.write(b[7:])
	c.want(&protocol.Pong{})
	c.want(&protocol.Pong{})
	conn := n.conn(0)
	on(t, conn.Loop(), func() {
		assert.Nil(t, conn.in.part)
		assert.Nil(t, conn.out)
		assert.Zero(t, conn.gc.InboundBuffered())
		assert.Zero(t, conn.gc.OutboundBuffered())
		delay, err := unix.GetsockoptInt(conn.gc.Fd(), unix.IPPROTO_TCP, unix.TCP_NODELAY)
		assert.NoError(t, err)
		assert.NotZero(t, delay, "TCP_NODELAY")
	})
}

// BenchmarkIdleConnection reports what an idle established node costs the server's
// process: heap after collection, and RSS. Each iteration is a server with 9,000
// nodes.
func BenchmarkIdleConnection(b *testing.B) {
	const conns = 9000
	for b.Loop() {
		child := startChild(b, 0)
		before := child.ask("")
		all := make([]net.Conn, 0, conns)
		enc := protocol.NewEncoder()
		greeting, err := enc.Append([]byte(protocol.Preface), hello())
		require.NoError(b, err)
		answer := make([]byte, 256)
		for range conns {
			c, err := net.Dial("tcp", before.Addr)
			require.NoError(b, err)
			_, err = c.Write(greeting)
			require.NoError(b, err)
			_, err = c.Read(answer)
			require.NoError(b, err)
			all = append(all, c)
		}
		after := child.ask("")
		require.Equal(b, conns, after.Established)
		b.ReportMetric(float64(after.Heap-before.Heap)/conns, "heap-B/conn")
		b.ReportMetric(float64(after.RSS-before.RSS)/conns, "rss-B/conn")
		for _, c := range all {
			_ = c.Close()
		}
		child.end()
	}
}
