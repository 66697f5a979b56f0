// Package docs_test compares what the documents name with what exists.
package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	namedTest   = regexp.MustCompile("`(Test[A-Z0-9]\\w*)`")
	namedMetric = regexp.MustCompile(`\b(roost_[a-z0-9_]+)\b`)
	testFunc    = regexp.MustCompile(`(?m)^func (Test[A-Z0-9]\w*)\(`)
)

// TestGuaranteesAreShown checks that every test that GUARANTEES.md names exists in the
// module, and every metric in METRICS.md.
func TestGuaranteesAreShown(t *testing.T) {
	text := read(t, "GUARANTEES.md")
	tests := namedTest.FindAllStringSubmatch(text, -1)
	require.Greater(t, len(tests), 10, "the tests are not where this looks for them")
	exist := testsOfModule(t)
	for _, m := range tests {
		if !exist[m[1]] {
			t.Errorf("GUARANTEES.md names %s: there is no such test", m[1])
		}
	}
	metrics := read(t, "METRICS.md")
	found := namedMetric.FindAllStringSubmatch(text, -1)
	require.NotEmpty(t, found)
	for _, m := range found {
		if !strings.Contains(metrics, "\n| `"+m[1]+"` |") {
			t.Errorf("GUARANTEES.md names the metric %s: it is not in METRICS.md", m[1])
		}
	}
}

// testsOfModule finds all test functions.
func testsOfModule(t *testing.T) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != "..":
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		for _, m := range testFunc.FindAllStringSubmatch(read(t, path), -1) {
			all[m[1]] = true
		}
		return nil
	})
	require.NoError(t, err)
	return all
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}
