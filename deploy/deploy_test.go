// Package deploy_test holds what stands here against the rest: the programs that read it,
// and the documents.
package deploy_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

var metric = regexp.MustCompile(`\b(roost_[a-z0-9_]+)\b`)

// known are the metrics that METRICS.md has.
func known(t *testing.T) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(roost_[a-z0-9_]+)` \\|").FindAllStringSubmatch(read(t, "../docs/METRICS.md"), -1) {
		all[m[1]] = true
	}
	require.Greater(t, len(all), 30, "the metrics are not where this looks for them")
	return all
}

// TestDashboard checks that the dashboard is whole, and every metric that it asks for is in
// METRICS.md and every one there is on it.
func TestDashboard(t *testing.T) {
	var d struct {
		UID    string `json:"uid"`
		Panels []struct {
			ID      int
			Type    string
			Title   string
			GridPos struct{ H, W, X, Y int }
			Targets []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(read(t, "grafana/roost.json")), &d))
	require.Equal(t, "roost", d.UID)
	metrics, ids, used := known(t), map[int]bool{}, map[string]bool{}
	for _, p := range d.Panels {
		require.False(t, ids[p.ID], "panel %d is there twice", p.ID)
		ids[p.ID] = true
		require.LessOrEqual(t, p.GridPos.X+p.GridPos.W, 24, p.Title)
		if p.Type != "row" {
			require.NotEmpty(t, p.Targets, p.Title)
		}
		for _, target := range p.Targets {
			names := metric.FindAllString(target.Expr, -1)
			for _, name := range names {
				require.True(t, metrics[name], "%s asks for %s, which is not in METRICS.md", p.Title, name)
				used[name] = true
			}
			require.Contains(t, target.Expr, `{job="$job"`, "%s: only the chosen job", p.Title)
		}
	}
	require.Greater(t, len(used), 30, "most of the metrics are on it")
}

type rule struct {
	Alert       string
	Expr        string
	Labels      map[string]string
	Annotations map[string]string
}

func alerts(t *testing.T) []rule {
	t.Helper()
	var f struct{ Groups []struct{ Rules []rule } }
	dec := yaml.NewDecoder(strings.NewReader(read(t, "prometheus/alerts.yaml")))
	require.NoError(t, dec.Decode(&f))
	var all []rule
	for _, g := range f.Groups {
		all = append(all, g.Rules...)
	}
	require.NotEmpty(t, all)
	return all
}

// TestAlerts checks that each alert asks for metrics that exist, says how bad it is, and that
// OPERATIONS.md says what to do.
func TestAlerts(t *testing.T) {
	metrics, operations := known(t), read(t, "../docs/OPERATIONS.md")
	var named []string
	for _, r := range alerts(t) {
		for _, name := range metric.FindAllString(r.Expr, -1) {
			require.True(t, metrics[name], "%s asks for %s, which is not in METRICS.md", r.Alert, name)
		}
		require.Contains(t, []string{"page", "ticket"}, r.Labels["severity"], r.Alert)
		require.NotEmpty(t, r.Annotations["summary"], r.Alert)
		named = append(named, r.Alert)
	}
	var explained []string
	for _, m := range regexp.MustCompile(`(?m)^### (Roost\w+)$`).FindAllStringSubmatch(operations, -1) {
		explained = append(explained, m[1])
	}
	require.Equal(t, named, explained, "OPERATIONS.md has a section for each alert, in the same order")
	if promtool, err := exec.LookPath("promtool"); err == nil {
		out, err := exec.Command(promtool, "check", "rules", "prometheus/alerts.yaml").CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
}

// TestOperations checks the commands of OPERATIONS.md as far as that goes without hosts:
// their hosts are in its table, and they are something that a shell understands. Metrics
// and links have to exist, too.
func TestOperations(t *testing.T) {
	text := read(t, "../docs/OPERATIONS.md")
	_, table, ok := strings.Cut(text, "| host | address |")
	require.True(t, ok)
	table, _, _ = strings.Cut(table, "\n\n")
	hosts := regexp.MustCompile("`([a-z0-9-]+)`").FindAllString(table, -1)
	require.NotEmpty(t, hosts)
	blocks := regexp.MustCompile("(?ms)^```([^\n]*)\n(.*?)^```$").FindAllStringSubmatch(text, -1)
	require.Greater(t, len(blocks), 15)
	for _, b := range blocks {
		words := strings.Fields(b[1])
		if b[1] == "text" {
			continue // what is printed
		}
		require.Greater(t, len(words), 1, "```%s: sh, and the hosts that it is for", b[1])
		require.Equal(t, "sh", words[0])
		for _, host := range words[1:] {
			require.Contains(t, hosts, "`"+host+"`")
		}
		cmd := exec.Command("bash", "-n")
		cmd.Stdin = strings.NewReader(b[2])
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s%s", b[2], out)
	}
	metrics := known(t)
	for _, name := range metric.FindAllString(text, -1) {
		require.True(t, metrics[name], "%s is not in METRICS.md", name)
	}
	for _, m := range regexp.MustCompile(`\]\(([A-Za-z0-9_./-]*)(#[a-z0-9-]+)?\)`).FindAllStringSubmatch(text, -1) {
		target := text
		if m[1] != "" {
			target = read(t, filepath.Join("../docs", m[1]))
		}
		if m[2] != "" {
			require.Contains(t, anchors(target), strings.TrimPrefix(m[2], "#"), m[0])
		}
	}
}

// anchors are the names that GitHub gives to headings.
func anchors(text string) []string {
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		s := strings.ToLower(regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(m[1], ""))
		all = append(all, strings.ReplaceAll(s, " ", "-"))
	}
	return all
}

// TestManifests checks that the YAML files are well-formed and what refers to each other
// fits.
func TestManifests(t *testing.T) {
	kinds := map[string]map[string]any{}
	dec := yaml.NewDecoder(strings.NewReader(read(t, "kubernetes/roost.yaml")))
	for {
		var doc map[string]any
		if err := dec.Decode(&doc); err != nil {
			require.ErrorContains(t, err, "EOF")
			break
		}
		name := doc["metadata"].(map[string]any)["name"].(string)
		require.Equal(t, "roost", doc["metadata"].(map[string]any)["namespace"], name)
		kinds[doc["kind"].(string)+"/"+name] = doc
	}
	set := kinds["StatefulSet/roost"]["spec"].(map[string]any)
	require.Contains(t, kinds, "Service/"+set["serviceName"].(string))
	require.Contains(t, kinds, "PodDisruptionBudget/roost")
	pod := set["template"].(map[string]any)["spec"].(map[string]any)
	config := kinds["ConfigMap/roost"]["data"].(map[string]any)["roost.yaml"].(string)
	require.Contains(t, config, "_cluster._tcp."+set["serviceName"].(string)+".roost.svc")
	container := pod["containers"].([]any)[0].(map[string]any)
	var ports []string
	for _, p := range container["ports"].([]any) {
		ports = append(ports, p.(map[string]any)["name"].(string))
	}
	for name, doc := range kinds {
		if !strings.HasPrefix(name, "Service/") {
			continue
		}
		for _, p := range doc["spec"].(map[string]any)["ports"].([]any) {
			require.True(t, slices.Contains(ports, p.(map[string]any)["targetPort"].(string)), name)
		}
	}

	var compose struct {
		Services map[string]struct {
			Environment map[string]string
			DependsOn   any `yaml:"depends_on"`
		}
	}
	require.NoError(t, yaml.Unmarshal([]byte(read(t, "compose/compose.yaml")), &compose))
	for _, member := range []string{"roost-1", "roost-2", "roost-3"} {
		s, ok := compose.Services[member]
		require.True(t, ok, member)
		require.Equal(t, member, s.Environment["ROOST_NAME"])
		require.Equal(t, member+":7946", s.Environment["ROOST_CLUSTER_ADVERTISE"])
		require.Contains(t, read(t, "compose/haproxy.cfg"), "server "+member+" "+member+":7400")
	}
}
