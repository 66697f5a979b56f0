package cli

import (
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/cmd/roost/internal/member"
)

// settle makes a member's configuration from flags, a file and the environment.
func settle(t *testing.T, file string, args ...string) (member.Config, error) {
	t.Helper()
	cfg := member.DefaultConfig()
	var settled error
	cmd := &cobra.Command{Use: "x", SilenceErrors: true, SilenceUsage: true, RunE: func(cmd *cobra.Command, _ []string) error {
		s, err := loadSettings(cmd)
		if err == nil {
			err = s.apply(&cfg)
		}
		settled = err
		return err
	}}
	addMemberFlags(cmd, &cfg)
	cmd.Flags().String("config", "", "")
	if file != "" {
		path := filepath.Join(t.TempDir(), "roost.yaml")
		require.NoError(t, os.WriteFile(path, []byte(file), 0o600))
		args = append(args, "--config", path)
	}
	cmd.SetArgs(append([]string{}, args...)) // nil would be those of the test
	cmd.SetOut(io.Discard)
	err := cmd.ExecuteContext(t.Context())
	require.Equal(t, settled, err)
	return cfg, err
}

func TestSettingsOfTheLedger(t *testing.T) {
	d := member.DefaultConfig()
	c, err := settle(t, "")
	require.NoError(t, err)
	require.Equal(t, []any{50 * time.Millisecond, 2000, d.MaxPending, d.MaxPendingBytes}, []any{c.CommitInterval, c.CommitOutcomes, c.MaxPending, c.MaxPendingBytes})

	file := "commit-interval: 20ms\ncommit-outcomes: 7\nmax-pending: 1000000\nmax-pending-bytes: 3MiB\n"
	c, err = settle(t, file)
	require.NoError(t, err)
	require.Equal(t, []any{20 * time.Millisecond, 7, 1_000_000, 3 << 20}, []any{c.CommitInterval, c.CommitOutcomes, c.MaxPending, c.MaxPendingBytes})

	t.Setenv("ROOST_COMMIT_INTERVAL", "1s")
	t.Setenv("ROOST_COMMIT_OUTCOMES", "8")
	t.Setenv("ROOST_MAX_PENDING_BYTES", "1073741824")
	c, err = settle(t, file, "--commit-outcomes", "9")
	require.NoError(t, err)
	require.Equal(t, []any{time.Second, 9, 1_000_000, 1 << 30}, []any{c.CommitInterval, c.CommitOutcomes, c.MaxPending, c.MaxPendingBytes}, "flags before the environment before the file")
}

func TestSettingsOfTheLedgerRefuse(t *testing.T) {
	for file, want := range map[string]string{
		"commit-interval: 50\n": `commit-interval: "50"; a duration`, "commit-outcomes: many\n": `commit-outcomes: "many"; a whole number`,
		"max-pending: 1.5\n": `max-pending: "1.5"`, "max-pending-bytes: 64MB\n": `max-pending-bytes: "64MB"; a number of bytes, or one with KiB, MiB or GiB`,
		"max-pending-bytes: -1\n": "max-pending-bytes", "commit-intervall: 5ms\n": "commit-intervall",
	} {
		_, err := settle(t, file)
		require.ErrorContains(t, err, want)
	}
	for args, want := range map[string]string{"1ms": "commit-interval: 1ms; allowed are 5ms to 5s", "6s": "commit-interval: 6s"} {
		c, err := settle(t, "", "--commit-interval", args)
		require.NoError(t, err)
		require.ErrorContains(t, c.Validate(), want)
	}
}

func TestSizes(t *testing.T) {
	for s, want := range map[string]int{"0": 0, "512MiB": 512 << 20, " 2 GiB ": 2 << 30, "1KiB": 1024, "1500": 1500} {
		got, err := parseSize(s)
		require.NoError(t, err)
		require.Equal(t, want, got, s)
		again, err := parseSize(formatSize(want))
		require.NoError(t, err)
		require.Equal(t, want, again)
	}
	require.Equal(t, "512MiB", formatSize(512<<20))
	for _, s := range []string{"", "MiB", "1.5GiB", "9223372036854775807KiB", "1TB", "-1"} {
		_, err := parseSize(s)
		require.Error(t, err, s)
	}
}

func TestMoments(t *testing.T) {
	zone := time.FixedZone("x", 2*3600)
	now := time.Date(2026, 12, 24, 18, 0, 0, 0, zone)
	for s, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "18:30": 30 * time.Minute, "17:59": 24*time.Hour - time.Minute, "18:00": 24 * time.Hour, "18:00:05": 5 * time.Second,
		"2026-12-24 19:00": time.Hour, "2026-12-24T18:00:01": time.Second, "2026-12-24 17:00:00": -time.Hour, "2026-12-24T18:00:00Z": 2 * time.Hour,
	} {
		m, err := parseMoment(s, now)
		require.NoError(t, err, s)
		require.Equal(t, want, m.from(now), s)
		require.True(t, m.given())
		require.Equal(t, s, m.String())
	}
	for _, s := range []string{"", "0s", "-1s", "tomorrow", "24:00", "2026-13-01 00:00"} {
		_, err := parseMoment(s, now)
		require.Error(t, err, s)
	}
	require.False(t, (&moment{}).given())
}
