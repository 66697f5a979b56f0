package scenario

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/roost-server/roost/loadtest/scenarios"
)

// maxFileBytes bounds a scenario.
const maxFileBytes = 1 << 20

// Load reads the built-in scenario of a name, or a file, and changes it by settings such
// as "nodes=2000", "jobs.rate=500" (in all phases with jobs) or "steady.duration=1m" (in
// the phase steady). The error says where the mistake is, and what is allowed.
func Load(nameOrFile string, settings ...string) (*Scenario, error) {
	if b, ok := scenarios.Read(nameOrFile); ok {
		return Parse(nameOrFile+".yaml", b, settings...)
	}
	b, err := os.ReadFile(nameOrFile)
	switch {
	case errors.Is(err, os.ErrNotExist) && nameForm.MatchString(nameOrFile):
		return nil, fmt.Errorf("there is no scenario %s; built in are %s, or give the path of a file", nameOrFile, strings.Join(Names(), ", "))
	case err != nil:
		return nil, fmt.Errorf("scenario: %w", err)
	}
	return Parse(nameOrFile, b, settings...)
}

// Names returns the built-in scenarios.
func Names() []string { return scenarios.Names() }

// Parse is Load of b; file is for messages.
func Parse(file string, b []byte, settings ...string) (*Scenario, error) {
	if len(b) > maxFileBytes {
		return nil, fmt.Errorf("%s: %d bytes; at most %d are allowed", file, len(b), maxFileBytes)
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if dec.Decode(new(yaml.Node)) == nil {
		return nil, fmt.Errorf("%s: there is more than one document in it", file)
	}
	sc, err := decode(file, &doc)
	if err != nil || len(settings) == 0 {
		if sc != nil {
			sc.YAML = string(b)
		}
		return sc, err
	}
	for _, s := range settings {
		if err := set(doc.Content[0], s); err != nil {
			return nil, err
		}
	}
	out, err := yaml.Marshal(&doc)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if sc, err = decode(file, &doc); err != nil {
		return nil, fmt.Errorf("with --set %s: %w", strings.Join(settings, " --set "), err)
	}
	sc.YAML = string(out)
	return sc, nil
}

// actions are the keys of a phase that a setting may name without the phase.
var actions = []string{"ramp", "jobs", "once", "storm", "churn", "slow"}

// set changes a valid document: "key=value" of the scenario, "expect.key=value",
// "PHASE.key=value" or "PHASE.action.key=value" of one phase, "action.key=value" of all
// phases that have this action.
func set(root *yaml.Node, setting string) error {
	path, text, ok := strings.Cut(setting, "=")
	if !ok || path == "" || text == "" {
		return fmt.Errorf("--set %s: key=value is expected", setting)
	}
	parts := strings.Split(path, ".")
	sc, p := new(Scenario), new(Phase)
	top := slices.ContainsFunc(sc.fields(), func(f field) bool { return f.key == parts[0] && f.key != "phases" && f.key != "expect" })
	phases := value(child(root, "phases")).Content
	switch {
	case len(parts) == 1 && top:
		put(root, parts, text)
		return nil
	case len(parts) == 2 && parts[0] == "expect":
		put(root, parts, text)
		return nil
	}
	for i, n := range phases {
		n = value(n)
		name := strconv.Itoa(i + 1)
		if c := child(n, "name"); c != nil {
			name = c.Value
		}
		known := len(parts) > 1 && slices.ContainsFunc(p.fields(), func(f field) bool { return f.key == parts[1] })
		if name == parts[0] && known && len(parts) <= 3 {
			put(n, parts[1:], text)
			return nil
		}
	}
	if len(parts) == 2 && slices.Contains(actions, parts[0]) {
		hit := false
		for _, n := range phases {
			if c := child(value(n), parts[0]); c != nil {
				put(value(n), parts, text)
				hit = true
			}
		}
		if hit {
			return nil
		}
		return fmt.Errorf("--set %s: no phase has %s", setting, parts[0])
	}
	return fmt.Errorf("--set %s: unknown key; allowed are KEY of the scenario, expect.KEY, PHASE.KEY, PHASE.ACTION.KEY and, for all phases that have it, ACTION.KEY of %s",
		setting, strings.Join(actions, ", "))
}

// child returns the value of a key, or nil.
func child(n *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// put sets a value below n, making the mappings on the way.
func put(n *yaml.Node, path []string, text string) {
	c := child(n, path[0])
	if c == nil {
		c = new(yaml.Node)
		n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: path[0]}, c)
	}
	c = value(c)
	if len(path) == 1 {
		*c = yaml.Node{Kind: yaml.ScalarNode, Value: text, LineComment: c.LineComment}
		return
	}
	if c.Kind != yaml.MappingNode {
		*c = yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	}
	put(c, path[1:], text)
}
