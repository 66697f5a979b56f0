package tail

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBuffer(t *testing.T) {
	b := Buffer{Most: 8}
	require.Empty(t, b.Bytes())
	require.Empty(t, b.Line())
	for _, tc := range []struct{ in, all, line string }{
		{"one\n", "one\n", "one"},
		{"two\n", "one\ntwo\n", "two"},
		{"three", "wo\nthree", "three"},
		{"", "wo\nthree", "three"},
		{" and four\n\n", "d four\n\n", "d four"},
		{"0123456789", "23456789", "23456789"},
	} {
		n, err := fmt.Fprint(&b, tc.in)
		require.NoError(t, err)
		require.Equal(t, len(tc.in), n)
		require.Equal(t, tc.all, string(b.Bytes()))
		require.Equal(t, tc.line, b.Line())
	}
}
