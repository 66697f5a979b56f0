package nodes

import (
	"math"
	"strconv"
)

// DefaultPrefix is that of node ids where a Spec has none.
const DefaultPrefix = "sim-"

// NumberOf is how many nodes the whole test has.
func (s *Spec) NumberOf() int { return max(s.Of, s.First+s.Nodes) }

// ID returns the id of the node with a number, such as "sim-000123". All ids of a test
// have the same length.
func (s *Spec) ID(number int) string { return string(s.AppendID(nil, number)) }

// IDs returns the ids of the nodes, in the order of their numbers.
func (s *Spec) IDs() []string {
	ids := make([]string, s.Nodes)
	for i := range ids {
		ids[i] = s.ID(s.First + i)
	}
	return ids
}

// AppendID is ID without an allocation.
func (s *Spec) AppendID(dst []byte, number int) []byte {
	dst = append(dst, s.NodePrefix...)
	width := 6
	for n := 1_000_000; n < s.NumberOf(); n *= 10 {
		width++
	}
	var digits [20]byte
	d := strconv.AppendInt(digits[:0], int64(number), 10)
	for range width - len(d) {
		dst = append(dst, '0')
	}
	return append(dst, d...)
}

// Mix is the finalizer of SplitMix64 (Steele, Lea and Flood, 2014): a cheap hash for
// what depends on a seed and a number alone.
func Mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// OfSlow is the round of [Hit] that Slow uses; those of Cut count from 1.
const OfSlow = 0

// Hit reports whether a node is in the fraction that Slow, or the round-th call of Cut,
// concerns: the same wherever the node lives.
func Hit(seed, round uint64, number int, fraction float64) bool {
	if fraction >= 1 {
		return true
	}
	h := Mix(Mix(seed^0x68697421) ^ Mix(round) ^ Mix(uint64(number)))
	return float64(h) < fraction*math.MaxUint64
}
