package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-server/roost/cluster/certs"
)

func runCerts(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	g := NewGlobals()
	g.Out, g.Err = &out, &out
	root := NewRoot(g)
	root.SetArgs(append([]string{"certs"}, args...))
	err := root.Execute()
	return out.String(), err
}

// What the commands write is what a member loads, and their output says what to start it with.
func TestCertsMadeAreCertsLoaded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "certs")
	out, err := runCerts(t, "ca", "--dir", dir)
	require.NoError(t, err)
	require.Contains(t, out, "wrote "+dir+"/ca.crt: the authority's certificate, valid until ")
	require.Contains(t, out, "wrote "+dir+"/ca.key: its key; keep it secret")
	require.Contains(t, out, "roost certs member NAME --dir "+dir)

	out, err = runCerts(t, "member", "alpha", "--dir", dir, "--days", "30", "--host", "192.0.2.7")
	require.NoError(t, err)
	require.Contains(t, out, "--name alpha --cluster-tls-ca "+dir+"/ca.crt --cluster-tls-cert "+dir+"/alpha.crt --cluster-tls-key "+dir+"/alpha.key")
	s, err := certs.Load(dir+"/ca.crt", dir+"/alpha.crt", dir+"/alpha.key")
	require.NoError(t, err)
	require.Equal(t, "alpha", s.Name())
	require.WithinDuration(t, time.Now().Add(30*24*time.Hour), s.NotAfter(), time.Hour)

	out, err = runCerts(t, "show", dir+"/ca.crt", dir+"/alpha.crt", dir+"/alpha.key")
	require.NoError(t, err)
	require.Contains(t, out, dir+`/alpha.crt: member "alpha"`)
	require.Contains(t, out, "hosts       192.0.2.7")
	require.Contains(t, out, "(29 days left)")
	require.Contains(t, out, dir+`/ca.crt: authority "Roost members `)
	require.Contains(t, out, "(3649 days left)")
	require.Contains(t, out, dir+"/alpha.key: private key\n")
}

func TestCertsRefuse(t *testing.T) {
	dir := t.TempDir()
	_, err := runCerts(t, "ca", "--dir", dir)
	require.NoError(t, err)
	before, err := os.ReadFile(dir + "/ca.key")
	require.NoError(t, err)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"ca", "--dir", dir}, "ca.key exists and is not overwritten"},
		{[]string{"ca", "--dir", dir, "--days", "0"}, "--days: 0; allowed are 1 to 36500"},
		{[]string{"ca", "extra"}, "Usage: roost certs ca"},
		{[]string{"member", "--dir", dir}, "Usage: roost certs member NAME"},
		{[]string{"member", "a b", "--dir", dir}, "the member's name is \"a b\"; allowed are"},
		{[]string{"member", "a", "--dir", t.TempDir()}, "roost certs ca --dir"},
		{[]string{"member", "a", "--days", "-1"}, "--days: -1"},
		{[]string{"show"}, "Usage: roost certs show FILE..."},
		{[]string{"show", dir + "/none"}, "no such file"},
		{[]string{"bogus"}, "unknown command \"bogus\""},
	} {
		_, err := runCerts(t, c.args...)
		require.ErrorContains(t, err, c.want, "%v", c.args)
		code, _ := ExitCode(err)
		require.Equal(t, exitCannot, code)
	}
	after, err := os.ReadFile(dir + "/ca.key")
	require.NoError(t, err)
	require.Equal(t, before, after)
}

// A script learns from the exit code that a certificate has expired.
func TestCertsShowExpired(t *testing.T) {
	dir := t.TempDir()
	_, err := certs.CreateCA(dir, time.Now(), 2*day)
	require.NoError(t, err)
	var out bytes.Buffer
	cmd := newCertsShow(&Globals{Out: &out}, func() time.Time { return time.Now().Add(3 * day) })
	cmd.SetArgs([]string{dir + "/ca.crt"})
	code, message := ExitCode(cmd.Execute())
	require.Equal(t, exitNotOK, code)
	require.Empty(t, message)
	require.Contains(t, out.String(), "(EXPIRED)")
}
