package kafka

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// EmbeddedClusterID is the cluster id of every embedded broker.
const EmbeddedClusterID = "roost-embedded-dev"

// IsEmbedded tells whether a cluster id (Info.ClusterID) is that of an embedded
// broker, which must not carry anything but development.
func IsEmbedded(clusterID string) bool { return clusterID == EmbeddedClusterID }

// EmbeddedConfig configures the broker for development.
type EmbeddedConfig struct {
	// Listen is a loopback address, "127.0.0.1:7492"; ":0" takes a free port.
	Listen string
	// DataDir keeps records and offsets over restarts; "" keeps them in memory.
	// It must be empty at first, and serves one broker at a time.
	DataDir string
	// Sync flushes every batch to the disk before it is acknowledged.
	Sync bool
	// MinFreeBytes of DataDir's file system are left free: below it records
	// are refused with a retriable error. 0 means 64 MiB, but at most an
	// eighth of the file system.
	MinFreeBytes int64
	// RetentionBytes is what a partition may hold before its oldest records
	// are dropped; 0 means 128 MiB on disk and 16 MiB in memory. Compacted
	// topics are compacted instead, when they have doubled. There is no
	// retention by time: a partition that kfake emptied altogether would start
	// at offset 0 again after a restart.
	RetentionBytes int64
	Log            *zap.Logger

	houseEvery time.Duration // of the housekeeping; 0 means 10 s
	compactMin int64         // 0 means compactMinBytes
}

const (
	defaultMinFree      = 64 << 20
	diskRetentionBytes  = 128 << 20
	memRetentionBytes   = 16 << 20
	segmentFraction     = 8 // of RetentionBytes: what one segment file holds
	embeddedMinSession  = time.Second
	embeddedCloseWait   = 5 * time.Second
	lockFile            = ".roost-lock"
	metaFile            = "meta.json"
	defaultEmbeddedPort = 7492
)

// Embedded is a Kafka broker within this process, for development and tests.
//
// What it promises: one copy of the data. With a DataDir, records and commits
// that were acknowledged survive the end of the process however it comes
// (SIGKILL included), for they were handed to the operating system; they survive
// a power cut only with Sync. Idempotence of producers does not span a crash:
// a record whose acknowledgement the crash cut off may be stored twice. A
// transaction that has records is committed as a whole or not at all, also over
// a crash.
// Near a full disk it refuses records until there is space again.
type Embedded struct {
	cluster *kfake.Cluster
	ln      *guardListener
	space   *spaceGuard
	tx      *txGuard
	lock    *os.File
	addr    string
	stop    context.CancelFunc // of the housekeeping
	wg      sync.WaitGroup
	once    sync.Once
	err     error
}

// StartEmbedded starts the broker; it serves when the call returns.
func StartEmbedded(cfg EmbeddedConfig) (*Embedded, error) {
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	addr, err := loopbackAddr(cfg.Listen)
	if err != nil {
		return nil, err
	}
	if cfg.MinFreeBytes < 0 || cfg.RetentionBytes < 0 {
		return nil, errors.New("embedded kafka: MinFreeBytes and RetentionBytes must not be negative")
	}
	e := &Embedded{}
	if cfg.DataDir != "" {
		if e.lock, err = lockDataDir(cfg.DataDir); err != nil {
			return nil, err
		}
	}
	if e.tx, err = openTxGuard(cfg.DataDir, cfg.Sync, cfg.Log); err != nil {
		e.unlock()
		return nil, err
	}
	opts := embeddedOptions(cfg)
	opts = append(opts, kfake.ListenFn(func(network, _ string) (net.Listener, error) {
		ln, err := net.Listen(network, addr)
		if err != nil {
			return nil, fmt.Errorf("embedded kafka: cannot listen on %s (is another broker running?): %w", addr, err)
		}
		e.ln = &guardListener{Listener: ln, log: cfg.Log}
		return e.ln, nil
	}))
	e.cluster, err = kfake.NewCluster(opts...)
	if err != nil {
		e.unlock()
		return nil, fmt.Errorf("embedded kafka: %w", err)
	}
	e.addr = e.ln.Addr().String()
	e.tx.install(e.cluster) // before other faults, see there
	wholeFetches(e.cluster)
	if cfg.DataDir != "" {
		e.space = newSpaceGuard(cfg)
		e.space.install(e.cluster)
	}
	h := newHousekeeper(e, cfg)
	ctx, stop := context.WithCancel(context.Background())
	e.stop = stop
	e.wg.Go(func() { h.run(ctx) })
	return e, nil
}

func embeddedOptions(cfg EmbeddedConfig) []kfake.Opt {
	if cfg.RetentionBytes == 0 {
		cfg.RetentionBytes = diskRetentionBytes
		if cfg.DataDir == "" {
			cfg.RetentionBytes = memRetentionBytes
		}
	}
	opts := []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.ClusterID(EmbeddedClusterID),
		kfake.DefaultNumPartitions(DefaultPartitions),
		kfake.GroupMinSessionTimeout(embeddedMinSession),
		kfake.WithLogger(kfakeLogger{cfg.Log}),
		kfake.BrokerConfigs(map[string]string{
			"default.replication.factor": "1",
			"log.retention.ms":           "-1",
			"log.cleaner.backoff.ms":     strconv.FormatInt((10 * 365 * 24 * time.Hour).Milliseconds(), 10), // see compactor
			"log.retention.bytes":        strconv.FormatInt(cfg.RetentionBytes, 10),
			"log.segment.bytes":          strconv.FormatInt(max(1<<16, cfg.RetentionBytes/segmentFraction), 10),
		}),
	}
	if cfg.DataDir != "" {
		opts = append(opts, kfake.DataDir(cfg.DataDir))
		if cfg.Sync {
			opts = append(opts, kfake.SyncWrites())
		}
	}
	return opts
}

// loopbackAddr refuses addresses that other machines can reach: the broker has
// no authentication.
func loopbackAddr(listen string) (string, error) {
	if listen == "" {
		listen = ":" + strconv.Itoa(defaultEmbeddedPort)
	}
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", fmt.Errorf("embedded kafka: Listen %q: want a loopback host:port: %w", listen, err)
	}
	if host == "" || host == "localhost" {
		host = "127.0.0.1"
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return "", fmt.Errorf("embedded kafka: Listen %q: only loopback addresses are allowed, for it has no authentication", listen)
	}
	return net.JoinHostPort(host, port), nil
}

// lockDataDir makes sure that the directory is ours alone: empty, or a data
// directory of an embedded broker, and used by no other process.
func lockDataDir(dir string) (*os.File, error) {
	fail := func(err error) error { return fmt.Errorf("embedded kafka: data directory %s: %w", dir, err) }
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fail(err)
	}
	meta, err := os.ReadFile(filepath.Join(dir, metaFile))
	switch {
	case err == nil:
		var m struct {
			ClusterID string `json:"cluster_id"`
		}
		if err := json.Unmarshal(meta, &m); err != nil {
			return nil, fail(fmt.Errorf("%s cannot be read; move the directory away to start anew: %w", metaFile, err))
		}
		if m.ClusterID != EmbeddedClusterID {
			return nil, fail(fmt.Errorf("it belongs to cluster %q; choose another directory", m.ClusterID))
		}
	case os.IsNotExist(err):
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, fail(err)
		}
		for _, en := range entries {
			// A file system's own directory, and what a start cut short left.
			if n := en.Name(); n != lockFile && n != txJournalFile && n != "lost+found" && !strings.HasSuffix(n, ".tmp") {
				return nil, fail(fmt.Errorf("it is not empty (%s) and holds no broker's data; choose another directory", n))
			}
		}
	default:
		return nil, fail(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fail(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fail(fmt.Errorf("it is in use by another process: %w", err))
	}
	return f, nil
}

func (e *Embedded) unlock() {
	if e.tx != nil {
		e.tx.close()
	}
	if e.lock != nil {
		e.lock.Close() // gives the lock back
	}
}

// Addr returns "host:port", to be used as Config.Bootstrap.
func (e *Embedded) Addr() string { return e.addr }

// LowSpace tells whether records are refused for want of disk space.
func (e *Embedded) LowSpace() bool { return e.space != nil && e.space.low.Load() }

// Close stops the broker and writes a snapshot, for a fast next start. It waits
// until its connections are gone.
func (e *Embedded) Close() error {
	e.once.Do(func() {
		e.stop()
		e.wg.Wait()
		e.cluster.Close()
		if !e.ln.wait(embeddedCloseWait) {
			e.err = errors.New("embedded kafka: connections did not close in time")
		}
		e.unlock()
	})
	return e.err
}

type kfakeLogger struct{ log *zap.Logger }

// Logf implements kfake.Logger.
func (l kfakeLogger) Logf(level kfake.LogLevel, format string, args ...any) {
	switch level {
	case kfake.LogLevelError:
		l.log.Error("embedded kafka: " + fmt.Sprintf(format, args...))
	case kfake.LogLevelWarn:
		l.log.Warn("embedded kafka: " + fmt.Sprintf(format, args...))
	case kfake.LogLevelInfo:
		if ce := l.log.Check(zap.DebugLevel, "embedded kafka"); ce != nil {
			ce.Write(zap.String("message", fmt.Sprintf(format, args...)))
		}
	}
}
