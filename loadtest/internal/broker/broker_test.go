//go:build linux

package broker

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// program writes a script that stands for the server's program.
func program(t *testing.T, text string) string {
	path := filepath.Join(t.TempDir(), "roost")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755))
	return path
}

func TestTheAddressIsWhatTheBrokerSays(t *testing.T) {
	p, err := Start(t.Context(), program(t, `echo "$1 starts"; echo "embedded broker at 127.0.0.1:1234"; exec sleep 600`))
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:1234", p.Address)
	p.Kill()
}

func TestABrokerThatDoesNotStart(t *testing.T) {
	_, err := Start(t.Context(), filepath.Join(t.TempDir(), "none"))
	require.ErrorContains(t, err, "cannot run")
	_, err = Start(t.Context(), program(t, "echo no; exit 1"))
	require.ErrorContains(t, err, "ended")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = Start(ctx, program(t, "exec sleep 600"))
	require.ErrorContains(t, err, "does not say where it listens")
}
