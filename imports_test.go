package roost_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/roost-server/roost"

// rules is the import table of docs/DESIGN.md: for packages below a folder, which
// folders of ours they may import, and which modules they must not. The longest
// folder that fits decides.
var rules = []struct {
	folder string
	ours   []string // folders of this module that may be imported; "*": all
	banned []string // import path prefixes, with what they are of
}{
	{"protocol", []string{"protocol"}, []string{protoactor, gnet, confluent, kgo, zap}},
	{"actors", []string{"protocol", "actors"}, []string{gnet, confluent, kgo}},
	{"transport/tcp", []string{"protocol", "transport/tcp"}, []string{protoactor, confluent, kgo}},
	{"transport/kafka", []string{"transport/kafka"}, []string{protoactor, gnet}},
	{"cluster", []string{"protocol", "actors", "cluster"}, []string{gnet, confluent, kgo}},
	{"sdk", []string{"protocol", "sdk"}, []string{protoactor, gnet, confluent, kgo, zap}},
	{"loadtest", []string{"protocol", "loadtest"}, []string{protoactor, confluent}},
	{"loadtest/hop", []string{"protocol", "actors", "transport/tcp"}, []string{confluent, kgo}},
	{"cmd/roost/internal/probe", []string{"cmd/roost/internal/probe"}, []string{protoactor, gnet, confluent, kgo}},
	{"cmd/roost", []string{"*"}, nil},
	{"docs", []string{"*"}, nil},
	{"deploy", []string{"*"}, nil},
}

const (
	protoactor = "github.com/asynkron/protoactor-go"
	gnet       = "github.com/panjf2000/gnet"
	confluent  = "github.com/confluentinc/"
	kgo        = "github.com/twmb/franz-go"
	zap        = "go.uber.org/zap"
)

// TestImportTable holds every package against the table. Test files are free to use
// what they like.
func TestImportTable(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "./...").Output()
	require.NoError(t, err)
	checked := 0
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		folder := strings.TrimPrefix(strings.TrimPrefix(fields[0], module), "/")
		if folder == "" {
			continue // this package: tests only
		}
		rule := -1
		for i := range rules {
			if within(folder, rules[i].folder) && (rule < 0 || len(rules[i].folder) > len(rules[rule].folder)) {
				rule = i
			}
		}
		if !assert(t, rule >= 0, "%s is in no folder of the import table: add it to docs/DESIGN.md and here", folder) {
			continue
		}
		checked++
		for _, imp := range fields[1:] {
			checkImport(t, folder, imp, rules[rule].ours, rules[rule].banned)
		}
	}
	require.Greater(t, checked, 10)
}

func checkImport(t *testing.T, folder, imp string, ours, banned []string) {
	t.Helper()
	if rest, own := strings.CutPrefix(imp, module+"/"); own {
		allowed := false
		for _, o := range ours {
			allowed = allowed || o == "*" || within(rest, o)
		}
		assert(t, allowed, "%s imports %s; it may import of ours only %v", folder, rest, ours)
	}
	for _, b := range banned {
		assert(t, !strings.HasPrefix(imp, b), "%s imports %s, which the import table forbids there", folder, imp)
	}
}

func within(folder, parent string) bool {
	return folder == parent || strings.HasPrefix(folder, parent+"/")
}

func assert(t *testing.T, ok bool, format string, args ...any) bool {
	t.Helper()
	if !ok {
		t.Errorf(format, args...)
	}
	return ok
}
