package kafka

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// spaceGuard refuses writes before the disk is full. kfake itself answers a
// failed write with an error that clients take for final, and may leave a torn
// entry in its logs of offsets; so it must not come to that.
type spaceGuard struct {
	dir     string
	reserve int64
	log     *zap.Logger
	low     atomic.Bool
}

func newSpaceGuard(cfg EmbeddedConfig) *spaceGuard {
	g := &spaceGuard{dir: cfg.DataDir, reserve: cfg.MinFreeBytes, log: cfg.Log}
	if g.reserve == 0 {
		g.reserve = defaultMinFree
		var st unix.Statfs_t
		if unix.Statfs(g.dir, &st) == nil {
			g.reserve = min(g.reserve, int64(st.Blocks)*int64(st.Bsize)/8)
		}
	}
	return g
}

// install has the broker answer with retriable errors while space is low:
// records and transactions that begin stop at the reserve; offsets, topics and
// producer ids, which are small, may use half of it. A transaction that has
// written all of its records ends whatever space there is: its offsets and
// markers are small, and no others follow. One that waits for space is aborted
// by its client or its timeout.
func (g *spaceGuard) install(c *kfake.Cluster) {
	c.Fault(
		kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.KafkaStorageError, Count: -1, When: g.refuseProduce},
		kfake.Fault{Keys: []kmsg.Key{kmsg.AddPartitionsToTxn}, Err: kerr.CoordinatorLoadInProgress, Count: -1, When: g.refuseBegin},
		kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit, kmsg.InitProducerID}, Err: kerr.CoordinatorLoadInProgress, Count: -1, When: g.refuseSmall},
		kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Err: kerr.KafkaStorageError, Count: -1, When: g.refuseSmall},
	)
}

// refuseProduce runs on the broker's goroutine, once for each partition of a
// request; statfs costs about a microsecond.
func (g *spaceGuard) refuseProduce(req kmsg.Request) bool {
	r, ok := req.(*kmsg.ProduceRequest)
	if !ok {
		return false
	}
	var size int64
	for i := range r.Topics {
		for j := range r.Topics[i].Partitions {
			size += int64(len(r.Topics[i].Partitions[j].Records))
		}
	}
	return g.isLow(size)
}

func (g *spaceGuard) refuseBegin(kmsg.Request) bool { return g.isLow(0) }

// isLow tells whether there is no space for this many bytes, and says so in the
// log when it changes.
func (g *spaceGuard) isLow(size int64) bool {
	free := g.free()
	low := free-size < g.reserve
	if g.low.Swap(low) != low {
		if low {
			g.log.Warn("embedded kafka: too little disk space, records are refused until there is more",
				zap.String("dir", g.dir), zap.Int64("free_bytes", free), zap.Int64("reserve_bytes", g.reserve))
		} else {
			g.log.Info("embedded kafka: there is disk space again", zap.String("dir", g.dir), zap.Int64("free_bytes", free))
		}
	}
	return low
}

func (g *spaceGuard) refuseSmall(kmsg.Request) bool { return g.free() < g.reserve/2 }

// free returns the bytes free for this user; a failure counts as a full disk.
func (g *spaceGuard) free() int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(g.dir, &st); err != nil {
		return 0
	}
	return int64(st.Bavail) * int64(st.Bsize)
}

// wholeFetches lets answers to Fetch be as large as their partitions' own limits allow. At
// the partition where the limit of the whole answer is reached, kfake leaves out which
// transactions were aborted, and their records would be taken for committed.
func wholeFetches(c *kfake.Cluster) {
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Count: -1, When: func(req kmsg.Request) bool {
		if f, ok := req.(*kmsg.FetchRequest); ok {
			f.MaxBytes = math.MaxInt32
		}
		return false
	}})
}

// maxRequestBytes is the largest request that the embedded broker reads; the
// records of one request are bounded by message.max.bytes (1 MiB) a partition.
const maxRequestBytes = 32 << 20

// guardListener hands out connections that check the frames of the Kafka
// protocol. kfake trusts the length field with an allocation and dies of an
// unknown request key; a browser pointed at the port would be enough.
type guardListener struct {
	net.Listener
	log  *zap.Logger
	open sync.WaitGroup
}

// Accept implements net.Listener.
func (l *guardListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.open.Add(1)
	return &guardConn{Conn: conn, l: l}, nil
}

// wait returns whether all connections were closed in time.
func (l *guardListener) wait(limit time.Duration) bool {
	done := make(chan struct{})
	go func() { l.open.Wait(); close(done) }()
	select {
	case <-done:
		return true
	case <-time.After(limit):
		return false
	}
}

// guardConn is read by one goroutine at a time.
type guardConn struct {
	net.Conn
	l    *guardListener
	once sync.Once
	buf  [6]byte // length and request key of the frame being read
	head []byte  // the part of buf that was not handed out
	left int64   // bytes of the frame that were not read from Conn
}

// Close implements net.Conn; it may be called more than once.
func (c *guardConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.l.open.Done)
	return err
}

// Read implements net.Conn.
func (c *guardConn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if len(c.head) == 0 && c.left == 0 {
		if _, err := io.ReadFull(c.Conn, c.buf[:]); err != nil {
			return 0, err
		}
		size := int64(binary.BigEndian.Uint32(c.buf[:4]))
		key := int16(binary.BigEndian.Uint16(c.buf[4:]))
		if size < 8 || size > maxRequestBytes || kmsg.RequestForKey(key) == nil {
			err := fmt.Errorf("not a Kafka request: length %d, key %d", size, key)
			c.l.log.Warn("embedded kafka: connection refused", zap.Stringer("peer", c.RemoteAddr()), zap.Error(err))
			return 0, err
		}
		c.head = c.buf[:]
		c.left = size - 2
	}
	if len(c.head) > 0 {
		n := copy(b, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	if int64(len(b)) > c.left {
		b = b[:c.left]
	}
	n, err := c.Conn.Read(b)
	c.left -= int64(n)
	return n, err
}
