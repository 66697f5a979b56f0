package initramfs

import (
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"strings"
)

// File modes of the archive's entries, as in stat(2).
const (
	modeDir  = 0o040755
	modeFile = 0o100644
	modeExec = 0o100755
)

// trailer is the name that ends an archive.
const trailer = "TRAILER!!!"

// Writer writes an archive. Folders are made as files need them. One goroutine may use it.
type Writer struct {
	w    io.Writer
	ino  uint32
	at   int64 // bytes written
	dirs map[string]bool
	err  error
}

// NewWriter returns a writer of an archive to w, which it does not close.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w, dirs: map[string]bool{}} }

// Dir adds a folder and those above it, unless they are there.
func (w *Writer) Dir(name string) error {
	name = clean(name)
	if name == "" || w.dirs[name] {
		return w.err
	}
	if err := w.Dir(path.Dir(name)); err != nil {
		return err
	}
	w.dirs[name] = true
	return w.entry(name, modeDir, 0, nil)
}

// File adds a file with this content.
func (w *Writer) File(name string, executable bool, size int64, content io.Reader) error {
	name = clean(name)
	if err := w.Dir(path.Dir(name)); err != nil {
		return err
	}
	if size < 0 || size > math.MaxUint32 {
		return fmt.Errorf("%s: %d bytes; an archive's file has 4 GiB at most", name, size)
	}
	mode := uint32(modeFile)
	if executable {
		mode = modeExec
	}
	return w.entry(name, mode, size, content)
}

// Copy adds a file of this machine, followed where it is a link.
func (w *Writer) Copy(name, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no file", from)
	}
	return w.File(name, info.Mode()&0o111 != 0, info.Size(), f)
}

// Close ends the archive.
func (w *Writer) Close() error { return w.entry(trailer, 0, 0, nil) }

// entry writes header, name and content, each padded to 4 bytes.
func (w *Writer) entry(name string, mode uint32, size int64, content io.Reader) error {
	w.ino++
	links := 1
	if mode == modeDir {
		links = 2
	}
	// magic, ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor,
	// rdevminor, namesize, check
	w.print("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		w.ino, mode, 0, 0, links, 0, size, 0, 0, 0, 0, len(name)+1, 0, name)
	w.pad()
	if content != nil && w.err == nil {
		n, err := io.CopyN(w.w, content, size)
		w.at += n
		if err != nil {
			w.err = fmt.Errorf("%s: %d of %d bytes: %w", name, n, size, err)
		}
		w.pad()
	}
	return w.err
}

func (w *Writer) print(format string, args ...any) {
	if w.err != nil {
		return
	}
	n, err := fmt.Fprintf(w.w, format, args...)
	w.at += int64(n)
	w.err = err
}

func (w *Writer) pad() { w.print("%s", "\x00\x00\x00"[:-w.at&3]) }

// clean makes a name relative to the archive's root; "" is the root.
func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }
