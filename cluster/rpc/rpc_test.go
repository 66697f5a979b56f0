package rpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

func echo(_ context.Context, body []byte) ([]byte, error) { return body, nil }

// stuck is a handler that says when it runs, and waits for the end of its context.
func stuck(running chan<- struct{}, ended chan<- error) func(context.Context, []byte) ([]byte, error) {
	return func(ctx context.Context, _ []byte) ([]byte, error) {
		running <- struct{}{}
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return nil, ctx.Err()
	}
}

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

func TestCall(t *testing.T) {
	for lose, largest := range map[float64]int{0: MaxBytes, 0.2: 2*ChunkBytes + 7} {
		n := newNetwork(t, 16<<20)
		n.rpcs[1].Handle("echo", echo)
		n.set(func() { n.lose = lose })
		for _, size := range []int{0, 1, ChunkBytes, ChunkBytes + 1, largest} {
			body := noise(size)
			answer, err := n.rpcs[0].Call(within(t), slot, "echo", body)
			require.NoError(t, err)
			require.True(t, bytes.Equal(body, answer), "%d bytes", size)
		}
		n.empty()
	}
}

func TestCallsBothWaysAtOnceThroughASmallQueue(t *testing.T) {
	n := newNetwork(t, 64<<10)
	var all sync.WaitGroup
	n.rpcs[0].Handle("echo", echo)
	n.rpcs[1].Handle("echo", echo)
	for i := range n.rpcs {
		for k := range 20 {
			all.Go(func() {
				body := noise(1 + k*k*5000)
				for {
					answer, err := n.rpcs[i].Call(within(t), slot, "echo", body)
					if errors.Is(err, ErrUnreachable) { // its queue is full
						time.Sleep(time.Millisecond)
						continue
					}
					if err != nil || !bytes.Equal(body, answer) {
						t.Errorf("call %d of %d: %d bytes, %v", k, i, len(answer), err)
					}
					return
				}
			})
		}
	}
	all.Wait()
	n.empty()
}

func TestItselfIsSlotZero(t *testing.T) {
	n := newNetwork(t, 1<<20)
	n.rpcs[0].Handle("echo", echo)
	n.rpcs[0].HandleStream("count", count(100))
	answer, err := n.rpcs[0].Call(within(t), 0, "echo", noise(2*ChunkBytes))
	require.NoError(t, err)
	require.Len(t, answer, 2*ChunkBytes)
	items, end := n.rpcs[0].Stream(within(t), 0, "count", nil)
	require.Len(t, all(items), 100)
	require.NoError(t, end())
}

func TestErrorsTravel(t *testing.T) {
	n := newNetwork(t, 1<<20)
	n.rpcs[1].Handle("coded", func(context.Context, []byte) ([]byte, error) {
		return nil, fmt.Errorf("wrapped: %w", &RemoteError{"no such node", "n17 is not here"})
	})
	n.rpcs[1].Handle("plain", func(context.Context, []byte) ([]byte, error) {
		return nil, errors.New(strings.Repeat("ä", MaxErrorBytes))
	})
	n.rpcs[1].Handle("panic", func(context.Context, []byte) ([]byte, error) { panic("oh") })
	n.rpcs[1].Handle("huge", func(context.Context, []byte) ([]byte, error) { return make([]byte, MaxBytes+1), nil })
	n.rpcs[1].HandleStream("stream", count(3))
	for method, want := range map[string]RemoteError{
		"coded":   {"no such node", "n17 is not here"},
		"plain":   {CodeFailed, strings.Repeat("ä", MaxErrorBytes/2)},
		"panic":   {CodeBroken, "the handler of panic crashed; the member's log says where"},
		"huge":    {CodeTooLarge, "the answer has 16777217 bytes, allowed are 16777216"},
		"stream":  {CodeBroken, "the member answers with a stream; it has another kind of method of that name"},
		"nothing": {CodeUnknownMethod, `the member has no method "nothing"`},
	} {
		_, err := n.rpcs[0].Call(within(t), slot, method, nil)
		var got *RemoteError
		require.ErrorAs(t, err, &got, method)
		require.Equal(t, want, *got)
		require.ErrorContains(t, err, "calling "+method+": ")
	}
	require.Len(t, n.logs[1].FilterMessageSnippet("crashed").All(), 1)
	_, err := n.rpcs[0].Call(within(t), slot, "plain", make([]byte, MaxBytes+1))
	require.ErrorIs(t, err, ErrTooLarge)
	_, err = n.rpcs[0].Call(within(t), slot, strings.Repeat("m", MaxMethodBytes+1), nil)
	require.ErrorIs(t, err, ErrTooLarge)
	_, err = n.rpcs[0].Call(within(t), 9, "plain", nil)
	require.ErrorIs(t, err, ErrUnreachable)
	require.Panics(t, func() { n.rpcs[1].Handle("plain", echo) })
	n.empty()
}

func TestTheCallersContextEndsTheHandlers(t *testing.T) {
	n := newNetwork(t, 1<<20)
	running, ended := make(chan struct{}, 1), make(chan error, 1)
	n.rpcs[1].Handle("stuck", stuck(running, ended))

	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-running
		n.set(func() { n.full[0] = true }) // the cancellation has to wait for room
		cancel()
	}()
	_, err := n.rpcs[0].Call(ctx, slot, "stuck", nil)
	require.ErrorIs(t, err, context.Canceled)
	n.set(func() { n.full[0] = false })
	require.ErrorIs(t, <-ended, context.Canceled)

	ctx, cancel = context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err = n.rpcs[0].Call(ctx, slot, "stuck", nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	<-running
	require.Error(t, <-ended)

	_, err = n.rpcs[0].Call(ctx, slot, "stuck", nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	n.empty()
}

func TestTheDeadlineTravels(t *testing.T) {
	n := newNetwork(t, 1<<20)
	running, ended := make(chan struct{}, 1), make(chan error, 1)
	n.rpcs[1].Handle("stuck", stuck(running, ended))
	r := n.rpcs[1]
	r.Message(slot, callMessage(1, 5, 0, "stuck", nil))
	require.ErrorIs(t, <-ended, context.DeadlineExceeded)
	n.empty()
	require.ErrorIs(t, &RemoteError{Code: CodeTimeout}, context.DeadlineExceeded)
	require.NotErrorIs(t, &RemoteError{Code: CodeBusy}, context.DeadlineExceeded)
}

func callMessage(id, timeoutMs, total uint64, method string, body []byte) []byte {
	m := binary.AppendUvarint(appendOp(nil, opCall, id), timeoutMs)
	return append(appendText(binary.AppendUvarint(m, total), method), body...)
}

func TestTooManyCallsAreRefused(t *testing.T) {
	n := newNetwork(t, 1<<20)
	release := make(chan struct{})
	n.rpcs[1].Handle("wait", func(context.Context, []byte) ([]byte, error) {
		<-release
		return nil, nil
	})
	results := make(chan error)
	const calls = maxHandlers + 10
	for range calls {
		go func() {
			_, err := n.rpcs[0].Call(within(t), slot, "wait", nil)
			results <- err
		}()
	}
	for range calls - maxHandlers {
		var busy *RemoteError
		require.ErrorAs(t, <-results, &busy)
		require.Equal(t, CodeBusy, busy.Code)
	}
	close(release)
	for range maxHandlers {
		require.NoError(t, <-results)
	}
	n.empty()
}

func TestCallsThatAreNotCompleteAreBounded(t *testing.T) {
	n := newNetwork(t, 1<<20)
	r := n.rpcs[1]
	r.Handle("length", func(_ context.Context, body []byte) ([]byte, error) { return []byte(fmt.Sprint(len(body))), nil })
	for id := range uint64(maxAssembly/MaxBytes + 3) {
		r.Message(slot, callMessage(id, 0, MaxBytes, "length", []byte("begin")))
	}
	_, serving := r.underWay()
	require.Equal(t, maxAssembly/MaxBytes, serving)
	r.Message(slot, message(opMore, 0, make([]byte, MaxBytes)))              // longer than it said
	r.Message(slot, appendOp(nil, opCancel, 1))                              // given up
	r.Message(slot, message(opMore, 2, make([]byte, MaxBytes-len("begin")))) // complete
	require.Eventually(t, func() bool {
		_, serving := r.underWay()
		return serving == maxAssembly/MaxBytes-3
	}, 10*time.Second, time.Millisecond)
	p, err := r.peer(slot)
	require.NoError(t, err)
	r.Message(slot, callMessage(99, 0, MaxBytes, "length", []byte("begin")))
	p.mu.Lock()
	require.Equal(t, 2*MaxBytes, p.assembling)
	p.mu.Unlock()
}

func TestDownEndsAll(t *testing.T) {
	n := newNetwork(t, 1<<20)
	running, ended := make(chan struct{}, 1), make(chan error, 1)
	n.rpcs[1].Handle("stuck", stuck(running, ended))
	n.rpcs[1].HandleStream("endless", count(-1))
	items, end := n.rpcs[0].Stream(within(t), slot, "endless", nil)
	<-items
	result := make(chan error, 1)
	go func() {
		_, err := n.rpcs[0].Call(within(t), slot, "stuck", nil)
		result <- err
	}()
	<-running
	n.down()
	require.ErrorIs(t, <-result, ErrDown)
	require.ErrorIs(t, <-ended, ErrDown)
	all(items)
	require.ErrorIs(t, end(), ErrDown)
	n.empty()
	_, err := n.rpcs[0].Call(within(t), slot, "stuck", nil)
	require.ErrorIs(t, err, ErrUnreachable)
}

func TestDownWhileACallIsBeingSent(t *testing.T) {
	n := newNetwork(t, 1<<20)
	running, ended := make(chan struct{}, 1), make(chan error, 1)
	n.rpcs[1].Handle("stuck", stuck(running, ended))
	result := make(chan error, 1)
	go func() {
		_, err := n.rpcs[0].Call(within(t), slot, "stuck", make([]byte, MaxBytes))
		result <- err
	}()
	require.Eventually(t, func() bool { _, serving := n.rpcs[1].underWay(); return serving == 1 }, 10*time.Second, time.Millisecond)
	n.down()
	require.ErrorIs(t, <-result, ErrDown)
	n.empty()
}

func TestCloseEndsAll(t *testing.T) {
	n := newNetwork(t, 1<<20)
	running, ended := make(chan struct{}, 1), make(chan error, 1)
	n.rpcs[1].Handle("stuck", stuck(running, ended))
	n.rpcs[1].HandleStream("endless", count(-1))
	_, end := n.rpcs[0].Stream(within(t), slot, "endless", nil) // nobody reads
	result := make(chan error, 1)
	go func() {
		_, err := n.rpcs[0].Call(within(t), slot, "stuck", nil)
		result <- err
	}()
	<-running
	n.rpcs[0].Close()
	require.ErrorIs(t, <-result, ErrClosed)
	require.ErrorIs(t, end(), ErrClosed)
	_, err := n.rpcs[0].Call(within(t), slot, "stuck", nil)
	require.ErrorIs(t, err, ErrClosed)
	_, end = n.rpcs[0].Stream(within(t), slot, "endless", nil)
	require.ErrorIs(t, end(), ErrClosed)
	n.rpcs[0].Message(slot, callMessage(1, 0, 0, "x", nil))
	n.rpcs[1].Close()
	require.ErrorIs(t, <-ended, ErrClosed)
}

func TestWhatIsNotUnderstoodIsSaidOnce(t *testing.T) {
	r := New(func(uint16, []byte) bool { return true }, zap.NewNop())
	r.Handle("echo", echo)
	defer r.Close()
	p, err := r.peer(slot)
	require.NoError(t, err)
	call := callMessage(300, 300, 300, "echo", nil)
	for i := range len(call) {
		require.Error(t, p.message(call[:i]), "%d bytes", i)
	}
	for _, m := range [][]byte{{2, opEnd, 1}, {KindRPC, 99, 1}, {KindRPC, opCredit, 1}, {KindRPC, opError, 1, 1}, {KindRPC, opError, 1, 200, 1}} {
		require.Error(t, p.message(m), "% x", m)
	}
	n := newNetwork(t, 1<<20)
	for range 3 {
		n.rpcs[0].Message(slot, []byte{KindRPC, 99, 1})
	}
	require.Equal(t, 1, n.logs[0].Len())
}
