package remote

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	protoremote "github.com/asynkron/protoactor-go/remote"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/roost-server/roost/cluster/certs"
)

// childEnv makes the test binary a peer in a process of its own: one that can be stopped and killed,
// or protoactor's own remote.
const childEnv = "ROOST_TEST_REMOTE_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(childEnv) {
	case "member":
		childMember()
	case "protoactor":
		childProtoactor()
	default:
		goleak.VerifyTestMain(m)
	}
}

// childMember prints its address, then how many bytes came, a line for each body.
func childMember() {
	var mu sync.Mutex
	r, err := Start(Config{Listen: "127.0.0.1:0", Receive: func(in Inbound) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(len(in.Body))
	}})
	if err != nil {
		panic(err)
	}
	fmt.Println(r.Addr())
	io.Copy(io.Discard, os.Stdin) // until the test ends
}

// childProtoactor prints its address; its actor "link" sends each body ADDRESS:TEXT to "link" at ADDRESS.
func childProtoactor() {
	quiet := actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return slog.New(slog.DiscardHandler) })
	system := actor.NewActorSystem(quiet)
	protoremote.NewRemote(system, protoremote.Configure("127.0.0.1", 0)).Start()
	_, err := system.Root.SpawnNamed(actor.PropsFromFunc(func(c actor.Context) {
		if m, ok := c.Message().(*wrapperspb.BytesValue); ok {
			address, text, _ := strings.Cut(string(m.Value), "|")
			c.Send(actor.NewPID(address, "link"), wrapperspb.Bytes([]byte(text)))
		}
	}), "link")
	if err != nil {
		panic(err)
	}
	fmt.Println(system.Address())
	io.Copy(io.Discard, os.Stdin)
}

type child struct {
	cmd     *exec.Cmd
	address string
	mu      sync.Mutex
	bytes   int
}

func startChild(t *testing.T, what string) *child {
	t.Helper()
	c := &child{cmd: exec.Command(os.Args[0])}
	c.cmd.Env = append(os.Environ(), childEnv+"="+what)
	c.cmd.Stderr = os.Stderr
	stdin, err := c.cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := c.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.cmd.Start())
	lines := bufio.NewScanner(stdout)
	require.True(t, lines.Scan())
	c.address = lines.Text()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines.Scan() {
			n, _ := strconv.Atoi(lines.Text())
			c.mu.Lock()
			c.bytes += n
			c.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		c.cmd.Process.Kill()
		stdin.Close()
		<-done
		c.cmd.Wait()
	})
	return c
}

func (c *child) received() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes
}

var quick = tuning{
	connect: time.Second, stuck: 500 * time.Millisecond,
	backoffMin: 5 * time.Millisecond, backoffMax: 50 * time.Millisecond, steady: 100 * time.Millisecond,
	idle: 50 * time.Millisecond, flush: time.Second, inbound: 100,
}

// member is a Remote that keeps what it gets.
type member struct {
	*Remote
	logs  *observer.ObservedLogs
	gotMu sync.Mutex
	got   []Inbound
}

func startMember(t *testing.T, cfg Config) *member {
	t.Helper()
	m, err := tryMember(t, cfg)
	require.NoError(t, err)
	return m
}

func tryMember(t *testing.T, cfg Config) (*member, error) {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	m := &member{logs: logs}
	cfg.Log = zap.New(core)
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	if cfg.Receive == nil {
		cfg.Receive = func(in Inbound) {
			m.gotMu.Lock()
			defer m.gotMu.Unlock()
			m.got = append(m.got, in)
		}
	}
	r, err := start(cfg, quick)
	if err != nil {
		return nil, err
	}
	m.Remote = r
	t.Cleanup(func() { m.stop(t) })
	return m, nil
}

func (m *member) stop(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	require.NoError(t, m.Close(ctx))
}

func (m *member) bodies() []string {
	m.gotMu.Lock()
	defer m.gotMu.Unlock()
	out := make([]string, len(m.got))
	for i, in := range m.got {
		out[i] = string(in.Body)
	}
	return out
}

func (m *member) first() Inbound {
	m.gotMu.Lock()
	defer m.gotMu.Unlock()
	return m.got[0]
}

func (m *member) logged() string {
	var b strings.Builder
	for _, e := range m.logs.All() {
		fmt.Fprintln(&b, e.Level, e.Message, e.ContextMap())
	}
	return b.String()
}

// keepSending sends until something like the text arrived, as the link above would.
func keepSending(t *testing.T, from, to *member, text string) {
	t.Helper()
	require.Eventually(t, func() bool {
		from.Send(to.Advertised(), []byte(text))
		for _, b := range to.bodies() {
			if b == text {
				return true
			}
		}
		return false
	}, 10*time.Second, 10*time.Millisecond, "from: %s\nto: %s", from.logged(), to.logged())
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, 10*time.Second, 5*time.Millisecond, what)
}

// authority is a directory with an authority and certificates.
type authority struct {
	t   *testing.T
	dir string
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	a := authority{t: t, dir: t.TempDir()}
	_, err := certs.CreateCA(a.dir, time.Now(), 1000*time.Hour)
	require.NoError(t, err)
	return a
}

func (a authority) member(name string, opts ...certs.Option) *certs.Store {
	a.t.Helper()
	made, err := certs.CreateMember(a.dir, name, nil, time.Now(), 24*time.Hour)
	require.NoError(a.t, err)
	s, err := certs.Load(a.dir+"/"+certs.CAFile, made.CertFile, made.KeyFile, opts...)
	require.NoError(a.t, err)
	return s
}

// reset lets all through again.
func (l *limiter) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.last)
}
