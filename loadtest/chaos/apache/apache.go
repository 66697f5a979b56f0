//go:build linux

// Package apache runs one broker of Apache Kafka in KRaft mode, as deploy/kafka/kafka.sh
// does, for the harnesses.
package apache

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"

	"github.com/roost-server/roost/loadtest/chaos/process"
)

// Config says how to run it.
type Config struct {
	Launcher *process.Launcher
	Dir      string // of its configuration and data
	Host     string // the address it listens on and tells clients; empty: 127.0.0.1
	Port     int
	Kafka    string // directory where the script keeps Kafka's libraries
	Script   string // deploy/kafka/kafka.sh, which fetches them once
	// Wrap, when set, changes the command that is run.
	Wrap func(program string, args ...string) (string, []string)
	Say  func(format string, args ...any)
}

// Broker is one that can be launched.
type Broker struct {
	cfg Config
	lib string
}

// New prepares a directory for a broker.
func New(ctx context.Context, cfg Config) (*Broker, error) {
	if cfg.Host == "" {
		cfg.Host = "127.0.0.1"
	}
	b := &Broker{cfg: cfg}
	var err error
	if b.lib, err = b.libraries(ctx); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	controller, err := FreePort()
	if err != nil {
		return nil, err
	}
	if err := b.configure(controller); err != nil {
		return nil, err
	}
	return b, b.format(ctx)
}

// libraries returns the directory with Kafka's jars, which the script fetches once.
func (b *Broker) libraries(ctx context.Context) (string, error) {
	dir, err := filepath.Abs(b.cfg.Kafka)
	if err != nil {
		return "", err
	}
	lib := filepath.Join(dir, "lib")
	if found, _ := filepath.Glob(filepath.Join(lib, ".complete-*")); len(found) > 0 {
		return lib, nil
	}
	b.cfg.Say("fetching Apache Kafka into %s", dir)
	for _, verb := range []string{"start", "stop"} { // there is none that only fetches
		cmd := exec.CommandContext(ctx, b.cfg.Script, verb, dir)
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		if text, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s %s %s: %w\n%s", b.cfg.Script, verb, dir, err, text)
		}
	}
	return lib, nil
}

const serverProperties = `process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:%[2]d
listeners=PLAINTEXT://%[4]s:%[1]d,CONTROLLER://127.0.0.1:%[2]d
advertised.listeners=PLAINTEXT://%[4]s:%[1]d,CONTROLLER://127.0.0.1:%[2]d
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=%[3]s
auto.create.topics.enable=false
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=4
`

const logProperties = `status=error
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=[%d] %p %m (%c)%n
rootLogger.level=info
rootLogger.appenderRef.console.ref=console
`

func (b *Broker) configure(controller int) error {
	properties := fmt.Sprintf(serverProperties, b.cfg.Port, controller, filepath.Join(b.cfg.Dir, "data"), b.cfg.Host)
	return errors.Join(
		os.WriteFile(b.path("server.properties"), []byte(properties), 0o600),
		os.WriteFile(b.path("log4j2.properties"), []byte(logProperties), 0o600))
}

func (b *Broker) path(name string) string { return filepath.Join(b.cfg.Dir, name) }

func (b *Broker) format(ctx context.Context) error {
	id := make([]byte, 16)
	for i := range id {
		id[i] = byte(rand.Uint32())
	}
	text := "A" + base64.RawURLEncoding.EncodeToString(id)[1:] // it must not begin with a dash
	p, err := b.java("kafka-format", "kafka.tools.StorageTool", "format", "--standalone", "-t", text, "-c", b.path("server.properties"))
	if err != nil {
		return err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		return ctx.Err()
	}
	if p.Code() != 0 {
		return fmt.Errorf("formatting Kafka's storage failed with code %d; see %s\n%s", p.Code(), p.Log, p.Tail())
	}
	return nil
}

func (b *Broker) java(name, class string, args ...string) (*process.Process, error) {
	program, args := "java", append([]string{"-Xms128m", "-Xmx512m", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
		"-XX:TieredStopAtLevel=1", // it lives for seconds
		"-Dlog4j2.configurationFile=" + b.path("log4j2.properties"), "-cp", b.lib + "/*", class}, args...)
	if b.cfg.Wrap != nil {
		program, args = b.cfg.Wrap(program, args...)
	}
	return b.cfg.Launcher.Start(name, program, args...)
}

// Serves is what it says when it does.
var Serves = regexp.MustCompile(`Kafka Server started`)

// Launch starts it. It serves when [Serves] is in its output.
func (b *Broker) Launch() (*process.Process, error) {
	return b.java("kafka", "kafka.Kafka", b.path("server.properties"))
}

// FreePort returns a port below the range that the kernel takes ports from by itself,
// so that nobody gets it while its process is restarted.
func FreePort() (int, error) {
	for range 200 {
		port := 10_000 + rand.IntN(22_000)
		if ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, ln.Close()
		}
	}
	return 0, errors.New("there is no free port between 10000 and 32000")
}
