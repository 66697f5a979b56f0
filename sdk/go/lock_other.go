//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package roost

import "os"

// lockFile opens path; this system has no flock, so nothing is held.
func lockFile(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
}
