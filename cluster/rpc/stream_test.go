package rpc

import (
	"context"
	"encoding/binary"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// count emits so many numbers; -1: without end.
func count(n int) func(context.Context, []byte, func([]byte) error) error {
	return func(_ context.Context, _ []byte, emit func([]byte) error) error {
		for i := 0; i != n; i++ {
			if err := emit(binary.BigEndian.AppendUint64(nil, uint64(i))); err != nil {
				return err
			}
		}
		return nil
	}
}

func all(items <-chan []byte) (got [][]byte) {
	for item := range items {
		got = append(got, item)
	}
	return got
}

func TestStream(t *testing.T) {
	for _, lose := range []float64{0, 0.2} {
		n := newNetwork(t, 1<<20)
		n.rpcs[1].HandleStream("count", count(20_000))
		n.set(func() { n.lose = lose })
		items, end := n.rpcs[0].Stream(within(t), slot, "count", nil)
		i := uint64(0)
		for item := range items {
			require.Equal(t, i, binary.BigEndian.Uint64(item))
			i++
		}
		require.NoError(t, end())
		require.NoError(t, end(), "it may be asked again")
		require.EqualValues(t, 20_000, i)
		n.empty()
	}
}

func TestStreamTakesABodyAndAnEmptyOneEnds(t *testing.T) {
	n := newNetwork(t, 4<<20)
	n.rpcs[1].HandleStream("length", func(_ context.Context, body []byte, emit func([]byte) error) error {
		if len(body) == 0 {
			return nil
		}
		require.ErrorIs(t, emit(make([]byte, ChunkBytes+1)), ErrTooLarge)
		return emit(binary.BigEndian.AppendUint64(nil, uint64(len(body))))
	})
	items, end := n.rpcs[0].Stream(within(t), slot, "length", make([]byte, MaxBytes))
	require.Equal(t, [][]byte{binary.BigEndian.AppendUint64(nil, MaxBytes)}, all(items))
	require.NoError(t, end())
	items, end = n.rpcs[0].Stream(within(t), slot, "length", nil)
	require.Empty(t, all(items))
	require.NoError(t, end())
	n.empty()
}

func TestStreamErrors(t *testing.T) {
	n := newNetwork(t, 1<<20)
	n.rpcs[1].HandleStream("breaks", func(_ context.Context, _ []byte, emit func([]byte) error) error {
		return errors.Join(emit([]byte("one")), &RemoteError{"broke", "after one"})
	})
	items, end := n.rpcs[0].Stream(within(t), slot, "breaks", nil)
	require.Equal(t, [][]byte{[]byte("one")}, all(items))
	require.Equal(t, "stream breaks: broke: after one", end().Error())
	items, end = n.rpcs[0].Stream(within(t), slot, "nothing", nil)
	require.Empty(t, all(items))
	var remote *RemoteError
	require.ErrorAs(t, end(), &remote)
	require.Equal(t, CodeUnknownMethod, remote.Code)
	items, end = n.rpcs[0].Stream(within(t), 9, "breaks", nil)
	require.Empty(t, all(items))
	require.ErrorIs(t, end(), ErrUnreachable)
	n.empty()
}

// TestASlowReaderHoldsTheHandlerBack: what is sent and not read is bounded, on the way too.
func TestASlowReaderHoldsTheHandlerBack(t *testing.T) {
	n := newNetwork(t, 16<<20)
	var emitted atomic.Int64
	waiting := make(chan struct{}, 1)
	n.rpcs[1].HandleStream("flood", func(ctx context.Context, _ []byte, emit func([]byte) error) error {
		for {
			if err := emit(make([]byte, 100<<10)); err != nil {
				return err
			}
			emitted.Add(1)
			select {
			case waiting <- struct{}{}:
			default:
			}
		}
	})
	ctx, cancel := context.WithCancel(within(t))
	items, end := n.rpcs[0].Stream(ctx, slot, "flood", nil)
	p, err := n.rpcs[0].peer(slot)
	require.NoError(t, err)
	unread := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.calls[p.lastID].unread
	}
	require.Eventually(t, func() bool { return unread() > windowBytes-300<<10 }, 10*time.Second, time.Millisecond)
	most := int64(windowBytes/(100<<10) + 2)
	require.LessOrEqual(t, emitted.Load(), most)
	for range 200 {
		require.Len(t, <-items, 100<<10)
	}
	require.LessOrEqual(t, emitted.Load(), 200+2*most)
	n.set(func() { require.LessOrEqual(t, n.queued, int64(windowBytes+200<<10)) })
	cancel()
	require.ErrorIs(t, end(), context.Canceled)
	n.empty()
}

func TestMoreThanWasAskedForEndsTheStream(t *testing.T) {
	n := newNetwork(t, 1<<20)
	n.rpcs[1].Handle("stuck", func(ctx context.Context, _ []byte) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	items, end := n.rpcs[0].Stream(within(t), slot, "stuck", nil)
	for range 4 {
		n.rpcs[0].Message(slot, message(opItem, 1, make([]byte, ChunkBytes)))
	}
	for range 40000 {
		n.rpcs[0].Message(slot, message(opItem, 1, nil))
	}
	require.Less(t, len(all(items)), 40000)
	require.ErrorContains(t, end(), "sends more than the 1048576 bytes")

	answer := make(chan error, 1)
	go func() {
		_, err := n.rpcs[0].Call(within(t), slot, "stuck", nil)
		answer <- err
	}()
	require.Eventually(t, func() bool { calls, _ := n.rpcs[0].underWay(); return calls == 1 }, 10*time.Second, time.Millisecond)
	for range MaxBytes/ChunkBytes + 1 {
		n.rpcs[0].Message(slot, message(opItem, 2, make([]byte, ChunkBytes)))
	}
	require.ErrorContains(t, <-answer, "an answer of more than 16777216 bytes")
	n.empty()
}
