package cli

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/roost-server/roost/cluster/certs"
)

const (
	day              = 24 * time.Hour
	defaultCADays    = 3650
	defaultCertDays  = 365
	maxCertDays      = 36500
	defaultCertsFlag = "certs"
)

// NewCerts makes the command that makes the certificates of members.
func NewCerts(g *Globals) *cobra.Command {
	cmd := prepare(&cobra.Command{
		Use:   "certs COMMAND",
		Short: "Make and look at the certificates by which members know each other",
		Long: `Make and look at the certificates by which members know each other.

The members of a cluster talk to each other over TLS, and each shows a certificate with its name
that the cluster's own authority signed. Whoever holds one is a member, so the authority's key
belongs on none of the members: make the certificates in one place and copy to each member its own
two files and ca.crt.`,
		Example: `  roost certs ca --dir certs
  roost certs member alpha --dir certs
  roost certs show certs/alpha.crt
  roost serve --name alpha --cluster-tls-ca certs/ca.crt --cluster-tls-cert certs/alpha.crt --cluster-tls-key certs/alpha.key ...`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	})
	cmd.AddCommand(newCertsCA(g), newCertsMember(g), newCertsShow(g, time.Now))
	return cmd
}

func newCertsCA(g *Globals) *cobra.Command {
	var dir string
	var days int
	cmd := prepare(&cobra.Command{
		Use:   "ca [FLAGS]",
		Short: "Make the authority of a cluster: ca.crt and ca.key",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			valid, err := certDays(days)
			if err != nil {
				return cannot(err)
			}
			made, err := certs.CreateCA(dir, time.Now(), valid)
			if err != nil {
				return cannot(err)
			}
			fmt.Fprintf(g.Out, `wrote %s: the authority's certificate, valid until %s; every member needs it
wrote %s: its key; keep it secret and away from the members
Next: roost certs member NAME --dir %s, once for each member
`, made.CertFile, made.NotAfter.UTC().Format(time.DateOnly), made.KeyFile, dir)
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	})
	cmd.Flags().StringVar(&dir, "dir", defaultCertsFlag, "directory for the two files; made if it is missing")
	cmd.Flags().IntVar(&days, "days", defaultCADays, "how long the authority is valid")
	return cmd
}

func newCertsMember(g *Globals) *cobra.Command {
	var dir string
	var days int
	var hosts []string
	cmd := prepare(&cobra.Command{
		Use:   "member NAME [FLAGS]",
		Short: "Make the certificate of a member: NAME.crt and NAME.key",
		Long: `Make the certificate of a member: NAME.crt and NAME.key, signed by the authority in the directory.

NAME is what the member is started with (--name). Members verify the name, not the host, so the
certificate stays good when the member moves. Before it ends make another one in the same way and
replace the files: a running member takes them over by itself.`,
		Example: `  roost certs member alpha --dir certs
  roost certs member alpha --dir certs --days 90 --host alpha.example.net --host 192.0.2.7`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			valid, err := certDays(days)
			if err != nil {
				return cannot(err)
			}
			made, err := certs.CreateMember(dir, args[0], hosts, time.Now(), valid)
			if err != nil {
				return cannot(err)
			}
			fmt.Fprintf(g.Out, `wrote %s: the certificate of %q, valid until %s
wrote %s: its key; only that member may read it
Next: copy both and %s to the member and start it with
  --name %s --cluster-tls-ca %s --cluster-tls-cert %s --cluster-tls-key %s
`, made.CertFile, args[0], made.NotAfter.UTC().Format(time.DateOnly), made.KeyFile, filepath.Join(dir, certs.CAFile),
				args[0], filepath.Join(dir, certs.CAFile), made.CertFile, made.KeyFile)
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	})
	cmd.Flags().StringVar(&dir, "dir", defaultCertsFlag, "directory of ca.crt and ca.key, and for the two new files")
	cmd.Flags().IntVar(&days, "days", defaultCertDays, "how long the certificate is valid; never longer than the authority")
	cmd.Flags().StringArrayVar(&hosts, "host", nil, "further DNS name or IP address in the certificate; members do not look at it")
	return cmd
}

func newCertsShow(g *Globals, now func() time.Time) *cobra.Command {
	return prepare(&cobra.Command{
		Use:   "show FILE...",
		Short: "See what certificates and keys are: name, authority, how long valid",
		Long: `See what certificates and keys are: name, authority, how long valid.

A certificate and the key that fits it show the same public key. The exit code is 1 when one of the
certificates has expired.`,
		Example: `  roost certs show certs/*.crt`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, files []string) error {
			expired := false
			for _, file := range files {
				found, err := certs.Describe(file)
				if err != nil {
					return cannot(err)
				}
				for _, d := range found {
					printCertificate(g.Out, file, d, now())
					expired = expired || d.Kind != certs.KindKey && now().After(d.NotAfter)
				}
			}
			if expired {
				return &ExitError{Code: exitNotOK}
			}
			return nil
		},
	})
}

func printCertificate(w io.Writer, file string, d certs.Description, now time.Time) {
	if d.Kind == certs.KindKey {
		fmt.Fprintf(w, "%s: %s\n  public key  %s\n", file, d.Kind, d.PublicKey)
		return
	}
	state := fmt.Sprintf("%d days left", int(d.NotAfter.Sub(now)/day))
	switch {
	case now.After(d.NotAfter):
		state = "EXPIRED"
	case now.Before(d.NotBefore):
		state = "NOT YET VALID"
	}
	fmt.Fprintf(w, "%s: %s %q\n  signed by   %q\n", file, d.Kind, d.Name, d.Issuer)
	if len(d.Hosts) > 0 {
		fmt.Fprintf(w, "  hosts       %s\n", strings.Join(d.Hosts, ", "))
	}
	fmt.Fprintf(w, "  valid       %s to %s (%s)\n  serial      %s\n  public key  %s\n",
		d.NotBefore.UTC().Format(time.DateTime), d.NotAfter.UTC().Format(time.DateTime), state, d.Serial, d.PublicKey)
}

func certDays(days int) (time.Duration, error) {
	if days < 1 || days > maxCertDays {
		return 0, fmt.Errorf("--days: %d; allowed are 1 to %d", days, maxCertDays)
	}
	return time.Duration(days) * day, nil
}
