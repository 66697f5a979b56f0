package roost

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/protocol"
)

func TestHelloSaysWhoTheNodeIs(t *testing.T) {
	m := newMember(t)
	n := startNode(t, Config{
		Servers: []string{m.addr()}, NodeID: "probe-9", Agent: "probe/2", Concurrency: 5,
		Attributes: protocol.Attributes{Country: "AU", City: "Perth", ASN: 64500, Tags: []string{"home"}},
		Credential: func(context.Context) ([]byte, error) { return []byte("token"), nil },
	}, func(c *Client) {
		c.Handle("b", echo)
		c.Handle("a", echo)
	})
	p, h := m.session()
	require.EqualValues(t, 1, h.Version)
	require.Equal(t, "probe-9", h.NodeID)
	require.Equal(t, "token", string(h.Credential))
	require.EqualValues(t, 5, h.Credit)
	require.Equal(t, "roost-go/"+Version+" probe/2", h.Agent)
	require.Equal(t, []string{"a", "b"}, h.Attributes.Kinds)
	require.Equal(t, []string{"home"}, h.Attributes.Tags)
	require.Equal(t, "AU", h.Attributes.Country)
	require.Contains(t, h.Attributes.Platform, "/")
	require.Empty(t, h.Running)
	require.Empty(t, h.Held)

	require.Equal(t, Connected{Addr: m.addr(), Member: "m1", Incarnation: 7}, awaitEvent[Connected](n))
	st := n.Stats()
	require.True(t, st.Connected)
	require.Equal(t, "m1", st.Member)

	n.stop()
	require.Zero(t, expect[*protocol.Credit](p).Credit, "a node that stops asks for no more jobs")
	require.Equal(t, protocol.ReasonBye, expect[*protocol.Close](p).Reason)
	p.conn.Close()
	require.NoError(t, n.wait())
	require.False(t, n.Stats().Connected)
	require.Error(t, n.Run(context.Background()), "Run works once")
}

// The member that comes next numbers its session after the last one, whatever its clock says.
func TestHelloRepeatsTheLastIncarnation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newPipes(t)
		startNode(t, Config{Servers: []string{"a:1"}, Dial: d.dial}, func(c *Client) { c.rand = fixed(0) })
		p, h := d.session()
		require.Zero(t, h.LastIncarnation)
		p.conn.Close()
		_, h = d.session()
		require.Equal(t, quietWelcome.Incarnation, h.LastIncarnation)
	})
}

func TestChallengeIsAnswered(t *testing.T) {
	m := newMember(t)
	startNode(t, Config{
		Servers: []string{m.addr()},
		Prove: func(_ context.Context, method string, nonce []byte) ([]byte, error) {
			return fmt.Appendf(nil, "%s of %s", method, nonce), nil
		},
	}, nil)
	p := m.accept()
	expect[*protocol.Hello](p)
	p.send(&protocol.Challenge{Method: "hmac", Nonce: []byte("n1")})
	proof := expect[*protocol.Proof](p)
	require.Equal(t, "hmac", proof.Method)
	require.Equal(t, "hmac of n1", string(proof.Proof))
	w := quietWelcome
	p.send(&w, &protocol.Ping{Nonce: 5}) // in one segment with the frame after it
	require.EqualValues(t, 5, expect[*protocol.Pong](p).Nonce)
}

func TestProveHMAC(t *testing.T) {
	prove := ProveHMAC("node-1", []byte("secret"))
	proof, err := prove(t.Context(), "hmac-sha256", []byte("nonce"))
	require.NoError(t, err)
	// printf 'noncenode-1' | openssl dgst -sha256 -hmac secret
	require.Equal(t, "81d938a614e7e7b9bc8ad6ab8ff99bbe422034b8a18e63f916c3f2c161166d27", hex.EncodeToString(proof))
	_, err = prove(t.Context(), "other", nil)
	require.ErrorIs(t, err, ErrUnknownMethod)
}

func TestSessionMessageBeforeWelcome(t *testing.T) {
	m := newMember(t)
	n := startNode(t, Config{Servers: []string{m.addr()}}, nil)
	p := m.accept()
	expect[*protocol.Hello](p)
	p.job("early", 1, "k", nil)
	require.Equal(t, protocol.ReasonUnexpected, expect[*protocol.Close](p).Reason)
	require.ErrorContains(t, awaitEvent[Disconnected](n).Err, "JOB before WELCOME")
}

func TestSecondChallengeIsRefused(t *testing.T) {
	m := newMember(t)
	n := startNode(t, Config{
		Servers: []string{m.addr()},
		Prove:   func(context.Context, string, []byte) ([]byte, error) { return []byte("x"), nil },
	}, nil)
	p := m.accept()
	expect[*protocol.Hello](p)
	p.send(&protocol.Challenge{Method: "m"}, &protocol.Challenge{Method: "m"})
	expect[*protocol.Proof](p)
	require.Equal(t, protocol.ReasonUnexpected, expect[*protocol.Close](p).Reason)
	require.ErrorContains(t, awaitEvent[Disconnected](n).Err, "second CHALLENGE")
}

func TestChallengeWithoutProveEndsRun(t *testing.T) {
	m := newMember(t)
	n := startNode(t, Config{Servers: []string{m.addr()}}, nil)
	p := m.accept()
	expect[*protocol.Hello](p)
	p.send(&protocol.Challenge{Method: "hmac"})
	require.Equal(t, protocol.ReasonUnauthenticated, expect[*protocol.Close](p).Reason)
	var ce *CloseError
	require.ErrorAs(t, n.wait(), &ce)
	require.Equal(t, protocol.ReasonUnauthenticated, ce.Reason)
	require.ErrorContains(t, ce, `"hmac"`)
	require.Negative(t, awaitEvent[Disconnected](n).RetryIn)
}

func TestCallbackErrorsAreRetried(t *testing.T) {
	for name, cfg := range map[string]Config{
		"credential": {Credential: func(context.Context) ([]byte, error) { return nil, errTest }},
		"too large":  {Credential: func(context.Context) ([]byte, error) { return make([]byte, protocol.MaxCredentialBytes+1), nil }},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMember(t)
			cfg.Servers = []string{m.addr()}
			n := startNode(t, cfg, nil)
			d := awaitEvent[Disconnected](n)
			require.Error(t, d.Err)
			require.GreaterOrEqual(t, d.RetryIn, time.Duration(0))
		})
	}
}

func TestHandshakeTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newPipes(t)
		n := startNode(t, Config{Servers: []string{"a:1"}, Dial: d.dial, HandshakeTimeout: 3 * time.Second}, nil)
		start := time.Now()
		p := d.accept()
		expect[*protocol.Hello](p)
		require.ErrorContains(t, awaitEvent[Disconnected](n).Err, "no WELCOME within 3s")
		require.Equal(t, 3*time.Second, time.Since(start))
		p.gone()
	})
}

func TestUnsupportedVersionInWelcome(t *testing.T) {
	m := newMember(t)
	n := startNode(t, Config{Servers: []string{m.addr()}}, nil)
	p := m.accept()
	expect[*protocol.Hello](p)
	w := quietWelcome
	w.Version = 2
	p.send(&w)
	require.Equal(t, protocol.ReasonUnsupportedVersion, expect[*protocol.Close](p).Reason)
	require.ErrorContains(t, awaitEvent[Disconnected](n).Err, "version 2")
}

// A member reads at most MaxHelloBodyBytes before it knows the node.
func TestHelloAlwaysFits(t *testing.T) {
	box := NewMemoryOutbox(0, 0)
	for i := range 3 * protocol.MaxResume {
		id := fmt.Sprintf("%03d", i) + strings.Repeat("x", protocol.MaxJobIDBytes-3)
		require.NoError(t, box.Put(Entry{JobID: id, Attempt: 1, Shard: 1 << 31}))
	}
	c, err := New(Config{Servers: []string{"a:1"}, NodeID: "n", Outbox: box})
	require.NoError(t, err)
	for i := range 2 * protocol.MaxResume {
		id := fmt.Sprintf("r%03d", i) + strings.Repeat("x", protocol.MaxJobIDBytes-4)
		c.tasks[id] = &task{id: id, seq: uint64(i), attempt: 1, shard: 1 << 31}
	}
	for i := range protocol.MaxKinds {
		c.Handle(fmt.Sprintf("%02d", i)+strings.Repeat("k", protocol.MaxKindBytes-2), echo)
	}
	for i := range protocol.MaxTags {
		c.attrs.Tags = append(c.attrs.Tags, fmt.Sprintf("%02d", i)+strings.Repeat("t", protocol.MaxTagBytes-2))
	}
	h := c.hello(make([]byte, protocol.MaxCredentialBytes))
	frame, err := encodeHello(h)
	require.NoError(t, err)
	require.LessOrEqual(t, len(frame), len(protocol.Preface)+protocol.HeaderBytes+protocol.MaxHelloBodyBytes)
	require.Len(t, h.Running, protocol.MaxResume)
	require.Len(t, h.Held, protocol.MaxResume)
	require.True(t, strings.HasPrefix(h.Held[0].JobID, "000"), "oldest first")
}

func TestConfigMistakesAreNamed(t *testing.T) {
	good := Config{Servers: []string{"a:1"}, NodeID: "n"}
	_, err := New(good)
	require.NoError(t, err)
	for key, change := range map[string]func(*Config){
		"Servers":          func(c *Config) { c.Servers = nil },
		"Servers[1]":       func(c *Config) { c.Servers = []string{"a:1", "b"} },
		"Servers[0]":       func(c *Config) { c.Servers = []string{":1"} },
		"NodeID":           func(c *Config) { c.NodeID = "a b" },
		"Attributes":       func(c *Config) { c.Attributes.Country = "AUSTRALIA" },
		"Attributes has K": func(c *Config) { c.Attributes.Kinds = []string{"x"} },
		"Agent":            func(c *Config) { c.Agent = strings.Repeat("x", 300) },
		"Concurrency":      func(c *Config) { c.Concurrency = protocol.MaxCredit + 1 },
		"Queue":            func(c *Config) { c.Queue = -1 },
		"DrainTimeout":     func(c *Config) { c.DrainTimeout = -1 },
		"HandshakeTimeout": func(c *Config) { c.HandshakeTimeout = -1 },
		"WriteTimeout":     func(c *Config) { c.WriteTimeout = -1 },
	} {
		cfg := good
		change(&cfg)
		_, err := New(cfg)
		require.ErrorContains(t, err, "Config."+key)
	}
}

func TestHandlePanicsOnMistakes(t *testing.T) {
	c, err := New(Config{Servers: []string{"a:1"}, NodeID: "n"})
	require.NoError(t, err)
	c.Handle("k", echo)
	require.Panics(t, func() { c.Handle("k", echo) })
	require.Panics(t, func() { c.Handle("", echo) })
	require.Panics(t, func() { c.Handle(strings.Repeat("k", protocol.MaxKindBytes+1), echo) })
	require.Panics(t, func() { c.Handle("nil", nil) })
	require.Error(t, c.SetConcurrency(-1))
	require.Error(t, c.SetConcurrency(protocol.MaxCredit+1))
	require.Error(t, c.SetAttributes(protocol.Attributes{Kinds: []string{"k"}}))
}
