package session

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

func TestASessionIsSmall(t *testing.T) {
	require.EqualValues(t, 80, unsafe.Sizeof(Session{}), "a size class of Go's allocator; the next one is 96")
	require.LessOrEqual(t, unsafe.Sizeof(desk{}), uintptr(208))
}
