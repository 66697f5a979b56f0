//go:build !linux

// Command benchmarks runs the load test's scenarios, which run on Linux only; elsewhere
// it says so.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "benchmarks: runs on Linux only")
	os.Exit(2)
}
