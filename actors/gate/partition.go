package gate

import "github.com/roost-server/roost/protocol/record"

// partition returns a node's home shard.
func partition(node string, partitions uint32) uint32 {
	return uint32(record.Partition(node, int32(partitions)))
}
