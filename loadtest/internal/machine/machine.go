// Package machine tells what a load test runs on and which versions take part, so that
// a report says what it was measured with. It names no host, user or path.
package machine

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/roost-server/roost/loadtest/internal/timeline"
)

// askTimeout is how long a broker may take to tell its version.
const askTimeout = 5 * time.Second

// Unknown stands for what cannot be told.
const Unknown = "unknown"

// emulators are the names that processors have which no hardware runs, see the models
// "qemu64" and "max" of QEMU's TCG. Under KVM the real name shows.
var emulators = []string{"QEMU TCG", "QEMU Virtual CPU", "TCG CPU"}

// Describe says what this process runs on.
func Describe() timeline.Machine {
	cpu, _ := os.ReadFile("/proc/cpuinfo")
	mem, _ := os.ReadFile("/proc/meminfo")
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return describe(cpu, mem, kernel, runtime.NumCPU())
}

func describe(cpuinfo, meminfo, osrelease []byte, cores int) timeline.Machine {
	m := timeline.Machine{CPU: Unknown, Cores: cores, Kernel: Unknown}
	for _, key := range []string{"model name", "Model", "Processor"} { // Arm has no "model name"
		if v := value(cpuinfo, key); v != "" {
			m.CPU = strings.Join(strings.Fields(v), " ")
			break
		}
	}
	for _, e := range emulators {
		m.Guest = m.Guest || strings.Contains(m.CPU, e)
	}
	if kb, err := strconv.ParseInt(strings.TrimSuffix(value(meminfo, "MemTotal"), " kB"), 10, 54); err == nil {
		m.MemoryBytes = kb << 10
	}
	if k := strings.TrimSpace(string(osrelease)); k != "" {
		m.Kernel = "Linux " + k
	}
	return m
}

// value finds "key : value" at the start of a line.
func value(b []byte, key string) string {
	for line := range bytes.Lines(b) {
		name, rest, ok := bytes.Cut(line, []byte(":"))
		if ok && string(bytes.TrimSpace(name)) == key {
			return string(bytes.TrimSpace(rest))
		}
	}
	return ""
}

// Versions says which programs take part: this one, the server as its process shows it,
// and the broker as it says itself. serverPID 0 and no brokers are left out. What cannot
// be told is [Unknown]: a report is not worth less for it.
func Versions(ctx context.Context, serverPID int, brokers []string) map[string]string {
	v := map[string]string{"loadtest": Unknown, "go": runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		v["loadtest"] = version(info)
	}
	if k, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		v["kernel"] = strings.TrimSpace(string(k))
	}
	if serverPID > 0 {
		v["server"] = Unknown
		if info, err := buildinfo.ReadFile(fmt.Sprintf("/proc/%d/exe", serverPID)); err == nil {
			v["server"] = version(info) + ", " + info.GoVersion
		}
	}
	if len(brokers) > 0 {
		v["broker"] = broker(ctx, brokers)
	}
	return v
}

// linked finds the version that a program was linked with, as the Makefile does it.
var linked = regexp.MustCompile(`-X \S+\.Version=([^\s"']+)`)

// version is what a program was built from.
func version(b *debug.BuildInfo) string {
	revision, changed, tag := "", "", ""
	for _, s := range b.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value[:min(len(s.Value), 12)]
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = " with changes"
		case s.Key == "-ldflags":
			if m := linked.FindStringSubmatch(s.Value); m != nil {
				tag = m[1]
			}
		}
	}
	switch {
	case tag != "":
		return tag
	case revision != "":
		return revision + changed
	case b.Main.Version != "" && b.Main.Version != "(devel)":
		return b.Main.Version
	}
	return Unknown
}

// embedded is the cluster id of Roost's own broker for tests, by which everybody may
// tell it from Kafka.
const embedded = "roost-embedded-dev"

// broker tells which broker it is: one of ours, or the release of Kafka whose versions
// of requests it knows, by the client's table.
func broker(ctx context.Context, brokers []string) string {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		return Unknown
	}
	defer c.Close()
	meta, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, c)
	if err != nil {
		return Unknown
	}
	if meta.ClusterID != nil && *meta.ClusterID == embedded {
		return "roost broker (embedded)"
	}
	req := kmsg.NewPtrApiVersionsRequest()
	req.Version = 3
	req.ClientSoftwareName, req.ClientSoftwareVersion = "roost-loadtest", "1"
	resp, err := req.RequestWith(ctx, c)
	if err != nil {
		return Unknown
	}
	return "Kafka " + kversion.FromApiVersionsResponse(resp).VersionGuess()
}
