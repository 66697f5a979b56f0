//go:build !linux

// Command clustertest breaks a cluster whose members have hosts of their own: Linux
// network namespaces. Elsewhere it says so.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "clustertest: its hosts are network namespaces, which only Linux has")
	os.Exit(2)
}
