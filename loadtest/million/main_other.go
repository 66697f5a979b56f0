//go:build !linux

// Command million shows a million nodes on one machine. It runs on Linux only.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "million: runs on Linux only")
	os.Exit(2)
}
