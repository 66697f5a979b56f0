package shard

import (
	"encoding/binary"
	"math/bits"
)

// idHash stands for a job id where ids would take too much room. It need not resist
// an attacker: who can write job records can as well repeat an id.
type idHash struct{ lo, hi uint64 }

// hashID is MurmurHash3_x64_128 with seed 0 (Austin Appleby, public domain). It is part
// of the state topic's format.
func hashID(id string) idHash {
	const c1, c2 = 0x87c37b91114253d5, 0x4cf5ad432745937f
	b := bytesOf(id)
	var h1, h2 uint64
	first := func(k uint64) uint64 { return bits.RotateLeft64(k*c1, 31) * c2 }
	second := func(k uint64) uint64 { return bits.RotateLeft64(k*c2, 33) * c1 }
	for ; len(b) >= 16; b = b[16:] {
		h1 ^= first(binary.LittleEndian.Uint64(b))
		h1 = (bits.RotateLeft64(h1, 27)+h2)*5 + 0x52dce729
		h2 ^= second(binary.LittleEndian.Uint64(b[8:]))
		h2 = (bits.RotateLeft64(h2, 31)+h1)*5 + 0x38495ab5
	}
	var tail [16]byte
	copy(tail[:], b)
	h1 ^= first(binary.LittleEndian.Uint64(tail[:]))
	h2 ^= second(binary.LittleEndian.Uint64(tail[8:]))
	h1 ^= uint64(len(id))
	h2 ^= uint64(len(id))
	h1 += h2
	h2 += h1
	h1, h2 = finish(h1), finish(h2)
	h1 += h2
	h2 += h1
	return idHash{h1, h2}
}

// finish is the function's finalizer.
func finish(k uint64) uint64 {
	k ^= k >> 33
	k *= 0xff51afd7ed558ccd
	k ^= k >> 33
	k *= 0xc4ceb9fe1a85ec53
	return k ^ k>>33
}
