package machine

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"github.com/roost-server/roost/loadtest/internal/timeline"
	"github.com/roost-server/roost/transport/kafka"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDescribe(t *testing.T) {
	const mem = "MemTotal:       24680000 kB\nMemFree:  1 kB\n"
	for _, tc := range []struct {
		cpuinfo string
		want    timeline.Machine
	}{
		{"processor\t: 0\nmodel name\t: Intel(R)  Xeon(R) CPU\n", timeline.Machine{CPU: "Intel(R) Xeon(R) CPU"}},
		{"processor\t: 0\nmodel name\t: QEMU TCG CPU version 2.5+\n", timeline.Machine{CPU: "QEMU TCG CPU version 2.5+", Guest: true}},
		{"processor\t: 0\nBogoMIPS : 4\n\nModel\t\t: Raspberry Pi 4\n", timeline.Machine{CPU: "Raspberry Pi 4"}},
		{"", timeline.Machine{CPU: Unknown}},
	} {
		tc.want.Cores, tc.want.MemoryBytes, tc.want.Kernel = 3, 24680000<<10, "Linux 6.1.0"
		require.Equal(t, tc.want, describe([]byte(tc.cpuinfo), []byte(mem), []byte("6.1.0\n"), 3))
	}
	require.Equal(t, timeline.Machine{CPU: Unknown, Kernel: Unknown, Cores: 1}, describe(nil, nil, nil, 1))

	m := Describe()
	require.Equal(t, runtime.NumCPU(), m.Cores)
	require.Positive(t, m.MemoryBytes)
	require.True(t, strings.HasPrefix(m.Kernel, "Linux "))
}

// TestVersions asks a broker that runs, and this process as if it were the server.
func TestVersions(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	defer c.Close()
	v := Versions(ctx, os.Getpid(), c.ListenAddrs())
	require.Equal(t, runtime.Version(), v["go"])
	require.NotEmpty(t, v["loadtest"])
	require.Contains(t, v["server"], runtime.Version())
	require.Regexp(t, `^Kafka .*v\d+\.\d+`, v["broker"])
	require.NotEqual(t, Unknown, v["kernel"])

	require.Equal(t, kafka.EmbeddedClusterID, embedded)
	own, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.ClusterID(embedded))
	require.NoError(t, err)
	defer own.Close()
	require.Equal(t, "roost broker (embedded)", Versions(ctx, 0, own.ListenAddrs())["broker"])

	v = Versions(ctx, 0, nil)
	require.NotContains(t, v, "server")
	require.NotContains(t, v, "broker")

	gone, stop := context.WithTimeout(ctx, 200*time.Millisecond)
	defer stop()
	v = Versions(gone, 1<<30, []string{"127.0.0.1:1"})
	require.Equal(t, Unknown, v["server"])
	require.Equal(t, Unknown, v["broker"])
}

func TestVersionOfABuild(t *testing.T) {
	set := func(kv ...string) (b debug.BuildInfo) {
		for i := 0; i < len(kv); i += 2 {
			b.Settings = append(b.Settings, debug.BuildSetting{Key: kv[i], Value: kv[i+1]})
		}
		b.Main.Version = "(devel)"
		return b
	}
	for want, b := range map[string]debug.BuildInfo{
		Unknown:                     set(),
		"0123456789ab":              set("vcs.revision", "0123456789abcdef", "vcs.modified", "false"),
		"0123456789ab with changes": set("vcs.revision", "0123456789abcdef", "vcs.modified", "true"),
		"v1.2.0-dirty":              set("vcs.revision", "0123456789abcdef", "-ldflags", `-s -w -X example.com/cli.Version=v1.2.0-dirty`),
		"3a8b290":                   set("-ldflags", `"-X example.com/cli.Version=3a8b290"`),
	} {
		require.Equal(t, want, version(&b))
	}
	released := set()
	released.Main.Version = "v1.0.0"
	require.Equal(t, "v1.0.0", version(&released))
}
