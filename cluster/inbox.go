package cluster

import (
	"sync"
	"time"

	"github.com/roost-server/roost/cluster/link"
	"github.com/roost-server/roost/cluster/remote"
	"go.uber.org/zap"
)

const (
	// inboxLoose and inboxBytes bound what came and was not looked at yet. What is beyond is
	// dropped: hellos and beats come again, and links send again. The links' windows keep a
	// cluster of 100 with all windows full within some of this.
	inboxLoose = 8192
	inboxBytes = 64 << 20
)

// inbox is between the remote's goroutines and the loop. Hellos and beats pass messages by:
// a member that is busy is not dead.
type inbox struct {
	mu      sync.Mutex
	loose   []remote.Inbound
	data    []remote.Inbound
	bytes   int // in both
	dropped uint64
}

// put reports whether the loop has to be woken.
func (b *inbox) put(in remote.Inbound) bool {
	loose := len(in.Body) > 0 && in.Body[0] == byte(link.KindLoose)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bytes+len(in.Body) > inboxBytes || loose && len(b.loose) >= inboxLoose {
		b.dropped++
		return false
	}
	b.bytes += len(in.Body)
	if loose {
		b.loose = append(b.loose, in)
	} else {
		b.data = append(b.data, in)
	}
	return true
}

// take moves all hellos and beats, and some of the rest, to the end of into; more says that
// something is left.
func (b *inbox) take(into []remote.Inbound) (_ []remote.Inbound, more bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	into = append(into, b.loose...)
	clear(b.loose)
	b.loose = b.loose[:0]
	n, size := 0, 0
	for n < len(b.data) && n < intakePackets && size < intakeBytes {
		size += len(b.data[n].Body)
		n++
	}
	into = append(into, b.data[:n]...)
	clear(b.data[:n])
	if b.data = b.data[n:]; len(b.data) == 0 {
		b.data = nil
	}
	for i := range into {
		b.bytes -= len(into[i].Body)
	}
	return into, len(b.data) > 0
}

// Dropped is how many packets were dropped because this member did not look at them in
// time; messages among them are sent again.
func (c *Cluster) Dropped() uint64 {
	c.inbox.mu.Lock()
	defer c.inbox.mu.Unlock()
	return c.inbox.dropped
}

// complaints logs what is wrong with packets, once in a while for each sender.
type complaints struct {
	log   *zap.Logger
	last  map[string]time.Time
	muted int
}

const (
	complainEvery   = time.Minute
	complainSenders = 1024 // remembered; beyond, all are forgotten
)

func (c *complaints) about(in remote.Inbound, err error) {
	key := in.Peer
	if key == "" {
		key = in.From
	}
	now := time.Now()
	if t, ok := c.last[key]; ok && now.Sub(t) < complainEvery {
		c.muted++
		return
	}
	if c.last == nil || len(c.last) >= complainSenders {
		c.last = map[string]time.Time{}
	}
	c.last[key] = now
	c.log.Warn("cluster: a packet from a member was not understood, and dropped",
		zap.String("peer", in.Peer), zap.String("from", in.From), zap.Int("muted", c.muted), zap.Error(err))
	c.muted = 0
}
