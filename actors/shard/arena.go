package shard

// arena keeps many small byte slices in few allocations. What it gave out is never
// changed or used again: the garbage collector frees a chunk when nobody refers to it
// any more.
type arena struct{ chunk []byte }

const (
	arenaChunk = 16 << 10
	// arenaLargest is the size from which on a slice gets an allocation of its own, so
	// that what is kept of it holds nothing else in memory.
	arenaLargest = arenaChunk / 8
)

// keep copies p.
func (a *arena) keep(p []byte) []byte {
	if len(p) >= arenaLargest {
		return append(make([]byte, 0, len(p)), p...)
	}
	if cap(a.chunk)-len(a.chunk) < len(p) {
		a.chunk = make([]byte, 0, arenaChunk)
	}
	start := len(a.chunk)
	a.chunk = append(a.chunk, p...)
	return a.chunk[start:len(a.chunk):len(a.chunk)]
}
