// Package scenarios is the load test's built-in scenarios: one YAML file each, in the
// format that docs/LOADTEST.md describes.
package scenarios

import (
	"embed"
	"strings"
)

//go:embed *.yaml
var files embed.FS

// Read returns the scenario of a name, such as "hold".
func Read(name string) (b []byte, ok bool) {
	b, err := files.ReadFile(name + ".yaml")
	return b, err == nil
}

// Names returns all names, sorted.
func Names() (names []string) {
	entries, _ := files.ReadDir(".") // it is embedded
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return names
}
