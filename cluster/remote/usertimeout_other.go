//go:build !linux

package remote

import (
	"net"
	"time"
)

// setUserTimeout is for Linux; elsewhere keepalive finds out somewhat later.
func setUserTimeout(net.Conn, time.Duration) error { return nil }
