package discovery

import (
	"context"
	"errors"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// memory is a Board in memory. The one over Kafka is tested with its broker, in
// transport/kafka.
type memory struct {
	mu        sync.Mutex
	entries   map[string]string
	changed   chan struct{} // closed at each change
	published int
	fail      error
}

func newMemory() *memory {
	return &memory{entries: map[string]string{}, changed: make(chan struct{})}
}

func (m *memory) change(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
	close(m.changed)
	m.changed = make(chan struct{})
}

// Publish implements Board.
func (m *memory) Publish(_ context.Context, name, address string) (err error) {
	m.change(func() {
		if err = m.fail; err == nil {
			m.entries[name] = address
			m.published++
		}
	})
	return err
}

// Withdraw implements Board.
func (m *memory) Withdraw(ctx context.Context, name string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	m.change(func() { delete(m.entries, name) })
	return nil
}

// Watch implements Board.
func (m *memory) Watch(ctx context.Context, changed func(map[string]string)) error {
	for {
		m.mu.Lock()
		entries, next, fail := maps.Clone(m.entries), m.changed, m.fail
		m.mu.Unlock()
		if fail != nil {
			return fail
		}
		changed(entries)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-next:
		}
	}
}

func (m *memory) get(name string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.entries[name]
}

func (m *memory) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.published
}

// start runs a source over the board; the returned function ends it.
func start(t *testing.T, b Board) (Announcer, *finder, func()) {
	t.Helper()
	s, err := Kafka(b, Options{})
	require.NoError(t, err)
	f := &finder{}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- s.Run(ctx, func(a []string) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.all = append(f.all, a)
		})
	}()
	return s, f, func() { cancel(); require.ErrorIs(t, <-ended, context.Canceled) }
}

func TestBoardSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		one, f1, stop1 := start(t, m)
		two, f2, stop2 := start(t, m)
		time.Sleep(PublishInterval * 2)
		require.Zero(t, m.count(), "nobody has announced anything")
		one.Announce("m1", "10.0.0.1:1")
		two.Announce("m2", "10.0.0.2:2")
		synctest.Wait()
		require.Equal(t, []string{"10.0.0.1:1", "10.0.0.2:2"}, f1.last())
		require.Equal(t, f1.last(), f2.last())

		calls := f1.calls()
		time.Sleep(10 * PublishInterval)
		synctest.Wait()
		require.Equal(t, calls, f1.calls(), "nothing changed")
		require.InDelta(t, 2+2*10, m.count(), 6, "written again and again")

		one.Announce("m1", "10.0.0.9:1") // it has moved
		synctest.Wait()
		require.Equal(t, []string{"10.0.0.2:2", "10.0.0.9:1"}, f2.last())
		stop1()
		require.Empty(t, m.get("m1"), "withdrawn")
		synctest.Wait()
		require.Equal(t, []string{"10.0.0.2:2"}, f2.last())
		stop2()
	})
}

// A second member of the name has taken the entry: it is not ours to withdraw.
func TestBoardSourceLeavesOthersEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		s, f, stop := start(t, m)
		s.Announce("m", "10.0.0.1:1")
		synctest.Wait()
		require.NoError(t, m.Publish(t.Context(), "m", "10.0.0.2:2"))
		synctest.Wait()
		require.Equal(t, []string{"10.0.0.2:2"}, f.last(), "both are found, one after the other")
		stop()
		require.Equal(t, "10.0.0.2:2", m.get("m"))
	})
}

func TestBoardSourceOutlivesBoard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		s, f, stop := start(t, m)
		s.Announce("m", "10.0.0.1:1")
		synctest.Wait()
		m.change(func() { m.fail = errors.New("away") })
		time.Sleep(time.Hour)
		require.Equal(t, []string{"10.0.0.1:1"}, f.last(), "the last ones stand")
		calls := f.calls()
		m.change(func() { m.fail = nil; m.entries = map[string]string{"n": "10.0.0.2:2"} })
		time.Sleep(2 * PublishInterval)
		synctest.Wait()
		require.Equal(t, []string{"10.0.0.1:1", "10.0.0.2:2"}, f.last())
		require.Greater(t, f.calls(), calls)
		stop()
	})
}
