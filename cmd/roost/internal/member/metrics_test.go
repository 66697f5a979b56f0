package member

import (
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMetricsDocument compares docs/METRICS.md with the metrics in the source: name,
// labels and meaning of each.
func TestMetricsDocument(t *testing.T) {
	source, err := os.ReadFile("metrics.go")
	require.NoError(t, err)
	more, err := os.ReadFile("metrics_cluster.go")
	require.NoError(t, err)
	source = append(source, more...)
	doc, err := os.ReadFile("../../../../docs/METRICS.md")
	require.NoError(t, err)

	inSource := map[string]string{}
	for _, m := range regexp.MustCompile(`desc\("([a-z_]+)", "([^"]+)", (.*)\)\n`).FindAllStringSubmatch(string(source), -1) {
		labels := ""
		switch m[3] {
		case "nil":
		case "partition":
			labels = "partition"
		default:
			for i, l := range regexp.MustCompile(`"([a-z]+)"`).FindAllStringSubmatch(m[3], -1) {
				if i > 0 {
					labels += ", "
				}
				labels += l[1]
			}
		}
		inSource["roost_"+m[1]] = labels + " | " + m[2]
	}
	require.Greater(t, len(inSource), 30)
	inDoc := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(roost_[a-z_]+)` \\| (.*?) ?\\| (.*) \\|$").FindAllStringSubmatch(string(doc), -1) {
		inDoc[m[1]] = m[2] + " | " + m[3]
	}
	require.Equal(t, inSource, inDoc)
}
