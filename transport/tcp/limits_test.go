package tcp

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestConfigValidate(t *testing.T) {
	require.NoError(t, DefaultConfig().Validate())
	require.NoError(t, testConfig().Validate())
	for key, spoil := range map[string]func(*Config){
		"listen":             func(c *Config) { c.Listen = "localhost" },
		"loops":              func(c *Config) { c.Loops = -1 },
		"max_conns":          func(c *Config) { c.MaxConns = -5 },
		"file_reserve":       func(c *Config) { c.FileReserve = 3 },
		"max_handshakes":     func(c *Config) { c.MaxHandshakes = -1 },
		"accept_rate":        func(c *Config) { c.AcceptRate = -1 },
		"outbound_max_bytes": func(c *Config) { c.OutboundMaxBytes = 100 },
		"tick":               func(c *Config) { c.Tick = time.Millisecond },
		"hello_timeout":      func(c *Config) { c.HelloTimeout = 0 },
		"frame_timeout":      func(c *Config) { c.FrameTimeout = 48 * time.Hour },
		"close_linger":       func(c *Config) { c.CloseLinger = time.Hour },
		"retry_after":        func(c *Config) { c.RetryAfter = -1 },
		"proxy_from":         func(c *Config) { c.ProxyFrom = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} },
	} {
		c := DefaultConfig()
		spoil(&c)
		require.ErrorContains(t, c.Validate(), "tcp: "+key+" is ")
		require.ErrorContains(t, c.Validate(), "has to be")
	}
}

func TestTicksAreNeverEarly(t *testing.T) {
	c := DefaultConfig()
	c.Tick = 250 * time.Millisecond
	for d, want := range map[time.Duration]uint32{
		1: 2, 250 * time.Millisecond: 2, 251 * time.Millisecond: 3, 10 * time.Second: 41,
	} {
		require.Equal(t, want, c.ticks(d), d)
	}
}

func TestPlan(t *testing.T) {
	c := DefaultConfig()
	got, err := c.plan(100_000)
	require.NoError(t, err)
	require.Equal(t, ceilings{admitted: 100_000 - 512 - 1024, refused: 1024}, got)

	c.MaxConns = 500
	got, err = c.plan(100_000)
	require.NoError(t, err)
	require.Equal(t, 500, got.admitted)

	c.MaxConns = 99_000
	_, err = c.plan(100_000)
	require.ErrorContains(t, err, "max_conns is 99000")
	require.ErrorContains(t, err, "from 1 to 98464")

	c.MaxConns = 0
	_, err = c.plan(500)
	require.ErrorContains(t, err, "file_reserve (512)")

	files, err := raiseFileLimit()
	require.NoError(t, err)
	require.Positive(t, files)
}

func TestRate(t *testing.T) {
	r := newRate(10)
	taken := func(nowMs int64) (n int) {
		for r.take(nowMs) {
			n++
		}
		return n
	}
	require.Equal(t, 10, taken(1000), "the burst")
	require.Equal(t, 0, taken(1050))
	require.Equal(t, 5, taken(1500))
	require.Equal(t, 0, taken(1400), "a clock that is behind")
	require.Equal(t, 10, taken(60_000), "not more than the burst")
	for range 1000 {
		require.True(t, newRate(0).take(1))
	}
}

func TestSpread(t *testing.T) {
	require.Zero(t, spread(0))
	for range 1000 {
		d := spread(time.Second)
		require.GreaterOrEqual(t, d, 500*time.Millisecond)
		require.Less(t, d, 1500*time.Millisecond)
	}
}

func TestBuffersReuseByClass(t *testing.T) {
	var p buffers
	for _, n := range []int{0, 1, 512, 513, 5000, 300_000, largestFrame} {
		b := p.get(n)
		require.GreaterOrEqual(t, cap(b.b), n)
		require.Less(t, cap(b.b), max(2*smallBuffer, 4*n))
		p.put(b)
		require.Same(t, b, p.get(n))
	}
	for range 10_000 {
		p.put(&buffer{b: make([]byte, 0, smallBuffer)})
	}
	require.Len(t, p.free[0], retainBytes/smallBuffer, "what is kept is bounded")
	p.put(nil)
	p.put(&buffer{b: make([]byte, 0, 10)})
	p.put(&buffer{b: make([]byte, 0, 3*largestFrame)})
	for class, list := range p.free[1:] {
		require.Empty(t, list, class+1)
	}
}
