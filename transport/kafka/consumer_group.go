package kafka

import (
	"bytes"
	"context"
	"encoding/binary"
	"reflect"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.uber.org/zap"
)

// Group returns the group metadata as of the last rebalance that the handler
// was told of: during Revoked already those of the rebalance that takes the
// partitions away. A transaction with it is refused by the broker when the
// group has moved on and the handler does not know yet. It is nil while this
// consumer is not in the group. It may be called from any goroutine.
func (c *Consumer) Group() *GroupMetadata { return c.group.Load() }

// rejoined reads the group metadata for Group; it is called from within the
// rebalance callback. It returns false when this consumer is not in the group.
func (c *Consumer) rejoined() bool {
	meta, err := c.client.GetConsumerGroupMetadata()
	if err != nil {
		c.left()
		return false
	}
	id := identify(meta)
	// Without a generation and a member id the broker would check nothing.
	if id.generation < 0 || id.member == "" {
		c.left()
		return false
	}
	c.memberID = id.member
	c.group.Store(&GroupMetadata{meta: meta})
	return true
}

// left forgets the membership.
func (c *Consumer) left() {
	c.memberID = ""
	c.group.Store(nil)
}

type identity struct {
	generation int32
	group      string
	member     string
}

// identify reads what the binding keeps to itself: the serialized form of
// rd_kafka_consumer_group_metadata_write. What it does not understand has
// generation -1.
func identify(meta *ck.ConsumerGroupMetadata) identity {
	none := identity{generation: -1}
	if meta == nil {
		return none
	}
	f := reflect.ValueOf(meta).Elem().FieldByName("serialized")
	if !f.IsValid() || f.Kind() != reflect.Slice || f.Type().Elem().Kind() != reflect.Uint8 {
		return none
	}
	b, ok := bytes.CutPrefix(f.Bytes(), []byte("CGMDv2:"))
	if !ok || len(b) < 4 {
		return none
	}
	id := identity{generation: int32(binary.NativeEndian.Uint32(b))}
	group, b, ok1 := bytes.Cut(b[4:], []byte{0})
	member, _, ok2 := bytes.Cut(b, []byte{0})
	if !ok1 || !ok2 {
		return none
	}
	id.group, id.member = string(group), string(member)
	return id
}

// The group may have given this member up while it stood still, and librdkafka would hand
// out what it has fetched before it learns that from its next heartbeat. There are two ways
// to stand still. In a handler, librdkafka goes on by its own threads and knows. When the
// whole process stood still, it knows some heartbeats later; a goroutine with nothing else
// to do tells these apart.

// pulse notes when the process stood still, until ctx ends.
func (c *Consumer) pulse(ctx context.Context) {
	t := time.NewTicker(c.cfg.SessionTimeout / 10)
	defer t.Stop()
	for {
		c.beat.Store(now())
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if since(c.beat.Load()) > c.cfg.SessionTimeout/2 {
				c.froze.Store(now())
			}
		}
	}
}

// instant is a time on two clocks: the monotonic one does not run while a machine sleeps.
type instant struct{ mono, wall time.Time }

func now() *instant {
	t := time.Now()
	return &instant{mono: t, wall: t.Round(0)}
}

func since(i *instant) time.Duration {
	if i == nil {
		return 0
	}
	n := now()
	return max(n.mono.Sub(i.mono), n.wall.Sub(i.wall))
}

// frozen tells whether the process stood still at some time after the instant.
func (c *Consumer) frozen(after *instant) bool {
	f := c.froze.Load()
	return since(c.beat.Load()) > c.cfg.SessionTimeout/2 || f != nil && f.mono.After(after.mono)
}

// gone tells whether librdkafka knows that this consumer is no member any more.
func (c *Consumer) gone() bool {
	if c.client.AssignmentLost() {
		return true
	}
	meta, err := c.client.GetConsumerGroupMetadata()
	if err != nil {
		return true
	}
	id := identify(meta)
	return id.generation < 0 || id.member != c.memberID
}

// awake is called before records are delivered and when the group takes partitions away.
// After a pause in which the group may have given this member up it has the handler lose
// everything at once, if that is so; librdkafka's own notice follows.
func (c *Consumer) awake() {
	last := c.awakeAt
	c.awakeAt = now()
	if since(last) <= c.cfg.SessionTimeout/2 || c.memberID == "" {
		return
	}
	gone := c.gone()
	if !gone && c.frozen(last) {
		c.log.Warn("kafka: the process stood still; waiting until it is known whether the group has given it up", zap.Duration("for", since(last)))
		// A heartbeat is due at once, and the answer to it soon.
		for end := time.Now().Add(2 * c.cfg.heartbeat()); !gone && time.Now().Before(end); gone = c.gone() {
			time.Sleep(gonePoll)
		}
	}
	if gone {
		c.lose()
	}
	c.awakeAt = now()
}

const gonePoll = 5 * time.Millisecond
