package certs

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

func at(days int) Option {
	return WithClock(func() time.Time { return start.Add(time.Duration(days) * day) })
}

func newCA(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "certs")
	made, err := CreateCA(dir, start, 100*day)
	require.NoError(t, err)
	require.Equal(t, Issued{filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"), start.Add(100 * day)}, made)
	return dir
}

func issue(t *testing.T, dir, name string, days int) Issued {
	t.Helper()
	made, err := CreateMember(dir, name, nil, start, time.Duration(days)*day)
	require.NoError(t, err)
	return made
}

func load(dir, name string, opts ...Option) (*Store, error) {
	return Load(filepath.Join(dir, CAFile), filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"), opts...)
}

func mustLoad(t *testing.T, dir, name string, opts ...Option) *Store {
	t.Helper()
	s, err := load(dir, name, opts...)
	require.NoError(t, err)
	return s
}

func TestIssued(t *testing.T) {
	dir := newCA(t)
	made, err := CreateMember(dir, "alpha-1.b_c", []string{"alpha.example.net", "192.0.2.7", "::1"}, start, 1000*day)
	require.NoError(t, err)
	require.Equal(t, start.Add(100*day), made.NotAfter, "not beyond the authority")
	for _, file := range []string{made.KeyFile, filepath.Join(dir, CAKeyFile)} {
		info, err := os.Stat(file)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), file)
	}
	s := mustLoad(t, dir, "alpha-1.b_c", at(1))
	require.Equal(t, "alpha-1.b_c", s.Name())
	require.Equal(t, start.Add(100*day), s.NotAfter())

	found, err := Describe(made.CertFile)
	require.NoError(t, err)
	ca, err := Describe(filepath.Join(dir, CAFile))
	require.NoError(t, err)
	key, err := Describe(made.KeyFile)
	require.NoError(t, err)
	require.Equal(t, KindAuthority, ca[0].Kind)
	require.Equal(t, Description{Kind: KindKey, PublicKey: found[0].PublicKey}, key[0])
	require.NotEqual(t, ca[0].PublicKey, found[0].PublicKey)
	require.Equal(t, Description{
		Kind: KindMember, Name: "alpha-1.b_c", Issuer: ca[0].Name, Hosts: []string{"alpha.example.net", "192.0.2.7", "::1"},
		Serial: found[0].Serial, NotBefore: start.Add(-backdate), NotAfter: start.Add(100 * day), PublicKey: key[0].PublicKey,
	}, found[0])
}

func TestIssueRefuses(t *testing.T) {
	dir := newCA(t)
	issue(t, dir, "alpha", 10)
	before, err := os.ReadFile(filepath.Join(dir, "alpha.key"))
	require.NoError(t, err)
	_, err = CreateMember(dir, "alpha", nil, start, day)
	require.ErrorContains(t, err, "alpha.key exists and is not overwritten")
	_, err = CreateCA(dir, start, day)
	require.ErrorContains(t, err, "ca.key exists and is not overwritten")
	after, err := os.ReadFile(filepath.Join(dir, "alpha.key"))
	require.NoError(t, err)
	require.Equal(t, before, after)

	require.NoError(t, os.WriteFile(filepath.Join(dir, "beta.crt"), nil, 0o644))
	_, err = CreateMember(dir, "beta", nil, start, day)
	require.ErrorContains(t, err, "beta.crt exists")
	require.NoFileExists(t, filepath.Join(dir, "beta.key"), "both or none")

	for _, name := range []string{"", "a b", "../x", "a/b", ".a", "a.", "a..b", "ü", "-a", string(make([]byte, 64))} {
		_, err = CreateMember(dir, name, nil, start, day)
		require.ErrorContains(t, err, "the member's name is", "%q", name)
	}
	_, err = CreateMember(dir, "ca", nil, start, day)
	require.ErrorContains(t, err, "choose another name")
	_, err = CreateMember(t.TempDir(), "gamma", nil, start, day)
	require.ErrorContains(t, err, "roost certs ca --dir")
	_, err = CreateMember(dir, "gamma", nil, start.Add(101*day), day)
	require.ErrorContains(t, err, "expired on 2026-06-09")
}

func TestLoadRefuses(t *testing.T) {
	dir, other := newCA(t), newCA(t)
	issue(t, dir, "alpha", 10)
	issue(t, dir, "beta", 10)
	path := func(d, f string) string { return filepath.Join(d, f) }
	empty := path(t.TempDir(), "empty")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	for _, c := range []struct {
		name, ca, cert, key string
		days                int
		want                string
	}{
		{"no file", path(dir, "none"), path(dir, "alpha.crt"), path(dir, "alpha.key"), 1, "no such file"},
		{"empty authority", empty, path(dir, "alpha.crt"), path(dir, "alpha.key"), 1, "no PEM certificate"},
		{"key as authority", path(dir, "ca.key"), path(dir, "alpha.crt"), path(dir, "alpha.key"), 1, `a PEM block of "PRIVATE KEY"`},
		{"member as authority", path(dir, "alpha.crt"), path(dir, "alpha.crt"), path(dir, "alpha.key"), 1, "not that of an authority"},
		{"key of another", path(dir, "ca.crt"), path(dir, "alpha.crt"), path(dir, "beta.key"), 1, "private key does not match"},
		{"another authority", path(other, "ca.crt"), path(dir, "alpha.crt"), path(dir, "alpha.key"), 1, "not the authority of this cluster"},
		{"expired", path(dir, "ca.crt"), path(dir, "alpha.crt"), path(dir, "alpha.key"), 11, "expired on 2026-03-11 12:00 UTC, it is 2026-03-12 12:00 UTC"},
		{"not yet valid", path(dir, "ca.crt"), path(dir, "alpha.crt"), path(dir, "alpha.key"), -1, "is a clock wrong?"},
		{"authority as member", path(dir, "ca.crt"), path(dir, "ca.crt"), path(dir, "ca.key"), 101, "expired"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Load(c.ca, c.cert, c.key, at(c.days))
			require.ErrorContains(t, err, c.want)
		})
	}
}

// handshake returns the errors of both ends of a real connection.
func handshake(t *testing.T, client, server *Store) (clientErr, serverErr error) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer lis.Close()
	done := make(chan error, 1)
	go func() {
		raw, err := lis.Accept()
		if err != nil {
			done <- err
			return
		}
		defer raw.Close()
		conn := tls.Server(raw, server.Server())
		if err = conn.Handshake(); err == nil {
			_, err = conn.Write([]byte("x"))
		}
		done <- err
	}()
	raw, err := net.Dial("tcp", lis.Addr().String())
	require.NoError(t, err)
	defer raw.Close()
	conn := tls.Client(raw, client.Client())
	if clientErr = conn.Handshake(); clientErr == nil {
		// With TLS 1.3 a client learns only by reading that it was refused.
		_, clientErr = conn.Read(make([]byte, 1))
		require.Equal(t, uint16(tls.VersionTLS13), conn.ConnectionState().Version)
	}
	return clientErr, <-done
}

func TestHandshakes(t *testing.T) {
	dir, other := newCA(t), newCA(t)
	issue(t, dir, "alpha", 10)
	issue(t, dir, "beta", 50)
	issue(t, other, "eve", 50)
	alpha, beta, eve := mustLoad(t, dir, "alpha", at(1)), mustLoad(t, dir, "beta", at(1)), mustLoad(t, other, "eve", at(1))
	later := mustLoad(t, dir, "beta", at(20))

	clientErr, serverErr := handshake(t, alpha, beta)
	require.NoError(t, clientErr)
	require.NoError(t, serverErr)

	var bad *PeerError
	clientErr, serverErr = handshake(t, eve, alpha)
	require.ErrorAs(t, clientErr, &bad)
	require.Equal(t, "alpha", bad.Name)
	require.Error(t, serverErr)

	// The dialler trusts both; the listener does not trust the dialler.
	both := filepath.Join(t.TempDir(), "both.crt")
	one, err := os.ReadFile(filepath.Join(dir, CAFile))
	require.NoError(t, err)
	two, err := os.ReadFile(filepath.Join(other, CAFile))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(both, append(one, two...), 0o600))
	open, err := Load(both, filepath.Join(other, "eve.crt"), filepath.Join(other, "eve.key"), at(1))
	require.NoError(t, err)
	clientErr, serverErr = handshake(t, open, alpha)
	require.ErrorContains(t, clientErr, "remote error: tls: bad certificate")
	require.ErrorAs(t, serverErr, &bad)
	require.Equal(t, "eve", bad.Name)

	clientErr, serverErr = handshake(t, alpha, later)
	require.Error(t, clientErr)
	require.ErrorContains(t, serverErr, `the certificate of "alpha": expired on 2026-03-11`)
}

func TestReload(t *testing.T) {
	dir, next := newCA(t), newCA(t)
	issue(t, dir, "alpha", 10)
	issue(t, next, "alpha", 20)
	s := mustLoad(t, dir, "alpha", at(1))
	server := s.Server() // made once, used through the reload
	first, err := server.GetCertificate(nil)
	require.NoError(t, err)

	changed, err := s.Reload()
	require.NoError(t, err)
	require.False(t, changed)

	move(t, next, dir, "alpha.crt") // half of the new ones
	for range 2 {
		changed, err = s.Reload()
		require.ErrorContains(t, err, "private key does not match")
		require.False(t, changed)
	}
	require.Equal(t, start.Add(10*day), s.NotAfter())
	move(t, next, dir, "alpha.key")
	_, err = s.Reload()
	require.ErrorContains(t, err, "not the authority")
	kept, err := server.GetCertificate(nil)
	require.NoError(t, err)
	require.Same(t, first, kept)
	move(t, next, dir, "ca.crt")
	changed, err = s.Reload()
	require.NoError(t, err)
	require.True(t, changed)
	require.Equal(t, start.Add(20*day), s.NotAfter())
	taken, err := server.GetCertificate(nil)
	require.NoError(t, err)
	require.NotSame(t, first, taken)

	require.NoError(t, os.Remove(filepath.Join(dir, "alpha.crt")))
	_, err = s.Reload()
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Equal(t, start.Add(20*day), s.NotAfter())
}

func move(t *testing.T, from, to, file string) {
	t.Helper()
	require.NoError(t, os.Rename(filepath.Join(from, file), filepath.Join(to, file)))
}

func TestWatch(t *testing.T) {
	dir, next := newCA(t), newCA(t)
	issue(t, dir, "alpha", 10)
	issue(t, next, "alpha", 90)
	s := mustLoad(t, dir, "alpha", at(1))
	core, logs := observer.New(zapcore.DebugLevel)
	s.Watch(time.Millisecond, zap.New(core))
	s.Watch(time.Millisecond, zap.New(core))
	has := func(text string) func() bool {
		return func() bool { return logs.FilterMessageSnippet(text).Len() == 1 }
	}
	require.Eventually(t, has("expires soon"), 5*time.Second, time.Millisecond)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "alpha.crt"), []byte("broken"), 0o600))
	require.Eventually(t, has("not replaced, the old one stays"), 5*time.Second, time.Millisecond)
	for _, file := range []string{"ca.crt", "alpha.crt", "alpha.key"} {
		move(t, next, dir, file)
	}
	require.Eventually(t, has("member certificate replaced"), 5*time.Second, time.Millisecond)
	require.Equal(t, start.Add(90*day), s.NotAfter())
	s.Close()
	s.Close()
	require.Equal(t, 1, logs.FilterMessageSnippet("expires soon").Len())
}

func TestCloseWithoutWatch(t *testing.T) {
	dir := newCA(t)
	issue(t, dir, "alpha", 10)
	mustLoad(t, dir, "alpha", at(1)).Close()
}

func TestPeerErrorIsTheCause(t *testing.T) {
	cause := errors.New("why")
	require.ErrorIs(t, &PeerError{Err: cause}, cause)
	require.Equal(t, "the peer's certificate: why", (&PeerError{Err: cause}).Error())
}
