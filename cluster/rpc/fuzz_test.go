package rpc

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

// FuzzRPC: whatever messages come, nothing panics, what is under way is bounded, and all of it
// ends with the member. The input is messages, each after its length as a byte.
func FuzzRPC(f *testing.F) {
	pack := func(messages ...[]byte) (b []byte) {
		for _, m := range messages {
			b = append(append(b, byte(len(m))), m...)
		}
		return b
	}
	f.Add(pack(callMessage(1, 0, 3, "echo", []byte("abc")), appendOp(nil, opCancel, 1)))
	f.Add(pack(callMessage(2, 9, 5, "echo", []byte("ab")), message(opMore, 2, []byte("cde"))))
	f.Add(pack(callMessage(3, 1000, 0, "count", nil), append(appendOp(nil, opCredit, 3), 100)))
	f.Add(pack(message(opItem, 1, []byte("a")), message(opLast, 1, nil), message(opItem, 2, []byte("b")), appendOp(nil, opEnd, 2)))
	f.Add(pack(errorMessage(1, &RemoteError{"code", "text"}), errorMessage(2, &RemoteError{"code", "text"})))
	f.Fuzz(func(t *testing.T, input []byte) {
		r := New(func(_ uint16, body []byte) bool { return len(body)%2 == 0 }, zap.NewNop())
		r.Handle("echo", echo)
		r.HandleStream("count", count(10))
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		called, streamed := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := r.Call(ctx, slot, "methods", nil)
			called <- err
		}()
		go func() {
			items, end := r.Stream(ctx, slot, "stream", nil)
			all(items)
			streamed <- end()
		}()
		for len(input) > 0 {
			n := min(int(input[0]), len(input)-1)
			r.Message(slot, input[1:1+n:1+n])
			input = input[1+n:]
		}
		_, serving := r.underWay()
		require.LessOrEqual(t, serving, maxHandlers)
		r.Down(slot)
		r.Close()
		<-called
		<-streamed
		require.NoError(t, ctx.Err(), "ended by Close, not by the timeout")
	})
}
