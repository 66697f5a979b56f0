package member

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/actors/supervisor"
	"github.com/roost-server/roost/cmd/roost/internal/api"
)

// The services that are shown are those that are started.
func TestServicesAreAllShown(t *testing.T) {
	var started []string
	files, err := os.ReadDir(".")
	require.NoError(t, err)
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		text, err := os.ReadFile(f.Name())
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`tree\.Go\("([a-z]+)"`).FindAllSubmatch(text, -1) {
			started = append(started, string(m[1]))
		}
	}
	require.ElementsMatch(t, started, services)
}

// What failed and is not there any more is shown beside its siblings.
func TestTreeShowsWhatIsGone(t *testing.T) {
	b := treeBuilder{counts: map[string]int{"member/shards/shard-9": 2, "member/shards/shard-1": 1, "member/gates/gate-7/session": 3},
		last: map[string]supervisor.Failure{"member/shards/shard-9": {Reason: "why", Action: "restarted", TimeMs: 5}}}
	for _, p := range []string{"member", "member/shards", "member/shards/shard-1", "member/gates", "member/gates/gate-0"} {
		b.add(p, 1)
	}
	require.Equal(t, []api.ActorView{
		{Path: "member", Count: 1},
		{Path: "member/shards", Count: 1},
		{Path: "member/shards/shard-1", Count: 1, Restarts: 1},
		{Path: "member/shards/shard-9", Restarts: 2, Failure: &api.FailureView{TimeMs: 5, Reason: "why", Action: "restarted"}},
		{Path: "member/gates", Count: 1},
		{Path: "member/gates/gate-0", Count: 1},
		{Path: "member/gates/gate-7/session", Restarts: 3},
	}, b.withGone())
}
