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

// slept tells whether the poll goroutine stood still for so long that the
// group may have given this member up, be it in a handler or because the whole
// process stood still. librdkafka would hand out what it has fetched before it
// learns that from its next heartbeat.
func (c *Consumer) slept() bool {
	now := time.Now()
	// Both clocks: the monotonic one does not run while a machine sleeps.
	gap := max(now.Sub(c.awakeAt), now.Round(0).Sub(c.awakeAt.Round(0)))
	c.awakeAt = now
	return gap > c.cfg.SessionTimeout/2
}

// awake is called before records are delivered. After a long pause it asks the
// group whether this consumer is still a member, and if not, has the handler
// lose everything at once; librdkafka's own notice follows.
func (c *Consumer) awake(ctx context.Context) {
	if !c.slept() || c.memberID == "" {
		return
	}
	for ctx.Err() == nil {
		if c.client.AssignmentLost() {
			c.lose()
			return
		}
		member, err := c.member(ctx)
		c.awakeAt = time.Now()
		switch {
		case err == nil && !member:
			c.lose()
			return
		case err == nil || !transient(err): // or refused to tell, which the heartbeat will do
			return
		}
		c.state.note(err)
		select { // without brokers nothing can be committed either
		case <-ctx.Done():
		case <-time.After(offsetsRetry):
		}
	}
}

const memberTimeout = time.Second

// askMember is for a rebalance callback, which must not wait for long.
func (c *Consumer) askMember() bool {
	member, err := c.member(context.Background())
	c.awakeAt = time.Now()
	return member || err != nil
}

// member asks the group's coordinator whether this consumer is a member.
func (c *Consumer) member(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, memberTimeout)
	defer cancel()
	res, err := c.admin.DescribeConsumerGroups(ctx, []string{c.cfg.Group}, ck.SetAdminRequestTimeout(memberTimeout))
	if err != nil {
		return false, err
	}
	for _, g := range res.ConsumerGroupDescriptions {
		if g.Error.Code() != ck.ErrNoError {
			return false, g.Error
		}
		for i := range g.Members {
			if g.Members[i].ConsumerID == c.memberID {
				return true, nil
			}
		}
	}
	c.log.Warn("kafka: after a pause this member is not in its group any more", zap.String("member", c.memberID))
	return false, nil
}
