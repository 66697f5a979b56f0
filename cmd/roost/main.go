// Command roost is a Roost member, a node, and the tools to work with both.
package main

import (
	"os"

	"github.com/roost-server/roost/cmd/roost/internal/cli"
)

func main() { os.Exit(cli.Main()) }
