package kafka

import (
	"context"
	"errors"

	"go.uber.org/zap"
)

// Fence ends what a client with this transactional id left open when it died: when Fence
// returns nil, its transaction is aborted, or committed if the broker had already been told
// to. A client that lives under the id is fenced: its Commit returns TxUnknown.
func Fence(ctx context.Context, cfg Config, transactionalID string, log *zap.Logger) error {
	cfg.OnState = nil
	t, err := NewTransactor(cfg, transactionalID, log)
	if err != nil {
		return err
	}
	return errors.Join(t.Init(ctx), t.Close(ctx))
}
