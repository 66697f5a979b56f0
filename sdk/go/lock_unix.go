//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package roost

import (
	"fmt"
	"os"
	"syscall"
)

// lockFile holds path against other processes until the file is closed.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("is in use by another process or client: %w", err)
	}
	return f, nil
}
