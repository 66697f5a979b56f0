package protocol

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// specRows returns the cells of the first table under a heading of SPEC.md, without
// its header.
func specRows(t testing.TB, heading string) [][]string {
	t.Helper()
	_, rest, ok := strings.Cut(specText(t), "\n"+heading+"\n")
	require.True(t, ok, "SPEC.md has no heading %q", heading)
	var rows [][]string
	for _, line := range strings.Split(rest, "\n") {
		switch {
		case strings.HasPrefix(line, "|"):
			cells := strings.Split(strings.Trim(line, "|"), "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			rows = append(rows, cells)
			continue
		case strings.HasPrefix(line, "#"):
		case len(rows) == 0:
			continue
		}
		break
	}
	require.Greater(t, len(rows), 2, "no table under %q", heading)
	return rows[2:]
}

func specText(t testing.TB) string {
	b, err := os.ReadFile("SPEC.md")
	require.NoError(t, err)
	return string(b)
}

// codeLimits evaluates the constants of limits.go.
func codeLimits(t testing.TB) map[string]uint64 {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "limits.go", nil, 0)
	require.NoError(t, err)
	pkg, err := (&types.Config{}).Check("protocol", fset, []*ast.File{f}, nil)
	require.NoError(t, err)
	out := map[string]uint64{}
	for _, name := range pkg.Scope().Names() {
		v, exact := constant.Uint64Val(pkg.Scope().Lookup(name).(*types.Const).Val())
		require.True(t, exact, name)
		out[name] = v
	}
	return out
}

func TestSpecLimits(t *testing.T) {
	spec := map[string]uint64{}
	for _, row := range specRows(t, "## 10 Limits") {
		v, err := strconv.ParseUint(row[1], 10, 64)
		require.NoError(t, err)
		spec[strings.Trim(row[0], "`")] = v
		require.NotEmpty(t, row[2], "%s has no reason", row[0])
	}
	require.Equal(t, codeLimits(t), spec)
}

func TestSpecTypes(t *testing.T) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "frame.go", nil, parser.ParseComments)
	require.NoError(t, err)
	senders := map[string]string{} // by number, as the comments in frame.go have them
	ast.Inspect(f, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && v.Comment != nil && strings.HasPrefix(v.Names[0].Name, "Type") {
			sender, _, _ := strings.Cut(strings.TrimSpace(v.Comment.Text()), " ")
			senders[v.Values[0].(*ast.BasicLit).Value] = sender
		}
		return true
	})
	rows := specRows(t, "## 4 Types")
	require.Len(t, rows, len(typeNames))
	require.Len(t, senders, len(typeNames))
	for _, row := range rows {
		n, err := strconv.ParseUint(row[0], 0, 8)
		require.NoError(t, err)
		require.Equal(t, row[1], Type(n).String())
		require.Equal(t, senders[row[0]], row[2], row[1])
		require.Equal(t, Type(n), newMessage(Type(n)).Type())
	}
	require.Equal(t, "type 0x7f", Type(0x7f).String())
}

func TestSpecReasons(t *testing.T) {
	policies := map[string]Policy{"now": ReconnectNow, "backoff": ReconnectBackoff, "never": ReconnectNever}
	spec := map[Reason]string{}
	for _, row := range specRows(t, "## 9 Reasons") {
		n, err := strconv.ParseUint(row[0], 10, 16)
		require.NoError(t, err)
		spec[Reason(n)] = row[1]
		require.Equal(t, policies[row[2]], Reason(n).Policy(), row[1])
		require.Contains(t, policies, row[2])
		require.Equal(t, row[1], Reason(n).String())
	}
	require.Equal(t, Reasons(), spec)
	for n, want := range map[Reason]Policy{
		0: ReconnectBackoff, 999: ReconnectBackoff, 1000: ReconnectNow, 1999: ReconnectNow, 2000: ReconnectBackoff,
		2999: ReconnectBackoff, 3000: ReconnectNever, 3999: ReconnectNever, 4000: ReconnectBackoff, 65535: ReconnectBackoff,
	} {
		require.Equal(t, want, n.Policy(), n)
	}
	require.Equal(t, "reason 1777", Reason(1777).String())
}

func TestSpecOutcomes(t *testing.T) {
	for i, row := range specRows(t, "### RESULT") {
		require.Equal(t, strconv.Itoa(i), row[0])
	}
	_, rest, _ := strings.Cut(specText(t), "### RESULT\n")
	rest, _, _ = strings.Cut(rest, "###")
	found := regexp.MustCompile("(?m)^\\| (\\d) \\| `(\\w+)` \\| (?:the|ran)").FindAllStringSubmatch(rest, -1)
	require.Len(t, found, int(maxNodeOutcome)+1)
	for i, m := range found {
		require.Equal(t, strconv.Itoa(i), m[1])
		require.Equal(t, Outcome(i).String(), m[2])
	}
	require.Equal(t, "outcome 99", Outcome(99).String())
}

// specField is one line of a message's table.
type specField struct {
	name, typ   string
	limit, elem uint64 // elem: of each text in a [str]
	required    bool
}

// specFields returns the fields of a message, or of attributes, ref or ack.
func specFields(t testing.TB, message string) []specField {
	t.Helper()
	limits := codeLimits(t)
	number := func(s string) uint64 {
		if v, ok := limits[strings.Trim(s, "`")]; ok {
			return v
		}
		if bits, ok := strings.CutPrefix(strings.TrimSuffix(s, "-1"), "2^"); ok {
			n, err := strconv.Atoi(bits)
			require.NoError(t, err)
			return 1<<n - 1
		}
		v, err := strconv.ParseUint(s, 10, 64)
		require.NoError(t, err, "%s: limit %q", message, s)
		return v
	}
	var out []specField
	for i, row := range specRows(t, "### "+message) {
		require.Equal(t, fmt.Sprint(i), row[0], message)
		f := specField{name: strings.Trim(row[1], "`"), typ: row[2], required: row[4] == "yes"}
		require.Contains(t, []string{"yes", "no"}, row[4])
		limit, elem, both := strings.Cut(row[3], " of ")
		if limit != "" {
			f.limit = number(limit)
		}
		if both {
			f.elem = number(elem)
		}
		out = append(out, f)
	}
	return out
}
