package remote

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/roost-server/roost/cluster/certs"
)

// First bytes by which to tell what a peer speaks.
const (
	recordAlert     = 0x15 // TLS
	recordHandshake = 0x16
)

const compare = "\"roost certs show FILE...\" on both sides tells what differs"

// explainClient says of an error of dialling what to do about it, and who is who. peer is the name in
// the certificate that the other side has shown.
func explainClient(err error, store *certs.Store, peer string, conn *watchedConn) error {
	var bad *certs.PeerError
	var record tls.RecordHeaderError
	switch {
	case store == nil && conn.first.Load() == recordAlert+1:
		return fmt.Errorf("it speaks TLS, this member has no certificate: give --cluster-tls-ca, --cluster-tls-cert and --cluster-tls-key: %w", err)
	case store == nil:
		return err
	case errors.As(err, &bad):
		return fmt.Errorf("TLS: %w; this member is %q: both need certificates from the cluster's authority; %s", err, store.Name(), compare)
	case strings.Contains(err.Error(), "remote error: tls:"): // through gRPC only its text arrives
		return fmt.Errorf("TLS: %q does not accept the certificate of this member, %q; its log says why; %s: %w", peer, store.Name(), compare, err)
	case errors.As(err, &record), peer == "" && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)):
		return fmt.Errorf("TLS: it does not speak TLS as this member, %q, does: is it a member, and has it certificates? %w", store.Name(), err)
	case status.Code(err) == codes.Unavailable:
		return fmt.Errorf("%q ended the connection after the TLS handshake; its log says why, perhaps it does not accept the certificate of this member, %q: %w",
			peer, store.Name(), err)
	}
	return err
}

// explainServer does so for an error of a handshake that another began.
func explainServer(err error, store *certs.Store) error {
	var bad *certs.PeerError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	switch {
	case errors.As(err, &bad):
		return fmt.Errorf("TLS: %w; this member is %q: both need certificates from the cluster's authority; %s", err, store.Name(), compare)
	case errors.As(err, &record):
		return fmt.Errorf("it does not speak TLS; is it a member without certificates (--cluster-tls-ca, --cluster-tls-cert, --cluster-tls-key)? %w", err)
	case errors.As(err, &alert), strings.Contains(err.Error(), "remote error: tls:"):
		return fmt.Errorf("TLS: it does not accept the certificate of this member, %q; its log says why; %s: %w", store.Name(), compare, err)
	}
	return fmt.Errorf("TLS with this member, %q: %w", store.Name(), err)
}
