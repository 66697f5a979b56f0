// Package wait is for what has to wait and can be stopped.
package wait

import (
	"context"
	"time"
)

// Pause waits, and reports whether it could wait to the end.
func Pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// Await polls until cond holds; it reports false when ctx ended before.
func Await(ctx context.Context, cond func() bool) bool {
	for !cond() {
		if !Pause(ctx, 20*time.Millisecond) {
			return false
		}
	}
	return true
}
