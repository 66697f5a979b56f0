//go:build linux

package suite

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// Kinds of --kafka.
const (
	Embedded = "embedded"
	Apache   = "apache"
)

// Options are the flags that every suite has.
type Options struct {
	Kafka      string
	Rate       int
	Partitions int
	Seed       uint64 // of everything that is chosen at random
	Keep       bool
	Roost      string // the binary under test
	KafkaDir   string
	KafkaSh    string
}

// Flags adds them; the values of Rate and Partitions are the defaults.
func (o *Options) Flags(f *pflag.FlagSet) {
	f.StringVar(&o.Kafka, "kafka", Embedded, "broker: embedded, or apache (needs java; mvn the first time)")
	f.IntVar(&o.Rate, "rate", o.Rate, "records submitted a second")
	f.IntVar(&o.Partitions, "partitions", o.Partitions, "of the jobs topic")
	f.Uint64Var(&o.Seed, "seed", 0, "of the jobs, and of what else is chosen at random; 0: a random one")
	f.BoolVar(&o.Keep, "keep", false, "keep the directory with logs and data also when all went well")
	f.StringVar(&o.Roost, "roost", "", "the binary under test; empty: roost beside this one")
	f.StringVar(&o.KafkaDir, "kafka-dir", ".kafka", "where deploy/kafka/kafka.sh keeps the libraries of Apache Kafka")
	f.StringVar(&o.KafkaSh, "kafka-sh", "deploy/kafka/kafka.sh", "the script that fetches them")
}

// Bound is what a flag may be.
type Bound struct {
	Flag            string
	Value, Min, Max int
}

// Complete fills in what has no constant default, and refuses what cannot work: beyond
// the bounds, or, of the names in only, none of those allowed.
func (o *Options) Complete(bounds []Bound, only, allowed []string) error {
	if o.Seed == 0 {
		o.Seed = rand.Uint64N(1_000_000_000) + 1
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if o.Roost == "" {
		o.Roost = filepath.Join(filepath.Dir(self), "roost")
	}
	if o.Roost, err = filepath.Abs(o.Roost); err != nil {
		return err
	}
	if _, err := os.Stat(o.Roost); err != nil {
		return fmt.Errorf("--roost: %w; build it with \"make build\"", err)
	}
	for _, b := range append(bounds, Bound{"--rate", o.Rate, 1, 10_000}) {
		if b.Value < b.Min || b.Value > b.Max {
			return fmt.Errorf("%s is %d: allowed are %d to %d", b.Flag, b.Value, b.Min, b.Max)
		}
	}
	for _, name := range only {
		if !slices.Contains(allowed, name) {
			return fmt.Errorf("--only is %q: allowed are \"%s\"", name, strings.Join(allowed, "\", \""))
		}
	}
	if o.Kafka != Embedded && o.Kafka != Apache {
		return fmt.Errorf("--kafka is %q: allowed are %s and %s", o.Kafka, Embedded, Apache)
	}
	return nil
}
