package kafka

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/stretchr/testify/require"
)

func newTestBoard(t *testing.T, cfg Config, topic string) *Board {
	t.Helper()
	b, err := NewBoard(cfg, topic, testLog(t))
	require.NoError(t, err)
	t.Cleanup(func() {
		if err := b.Close(); !errors.Is(err, ErrClosed) {
			require.NoError(t, err)
		}
	})
	return b
}

// watcher keeps what a Watch told.
type watcher struct {
	mu    sync.Mutex
	all   []map[string]string
	ended chan error
}

func watchBoard(t *testing.T, b *Board) *watcher {
	w := &watcher{ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		w.ended <- b.Watch(ctx, func(m map[string]string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.all = append(w.all, m)
		})
	}()
	t.Cleanup(func() { cancel(); <-w.ended })
	return w
}

func (w *watcher) is(want map[string]string) func() bool {
	return func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.all) > 0 && maps.Equal(w.all[len(w.all)-1], want)
	}
}

func (w *watcher) calls() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.all)
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestBoard(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := makeTopics(t, cfg, 1)
		one, two := newTestBoard(t, cfg, plan.Members), newTestBoard(t, cfg, plan.Members)
		w := watchBoard(t, two)
		eventually(t, w.is(map[string]string{}), "an empty board is told too")
		ctx := soon(t)
		require.NoError(t, one.Publish(ctx, "m1", "10.0.0.1:7946"))
		require.NoError(t, two.Publish(ctx, "m2", "m2.example.net:7946"))
		both := map[string]string{"m1": "10.0.0.1:7946", "m2": "m2.example.net:7946"}
		eventually(t, w.is(both), "both")
		calls := w.calls()
		require.NoError(t, one.Publish(ctx, "m1", "10.0.0.1:7946")) // nothing new
		require.NoError(t, one.Publish(ctx, "m1", "10.0.0.9:7946"))
		both["m1"] = "10.0.0.9:7946"
		eventually(t, w.is(both), "it has moved")
		require.Equal(t, calls+1, w.calls(), "what did not change is not told")

		late := watchBoard(t, one)
		eventually(t, late.is(both), "who comes late reads the same")
		require.Equal(t, 1, late.calls(), "at once")

		require.NoError(t, one.Withdraw(ctx, "m1"))
		eventually(t, w.is(map[string]string{"m2": "m2.example.net:7946"}), "withdrawn")
		require.NoError(t, one.Close())
		require.ErrorIs(t, one.Publish(ctx, "m1", "10.0.0.9:7946"), ErrClosed)
		require.ErrorIs(t, one.Close(), ErrClosed)
	})
}

// What nobody writes again is forgotten; what was old when it was read is not even told, and
// a writer whose clock is wrong is heard all the same.
func TestBoardForgets(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := makeTopics(t, cfg, 1)
		entry := func(name string, age time.Duration) {
			v, err := json.Marshal(boardEntry{Name: name, Address: "10.0.0.1:1", TimeMs: time.Now().Add(-age).UnixMilli()})
			require.NoError(t, err)
			p := newTestProducer(t, cfg, (&deliveries{}).add)
			require.NoError(t, p.Produce(Message{Topic: plan.Members, Key: []byte(name), Value: v}))
			flush(t, p)
		}
		entry("ancient", 2*time.Hour)
		entry("recent", time.Minute)
		b := newTestBoard(t, cfg, plan.Members)
		b.stale, b.tick = 2*time.Minute, 250*time.Millisecond
		w := watchBoard(t, b)
		eventually(t, w.is(map[string]string{"recent": "10.0.0.1:1"}), "the one of a minute ago")
		entry("hours behind", 2*time.Hour)
		eventually(t, w.is(map[string]string{"recent": "10.0.0.1:1", "hours behind": "10.0.0.1:1"}), "it came now")

		short := newTestBoard(t, cfg, plan.Members)
		short.stale, short.tick = 2*time.Second, 250*time.Millisecond
		ws := watchBoard(t, short)
		eventually(t, ws.is(map[string]string{}), "read")
		require.NoError(t, b.Publish(soon(t), "fleeting", "10.0.0.2:2"))
		eventually(t, ws.is(map[string]string{"fleeting": "10.0.0.2:2"}), "there")
		eventually(t, ws.is(map[string]string{}), "gone, since it was not written again")
	})
}

// While the broker is away entries do not age, and all goes on when it is back.
func TestBoardOutlivesBroker(t *testing.T) {
	dir, addr := t.TempDir(), freeAddr(t)
	first := startEmbedded(t, EmbeddedConfig{Listen: addr, DataDir: dir})
	cfg := testConfig(t, addr)
	plan := makeTopics(t, cfg, 1)
	b := newTestBoard(t, cfg, plan.Members)
	b.stale, b.tick = 3*time.Second, 250*time.Millisecond
	w := watchBoard(t, b)
	require.NoError(t, b.Publish(soon(t), "m", "10.0.0.1:1"))
	there := map[string]string{"m": "10.0.0.1:1"}
	eventually(t, w.is(there), "there")
	require.NoError(t, first.Close())
	short, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, b.Publish(short, "n", "10.0.0.2:2"), context.DeadlineExceeded)
	require.Never(t, func() bool { return !w.is(there)() }, 4*time.Second, 50*time.Millisecond)
	startEmbedded(t, EmbeddedConfig{Listen: addr, DataDir: dir})
	require.NoError(t, b.Publish(soon(t), "o", "10.0.0.3:3"))
	eventually(t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.all[len(w.all)-1]["o"] == "10.0.0.3:3"
	}, "the new one is read")
}

// Records of others in the topic do no harm.
func TestBoardIgnoresJunk(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		plan := makeTopics(t, cfg, 1)
		p := newTestProducer(t, cfg, (&deliveries{}).add)
		for key, value := range map[string]string{
			"":                        `{"name":"","address":"10.0.0.1:1"}`,
			"a":                       `nonsense`,
			"b":                       `{"name":"other","address":"10.0.0.1:1","time_ms":9999999999999}`,
			"c":                       `{"name":"c","address":"nowhere","time_ms":9999999999999}`,
			"d":                       `{"name":"d","address":"10.0.0.1:1","time_ms":9999999999999,"x":"` + strings.Repeat("x", maxBoardValue) + `"}`,
			strings.Repeat("e", 1000): `{}`,
		} {
			require.NoError(t, p.Produce(Message{Topic: plan.Members, Key: []byte(key), Value: []byte(value)}))
		}
		flush(t, p)
		b := newTestBoard(t, cfg, plan.Members)
		require.NoError(t, b.Publish(soon(t), "m", "10.0.0.1:1"))
		w := watchBoard(t, b)
		eventually(t, w.is(map[string]string{"m": "10.0.0.1:1"}), "only what is an entry")
		require.ErrorContains(t, b.Publish(soon(t), "", "10.0.0.1:1"), "1 to 256")
		require.ErrorContains(t, b.Publish(soon(t), "m", "10.0.0.1"), "host:port")
	})
}

func TestBoardWithoutTopic(t *testing.T) {
	onEachBroker(t, func(t *testing.T, cfg Config) {
		b := newTestBoard(t, cfg, unique()+"members")
		require.ErrorContains(t, b.Watch(soon(t), func(map[string]string) {}), "read "+b.topic)
	})
	_, err := NewBoard(DefaultConfig(), "", testLog(t))
	require.ErrorContains(t, err, "Bootstrap is empty")
}

// A principal that may not read or write a topic learns so at the start, not at the first job.
func TestPermissionsAtStart(t *testing.T) {
	_, cfg := secured(t)
	plan := Topics{}.Plan()
	_, err := ensure(t, cfg, plan)
	require.NoError(t, err)
	a := testAdmin(t, cfg)
	allow := func(topic string, op ck.ACLOperation) {
		res, err := a.a.CreateACLs(soon(t), ck.ACLBindings{{Type: ck.ResourceTopic, Name: topic, ResourcePatternType: ck.ResourcePatternTypeLiteral,
			Principal: "User:nobody", Host: "*", Operation: op, PermissionType: ck.ACLPermissionTypeAllow}})
		require.NoError(t, err)
		require.Equal(t, ck.ErrNoError, res[0].Error.Code())
	}
	cfg.Properties = maps.Clone(cfg.Properties)
	cfg.Properties["sasl.username"] = "nobody"
	for _, topic := range []string{plan.Jobs, plan.Results, plan.Dead, plan.State, plan.Progress, plan.Members} {
		allow(topic, ck.ACLOperationDescribe)
		allow(topic, ck.ACLOperationDescribeConfigs)
	}
	for _, step := range []struct {
		topic, verb string
		op          ck.ACLOperation
	}{
		{plan.Jobs, "read", ck.ACLOperationRead}, {plan.State, "read", ck.ACLOperationRead}, {plan.State, "write", ck.ACLOperationWrite},
		{plan.Results, "write", ck.ACLOperationWrite}, {plan.Dead, "write", ck.ACLOperationWrite}, {plan.Progress, "write", ck.ACLOperationWrite},
		{plan.Members, "read", ck.ACLOperationRead}, {plan.Members, "write", ck.ACLOperationWrite},
	} {
		_, err := ensure(t, cfg, plan)
		require.ErrorContains(t, err, step.topic)
		require.ErrorContains(t, err, "no permission to "+step.verb)
		allow(step.topic, step.op)
	}
	_, err = ensure(t, cfg, plan)
	require.NoError(t, err)
}

// The example of docs/RECORDS.md has the fields that are written, and no other.
func TestDocMember(t *testing.T) {
	doc, err := os.ReadFile("../../docs/RECORDS.md")
	require.NoError(t, err)
	_, section, ok := strings.Cut(string(doc), "## The member record")
	require.True(t, ok)
	_, rest, ok := strings.Cut(section, "\n    {")
	require.True(t, ok)
	example, _, _ := strings.Cut("{"+rest, "\n")
	var e boardEntry
	require.NoError(t, json.Unmarshal([]byte(example), &e))
	written, err := json.Marshal(e)
	require.NoError(t, err)
	require.JSONEq(t, string(written), example)
}
