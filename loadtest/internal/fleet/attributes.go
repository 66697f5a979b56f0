//go:build linux

package fleet

import "github.com/roost-server/roost/protocol"

// Attributes returns what node number i of a fleet says of itself: the same for the same
// seed. Its slices are shared and read-only. Whoever measures beside the simulator says the
// same, since a server keeps equal attributes once.
func Attributes(seed uint64, i int) protocol.Attributes { return profile(seed, i) }
