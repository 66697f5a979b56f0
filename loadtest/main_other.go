//go:build !linux

// Command loadtest is the load simulator. Its nodes live on one epoll loop, so it runs
// on Linux only; elsewhere it says so.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "loadtest: runs on Linux only; it can load a server on any system from there")
	os.Exit(2)
}
