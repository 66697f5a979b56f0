package certs

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// What a PEM block holds.
const (
	KindAuthority = "authority"
	KindMember    = "member"
	KindKey       = "private key"
)

// Description is what one PEM block of a file holds, for people.
type Description struct {
	Kind                string
	Name                string // the member's or the authority's; keys have none
	Issuer              string // name of the authority that signed
	Hosts               []string
	Serial              string // hexadecimal
	NotBefore, NotAfter time.Time
	// PublicKey is half of the SHA-256 of the public key (SubjectPublicKeyInfo): a certificate and the key
	// that fits it have the same.
	PublicKey string
}

// Describe reads a PEM file of certificates or keys.
func Describe(file string) ([]Description, error) {
	rest, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var out []Description
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		d, err := describe(block)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		out = append(out, d)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: no PEM block in it", file)
	}
	return out, nil
}

func describe(block *pem.Block) (Description, error) {
	switch block.Type {
	case "CERTIFICATE":
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return Description{}, err
		}
		return describeCertificate(c), nil
	case "PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY":
		return describeKey(block)
	}
	return Description{}, fmt.Errorf("a PEM block of %q; certificates and private keys are expected", block.Type)
}

func describeCertificate(c *x509.Certificate) Description {
	d := Description{
		Kind: KindMember, Name: PeerName(c), Issuer: c.Issuer.CommonName, Serial: fmt.Sprintf("%x", c.SerialNumber),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, PublicKey: fingerprint(c.RawSubjectPublicKeyInfo),
	}
	if c.IsCA {
		d.Kind = KindAuthority
	}
	for _, dns := range c.DNSNames {
		if dns != d.Name+DNSSuffix {
			d.Hosts = append(d.Hosts, dns)
		}
	}
	for _, ip := range c.IPAddresses {
		d.Hosts = append(d.Hosts, net.IP.String(ip))
	}
	return d
}

func describeKey(block *pem.Block) (Description, error) {
	var key any
	var err error
	switch block.Type {
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	if err != nil {
		return Description{}, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return Description{}, errors.New("a key that cannot sign")
	}
	spki, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return Description{}, err
	}
	return Description{Kind: KindKey, PublicKey: fingerprint(spki)}, nil
}

func fingerprint(spki []byte) string {
	sum := sha256.Sum256(spki)
	return fmt.Sprintf("%x", sum[:16])
}
