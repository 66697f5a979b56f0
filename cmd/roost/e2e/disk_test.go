//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// smallDisk mounts a file system of its own.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "size="+size)
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
		t.Skip("mounting a small file system needs privileges")
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	return dir
}

// fill writes a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	for _, size := range []int{64 << 10, 1} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		require.ErrorIs(t, err, syscall.ENOSPC)
	}
}

// TestDevDiskFull fills the disk under the embedded broker, and makes room again.
func TestDevDiskFull(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, "32m")
	m, kafka := startDev(t, nil, "--data", filepath.Join(disk, "data"), "--nodes", "2")
	m.awaitNodes(2)
	submit := func(id string) int {
		status, header := m.submit(map[string]any{"id": id, "kind": "tcp", "ttl_ms": 600_000,
			"target": map[string]any{"node": "demo-001"}, "args": map[string]any{"address": m.nodes}})
		if status == http.StatusServiceUnavailable {
			require.NotEmpty(t, header.Get("Retry-After"))
		}
		return status
	}
	c := &cluster{t: t, broker: broker{"embedded", kafka}, prefix: "roost.", group: "roost"}
	results := c.read("results")
	require.Equal(t, http.StatusAccepted, submit("before"))
	require.Equal(t, "ok", results.result("before")["outcome"])

	filler := filepath.Join(disk, "filler")
	fill(t, filler)
	require.Equal(t, http.StatusServiceUnavailable, submit("full"))
	m.says(`too little disk space`)
	require.True(t, m.running())
	require.EqualValues(t, 2, m.metric("roost_sessions"))
	require.Equal(t, http.StatusOK, m.get("/healthz", nil))
	require.Zero(t, results.has("full"))

	require.NoError(t, os.Remove(filler))
	eventually(t, patience, text("no job is taken although there is room again"), func() bool {
		return submit(fmt.Sprintf("after-%d", time.Now().UnixNano())) == http.StatusAccepted
	})
	// The job whose submission was answered with 503 may have been accepted, and was.
	require.Equal(t, "ok", results.result("full")["outcome"])
	require.EqualValues(t, 2, m.metric("roost_sessions_opened_total"), "nodes noticed the full disk")
	m.stop(interrupt)
}
