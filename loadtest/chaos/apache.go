//go:build linux

package main

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

	"github.com/roost-server/roost/loadtest/chaos/process"
)

// apacheKafka is one broker in KRaft mode, as deploy/kafka/kafka.sh runs it.
type apacheKafka struct {
	run *runner
	dir string
	lib string
}

// newApache prepares a directory for a broker that listens on a port.
func newApache(ctx context.Context, r *runner, port int) (*apacheKafka, error) {
	a := &apacheKafka{run: r, dir: filepath.Join(r.dir, "kafka")}
	var err error
	if a.lib, err = libraries(ctx, r); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(a.dir, 0o700); err != nil {
		return nil, err
	}
	controller, err := freePort()
	if err != nil {
		return nil, err
	}
	if err := a.configure(port, controller); err != nil {
		return nil, err
	}
	return a, a.format(ctx)
}

// libraries returns the directory with Kafka's jars, which the script fetches once.
func libraries(ctx context.Context, r *runner) (string, error) {
	dir, err := filepath.Abs(r.opt.kafkaDir)
	if err != nil {
		return "", err
	}
	lib := filepath.Join(dir, "lib")
	if found, _ := filepath.Glob(filepath.Join(lib, ".complete-*")); len(found) > 0 {
		return lib, nil
	}
	r.say("fetching Apache Kafka into %s", dir)
	for _, verb := range []string{"start", "stop"} { // there is none that only fetches
		cmd := exec.CommandContext(ctx, r.opt.kafkaSh, verb, dir)
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		if text, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s %s %s: %w\n%s", r.opt.kafkaSh, verb, dir, err, text)
		}
	}
	return lib, nil
}

const serverProperties = `process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:%[2]d
listeners=PLAINTEXT://127.0.0.1:%[1]d,CONTROLLER://127.0.0.1:%[2]d
advertised.listeners=PLAINTEXT://127.0.0.1:%[1]d,CONTROLLER://127.0.0.1:%[2]d
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

func (a *apacheKafka) configure(port, controller int) error {
	properties := fmt.Sprintf(serverProperties, port, controller, filepath.Join(a.dir, "data"))
	return errors.Join(
		os.WriteFile(a.path("server.properties"), []byte(properties), 0o600),
		os.WriteFile(a.path("log4j2.properties"), []byte(logProperties), 0o600))
}

func (a *apacheKafka) path(name string) string { return filepath.Join(a.dir, name) }

func (a *apacheKafka) format(ctx context.Context) error {
	id := make([]byte, 16)
	for i := range id {
		id[i] = byte(rand.Uint32())
	}
	text := "A" + base64.RawURLEncoding.EncodeToString(id)[1:] // it must not begin with a dash
	p, err := a.java("kafka-format", "kafka.tools.StorageTool", "format", "--standalone", "-t", text, "-c", a.path("server.properties"))
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

func (a *apacheKafka) java(name, class string, args ...string) (*process.Process, error) {
	return a.run.launcher.Start(name, "java", append([]string{"-Xms128m", "-Xmx512m", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
		"-XX:TieredStopAtLevel=1", // it lives for seconds
		"-Dlog4j2.configurationFile=" + a.path("log4j2.properties"), "-cp", a.lib + "/*", class}, args...)...)
}

func (a *apacheKafka) launch() (*process.Process, error) {
	return a.java("kafka", "kafka.Kafka", a.path("server.properties"))
}

// freePort returns a port below the range that the kernel takes ports from by itself,
// so that nobody gets it while its process is restarted.
func freePort() (int, error) {
	for range 200 {
		port := 10_000 + rand.IntN(22_000)
		if ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, ln.Close()
		}
	}
	return 0, errors.New("there is no free port between 10000 and 32000")
}
