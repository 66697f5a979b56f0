//go:build roost_sabotage

package kafka

import ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"

// UnfencedGroup returns group metadata without a generation, which brokers accept
// unchecked: to see that a test finds what comes of it.
func UnfencedGroup(group string) *GroupMetadata {
	meta, err := ck.NewTestConsumerGroupMetadata(group)
	if err != nil {
		panic(err)
	}
	return &GroupMetadata{meta: meta}
}
