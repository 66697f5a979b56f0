package initramfs

import (
	"bufio"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Libraries returns the shared libraries that a program needs, with those that they need,
// and the dynamic loader: paths as the loader will look for them, for the program runs
// where only they are. It looks where ld.so(8) does, without its cache: in the RUNPATH or
// RPATH, the folders of /etc/ld.so.conf, /lib and /usr/lib. A static program needs none.
func Libraries(program string) ([]string, error) {
	c := closure{folders: append(configured("/etc/ld.so.conf", 0), "/lib64", "/usr/lib64", "/lib", "/usr/lib"), seen: map[string]bool{}}
	if err := c.add(program); err != nil {
		return nil, err
	}
	slices.Sort(c.found)
	return slices.Compact(c.found), nil
}

type closure struct {
	folders []string
	seen    map[string]bool // by path
	found   []string
}

// add finds what a program or library needs.
func (c *closure) add(file string) error {
	if c.seen[file] {
		return nil
	}
	c.seen[file] = true
	f, err := elf.Open(file)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	defer func() { _ = f.Close() }()
	if loader, err := interpreter(f); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	} else if loader != "" {
		c.found = append(c.found, loader)
	}
	names, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	folders := append(own(f, file), c.folders...)
	for _, name := range names {
		path, err := find(name, folders, f.FileHeader)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		c.found = append(c.found, path)
		if err := c.add(path); err != nil {
			return err
		}
	}
	return nil
}

// interpreter returns the dynamic loader that a program names, or "".
func interpreter(f *elf.File) (string, error) {
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		b, err := io.ReadAll(io.LimitReader(p.Open(), 4096))
		if err != nil {
			return "", err
		}
		return strings.TrimRight(string(b), "\x00"), nil
	}
	return "", nil
}

// own returns the folders that the file itself names.
func own(f *elf.File, file string) (folders []string) {
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		lists, err := f.DynString(tag)
		if err != nil {
			continue // a static program has no such section
		}
		for _, list := range lists {
			for folder := range strings.SplitSeq(list, ":") {
				folder = strings.ReplaceAll(folder, "${ORIGIN}", "$ORIGIN")
				folders = append(folders, strings.ReplaceAll(folder, "$ORIGIN", filepath.Dir(file)))
			}
		}
	}
	return folders
}

// find looks for a library of the same machine.
func find(name string, folders []string, want elf.FileHeader) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, folder := range folders {
		path := filepath.Join(folder, name)
		f, err := elf.Open(path)
		if err != nil {
			continue
		}
		same := f.Machine == want.Machine && f.Class == want.Class
		_ = f.Close()
		if same {
			return path, nil
		}
	}
	return "", fmt.Errorf("needs %s, which is in none of %s", name, strings.Join(folders, ", "))
}

// maxIncludes bounds how deep files of ld.so.conf may include others.
const maxIncludes = 8

// configured returns the folders of a file in the format of ld.so.conf.
func configured(file string, depth int) (folders []string) {
	f, err := os.Open(file)
	if err != nil || depth > maxIncludes {
		return nil // as the loader does: what cannot be read is not there
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		line, _, _ := strings.Cut(sc.Text(), "#")
		line = strings.TrimSpace(line)
		if pattern, ok := strings.CutPrefix(line, "include"); ok && strings.TrimSpace(pattern) != pattern {
			pattern = strings.TrimSpace(pattern)
			if !filepath.IsAbs(pattern) {
				pattern = filepath.Join(filepath.Dir(file), pattern)
			}
			matches, err := filepath.Glob(pattern)
			if err != nil {
				continue
			}
			for _, m := range matches {
				folders = append(folders, configured(m, depth+1)...)
			}
			continue
		}
		if line != "" {
			folders = append(folders, line)
		}
	}
	return folders
}
