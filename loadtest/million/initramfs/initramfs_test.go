package initramfs

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// entry is one of an archive, as the kernel's unpacker reads it.
type entry struct {
	name    string
	mode    uint64
	links   uint64
	content string
}

// parse reads an archive by the format's description, strictly.
func parse(t *testing.T, b []byte) (out []entry) {
	at := 0
	inodes := map[uint64]bool{}
	for {
		require.Zero(t, at%4, "every header begins at a multiple of 4")
		h := string(b[at : at+110])
		require.Equal(t, "070701", h[:6])
		var f [13]uint64
		for i := range f {
			var err error
			f[i], err = strconv.ParseUint(h[6+8*i:14+8*i], 16, 32)
			require.NoError(t, err)
		}
		name := string(b[at+110 : at+110+int(f[11])])
		require.Equal(t, byte(0), name[len(name)-1])
		name = name[:len(name)-1]
		at = (at + 110 + int(f[11]) + 3) &^ 3
		content := string(b[at : at+int(f[6])])
		at = (at + int(f[6]) + 3) &^ 3
		if name == trailer {
			require.Len(t, b, at)
			return out
		}
		require.False(t, inodes[f[0]], "one inode for each entry, or the kernel links them")
		inodes[f[0]] = true
		out = append(out, entry{name, f[1], f[4], content})
	}
}

func TestAnArchiveHasWhatWasPutIn(t *testing.T) {
	host := filepath.Join(t.TempDir(), "program")
	require.NoError(t, os.WriteFile(host, []byte("12345"), 0o755))
	link := host + ".link"
	require.NoError(t, os.Symlink(host, link))

	var b bytes.Buffer
	w := NewWriter(&b)
	require.NoError(t, w.Dir("/proc"))
	for n := range 6 { // each length of padding
		name := fmt.Sprintf("/a/b%s/f", strings.Repeat("x", n))
		require.NoError(t, w.File(name, false, int64(n), strings.NewReader("abcdef"[:n])))
	}
	require.NoError(t, w.Copy("bin/program", link))
	require.NoError(t, w.Dir("/a"))
	require.NoError(t, w.Close())

	got := map[string]entry{}
	var order []string
	for _, e := range parse(t, b.Bytes()) {
		require.NotContains(t, got, e.name, "twice")
		got[e.name] = e
		order = append(order, e.name)
	}
	require.Equal(t, []string{"proc", "a", "a/b", "a/b/f"}, order[:4], "folders before what is in them")
	require.Equal(t, entry{"proc", 0o040755, 2, ""}, got["proc"])
	require.Equal(t, entry{"a/bxxx/f", 0o100644, 1, "abc"}, got["a/bxxx/f"])
	require.Equal(t, entry{"bin/program", 0o100755, 1, "12345"}, got["bin/program"])
}

func TestAnArchiveIsNotSilentlyShort(t *testing.T) {
	w := NewWriter(&bytes.Buffer{})
	require.ErrorContains(t, w.File("f", false, 10, strings.NewReader("abc")), "3 of 10")
	require.Error(t, w.Close(), "the first error stays")
	require.ErrorContains(t, NewWriter(&bytes.Buffer{}).File("f", false, 1<<32, nil), "4 GiB")
	require.ErrorIs(t, NewWriter(full{}).Dir("d"), errFull)
	require.ErrorContains(t, NewWriter(&bytes.Buffer{}).Copy("d", t.TempDir()), "no file")
	require.ErrorIs(t, NewWriter(&bytes.Buffer{}).Copy("f", "/does/not/exist"), os.ErrNotExist)
}

var errFull = errors.New("full")

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }

// The test's own machine has dynamic programs; each library has to exist, and need nothing
// that is not in the list.
func TestLibrariesAreClosed(t *testing.T) {
	const program = "/bin/ls"
	libs, err := Libraries(program)
	require.NoError(t, err)
	require.NotEmpty(t, libs)
	names := map[string]bool{}
	for _, l := range libs {
		require.FileExists(t, l)
		names[filepath.Base(l)] = true
	}
	for _, file := range append(libs, program) {
		f, err := elf.Open(file)
		require.NoError(t, err)
		needed, err := f.ImportedLibraries()
		require.NoError(t, err)
		loader, err := interpreter(f)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		for _, n := range needed {
			require.True(t, names[n], "%s needs %s", file, n)
		}
		if file == program {
			require.Contains(t, libs, loader)
		}
	}
}

func TestLibrariesRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "text")
	require.NoError(t, os.WriteFile(file, []byte("#!/bin/sh\n"), 0o755))
	_, err := Libraries(file)
	require.ErrorContains(t, err, file)
	_, err = find("libnothing.so.1", []string{"/lib"}, elf.FileHeader{})
	require.ErrorContains(t, err, "libnothing.so.1, which is in none of /lib")
}

func TestConfiguredFolders(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	write("ld.so.conf", "# first\n/one # why\n\ninclude sub/*.conf\n/included\n")
	write("sub/a.conf", "/two\n")
	write("sub/b.conf", "include "+dir+"/ld.so.conf\n") // round and round
	got := configured(filepath.Join(dir, "ld.so.conf"), 0)
	require.Equal(t, []string{"/one", "/two"}, got[:2])
	require.Contains(t, got, "/included")
	require.Less(t, len(got), 100)
	require.Empty(t, configured(filepath.Join(dir, "none"), 0))
}
