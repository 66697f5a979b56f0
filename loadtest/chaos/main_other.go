//go:build !linux

// Command chaos breaks a Roost cluster at random and checks its outcomes. It needs
// processes that die with their parent, so it runs on Linux only; elsewhere it says so.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "chaos: runs on Linux only")
	os.Exit(2)
}
