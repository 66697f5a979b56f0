package remote

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/cluster/certs"
)

func TestNamesFromCertificates(t *testing.T) {
	ca := newAuthority(t)
	a, b := startMember(t, Config{TLS: ca.member("alpha")}), startMember(t, Config{TLS: ca.member("beta")})
	keepSending(t, a, b, "to beta")
	keepSending(t, b, a, "to alpha")
	require.Equal(t, "alpha", b.first().Peer)
	require.Equal(t, "beta", a.first().Peer)
	require.Contains(t, a.first().From, "127.0.0.1:")
}

// Those who do not fit never exchange a byte, and both sides' logs say who and what to do, once.
func TestTLSRefusals(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	later := certs.WithClock(func() time.Time { return time.Now().Add(48 * time.Hour) })
	for _, c := range []struct {
		name     string
		dials    func() *certs.Store
		listens  func() *certs.Store
		dialler  []string // in its log
		listener []string
	}{
		{
			"another authority, seen by the dialler",
			func() *certs.Store { return ca.member("a1") }, func() *certs.Store { return other.member("b1") },
			[]string{`the certificate of "b1": signed by "Roost members`, "not the authority of this cluster", `this member is "a1"`, "roost certs show"},
			[]string{`does not accept the certificate of this member, "b1"`},
		},
		{
			"expired, seen by the listener",
			func() *certs.Store { return ca.member("a2") }, func() *certs.Store { return longLived(t, ca, "b2", later) },
			[]string{`"b2" does not accept the certificate of this member, "a2"`, "its log says why"},
			[]string{`the certificate of "a2": expired on`, `this member is "b2"`, "roost certs member"},
		},
		{
			"plaintext to TLS",
			func() *certs.Store { return nil }, func() *certs.Store { return ca.member("b3") },
			[]string{"it speaks TLS, this member has no certificate"},
			[]string{"it does not speak TLS"},
		},
		{
			"TLS to plaintext",
			func() *certs.Store { return ca.member("a4") }, func() *certs.Store { return nil },
			[]string{`it does not speak TLS as this member, "a4", does`},
			[]string{"it speaks TLS, this member has no certificate"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := startMember(t, Config{TLS: c.dials()}), startMember(t, Config{TLS: c.listens()})
			eventually(t, "attempts", func() bool {
				a.Send(b.Addr(), []byte("secret"))
				return a.Stats().ConnectFailures >= 3 && b.Stats().RefusedHandshakes >= 3
			})
			for _, want := range c.dialler {
				require.ErrorContains(t, a.ConnError(b.Addr()), want)
				require.Contains(t, a.logged(), want)
			}
			for _, want := range c.listener {
				require.Contains(t, b.logged(), want)
			}
			require.Empty(t, b.bodies())
			require.Equal(t, 1, a.logs.Len(), a.logged())
			require.Equal(t, 1, b.logs.Len(), b.logged())
		})
	}
}

func longLived(t *testing.T, ca authority, name string, opts ...certs.Option) *certs.Store {
	t.Helper()
	made, err := certs.CreateMember(ca.dir, name, nil, time.Now(), 500*time.Hour)
	require.NoError(t, err)
	s, err := certs.Load(ca.dir+"/"+certs.CAFile, made.CertFile, made.KeyFile, opts...)
	require.NoError(t, err)
	return s
}

// The authority is replaced while messages flow: existing connections go on, new ones are made with
// the new certificates, and those with the old ones are refused.
func TestReloadDuringTraffic(t *testing.T) {
	ca, next := newAuthority(t), newAuthority(t)
	aStore, bStore := ca.member("a"), ca.member("b")
	a, b := startMember(t, Config{TLS: aStore}), startMember(t, Config{TLS: bStore})
	keepSending(t, a, b, "before")

	replace(t, ca, next, "b")
	changed, err := bStore.Reload()
	require.NoError(t, err)
	require.True(t, changed)
	keepSending(t, a, b, "on the old connection")
	require.Equal(t, uint64(1), a.Stats().Connects)

	a.Disconnect(b.Addr())
	eventually(t, "a is not trusted any more", func() bool {
		a.Send(b.Addr(), []byte("with the old one"))
		return a.ConnError(b.Addr()) != nil
	})
	require.ErrorContains(t, a.ConnError(b.Addr()), "not the authority of this cluster")

	a.Disconnect(b.Addr()) // with what waits
	replace(t, ca, next, "a")
	_, err = aStore.Reload()
	require.NoError(t, err)
	keepSending(t, a, b, "with the new one")
	require.NotContains(t, b.bodies(), "with the old one")
}

// replace writes what the authority next makes over the files of ca.
func replace(t *testing.T, ca, next authority, name string) {
	t.Helper()
	_, err := certs.CreateMember(next.dir, name, nil, time.Now(), 24*time.Hour)
	require.NoError(t, err)
	for _, file := range []string{certs.CAFile, name + ".crt", name + ".key"} {
		content, err := os.ReadFile(next.dir + "/" + file)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(ca.dir+"/"+file, content, 0o600))
	}
}
