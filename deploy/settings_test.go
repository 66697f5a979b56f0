package deploy_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// built is the program, made once for all tests here.
var built struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

func buildRoost(t *testing.T) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "roost-deploy-"); built.err != nil {
			return
		}
		if out, err := exec.Command("go", "build", "-o", filepath.Join(built.dir, "roost"), "../cmd/roost").CombinedOutput(); err != nil {
			built.err = fmt.Errorf("%w: %s", err, out)
		}
	})
	require.NoError(t, built.err)
	return filepath.Join(built.dir, "roost")
}

// TestSettings checks that every setting that stands in these files is one of the program:
// in configuration files, as arguments and in the environment, and that the commands which
// are named exist.
func TestSettings(t *testing.T) {
	roost := buildRoost(t)
	flags := func(command string) map[string]bool {
		out, err := exec.Command(roost, strings.Fields(command+" --help")...).CombinedOutput()
		require.NoError(t, err, "roost %s: %s", command, out)
		all := map[string]bool{"help": true}
		for _, m := range regexp.MustCompile(`(?m)^ +(?:-\w, |    )--([a-z-]+)`).FindAllStringSubmatch(string(out), -1) {
			all[m[1]] = true
		}
		return all
	}
	serve := flags("serve")
	require.True(t, serve["nodes-listen"], "the flags are not where this looks for them")

	check := func(where, yamlText string) {
		var keys map[string]any
		require.NoError(t, yaml.Unmarshal([]byte(yamlText), &keys), where)
		require.NotEmpty(t, keys, where)
		for key := range keys {
			require.True(t, serve[key] || key == "kafka-properties", "%s: %s is no flag of roost serve", where, key)
		}
	}
	config := read(t, "config/roost.yaml")
	check("config/roost.yaml", config)
	for _, m := range regexp.MustCompile(`(?m)^# ([a-z-]+): `).FindAllStringSubmatch(config, -1) {
		require.True(t, serve[m[1]], "config/roost.yaml: %s is no flag of roost serve", m[1])
	}
	var k8s struct {
		Data map[string]string
	}
	require.NoError(t, yaml.NewDecoder(strings.NewReader(read(t, "kubernetes/roost.yaml"))).Decode(&k8s))
	check("kubernetes/roost.yaml", k8s.Data["roost.yaml"])
	operations := read(t, "../docs/OPERATIONS.md")
	for _, m := range regexp.MustCompile(`(?s)/etc/roost/roost\.yaml <<END\n(.*?)\nEND\n`).FindAllStringSubmatch(operations, -1) {
		check("OPERATIONS.md", strings.ReplaceAll(m[1], "$HOST", "h"))
	}

	for _, file := range []string{"kubernetes/roost.yaml", "compose/compose.yaml", "config/roost.env", "../docs/OPERATIONS.md"} {
		for _, m := range regexp.MustCompile(`ROOST_([A-Z_]+)\b`).FindAllStringSubmatch(read(t, file), -1) {
			name := strings.ToLower(strings.ReplaceAll(m[1], "_", "-"))
			require.True(t, serve[strings.Trim(name, "-")], "%s: ROOST_%s is no setting", file, m[1])
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^            - --([a-z-]+)=`).FindAllStringSubmatch(read(t, "kubernetes/roost.yaml"), -1) {
		require.True(t, serve[m[1]], "kubernetes/roost.yaml: --%s is no flag of roost serve", m[1])
	}

	// Commands with flags, as they stand in the units and in the text.
	line := regexp.MustCompile(`(?m)(?:^|/usr/bin/|bin/)roost ((?:certs )?[a-z]+)((?: [^\n;>&|#]*)?)`)
	flag := regexp.MustCompile(`(?:^| )--([a-z-]+)`)
	seen := 0
	for _, file := range []string{"systemd/roost.service", "systemd/roost-node.service", "../docs/OPERATIONS.md"} {
		text := read(t, file)
		if strings.HasSuffix(file, ".md") {
			var code []string
			for _, m := range regexp.MustCompile("(?ms)^```sh[^\n]*\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
				code = append(code, m[1])
			}
			text = strings.Join(code, "")
		}
		for _, m := range line.FindAllStringSubmatch(text, -1) {
			have := flags(m[1])
			for _, f := range flag.FindAllStringSubmatch(m[2], -1) {
				require.True(t, have[f[1]], "%s: roost %s has no --%s", file, m[1], f[1])
			}
			seen++
		}
	}
	require.Greater(t, seen, 10)
}
