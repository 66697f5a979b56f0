//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRefusedSettings checks that mistakes end the start with exit code 2 and words
// that name the setting.
func TestRefusedSettings(t *testing.T) {
	onEachBroker(t, func(t *testing.T, b broker) {
		c := newCluster(t, b)
		m := c.serve() // makes the topics, with 4 partitions
		m.stop(interrupt)
		file := func(content string) string {
			path := filepath.Join(t.TempDir(), "roost.yaml")
			require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
			return path
		}
		tests := []struct {
			name string
			args []string
			says []string
		}{
			{"partitions", c.args("--partitions", "8"), []string{c.topic("jobs"), "4 partitions", "8"}},
			{"unknown property", c.args("--kafka-set", "no.such.setting=1"), []string{"no.such.setting"}},
			{"bad property value", c.args("--kafka-set", "socket.timeout.ms=soon"), []string{"socket.timeout.ms"}},
			{"property of ours", c.args("--kafka-set", "enable.idempotence=false"), []string{"enable.idempotence", "cannot be given"}},
			{"property without value", c.args("--kafka-set", "security.protocol"), []string{"--kafka-set", "KEY=VALUE"}},
			{"file key", c.args("--config", file("nodes-listem: 127.0.0.1:0\n")), []string{"nodes-listem", "unknown key"}},
			{"file property", c.args("--config", file("kafka-properties:\n  no.such.setting: 1\n")), []string{"no.such.setting"}},
			{"file type", c.args("--config", file("heartbeat: 30\n")), []string{"heartbeat", "30", "duration"}},
			{"file syntax", c.args("--config", file("a: b: c\n")), []string{"--config"}},
			{"file missing", c.args("--config", "/nonexistent/roost.yaml"), []string{"--config", "/nonexistent/roost.yaml"}},
			{"heartbeat", c.args("--heartbeat", "1ms"), []string{"heartbeat", "100ms"}},
			{"nodes-listen", c.args("--nodes-listen", "here"), []string{"nodes-listen", "here", "HOST:PORT"}},
			{"event-loops", c.args("--event-loops", "-1"), []string{"event-loops", "-1", "1024"}},
			{"max-connections", c.args("--max-connections", "-1"), []string{"max-connections", "-1"}},
			{"hello-timeout", c.args("--hello-timeout", "1ns"), []string{"hello-timeout", "1ns"}},
			{"open API", c.args("--api-listen", "0.0.0.0:0"), []string{"api", "token"}},
			{"topic prefix", c.args("--topic-prefix", "not a topic"), []string{"not a topic"}},
			{"log level", c.args("--log-level", "loud"), []string{"loud", "debug"}},
			{"unknown flag", c.args("--no-such-flag"), []string{"no-such-flag", "--help"}},
			{"argument", c.args("extra"), []string{"extra", "--help"}},
			{"no broker", []string{"serve"}, []string{"--kafka", "roost dev"}},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) { refuses(t, tt.args, tt.says...) })
		}
		if b.embedded() {
			args := []string{"serve", "--kafka", b.addr, "--nodes-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0"}
			t.Run("embedded broker", func(t *testing.T) { refuses(t, args, b.addr, "embedded broker", "roost dev") })
		}
	})
}

func refuses(t *testing.T, args []string, says ...string) {
	t.Helper()
	r := command(t, args...)
	require.Equal(t, 2, r.code, "%s", r.err)
	require.Empty(t, r.out)
	require.Regexp(t, `^roost: `, r.err, "it began to work before it looked at its settings")
	for _, s := range says {
		require.Contains(t, r.err, s)
	}
	t.Log(r.err)
}

// TestSettingsFromEverywhere checks that flags win over the environment, which wins
// over the file.
func TestSettingsFromEverywhere(t *testing.T) {
	t.Parallel()
	b := startBroker(t, t.TempDir()+"/data", "127.0.0.1:0")
	c := newCluster(t, b.broker())
	path := filepath.Join(t.TempDir(), "roost.yaml")
	require.NoError(t, os.WriteFile(path, []byte("name: from-file\nmax-connections: 33\npartitions: 2\nheartbeat: 7s\n"+
		"kafka: "+b.addr+"\nkafka-properties:\n  client.rack: r1\n"), 0o600))
	p := startWith(t, built.binary, []string{"ROOST_NAME=from-env", "ROOST_MAX_CONNECTIONS=44", "ROOST_NODE_TOKEN=secret"},
		"serve", "serve", "--config", path, "--name", "from-flag", "--unsafe-embedded-broker", "--topic-prefix", c.prefix,
		"--nodes-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0")
	m := serving(p)
	var status struct {
		Member      string `json:"member"`
		Connections struct {
			Max int `json:"max"`
		} `json:"connections"`
	}
	m.get("/v1/status", &status)
	require.Equal(t, "from-flag", status.Member)
	require.Equal(t, 44, status.Connections.Max)
	w := dial(t, m.nodes).open("n", "secret")
	require.EqualValues(t, 7000, w.HeartbeatMs)
	m.awaitReady()
	eventually(t, patience, text("the topic has not 2 partitions"), func() bool { return m.series("roost_partition_paused") == 2 })
	m.stop(interrupt)
}
