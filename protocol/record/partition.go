package record

// Partition returns the partition, of n, to which a key belongs: Kafka's default for
// keyed records in the Java client, (murmur2(key) & 0x7fffffff) mod n. In other
// clients it goes by names such as murmur2 or murmur2_random. A node's shard is the
// partition of its id.
func Partition[K ~string | ~[]byte](key K, n int32) int32 {
	return int32(murmur2(key)&0x7fffffff) % n
}

// murmur2 is the 32-bit MurmurHash2 with Kafka's seed (Utils.murmur2 in Kafka's
// clients).
func murmur2[K ~string | ~[]byte](key K) uint32 {
	const m, r = 0x5bd1e995, 24
	h := uint32(0x9747b28c) ^ uint32(len(key))
	i := 0
	for ; i+4 <= len(key); i += 4 {
		k := uint32(key[i]) | uint32(key[i+1])<<8 | uint32(key[i+2])<<16 | uint32(key[i+3])<<24
		k *= m
		k ^= k >> r
		k *= m
		h = h*m ^ k
	}
	switch len(key) - i {
	case 3:
		h ^= uint32(key[i+2]) << 16
		fallthrough
	case 2:
		h ^= uint32(key[i+1]) << 8
		fallthrough
	case 1:
		h ^= uint32(key[i])
		h *= m
	}
	h ^= h >> 13
	h *= m
	return h ^ h>>15
}
