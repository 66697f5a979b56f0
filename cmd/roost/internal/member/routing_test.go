package member

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/cluster/link"
	"github.com/roost-server/roost/cluster/remote"
	"github.com/roost-server/roost/cluster/rpc"
	"github.com/roost-server/roost/cluster/wire"
)

// TestPartsOfTheClusterFit compares what packages say that do not import each other.
func TestPartsOfTheClusterFit(t *testing.T) {
	require.EqualValues(t, wire.KindRPC, rpc.KindRPC)
	require.LessOrEqual(t, link.MaxPacketBytes, remote.MaxBodyBytes)
	require.LessOrEqual(t, wire.MaxBodyBytes+1, link.MaxMessageBytes, "a body that is returned has a byte before it")
}
