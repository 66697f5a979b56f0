//go:build !(linux && amd64)

package clock

import (
	"errors"
	"time"
)

// Lacking tells why it cannot be done here; "" when it can.
func Lacking() string { return "a process' clock can be set on Linux on amd64 only" }

// Set is for Linux on amd64.
func Set(int, time.Duration) error { return errors.New(Lacking()) }
