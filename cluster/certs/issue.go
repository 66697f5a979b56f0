package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Names of the authority's files in its directory.
const (
	CAFile    = "ca.crt"
	CAKeyFile = "ca.key"
)

// backdate is how far a new certificate begins in the past, for clocks that are behind.
const backdate = 5 * time.Minute

// Issued says what was written.
type Issued struct {
	CertFile, KeyFile string
	NotAfter          time.Time
}

// CreateCA makes an authority that is valid from now on for the given time, and writes ca.crt and
// ca.key (mode 0600) into dir, which is made if it is missing. Nothing is overwritten.
func CreateCA(dir string, now time.Time, valid time.Duration) (Issued, error) {
	serial, key, err := fresh()
	if err != nil {
		return Issued{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		// The serial number tells apart two authorities that were made in one place.
		Subject:               pkix.Name{CommonName: fmt.Sprintf("Roost members %s %x", now.UTC().Format(time.DateOnly), serial.Bytes()[:4])},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(valid),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return Issued{}, fmt.Errorf("signing the authority's certificate: %w", err)
	}
	return write(dir, CAFile, CAKeyFile, der, key, template.NotAfter)
}

// CreateMember makes the certificate of the member called name, signed by the authority in dir, and
// writes NAME.crt and NAME.key (mode 0600) into dir. hosts are further DNS names and IP addresses
// for other users of the certificate: members do not look at them. It does not outlive the
// authority. Nothing is overwritten.
func CreateMember(dir, name string, hosts []string, now time.Time, valid time.Duration) (Issued, error) {
	if err := checkName(name); err != nil {
		return Issued{}, err
	}
	if name+".crt" == CAFile {
		return Issued{}, fmt.Errorf("a member called %q would have the files of the authority: choose another name", name)
	}
	ca, err := readCA(dir, now)
	if err != nil {
		return Issued{}, err
	}
	serial, key, err := fresh()
	if err != nil {
		return Issued{}, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		DNSNames:              []string{name + DNSSuffix},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(valid),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	if template.NotAfter.After(ca.Leaf.NotAfter) {
		template.NotAfter = ca.Leaf.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Leaf, key.Public(), ca.PrivateKey)
	if err != nil {
		return Issued{}, fmt.Errorf("signing the certificate of %q: %w", name, err)
	}
	return write(dir, name+".crt", name+".key", der, key, template.NotAfter)
}

func readCA(dir string, now time.Time) (tls.Certificate, error) {
	certFile := filepath.Join(dir, CAFile)
	ca, err := tls.LoadX509KeyPair(certFile, filepath.Join(dir, CAKeyFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ca, fmt.Errorf("%w: no authority in %s; \"roost certs ca --dir %s\" makes one", err, dir, dir)
	case err != nil:
		return ca, fmt.Errorf("the authority in %s: %w", dir, err)
	case !ca.Leaf.IsCA:
		return ca, fmt.Errorf("%s is not the certificate of an authority", certFile)
	case now.After(ca.Leaf.NotAfter):
		return ca, fmt.Errorf("the authority %s expired on %s; make a new one in another directory", certFile, date(ca.Leaf.NotAfter))
	}
	return ca, nil
}

func fresh() (*big.Int, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	var serial [16]byte
	if _, err := rand.Read(serial[:]); err != nil {
		return nil, nil, fmt.Errorf("making a serial number: %w", err)
	}
	serial[0] = serial[0]&0x7f | 0x40 // positive, and always of the same length
	return new(big.Int).SetBytes(serial[:]), key, nil
}

// write makes both files or none: a certificate without its key is of no use.
func write(dir, certName, keyName string, der []byte, key *ecdsa.PrivateKey, notAfter time.Time) (Issued, error) {
	out := Issued{CertFile: filepath.Join(dir, certName), KeyFile: filepath.Join(dir, keyName), NotAfter: notAfter}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Issued{}, fmt.Errorf("encoding the key: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Issued{}, err
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	if err := writeNew(out.KeyFile, keyPEM, 0o600); err != nil {
		return Issued{}, err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := writeNew(out.CertFile, certPEM, 0o644); err != nil {
		os.Remove(out.KeyFile)
		return Issued{}, err
	}
	return out, nil
}

func writeNew(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists and is not overwritten; move it away first, or take another --dir", path)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(path)
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

func date(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }
