package member

import (
	"context"
	"fmt"
)

// Alive returns nil when every event loop does what it is given, before ctx ends. That is
// what only a restart mends; whether Kafka or other members answer does not count here.
func (m *Member) Alive(ctx context.Context) error {
	if err := m.sockets.caughtUp(ctx); err != nil {
		return fmt.Errorf("an event loop does not answer: %w", err)
	}
	return nil
}
