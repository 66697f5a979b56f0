//go:build linux

package main

import (
	"fmt"
	"os"
	"strings"
)

// block is one fenced block of commands.
type block struct {
	section string // the heading of second or third level that it is under
	line    int
	hosts   []string
	text    string
}

// parse finds the blocks "```sh HOST...". Those of "```text" show what is printed.
func parse(path string) ([]block, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var all []block
	var open *block
	section := ""
	for i, line := range strings.Split(string(data), "\n") {
		switch {
		case open != nil && line == "```":
			if len(open.hosts) > 0 {
				all = append(all, *open)
			}
			open = nil
		case open != nil:
			open.text += line + "\n"
		case strings.HasPrefix(line, "```"):
			words := strings.Fields(strings.TrimPrefix(line, "```"))
			if len(words) < 2 && (len(words) != 1 || words[0] != "text") || words[0] != "sh" && words[0] != "text" {
				return nil, fmt.Errorf("%s:%d: want ```sh and the hosts that it is for, or ```text", path, i+1)
			}
			open = &block{section: section, line: i + 1, hosts: words[1:]}
		case strings.HasPrefix(line, "#"):
			section = strings.TrimSpace(strings.TrimLeft(line, "#"))
		}
	}
	if open != nil {
		return nil, fmt.Errorf("%s:%d: the block does not end", path, open.line)
	}
	return all, nil
}

// on are the blocks of a section that are for all of the first members.
func on(all []block, sections ...string) []block {
	var out []block
	for _, b := range all {
		for _, s := range sections {
			if b.section == s && len(b.hosts) == 3 {
				out = append(out, b)
			}
		}
	}
	return out
}
