package roost

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/protocol"
)

func entry(id string, attempt uint32, output int) Entry {
	e := Entry{
		JobID: id, Shard: 3, Attempt: attempt, Outcome: protocol.OutcomeFailed,
		Duration: 1234 * time.Microsecond, Error: "why " + id, Output: []byte{0xc0},
	}
	if output > 0 {
		e.Output = append([]byte{0xc6, byte(output >> 24), byte(output >> 16), byte(output >> 8), byte(output)}, make([]byte, output)...)
	}
	return e
}

func openBox(t testing.TB, path string, opts FileOptions) *FileOutbox {
	t.Helper()
	o, err := OpenFileOutbox(path, opts)
	require.NoError(t, err)
	t.Cleanup(func() { o.Close() })
	return o
}

func allOf(t testing.TB, o Outbox) []Entry {
	t.Helper()
	all, err := o.All()
	require.NoError(t, err)
	return all
}

func TestOutboxes(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) Outbox{
		"memory": func(*testing.T) Outbox { return NewMemoryOutbox(3, 1000) },
		"file": func(t *testing.T) Outbox {
			return openBox(t, filepath.Join(t.TempDir(), "box"), FileOptions{MaxEntries: 3, MaxBytes: 1000})
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := open(t)
			full := o.(interface{ Full() error }).Full
			require.Empty(t, allOf(t, o))
			require.NoError(t, o.Put(entry("a", 1, 0)))
			require.NoError(t, o.Put(entry("b", 2, 0)))
			require.NoError(t, full())
			require.NoError(t, o.Put(entry("a", 3, 0)))
			require.Equal(t, []Entry{entry("b", 2, 0), entry("a", 3, 0)}, allOf(t, o), "one a job, the newest last")
			require.NoError(t, o.Remove("a", 2))
			require.NoError(t, o.Remove("unknown", 2))
			require.Len(t, allOf(t, o), 2, "a removal of the past")
			require.NoError(t, o.Put(entry("c", 1, 0)))
			require.ErrorContains(t, full(), "3 results")
			require.NoError(t, o.Put(entry("d", 1, 0)), "what was accepted is kept")
			for _, id := range []string{"b", "c", "d"} {
				require.NoError(t, o.Remove(id, 9))
			}
			require.NoError(t, full())
			require.NoError(t, o.Put(entry("big", 1, 1000)))
			require.Error(t, full())
			require.NoError(t, o.Close())
		})
	}
}

func TestFileOutboxLastsAndCompacts(t *testing.T) {
	for _, noSync := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "box")
		o := openBox(t, path, FileOptions{NoSync: noSync})
		require.NoError(t, o.Put(entry("keep", 5, 100)))
		for i := range 200 {
			id := fmt.Sprint("j", i)
			require.NoError(t, o.Put(entry(id, 1, 8<<10)))
			require.NoError(t, o.Put(entry(id, 2, 8<<10)))
			require.NoError(t, o.Remove(id, 2))
		}
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Less(t, info.Size(), int64(2*compactBytes), "3 MB went through")
		require.Equal(t, info.Size(), o.size)
		require.NoError(t, o.Close())
		require.NoError(t, o.Close())
		require.ErrorIs(t, o.Put(entry("x", 1, 0)), errOutboxClosed)
		require.ErrorIs(t, o.Remove("x", 1), errOutboxClosed)

		o = openBox(t, path, FileOptions{})
		require.Equal(t, []Entry{entry("keep", 5, 100)}, allOf(t, o))
		require.Empty(t, o.Damaged())
		size, err := o.writeLive(mustCreate(t))
		require.NoError(t, err)
		require.Equal(t, size, o.live, "the count of live bytes is exact")
	}
}

func mustCreate(t *testing.T) *os.File {
	f, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func TestFileOutboxIsLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "box")
	o := openBox(t, path, FileOptions{})
	_, err := OpenFileOutbox(path, FileOptions{})
	require.ErrorContains(t, err, "in use")
	require.NoError(t, o.Close())
	openBox(t, path, FileOptions{})
}

func TestFileOutboxRefusesForeignFiles(t *testing.T) {
	for _, content := range []string{"#!/bin/sh\necho\n", "abc"} {
		path := filepath.Join(t.TempDir(), "box")
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		_, err := OpenFileOutbox(path, FileOptions{})
		require.ErrorContains(t, err, "is no outbox")
		now, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, content, string(now))
	}
	_, err := OpenFileOutbox(filepath.Join(t.TempDir(), "missing", "box"), FileOptions{})
	require.Error(t, err)
}

// A crash may cut the file anywhere: all whole records before the cut are there.
func TestFileOutboxCutAnywhere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "box")
	o := openBox(t, path, FileOptions{NoSync: true})
	ends := []int64{int64(len(fileHeader))}
	for i := range 4 {
		require.NoError(t, o.Put(entry(fmt.Sprint("j", i), 1, i*10)))
		ends = append(ends, o.size)
	}
	require.NoError(t, o.Close())
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	for cut := range len(whole) + 1 {
		at := filepath.Join(dir, fmt.Sprint("cut", cut))
		require.NoError(t, os.WriteFile(at, whole[:cut], 0o600))
		o := openBox(t, at, FileOptions{NoSync: true})
		records := 0
		for records < 4 && ends[records+1] <= int64(cut) {
			records++
		}
		require.Len(t, allOf(t, o), records, "cut at %d", cut)
		require.Empty(t, o.Damaged())
		require.NoError(t, o.Put(entry("after", 1, 0)))
		require.NoError(t, o.Close())
		o = openBox(t, at, FileOptions{NoSync: true})
		require.Len(t, allOf(t, o), records+1, "cut at %d, then written", cut)
		require.NoError(t, o.Close())
	}
}

func TestFileOutboxSavesDamagedRecords(t *testing.T) {
	path := filepath.Join(t.TempDir(), "box")
	o := openBox(t, path, FileOptions{})
	require.NoError(t, o.Put(entry("a", 1, 0)))
	from := o.size
	require.NoError(t, o.Put(entry("b", 1, 0)))
	require.NoError(t, o.Put(entry("c", 1, 0)))
	require.NoError(t, o.Close())
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	content[from+recordHeader+3] ^= 1
	require.NoError(t, os.WriteFile(path, content, 0o600))

	o = openBox(t, path, FileOptions{})
	require.Equal(t, []Entry{entry("a", 1, 0)}, allOf(t, o))
	saved, err := os.ReadFile(o.Damaged())
	require.NoError(t, err)
	require.Equal(t, content[from:], saved)
}

func TestFileOutboxRecoversFromAFailedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "box")
	o := openBox(t, path, FileOptions{})
	require.NoError(t, o.Put(entry("a", 1, 0)))
	o.file.Close() // every write fails from here on
	require.Error(t, o.Put(entry("b", 1, 0)))
	require.NoError(t, o.Remove("a", 1))
	require.NoError(t, o.Put(entry("c", 1, 0)), "the file was rewritten")
	require.NoError(t, o.Close())
	o = openBox(t, path, FileOptions{})
	require.Equal(t, []Entry{entry("b", 1, 0), entry("c", 1, 0)}, allOf(t, o))
}

func TestFileOutboxFromManyGoroutines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "box")
	o := openBox(t, path, FileOptions{})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(g)))
			for i := range 60 {
				id := fmt.Sprintf("%d-%d", g, i)
				if err := o.Put(entry(id, 1, r.IntN(20<<10))); err != nil {
					t.Error(err)
				}
				if i%3 > 0 {
					_ = o.Remove(id, 1)
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, o.Close())
	o = openBox(t, path, FileOptions{})
	require.Len(t, allOf(t, o), 8*20)
	require.Empty(t, o.Damaged())
}

// failingOutbox takes nothing.
type failingOutbox struct{ MemoryOutbox }

func (*failingOutbox) Put(Entry) error { return errTest }

func TestResultIsSentThoughTheOutboxFails(t *testing.T) {
	m := newMember(t)
	box := &failingOutbox{}
	box.set = newEntries(0, 0)
	n := startNode(t, Config{Servers: []string{m.addr()}, Outbox: box}, func(c *Client) { c.Handle("k", echo) })
	p, _ := m.session()
	p.job("j", 1, "k", 1)
	require.ErrorIs(t, awaitEvent[OutboxFailed](n).Err, errTest)
	p.result("j", 1, protocol.OutcomeOK)
	p.conn.Close()
	p, hello := m.session()
	require.Len(t, hello.Held, 1)
	p.result("j", 1, protocol.OutcomeOK)
}

func FuzzFileOutbox(f *testing.F) {
	path := filepath.Join(f.TempDir(), "box")
	o := openBox(f, path, FileOptions{NoSync: true})
	require.NoError(f, o.Put(entry("a", 1, 3)))
	require.NoError(f, o.Put(entry("b", 1, 3)))
	require.NoError(f, o.Remove("a", 1))
	require.NoError(f, o.Close())
	content, err := os.ReadFile(path)
	require.NoError(f, err)
	f.Add(content)
	f.Add(content[:len(content)-3])
	f.Add(append([]byte(fileHeader), 0, 0, 0, 0, 0, 0, 0, 0))
	f.Add(seal(binary.LittleEndian.AppendUint32(append([]byte(fileHeader), make([]byte, 8)...), 7)))
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "box")
		require.NoError(t, os.WriteFile(path, content, 0o600))
		o, err := OpenFileOutbox(path, FileOptions{NoSync: true})
		if err != nil {
			return
		}
		before := allOf(t, o)
		require.NoError(t, o.Put(entry("new", 1, 0)))
		require.NoError(t, o.Close())
		o = openBox(t, path, FileOptions{NoSync: true})
		require.Empty(t, o.Damaged(), "what was cut stays cut")
		after := allOf(t, o)
		require.GreaterOrEqual(t, len(after), len(before))
		require.Equal(t, entry("new", 1, 0), after[len(after)-1])
		require.NoError(t, o.Close())
	})
}
