// Package certs makes, keeps and follows the certificates by which the members of a cluster know
// each other.
//
// A cluster has an authority of its own ([CreateCA]) that signs one certificate for each member
// ([CreateMember]). Whoever holds such a certificate is a member: it may take jobs and report
// outcomes, so the authority must sign nothing else. Members are dialled by address and may move;
// what is verified is that the chain leads to the authority, and the name in the certificate
// (see [PeerName]), never the host name.
//
// A [Store] reads the files of one member, makes configurations for TLS 1.3 from them, and reads
// them again when they change: a certificate is replaced without a restart. Connections that exist
// keep what was verified when they began.
package certs

import (
	"crypto/x509"
	"fmt"
	"strings"
)

// DNSSuffix follows the member's name in the certificate's DNS name: "NAME.member.roost".
const DNSSuffix = ".member.roost"

// MaxNameBytes is how long the name of a member in a certificate may be: what a DNS label holds.
const MaxNameBytes = 63

// PeerName returns the member's name that a certificate gives: the first DNS name NAME.member.roost
// without its end, else the common name. It is empty when there is neither.
func PeerName(c *x509.Certificate) string {
	for _, dns := range c.DNSNames {
		if name, ok := strings.CutSuffix(dns, DNSSuffix); ok && name != "" {
			return name
		}
	}
	return c.Subject.CommonName
}

// ValidName tells whether a member of this name can have a certificate.
func ValidName(name string) bool {
	if name == "" || len(name) > MaxNameBytes {
		return false
	}
	for _, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return name[0] != '.' && name[0] != '-' && name[len(name)-1] != '.' && !strings.Contains(name, "..")
}

func checkName(name string) error {
	if !ValidName(name) {
		return fmt.Errorf("the member's name is %q; allowed are 1 to %d letters, digits, '-', '_' and single '.' between them", name, MaxNameBytes)
	}
	return nil
}
